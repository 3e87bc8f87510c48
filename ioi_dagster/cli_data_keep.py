"""`ioi data sync`, `fold` and `survey`: copies as their owner wants them, one of several, and what is really there."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ioi_dagster.cli_data import (
    Audience,
    Store,
    Urn,
    Version,
    amount,
    data_app,
    planed,
    progress,
    refusals,
    show_made,
    untold,
)
from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out
from ioi_dagster.cli_ras import bad, clock
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.adapters.fsspec.keeping import Kept
    from ioi_dagster.ras.data.sync import Plan


@data_app.command("sync")
def sync(
    urn: Annotated[
        str, typer.Argument(metavar="[URN]", help="Default: all of which it is noted where they are kept")
    ] = "",
    at: Annotated[
        list[str] | None, typer.Option("--at", help="A domain that is to hold it (repeatable); noted from then on")
    ] = None,
    withdrawn: Annotated[bool, typer.Option("--withdrawn", help="No copy but the original is to stay")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it the plan is shown")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Copy, refresh and drop until the domains that its owner wants hold the version in force, and no others. Done for domains of
    this home; others do it by `ioi data move`. Exit code 1 where something is left to do, or was refused."""
    from ioi_dagster.local.data_keeping import Syncing

    with planed(home, domain_home, domain) as plane, closing(Syncing(plane)) as syncing:
        if at or withdrawn:
            if not urn:
                raise bad("no asset is named", todo="name it: `ioi data sync URN --at DOMAIN`")
            syncing.note(urn, at or ())
        plans = {one: syncing.plan(one, withdrawn) for one in syncing.wanted(urn)}
        done: dict[str, Kept] = {}
        if apply:
            for one, plan in plans.items():
                size = sum(leg.part.size for its in plan.actions if its.route for leg in its.route.legs)
                with progress("moved", size, plane):
                    done[one] = syncing.apply(plan)
    _show_sync(plans, done, as_json)
    left = [one for one, plan in plans.items() if plan.actions and one not in done]
    refused = [one for its in (*plans.values(), *done.values()) for one in its.refused]
    # That originals stay is as it should be.
    if not plans or left or any(one.refusal.code != "data.original" for one in refused):
        raise typer.Exit(1)


@data_app.command("spread")
def spread(
    urn: Urn,
    to: Annotated[list[str], typer.Option("--to", help="A domain of this home that is to hold it (repeatable)")],
    fan_out: Annotated[
        int, typer.Option("--fan-out", min=1, max=64, help="So often a copy is read at most; 1: a chain")
    ] = 2,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Give a copy to several domains, each from the nearest that has one by then. Exit code 1 where one of them has none after
    it."""
    from ioi_dagster.local.data_keeping import Syncing

    with planed(home, domain_home, domain) as plane, closing(Syncing(plane)) as syncing, progress("moved", 0, plane):
        asset, kept = syncing.spread(urn, to, fan_out)
    if as_json:
        refused = [{"domain": one.domain, "url": one.url, **asdict(one.refusal)} for one in kept.refused]
        print(json.dumps({"urn": asset.urn, "copies": [copy.domain for copy in kept.copies], "refused": refused}))
    else:
        told = "; ".join(f"{copy.domain} holds {len(copy.held)} parts" for copy in kept.copies)
        out.print(f"{asset.urn} {asset.version}: {told or 'no copy was made'}", soft_wrap=True, highlight=False)
        refusals(kept.refused)
    if kept.refused:
        raise typer.Exit(1)


@data_app.command("fold")
def fold(
    urns: Annotated[list[str], typer.Argument(metavar="URN…", help="Of which it is made, in this order")],
    name: Annotated[str, typer.Option("--name", help="Of the asset that comes of it")],
    how: Annotated[str, typer.Option(help="bytes, lines, or module:function of a module that --allow names")] = "bytes",
    part: Annotated[str, typer.Option("--part", help="What its one part is called")] = "all",
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what there is; the record says what is lacking")
    ] = False,
    allow: Annotated[list[str] | None, typer.Option("--allow", help="A module whose functions may be called")] = None,
    version: Version = "",
    audience: Audience = "",
    store: Store = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Parts of several assets become one, from whoever holds them and as policy allows; the record names each with its digest.
    It has the highest class of all, and the regions that all share. Exit code 1 where something cannot be had."""
    from ioi_dagster.errors import RetryableError
    from ioi_dagster.local.data_keeping import folded

    with planed(home, domain_home, domain) as plane:
        into = plane.store(store)
        with progress("read", 0, plane):
            try:
                made, refused = folded(plane, urns, name, how, part, into, allow or (), partial, version, audience)
            except RetryableError as error:
                err.print(escape(str(error)), soft_wrap=True, highlight=False)
                raise typer.Exit(1) from None
    show_made(made, as_json)
    refusals(refused)
    if made.asset.lacks and not as_json:
        out.print(f"  it lacks {', '.join(made.asset.lacks[:3])}", soft_wrap=True, highlight=False)


@data_app.command("survey")
def survey(
    urn: Annotated[str, typer.Argument(metavar="[URN]", help="Default: all that lies there")] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Read all that lies in the domain's stores again, and say what it is worth. Exit code 1 where something is not what it
    should be."""
    from ioi_dagster.ras.data.asset import asset_of
    from ioi_dagster.ras.data.copies import standing

    with planed(home, domain_home, domain) as plane:
        with err.status("reading") as status:
            copies = plane.lying(urn, True, lambda asset: status.update(f"reading {asset.urn} {asset.version}"))
        why_untold = plane.tell(copies) if copies else ""
        known = {copy.of: plane.records.by_digest(copy.of) for copy in copies}
    rows = [standing(asset_of(record), copy) for copy in copies if (record := known[copy.of]) is not None]
    if as_json:
        print(json.dumps([{**asdict(one.copy), "worth": str(one.worth), "why": one.why} for one in rows]))
    elif not rows:
        out.print(f"nothing that is registered lies in the stores of {plane.name}")
    else:
        table = Fitted(
            Column("asset", wraps=30),
            Column("version", 1),
            Column("is"),
            Column("read", 3),
            Column("where", 2, wraps=30),
        )
        for one in rows:
            told = f"{one.worth}{' original' if one.copy.original else ''}{': ' + one.why if one.why else ''}"
            table.add_row(one.copy.asset, one.copy.version, told, clock(one.copy.as_of), one.copy.url)
        out.print(table)
        untold(why_untold)
    if any(one.worth != "whole" for one in rows):
        raise typer.Exit(1)


def _show_sync(plans: dict[str, Plan], done: dict[str, Kept], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_facts(urn, plan, done.get(urn)) for urn, plan in plans.items()]))
        return
    if not plans:
        out.print("it is noted of nothing where it is to be kept: `ioi data sync URN --at DOMAIN`")
    for urn, plan in plans.items():
        out.print(f"[bold]{escape(urn)}[/]{' is as it is wanted' if plan.in_sync else ''}", highlight=False)
        table = Fitted(Column("do"), Column("in"), Column("size", 1, right=True), Column("why", 0, wraps=30))
        for its in plan.actions:
            size = amount(sum(leg.part.size for leg in its.route.legs)) if its.route else ""
            table.add_row(str(its.deed), its.domain, size, its.why)
        if plan.actions:
            out.print(table)
        refusals(plan.refused)
        kept = done.get(urn)
        if kept is not None:
            told = [f"{copy.domain} holds {len(copy.held)} parts" for copy in kept.copies]
            told += [f"{copy.domain} has dropped its copy" for copy in kept.dropped]
            out.print("done: " + ("; ".join(told) or "nothing"), soft_wrap=True, highlight=False)
            refusals(kept.refused)
    if any(plan.actions for plan in plans.values()) and not done:
        out.print("[dim]nothing was done: --apply does it[/]")


def _facts(urn: str, plan: Plan, kept: Kept | None) -> dict[str, Any]:
    refused = [*plan.refused, *(kept.refused if kept else ())]
    return {
        "urn": urn,
        "actions": [{"deed": str(its.deed), "domain": its.domain, "why": its.why} for its in plan.actions],
        "refused": [{"domain": one.domain, "url": one.url, **asdict(one.refusal)} for one in refused],
        "copies": [copy.domain for copy in kept.copies] if kept else None,
        "dropped": [copy.domain for copy in kept.dropped] if kept else None,
    }
