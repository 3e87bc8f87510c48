"""`ioi ras diff` and `ioi ras history`: what has become of a record from version to version."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out
from ioi_dagster.cli_ras import COLORS, Urn, clock, opened, stand_text, version_there
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.adapters.sql.registry_listing import Listed
    from ioi_dagster.ras.pointers import PointerEvent


@ras_app.command("diff")
def diff(
    urn: Urn,
    one: Annotated[str, typer.Argument(metavar="V1")],
    other: Annotated[str, typer.Argument(metavar="V2")],
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """What differs between two versions, and whether who calls the first may call the second. Exit code 1 where anything does."""
    from ioi_dagster.ras.difference import ABSENT, callers, changes
    from ioi_dagster.ras.urn import read_urn

    urn = str(read_urn(urn))
    owner, store = opened(home, domain_home, domain)
    records = [version_there(owner, store, urn, version) for version in (one, other)]
    found, may = changes(*records), callers(*records)
    if as_json:
        rows = [
            {"path": its.path}
            | {side: value for side, value in (("before", its.before), ("after", its.after)) if value is not ABSENT}
            for its in found
        ]
        print(json.dumps({"changes": rows, "callers": [asdict(its) for its in may]}))
    elif not found:
        out.print(f"{one} and {other} say the same")
    else:
        table = Fitted(Column("where", wraps=30), Column(one, wraps=30), Column(other, wraps=30))
        for its in found:
            table.add_row(
                its.path, *("" if value is ABSENT else json.dumps(value) for value in (its.before, its.after))
            )
        out.print(table)
        for its in may:
            verdict = f"[{COLORS.get(its.answer.value, 'yellow')}]{its.answer.value}[/]"
            told = f"{its.side} of {escape(its.capability)} fit callers of {one}: {verdict} {escape(its.why)}"
            out.print(told.rstrip(), soft_wrap=True, highlight=False)
    if found:
        raise typer.Exit(1)


@ras_app.command("history")
def history(
    urn: Urn,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """All that its owner has said of a record: versions as they came, and what he said of them later by its number."""
    from ioi_dagster.adapters.sql.registry_listing import versions_of
    from ioi_dagster.ras.urn import read_urn

    urn = str(read_urn(urn))
    owner, store = opened(home, domain_home, domain)
    rows = [
        {
            "at": one.seen,
            "number": 0,
            "what": "registered",
            "version": one.version,
            "by": _signer(one),
            "told": one.digest,
        }
        for one in versions_of(store, urn)
    ]
    for event in store.history(urn):
        rows.append(
            {
                "at": event.at,
                "number": event.sequence,
                "what": str(event.op),
                "version": event.version,
                "by": event.signer,
                "told": _event_text(event),
            }
        )
    rows.sort(key=lambda row: (row["at"], row["number"]))
    if as_json:
        print(json.dumps(rows))
    elif rows:
        columns = (Column("when"), Column("number", 2, right=True), Column("what"), Column("version", wraps=16))
        table = Fitted(*columns, Column("by", 3), Column("", 1, wraps=30))
        for row in rows:
            number = str(row["number"] or "")
            table.add_row(clock(row["at"]), number, row["what"], row["version"], row["by"], row["told"])
        out.print(table)
    if not rows:
        err.print(f"the registry of {owner.name} has never had {escape(urn)}", soft_wrap=True)
        raise typer.Exit(1)


def _signer(one: Listed) -> str:
    return one.record.signed.key_id.partition("#")[0] if one.record else ""


def _event_text(event: PointerEvent) -> str:
    from ioi_dagster.ras.pointers import Op

    if event.op is Op.ALIAS:
        return event.alias if event.version else f"{event.alias}: removed"
    return f"to {event.to}" if event.op is Op.TRANSFER else stand_text(event)
