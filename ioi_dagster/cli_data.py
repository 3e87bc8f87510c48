"""`ioi data`: which data there is where, and how it gets elsewhere. What keeps many copies is in `cli_data_keep`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out, owner_of
from ioi_dagster.cli_ras import bad, clock, one_of
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.adapters.fsspec.mover import Moved
    from ioi_dagster.local.data_making import Made
    from ioi_dagster.local.data_plane import DataPlane, Holding
    from ioi_dagster.ras.data.routing import Refused, Route

data_app = typer.Typer(no_args_is_help=True, help="Data: registered, found, moved, kept in several domains.")
SHOWN_AFTER_S = 2.0
COLORS = {"whole": "green", "partial": "yellow", "stale": "yellow", "diverged": "red"}

Urn = Annotated[str, typer.Argument(metavar="URN", help="urn:ioi:<domain>:asset:<name>")]
Audience = Annotated[
    str,
    typer.Option(
        help="Who may see it: public, local or partner:<domain>; default: local where restricted, else public"
    ),
]
Version = Annotated[str, typer.Option("--version", help="Default: the next whole number")]
Store = Annotated[str, typer.Option("--store", help="Which of the domain's stores; default: its first")]


@data_app.command("register")
def register(
    files: Annotated[list[Path], typer.Argument(help="A folder, or files")],
    name: Annotated[str, typer.Option("--name", help="The asset's: urn:ioi:<domain>:asset:NAME")],
    data_class: Annotated[str, typer.Option("--class", help="public, internal or restricted")],
    regions: Annotated[str, typer.Option(help="Where it has to stay, as eu,uk; default: anywhere")] = "",
    partitions: Annotated[str, typer.Option(help="Keys of parts are what stands in folders NAME=…")] = "",
    media_type: Annotated[str, typer.Option("--media-type", help="As image/png")] = "",
    version: Version = "",
    audience: Audience = "",
    store: Store = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Make an asset of files: each is hashed, and the record signed with the domain's key and registered. Files that lie in a
    store of the domain stay where they are, others are copied into one. Again changes nothing; other files are a new version."""
    from ioi_dagster.local.data_making import files_of, parts_of, spec_of
    from ioi_dagster.local.data_making import register as registered
    from ioi_dagster.model.data_class import DataClass

    its_class = one_of(DataClass, data_class, "data class")
    with planed(home, domain_home, domain) as plane:
        into, found = plane.store(store), files_of(files)
        with progress("read", 2 * found.size) as told:
            parts = parts_of(found, partitions, told)
            spec = spec_of(parts, its_class, listed(regions), media_type, partitions)
            made = registered(plane, found, name, spec, into, version, audience, told)
    show_made(made, as_json)


@data_app.command("where")
def where(
    urn: Urn, home: Home = None, domain_home: DomainFolder = None, domain: Name = "", as_json: AsJson = False
) -> None:
    """Which domain holds what of it, and what that is worth against the version in force: whole, partial, stale or diverged. Exit
    code 1 where nobody holds a whole copy."""
    with planed(home, domain_home, domain) as plane:
        holding = plane.find(urn)
    whole = [one for one in holding.standings if one.worth == "whole"]
    if as_json:
        print(json.dumps(_held(holding)))
    else:
        asset = holding.asset
        told = f"{asset.urn} {asset.version}: {len(asset.parts)} parts, {amount(asset.size)}, {asset.data_class}"
        out.print(told + (f", to stay in {', '.join(asset.regions)}" if asset.regions else ""), highlight=False)
        table = Fitted(
            Column("domain"),
            Column("version", 1),
            Column("worth"),
            Column("parts", 2, right=True),
            Column("read", 3),
            Column("where", 4, wraps=30),
        )
        for one in holding.standings:
            its = one.copy
            far = its.url or "not told"
            kind = f"[{COLORS[one.worth]}]{one.worth}[/]" + (" original" if its.original else "")
            table.add_row(its.domain, its.version, _text(kind), str(len(its.held)), clock(its.as_of), far)
        if holding.standings:
            out.print(table)
        for one in holding.standings:
            if one.why:
                out.print(f"  {one.copy.domain}: {escape(one.why)}", soft_wrap=True, highlight=False)
        for name, refusals in holding.against.items():
            for why in refusals:
                out.print(f"  {name} does not give it: {escape(_said(why))}", soft_wrap=True, highlight=False)
        _away(holding)
        if not holding.standings:
            out.print("nobody tells of a copy")
    if not whole:
        raise typer.Exit(1)


@data_app.command("move")
def move(
    urn: Urn,
    to: Annotated[str, typer.Option("--to", help="Which of the domain's stores; default: its first")] = "",
    sources: Annotated[list[str] | None, typer.Option("--from", help="From this domain alone (repeatable)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the way, and move nothing")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Bring the version in force into a store of this domain, from whoever holds it and as policy allows; all that is refused is
    named with its reason. Every byte is checked. Again goes on with what is missing. Exit code 1 where not all of it is there."""
    with planed(home, domain_home, domain) as plane:
        holding = plane.find(urn)
        way = plane.routed(holding, plane.name, plane.network(), sources or ())
        if dry_run or not way.legs:
            _show_way(holding, way, as_json)
            raise typer.Exit(0 if way.complete else 1)
        store = plane.store(to)
        with progress("moved", sum(leg.part.size for leg in way.legs), plane):
            moved, untold = plane.move(holding, way, store)
    show_moved(moved, holding, untold, as_json)
    if not moved.whole:
        raise typer.Exit(1)


@data_app.command("read")
def read(
    urn: Urn,
    part: Annotated[list[str] | None, typer.Argument(help="Parts; default: all, one after the other")] = None,
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Into this new file; default: standard output")
    ] = None,
    sources: Annotated[list[str] | None, typer.Option("--from", help="From this domain alone (repeatable)")] = None,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
) -> None:
    """Read parts from the nearest copy, as policy allows, and keep none. All of a part is checked before any of it is given."""
    from ioi_dagster.adapters.fsspec.mover import PartUnavailableError

    if file is not None and file.exists():
        raise bad("the file is there already", todo="give the name of a new one")
    with planed(home, domain_home, domain) as plane:
        holding = plane.find(urn)
        names = {its.name for its in holding.asset.parts}
        odd = next((one for one in part or () if one not in names), None)
        if odd is not None:
            raise bad(f"{urn} has no part {odd[:100]!r}", todo=f"it has {', '.join(sorted(names)[:5])}")
        way = plane.routed(holding, plane.name, plane.network(), sources or ())
        legs = [leg for leg in way.legs if not part or leg.part.name in part]
        lacking = sorted({*(part or names)} - {leg.part.name for leg in legs})
        if lacking:
            err.print(f"{', '.join(lacking[:5])}: nobody gives it", highlight=False)
            refusals(way.refused)
            raise typer.Exit(1)
        whole = False
        stream: Any = sys.stdout.buffer if file is None else file.open("xb")
        try:
            with progress("read", sum(leg.part.size for leg in legs), plane):
                for leg in legs:
                    with plane.mover().reading(leg) as its:
                        while chunk := its.read(2**20):
                            stream.write(chunk)
            stream.flush()
            whole = True
        except PartUnavailableError as error:
            refusals(error.refused)
            raise typer.Exit(1) from None
        finally:
            if file is not None:
                stream.close()
                if not whole:
                    file.unlink()


# What is shown --------------------------------------------------------------------------------------------------


@contextmanager
def planed(home: Path | None, domain_home: Path | None, domain: str) -> Iterator[DataPlane]:
    """What the domain that is meant may do with data."""
    from ioi_dagster.local.data_plane import DataPlane

    plane = DataPlane(owner_of(home, domain_home, domain))
    try:
        yield plane
    finally:
        plane.close()


@contextmanager
def progress(what: str, total: int, plane: DataPlane | None = None) -> Iterator[Callable[[int], None]]:
    """A bar of bytes where it takes more than two seconds."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    began = time.monotonic()
    task: Any = None
    done = 0

    def told(size: int) -> None:
        nonlocal task, done
        done += size
        if task is None and time.monotonic() - began > SHOWN_AFTER_S:
            bar.start()
            task = bar.add_task(what, total=max(total, 1))
        if task is not None:
            bar.update(task, completed=done)

    if plane is not None:
        plane.told = told
    try:
        yield told
    finally:
        if task is not None:
            bar.stop()


def show_made(made: Made, as_json: bool) -> None:
    asset = made.asset
    if as_json:
        facts = {"parts": len(asset.parts), "bytes": asset.size, "class": str(asset.data_class)}
        named = {"state": made.state, "urn": asset.urn, "version": asset.version, "digest": asset.digest}
        print(
            json.dumps({**named, **facts, "url": made.url, "in_place": made.in_place, "audience": made.record.audience})
        )
        return
    told = (
        f"{made.state} {asset.urn} {asset.version}: {len(asset.parts)} parts, {amount(asset.size)}, {asset.data_class}"
    )
    out.print(f"{told}, for {made.record.audience}", soft_wrap=True, highlight=False)
    out.print(f"  it lies at {made.url}{', where it was' if made.in_place else ''}", soft_wrap=True, highlight=False)
    untold(made.untold)


def show_moved(moved: Moved, holding: Holding, why_untold: str, as_json: bool) -> None:
    if as_json:
        taken = [asdict(one) for one in moved.taken]
        facts = {"whole": moved.whole, "url": moved.copy.url, "taken": taken, "kept": list(moved.kept)}
        print(json.dumps({"urn": holding.asset.urn, "version": holding.asset.version, **facts, **_no(moved.refused)}))
        return
    its = holding.asset
    by_domain: dict[str, int] = {}
    for one in moved.taken:
        by_domain[one.domain] = by_domain.get(one.domain, 0) + its.part(one.part).size
    how = ", ".join(f"{amount(size)} from {name}" for name, size in sorted(by_domain.items())) or "nothing had to move"
    there = f"{len(moved.copy.held)} of {len(its.parts)} parts"
    out.print(f"{'whole' if moved.whole else there}: {its.urn} {its.version}, {how}", soft_wrap=True, highlight=False)
    out.print(f"  it lies at {moved.copy.url}", soft_wrap=True, highlight=False)
    refusals(moved.refused)
    untold(why_untold)


def refusals(refused: Iterable[Refused]) -> None:
    for one in dict.fromkeys(refused):
        who = f"{one.domain} " if one.domain else ""
        err.print(f"  refused: {who}{escape(_said(one.refusal))}", soft_wrap=True, highlight=False)


def untold(why: str) -> None:
    if why:
        told = f"its gateway hears of it when it looks into its stores again: {escape(why)}"
        err.print(f"  [dim]{told}[/]", soft_wrap=True, highlight=False)


def amount(size: int) -> str:
    from ioi_dagster.model.amounts import MEMORY, shown

    return shown(MEMORY, size)


def listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _show_way(holding: Holding, way: Route, as_json: bool) -> None:
    if as_json:
        legs = [{"part": leg.part.name, "from": [source.copy.domain for source in leg.sources]} for leg in way.legs]
        facts = {"complete": way.complete, "seconds": way.seconds, "legs": legs, "missing": list(way.missing)}
        print(json.dumps({"urn": way.asset.urn, "version": way.asset.version, **facts, **_no(way.refused)}))
        return
    table = Fitted(
        Column("from"), Column("parts", right=True), Column("size", right=True), Column("where", 1, wraps=30)
    )
    by_copy: dict[tuple[str, str], list[int]] = {}
    for leg in way.legs:
        by_copy.setdefault(leg.sources[0].copy.where, []).append(leg.part.size)
    for (name, url), sizes in sorted(by_copy.items()):
        table.add_row(name, str(len(sizes)), amount(sum(sizes)), url)
    if by_copy:
        out.print(table)
        out.print(f"[dim]some {way.seconds:.1f} s[/]", highlight=False)
    if way.missing:
        out.print(f"{len(way.missing)} parts cannot be had: {', '.join(way.missing[:3])}", highlight=False)
    refusals(way.refused)
    _away(holding)


def _away(holding: Holding) -> None:
    for name, why in holding.away.items():
        err.print(f"  {name} cannot be asked: {escape(why)}", soft_wrap=True, highlight=False)


def _held(holding: Holding) -> dict[str, Any]:
    asset = holding.asset
    copies = [
        {"domain": one.copy.domain, "version": one.copy.version, "worth": str(one.worth), "why": one.why}
        | {"url": one.copy.url, "parts": len(one.copy.held), "read": one.copy.as_of, "original": one.copy.original}
        for one in holding.standings
    ]
    named = {"urn": asset.urn, "version": asset.version, "digest": asset.digest, "class": str(asset.data_class)}
    against = {name: [asdict(why) for why in whys] for name, whys in holding.against.items()}
    return {**named, "parts": len(asset.parts), "bytes": asset.size, "copies": copies, "against": against} | {
        "away": dict(holding.away)
    }


def _no(refused: Iterable[Refused]) -> dict[str, Any]:
    return {"refused": [{"domain": one.domain, "url": one.url, **asdict(one.refusal)} for one in refused]}


def _said(why: Any) -> str:
    remedy = f" — {why.remedy}" if why.remedy else ""
    return f"{why.code}: {why.text} ({why.by}){remedy}"


def _text(markup: str) -> Any:
    from rich.text import Text

    return Text.from_markup(markup)
