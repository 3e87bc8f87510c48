"""`ioi ras`: what an owner says of his records, and how he keeps the registry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ioi_dagster.cli_import import gathered
from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out, owner_of
from ioi_dagster.cli_ras import Urn, bad, clock, opened, version_there
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.decoding import from_json

if TYPE_CHECKING:
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.adapters.sql.registry_checking import Difference
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.ras.pointers import PointerEvent, Status
    from ioi_dagster.ras.record import Record
    from ioi_dagster.signing import SigningKey

Version = Annotated[str, typer.Argument(metavar="VERSION", help="Or --all-versions")]
Every = Annotated[bool, typer.Option("--all-versions", help="The record with all its versions, those to come too")]
Reason = Annotated[str, typer.Option(help="Why; everybody sees it")]
SHOWN_AFTER_S = 2.0
TRIES = 5
"""Others may say something of the same record meanwhile."""


@ras_app.command("register")
def register(
    files: Annotated[list[str], typer.Argument(help="Files, folders of such, or - for what is piped in")],
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Register what documents of this registry's own schema describe: kind, name, version, spec. All of them or none; again
    changes nothing. It is the owner's to withdraw: no start of a gateway does."""
    from ioi_dagster.errors import FinalError
    from ioi_dagster.ras.formats.document import read_documents
    from ioi_dagster.ras.stating import stated

    owner, store = _signing(home, domain_home, domain)
    key = owner.signing_key()
    records: list[Record] = []
    for file, data in gathered(files):
        if isinstance(data, str):
            raise bad(f"{file}: {data}")
        records += [stated(document, key) for document in read_documents(data, file)]
    if not records:
        raise bad("nothing is in it", todo="give kind, name, version and spec")
    known = {its.digest for its in records if store.by_digest(its.digest) is not None}
    with store.transaction() as connection:
        for outcome in store.put_many([its.signed for its in records], connection):
            if isinstance(outcome, FinalError):
                raise outcome  # and nothing of it is written
    rows = [
        {
            "state": "known" if its.digest in known else "registered",
            "urn": its.urn,
            "version": its.version,
            "digest": its.digest,
        }
        for its in records
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        out.print(f"{row['state']} {row['urn']} {row['version']}", soft_wrap=True, highlight=False)


@ras_app.command("deprecate")
def deprecate(
    urn: Urn,
    version: Version = "",
    successor: Annotated[str, typer.Option(help="What comes in its place: a version of it, or another's URN")] = "",
    successor_version: Annotated[str, typer.Option(help="Which version of that URN")] = "",
    reason: Reason = "",
    every: Every = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Nobody is given it any more who does not ask for deprecated ones too, or names it."""
    from ioi_dagster.ras.pointers import Status

    owner, store = _signing(home, domain_home, domain)
    if successor and not successor.startswith("urn:"):
        successor, successor_version = urn, successor
    if successor:
        _check_successor(owner, store, successor, successor_version)
    fields = {"successor": successor, "successor_version": successor_version, "reason": reason}
    _say(owner, store, urn, version, every, Status.DEPRECATED, as_json, **fields)


@ras_app.command("yank")
def yank(
    urn: Urn,
    version: Version = "",
    reason: Reason = "",
    every: Every = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Withdraw it: it is given to who names the version, and to nobody else."""
    from ioi_dagster.ras.pointers import Status

    _say(*_signing(home, domain_home, domain), urn, version, every, Status.YANKED, as_json, reason=reason)


@ras_app.command("activate")
def activate(
    urn: Urn,
    version: Version = "",
    every: Every = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Take back that it is deprecated or yanked."""
    from ioi_dagster.ras.pointers import Status

    _say(*_signing(home, domain_home, domain), urn, version, every, Status.ACTIVE, as_json)


@ras_app.command("delete")
def delete(
    urn: Urn,
    version: Version = "",
    reason: Reason = "",
    every: Every = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Nothing of it is left, and there is no way back: its version is never taken again. Asks first."""
    from ioi_dagster.ras.pointers import Status

    owner, store = _signing(home, domain_home, domain)
    _check_meant(owner, store, urn, version, every)
    what = "with all its versions, those to come too" if every else version
    if not yes and not typer.confirm(f"Delete {urn} {what} for ever?", err=True):
        err.print("nothing was deleted")
        raise typer.Exit(1)
    _say(owner, store, urn, version, every, Status.DELETED, as_json, reason=reason)


@ras_app.command("alias")
def alias(
    urn: Urn,
    name: Annotated[str, typer.Argument(help="As production; `latest` is what is given where no version is named")],
    version: Annotated[str, typer.Argument(help="Or --remove")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="It names nothing any more")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """From here on an alias names that version. What it has named before is kept: `ioi ras show --alias NAME --as-of TIME`."""
    from ioi_dagster.ras.pointers import set_alias
    from ioi_dagster.ras.urn import read_urn

    if bool(version) == remove:
        raise bad("neither a version nor --remove is given" if not version else "a version and --remove are given")
    owner, store = _signing(home, domain_home, domain)
    urn = str(read_urn(urn))
    if version:
        version_there(owner, store, urn, version)
    elif name not in store.pointers(urn).aliases:
        raise bad(f"{urn} has no alias {name[:60]!r}", todo="see `ioi ras show`, `ioi ras history`")
    event = _pointed(owner, store, urn, lambda key, sequence, at: set_alias(key, urn, sequence, at, name, version))
    _told(event, f"{name} names {version} of {urn}" if version else f"{name} of {urn} names nothing", as_json)


@ras_app.command("verify")
def verify(
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make anew what follows from what is signed, and verify that")
    ] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Is what the registry finds what was signed? All is read, each signature verified. Exit code 1 where anything differs."""
    from ioi_dagster.adapters.sql.registry_checking import rebuild as made_anew
    from ioi_dagster.adapters.sql.registry_checking import verify as differences

    owner, store = opened(home, domain_home, domain)
    count = None
    if rebuild:
        with _progress("made anew") as told:
            count = made_anew(store, told)
    with _progress("verified") as told:
        found = [*differences(store, told), *_lost(owner, store)]
    if as_json:
        rows = [{"what": one.what, "name": one.name, "text": one.text} for one in found]
        print(json.dumps({"rebuilt": count, "differences": rows}))
    else:
        if count is not None:
            out.print(f"{count} records were read, and what follows from them made anew")
        for one in found:
            out.print(f"[red]differs[/] {escape(str(one))}", soft_wrap=True, highlight=False)
        good = f"the registry of {owner.name} is what was signed"
        todo = "`ioi ras verify --rebuild` mends all but what was signed itself" if not rebuild else "see its backups"
        out.print(good if not found else f"{len(found)} differences — {todo}", soft_wrap=True)
    if found:
        raise typer.Exit(1)


def _lost(owner: DomainHome, store: SqlRecordStore) -> list[Difference]:
    """What its gateway has stated, and is there no more although nobody has deleted it: nothing of a lost file differs."""
    from ioi_dagster.adapters.sql.registry_checking import Difference
    from ioi_dagster.ras.pointers import Status

    try:
        stated = from_json((owner.root / "stated.json").read_bytes(), list[tuple[str, str]])
    except (OSError, msgspec.MsgspecError):
        return []
    there = {(record.urn, record.version) for record in store.all_of(owner.name)}
    return [
        Difference(
            "record", f"{urn} {version}", "its gateway has stated it, and it is not there: see `ioi ras restore`"
        )
        for urn, version in stated
        if (urn, version) not in there and store.pointers(urn).stand(version).status is not Status.DELETED
    ]


@ras_app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="A new one")],
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Write the registry to a file, as it is at one moment; others go on meanwhile."""
    from ioi_dagster.adapters.sql.registry_backup import backup as written

    owner, store = opened(home, domain_home, domain)
    written(store.engine, file)
    if as_json:
        print(json.dumps({"domain": owner.name, "file": str(file.resolve()), "bytes": file.stat().st_size}))
    else:
        out.print(f"the registry of {owner.name} is in {file}", soft_wrap=True, highlight=False)


@ras_app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="That `ioi ras backup` wrote")],
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Make the registry from a backup, where there is none. Nothing is signed then until `ioi ras go-on`."""
    from ioi_dagster.adapters.files.only_one import only_one
    from ioi_dagster.adapters.sql.registry_backup import restore as made

    owner = owner_of(home, domain_home, domain)
    with only_one(owner.root / "gateway.lock", f"a gateway of {owner.name}"):
        made(file, owner.registry)
    if as_json:
        print(json.dumps({"domain": owner.name, "registry": str(owner.registry)}))
        return
    out.print(f"the registry of {owner.name} is as it was in {file}", soft_wrap=True, highlight=False)
    todo = "start its gateway, which takes what is missing from them (`ioi ras feeds`), then `ioi ras go-on HOW`"
    out.print(f"others may have seen what came after that: {todo}", soft_wrap=True)


def _signing(home: Path | None, domain_home: Path | None, domain: str) -> tuple[DomainHome, SqlRecordStore]:
    owner, store = opened(home, domain_home, domain)
    store.check_may_sign()
    return owner, store


def _check_meant(owner: DomainHome, store: SqlRecordStore, urn: str, version: str, every: bool) -> None:
    from ioi_dagster.adapters.sql.registry_listing import versions_of
    from ioi_dagster.ras.urn import read_urn

    if bool(version) == every:
        raise bad(
            "a version and --all-versions are given" if version else "no version is given",
            todo="name one, or say --all-versions",
        )
    urn = str(read_urn(urn))
    if version:
        version_there(owner, store, urn, version)
    elif not versions_of(store, urn):
        raise bad(f"the registry of {owner.name} has no {urn}", todo="see `ioi ras list`")


def _check_successor(owner: DomainHome, store: SqlRecordStore, urn: str, version: str) -> None:
    """Of what others own the registry may not know."""
    from ioi_dagster.ras.urn import read_urn

    if read_urn(urn).domain != owner.name:
        return
    if version:
        version_there(owner, store, urn, version)
    elif store.get(urn) is None:
        raise bad(f"the registry of {owner.name} has no {urn}", todo="register its successor first")


def _say(
    owner: DomainHome,
    store: SqlRecordStore,
    urn: str,
    version: str,
    every: bool,
    status: Status,
    as_json: bool,
    **fields: str,
) -> None:
    from ioi_dagster.ras.pointers import set_status

    _check_meant(owner, store, urn, version, every)
    event = _pointed(
        owner, store, urn, lambda key, sequence, at: set_status(key, urn, sequence, at, status, version, **fields)
    )
    _told(event, f"{urn} {version or 'with all its versions'} is {status}", as_json)


def _pointed(
    owner: DomainHome, store: SqlRecordStore, urn: str, make: Callable[[SigningKey, int, float], PointerEvent]
) -> PointerEvent:
    """The event behind all others of the record. Raises `FinalError` where it is not this domain's to say."""
    from ioi_dagster.errors import FinalError

    state = store.pointers(urn)
    if state.owner != owner.name:
        raise bad(f"{urn} belongs to {state.owner}, and this is {owner.name}", todo="ask its owner")
    for left in reversed(range(TRIES)):
        sequence = max((event.sequence for event in store.history(urn)), default=0) + 1
        event = make(owner.signing_key(), sequence, store.wall())
        try:
            return store.point(event.signed)
        except FinalError:
            taken = any(one.sequence == sequence for one in store.history(urn))
            if not left or not taken:
                raise
    raise AssertionError("the last try returns or raises")


def _told(event: PointerEvent, text: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"number": event.sequence, "at": event.at, "digest": event.digest, **event.signed.body}))
    else:
        out.print(f"{text} [dim](number {event.sequence}, {clock(event.at)})[/]", soft_wrap=True, highlight=False)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """A bar where it takes more than two seconds."""
    from rich.progress import Progress

    began = time.monotonic()
    bar = Progress(console=err, transient=True)
    task: Any = None

    def told(share: float) -> None:
        nonlocal task
        if task is None and time.monotonic() - began > SHOWN_AFTER_S:
            bar.start()
            task = bar.add_task(what, total=1.0)
        if task is not None:
            bar.update(task, completed=share)

    try:
        yield told
    finally:
        if task is not None:
            bar.stop()
