"""`ioi ras policies`, `images` and `template`: what else a registry keeps besides what can be called."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out, owner_of
from ioi_dagster.cli_ras import bad, opened
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.ras.images import Image
    from ioi_dagster.ras.record import Record
    from ioi_dagster.ras.templates import Template


@ras_app.command("policies")
def policies(home: Home = None, domain_home: DomainFolder = None, domain: Name = "", as_json: AsJson = False) -> None:
    """Which bundle of policies each domain states to decide by, and for which scopes those of several domains differ. Exit code 1
    where they do, or nobody states any."""
    from ioi_dagster.ras.policies import policy_view

    records, away = _stated_policies(owner_of(home, domain_home, domain))
    view = policy_view(records)
    if as_json:
        bundles = [asdict(one) for one in view.bundles]
        told = {"bundles": bundles, "differing": view.differing(), "unreadable": view.unreadable, "away": away}
        print(json.dumps(told))
    else:
        table = Fitted(Column("domain"), Column("bundle", 1), Column("revision"), Column("scopes", 2, wraps=20))
        for one in view.bundles:
            table.add_row(one.domain, one.name, one.spec.revision[:19], ", ".join(one.spec.scopes))
        if view.bundles:
            out.print(table)
        for scope in view.differing():
            its = view.scopes()[scope]
            told = "; ".join(f"{revision[:19]} in {', '.join(names)}" for revision, names in its.items())
            out.print(f"[yellow]differs[/] {escape(scope)}: {escape(told)}", soft_wrap=True, highlight=False)
        for one in view.unreadable:
            out.print(f"[yellow]cannot be read[/] {escape(one)}", soft_wrap=True, highlight=False)
        for name, why in away.items():
            err.print(f"{name} cannot be asked: {escape(why)}", soft_wrap=True, highlight=False)
    if view.differing() or not view.bundles:
        raise typer.Exit(1)


def _stated_policies(owner: DomainHome) -> tuple[list[Record], dict[str, str]]:
    """Of all members, each as its own gateway states them, else as this domain's registry has them; and who cannot be asked."""
    from ioi_dagster.adapters.http.client import GatewayClient
    from ioi_dagster.adapters.http.tls import TlsTo
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.errors import IoiError
    from ioi_dagster.ras.record import read_record
    from ioi_dagster.ras.urn import Kind

    found = {record.urn: record for record in SqlRecordStore(owner.registry, owner.trusted()).records(Kind.POLICY)}
    away: dict[str, str] = {}
    for name, url in sorted(owner.config().peers.items()):
        try:
            client = GatewayClient(url, name, owner.own_key(), tls=TlsTo(owner, name))
            try:
                told = [read_record(signed, owner.trusted()) for signed in client.records(str(Kind.POLICY))]
            finally:
                client.close()
        except IoiError as error:
            away[name] = str(error)
            continue
        found |= {record.urn: record for record in told if record.domain == name}
    return list(found.values()), away


@ras_app.command("images")
def images(
    folder: Annotated[Path, typer.Argument(help="An OCI image layout, as `skopeo copy … oci:FOLDER` writes it")],
    register: Annotated[
        str, typer.Option("--register", metavar="REPOSITORY", help="Register them, as images of that repository")
    ] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Which container images lie in a folder: digests, tags, platforms, size of layers. No daemon and no network is asked, and
    each document is checked against its digest. Exit code 1 where there is none."""
    from ioi_dagster.adapters.files.oci_layout import read_layout

    found = read_layout(folder)
    urns = _registered(found, register, home, domain_home, domain) if register else {}
    if as_json:
        print(json.dumps([{**asdict(one), "urn": urns.get(one.digest)} for one in found]))
    elif not found:
        out.print(f"no image lies in {folder}", highlight=False)
    else:
        table = Fitted(Column("digest"), Column("tags", 1), Column("platform"), Column("layers", 2, right=True))
        for one in found:
            for its in one.platforms:
                table.add_row(one.digest[:19], ", ".join(one.tags), its.name, f"{its.size / 2**20:.1f} MiB")
        out.print(table)
        for urn in urns.values():
            out.print(f"registered {urn}", soft_wrap=True, highlight=False)
    if not found:
        raise typer.Exit(1)


def _registered(
    found: tuple[Image, ...], repository: str, home: Path | None, domain_home: Path | None, domain: str
) -> dict[str, str]:
    """All of them or none; digest → its URN and version."""
    from ioi_dagster.errors import FinalError
    from ioi_dagster.ras.images import Reference, image_record, read_reference

    reference = read_reference(repository)
    if reference.tag or reference.digest:
        raise bad(f"{repository[:100]} names one image", todo=f"give the repository alone: {reference.repository}")
    owner, store = opened(home, domain_home, domain)
    store.check_may_sign()
    key = owner.signing_key()
    records = {
        one.digest: image_record(key, Reference(reference.repository, one.tags[0] if one.tags else ""), one)
        for one in found
    }
    with store.transaction() as connection:
        for outcome in store.put_many([record.signed for record in records.values()], connection):
            if isinstance(outcome, FinalError):
                raise outcome  # and nothing of it is written
    return {digest: f"{record.urn} {record.version}" for digest, record in records.items()}


@ras_app.command("template")
def template(
    urn: Annotated[str, typer.Argument(metavar="[URN]", help="Default: list them, with what they take")] = "",
    version: Annotated[str, typer.Argument(help="Default: what is given where none is named")] = "",
    values: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, the value as JSON or as it is (repeatable)")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Into this new file; default: standard output")
    ] = None,
    register: Annotated[
        str, typer.Option("--register", metavar="NAME@VERSION", help="Register what a template of records makes")
    ] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Fill a template that is registered into a topology, a graph or a record. A value that its schema does not plainly take is
    refused, and a topology that could not be started is not written."""
    from ioi_dagster.ras.templates import Makes, instantiate, template_of

    owner, store = opened(home, domain_home, domain)
    if not urn:
        _list_templates(store, as_json)
        return
    record = store.get(urn, version or None)
    if record is None:
        raise bad(f"the registry of {owner.name} has no {urn} {version}".rstrip(), todo="see `ioi ras template`")
    given, its = _given(values or []), template_of(record)
    if register:
        _register_made(owner, store, record, given, register, as_json)
        return
    made = instantiate(its, given)
    text = _as_yaml(made) if its.makes is Makes.TOPOLOGY and not as_json else json.dumps(made, indent=2) + "\n"
    if its.makes is Makes.TOPOLOGY:
        _check_topology(_as_yaml(made), urn)
    if file is None:
        print(text, end="")
        return
    with file.open("x") as stream:
        stream.write(text)
    err.print(f"{its.makes} written to {file}", soft_wrap=True, highlight=False)


def _list_templates(store: Any, as_json: bool) -> None:
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.ras.templates import template_of
    from ioi_dagster.ras.urn import Kind

    found: list[tuple[Record, Template]] = []
    for record in store.records(Kind.TEMPLATE):
        try:
            found.append((record, template_of(record)))
        except BadInputError as error:
            err.print(f"[yellow]left out[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    if as_json:
        rows = [
            {"urn": record.urn, "version": record.version, "makes": str(its.makes), "parameters": its.parameters}
            for record, its in found
        ]
        print(json.dumps(rows))
    elif found:
        table = Fitted(
            Column("template", wraps=30), Column("version", 1), Column("makes"), Column("takes", 2, wraps=20)
        )
        for record, its in found:
            table.add_row(record.urn, record.version, str(its.makes), ", ".join(its.parameters.get("properties", {})))
        out.print(table)
    else:
        out.print("no template is registered")
    if not found:
        raise typer.Exit(1)


def _register_made(
    owner: DomainHome, store: Any, record: Record, given: dict[str, Any], register: str, as_json: bool
) -> None:
    from ioi_dagster.ras.templates import instantiate_record

    name, at, version = register.rpartition("@")
    if not at or not name or not version:
        raise bad(f"{register[:100]!r} is no name with a version", todo="write NAME@VERSION, as reader@1.0.0")
    store.check_may_sign()
    made = store.put(instantiate_record(record, given, owner.signing_key(), name, version).signed)
    if as_json:
        print(json.dumps({"urn": made.urn, "version": made.version, "digest": made.digest}))
    else:
        out.print(f"registered {made.urn} {made.version}", soft_wrap=True, highlight=False)


def _given(values: list[str]) -> dict[str, Any]:
    import msgspec

    from ioi_dagster.decoding import from_json

    found: dict[str, Any] = {}
    for one in values:
        name, equals, text = one.partition("=")
        if not equals or name in found:
            raise bad(f"{one[:60]!r} gives no value, or one twice", todo="write --set NAME=VALUE, once for each")
        try:
            found[name] = from_json(text.encode())
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            found[name] = text
    return found


def _as_yaml(made: Any) -> str:
    import yaml

    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def _check_topology(text: str, urn: str) -> None:
    """As who starts it would read it."""
    import tempfile

    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.topology_file import load_topology

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topology.yaml"
        path.write_text(text)
        try:
            load_topology(path)
        except BadInputError as error:
            what = error.what.replace(f"{path}:", "line ")
            raise BadInputError(f"it makes no topology that could be started: {what}", where=urn) from error
