"""`ioi import` and `ioi ras export`: documents of other registries into a domain's own, and out of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out, owner_of
from ioi_dagster.cli_ras_app import ras_app

if TYPE_CHECKING:
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.ras.formats.draft import Draft
    from ioi_dagster.ras.record import Record
    from ioi_dagster.ras.store import RecordStore
    from ioi_dagster.signing import SigningKey

ENDINGS = (".json", ".yaml", ".yml")
"""Of files that a folder is looked through for."""
MAX_FILES = 10_000


Format = Annotated[str, typer.Option("--format", help="Of this format; default: it is found out")]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a record of a `file`: `draft`, `registered`, `known` (as it was), or `refused`, and `why`."""

    file: str
    state: str
    why: str = ""
    format: str = ""
    urn: str = ""
    version: str = ""
    contracts: int = 0


@dataclass(frozen=True, slots=True)
class FileDrafts:
    """The drafts of one file, or why there are none."""

    file: str
    drafts: tuple[Draft, ...] = ()
    refused: str = ""
    data: bytes = field(default=b"", repr=False)


def import_files(
    files: Annotated[list[str], typer.Argument(help="Files, folders of such, or - for what is piped in")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be registered, and register nothing")
    ] = False,
    its_format: Format = "",
    audience: Annotated[str, typer.Option(help="Who may see it: public, local or partner:<domain>")] = "public",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Register what AI catalogues (ARD), A2A agent cards, MCP server.json, OASF records, Backstage entities, MLflow model
    versions and AIGr.id's components, blocks, vDAGs, clusters and nodes describe. A file is registered whole or not at all; again
    changes nothing. Exit code 1 where one was refused."""
    from ioi_dagster.ras.formats.exchange import format_named

    if its_format:
        format_named(its_format)
    owner = None if dry_run else owner_of(home, domain_home, domain)
    name = owner.name if owner else _name_if_any(home, domain_home, domain)
    found = [read_file(file, data, name, its_format) for file, data in gathered(files)]
    rows = drafted(found, name) if owner is None else registered(found, owner, audience)
    show(rows, as_json)
    if any(row.state == "refused" for row in rows) or not rows:
        raise typer.Exit(1)


def gathered(files: Sequence[str]) -> Iterator[tuple[str, bytes | str]]:
    """(name, content, or why it cannot be read as a text) of each file, those of folders in order of their names."""
    from ioi_dagster.ras.formats.document import MAX_FILE

    for name in files:
        if name == "-":
            yield "-", sys.stdin.buffer.read(MAX_FILE + 1)
            continue
        path = Path(name)
        if not path.is_dir():
            yield name, _content(path, MAX_FILE)
            continue
        inside = [one for one in sorted(path.rglob("*")) if one.suffix in ENDINGS and one.is_file()]
        if not inside or len(inside) > MAX_FILES:
            yield name, f"{len(inside) or 'no'} files that end in {', '.join(ENDINGS)}; a folder has 1 to {MAX_FILES}"
            continue
        for one in inside:
            yield str(one), _content(one, MAX_FILE)


def _content(path: Path, most: int) -> bytes | str:
    if path.exists() and not path.is_file():
        return "no file"
    try:
        with path.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def read_file(file: str, data: bytes | str, domain: str, its_format: str = "") -> FileDrafts:
    """Drafts of all that a file describes. Never raises for what is in it."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.ras.formats.document import read_documents
    from ioi_dagster.ras.formats.exchange import import_document

    if isinstance(data, str):
        return FileDrafts(file, refused=f"{file}: {data}")
    try:
        documents = read_documents(data, file)
        drafts = [draft for document in documents for draft in import_document(document, domain, its_format)]
    except BadInputError as error:
        return FileDrafts(file, refused=str(error))
    return FileDrafts(file, tuple(drafts), "" if drafts else f"{file}: nothing is in it")


def drafted(found: Sequence[FileDrafts], domain: str) -> list[Row]:
    return [row for one in found for row in (_refused(one) or [_row(one.file, draft, domain) for draft in one.drafts])]


def _refused(one: FileDrafts) -> list[Row]:
    return [Row(one.file, "refused", one.refused)] if one.refused else []


def _row(file: str, draft: Draft, domain: str, state: str = "draft", why: str = "") -> Row:
    return Row(file, state, why, draft.format, draft.urn(domain), draft.version, len(draft.contracts))


def registered(found: Sequence[FileDrafts], owner: DomainHome, audience: str) -> list[Row]:
    """Signed by the domain's key and put into its registry, each file whole or not at all."""
    from ioi_dagster.adapters.sql.registry import SqlRecordStore

    store, key = SqlRecordStore(owner.registry, owner.trusted()), owner.signing_key()
    store.check_may_sign()
    return [row for one in found for row in (_refused(one) or put_file(one, store, key, audience))]


def put_file(one: FileDrafts, store: SqlRecordStore, key: SigningKey, audience: str) -> list[Row]:
    """Register the drafts of a file. All are signed and compared with what is there before they are put, in one transaction."""
    from ioi_dagster.errors import FinalError

    ready: list[tuple[Draft, Record, str]] = []
    mine: dict[str, Record] = {}
    for draft in one.drafts:
        try:
            record, state = _signed(draft, store, key, audience, mine)
        except FinalError as error:
            # The others are as good as not there.
            why = f"{one.file}: {draft.urn(key.domain)} {draft.version}: {error}"
            return [Row(one.file, "refused", why, draft.format, draft.urn(key.domain), draft.version)]
        mine[record.urn] = record
        ready.append((replace(draft, version=record.version), record, state))
    new = [record for _, record, state in ready if state == "registered"]
    try:
        with store.transaction() as connection:
            for outcome in store.put_many([record.signed for record in new], connection):
                if isinstance(outcome, FinalError):
                    raise outcome  # and nothing of the file is written
    except FinalError as error:
        return [Row(one.file, "refused", f"{one.file}: {error}")]
    return [_row(one.file, draft, key.domain, state) for draft, _, state in ready]


def _signed(
    draft: Draft, store: RecordStore, key: SigningKey, audience: str, mine: dict[str, Record]
) -> tuple[Record, str]:
    """(the record, `registered` or `known`). Raises `FinalError` where there is another of its name and version, or one that was
    not imported."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.ras.formats.draft import numbered
    from ioi_dagster.ras.formats.exchange import source_format
    from ioi_dagster.ras.record import make_record

    urn = draft.urn(key.domain)
    newest = mine.get(urn) or store.get(urn)
    if newest is not None and not source_format(newest):
        raise BadInputError("the domain states a record of this name itself", todo="rename it in the document")
    version = numbered(draft.version, [newest.version] if newest else [])
    made = make_record(
        *(key, draft.kind, draft.name, version, draft.spec),
        scheme=draft.scheme,
        audience=audience,
        provenance=draft.provenance,
    )
    known = mine[urn] if urn in mine and mine[urn].version == version else store.get(urn, version)
    if known is not None and known.digest != made.digest:
        raise BadInputError("this version is there with other content", todo="give it a new version")
    return made, "registered" if known is None else "known"


_COLORS = {"registered": "green", "refused": "red"}


def show(rows: Sequence[Row], as_json: bool) -> None:
    """A table of what was registered and what was refused, the reasons below."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    from ioi_dagster.cli_tables import Column, Fitted

    columns = (
        Column("state"),
        Column("file", wraps=20),
        Column("format", 2),
        Column("urn", wraps=24),
        Column("version", 1),
    )
    table = Fitted(*columns, Column("contracts", 3, right=True))
    for row in rows:
        cells = (row.file, row.format, row.urn, row.version, str(row.contracts) if row.urn and not row.why else "")
        table.add_row(Text(row.state, _COLORS.get(row.state, "")), *cells)
    out.print(table)
    for row in rows:
        if row.why:
            out.print(f"[red]refused[/] {escape(row.why)}", soft_wrap=True)


def export_record(
    urn: Annotated[str, typer.Argument(help="urn:ioi:<domain>:<kind>:<name>")],
    its_format: Annotated[str, typer.Option("--format", help="Default: that which it was imported from")] = "",
    version: Annotated[str, typer.Option(help="Default: the newest")] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Write a record as a document of another registry. What its format cannot say is told."""
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.ras.formats.exchange import export
    from ioi_dagster.ras.urn import read_urn

    owner = owner_of(home, domain_home, domain)
    record = SqlRecordStore(owner.registry, owner.trusted()).get(str(read_urn(urn)), version or None)
    if record is None:
        what = f"{urn} {version}".rstrip()
        raise BadInputError(f"the registry of {owner.name} has no {what}", todo="see `ioi ras list`")
    exported = export(record, its_format)
    if as_json:
        print(json.dumps({"document": exported.document, "lost": exported.lost}))
        return
    print(json.dumps(exported.document, indent=2, ensure_ascii=False))
    if exported.lost:
        err.print(f"[yellow]not said[/] {escape(', '.join(exported.lost))}", soft_wrap=True)


def _name_if_any(home: Path | None, domain_home: Path | None, name: str) -> str:
    """To look at drafts nobody needs a domain."""
    from ioi_dagster.errors import BadInputError

    try:
        return owner_of(home, domain_home, name).name
    except BadInputError:
        return name or "this.domain"


ras_app.command("import")(import_files)
ras_app.command("export")(export_record)
