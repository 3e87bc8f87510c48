"""`ioi ras`: what a domain's registry says, to who asks at its prompt."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, out, owner_of
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.adapters.sql.registry_listing import Listed
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.ras.discovery import Found, Intent
    from ioi_dagster.ras.record import Record
    from ioi_dagster.ras.urn import Kind

Urn = Annotated[str, typer.Argument(metavar="URN", help="urn:ioi:<domain>:<kind>:<name>")]
KindOption = Annotated[str, typer.Option("--kind", help="Of this kind: block, model, cluster, …")]
Capability = Annotated[str, typer.Option("--capability", help="That offer it, as page.ocr")]
DataClassOption = Annotated[str, typer.Option("--data-class", help="Of the data that it is to be given")]
Most = Annotated[int, typer.Option("-k", min=1, max=500, help="How many are shown")]
COLORS = {"active": "green", "deprecated": "yellow", "yanked": "red", "deleted": "dim", "yes": "green", "no": "red"}


@ras_app.command("list")
def list_records(
    kind: KindOption = "",
    status: Annotated[str, typer.Option(help="All versions that are active, deprecated, yanked or deleted")] = "",
    capability: Capability = "",
    tag: Annotated[str, typer.Option(help="With a contract that has it")] = "",
    every: Annotated[bool, typer.Option("--all-versions", help="Not only what is given where none is named")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The most rows")] = 1_000,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """What is registered. Exit code 1 where there is nothing such."""
    from ioi_dagster.adapters.sql.registry_listing import Wish, listed
    from ioi_dagster.ras.pointers import Status

    wish = Wish(_kinds(kind), one_of(Status, status, "status") if status else None, capability, tag, every)
    _, store = opened(home, domain_home, domain)
    rows = listed(store, wish, limit + 1)
    if as_json:
        print(json.dumps([_row(one) for one in rows[:limit]]))
    else:
        table = Fitted(
            Column("urn", wraps=30),
            Column("version", 0, wraps=16),
            Column("status", 1),
            Column("capabilities", 2, wraps=20),
            Column("registered", 3),
        )
        for one in rows[:limit]:
            starred = " *" if one.offered and (status or every) else ""
            shown = Text(one.stand.status.value + starred, COLORS[one.stand.status.value])
            table.add_row(one.urn, one.version, shown, ", ".join(_capabilities(one.record)), clock(one.seen))
        if rows:
            out.print(table)
        told = f"{min(len(rows), limit)} of them" + (", and more: narrow it, or raise --limit" if rows[limit:] else "")
        told += "; * is given where no version is named" if status or every else ""
        out.print(f"[dim]{told}[/]" if rows else "nothing such is registered")
    if not rows:
        raise typer.Exit(1)


@ras_app.command("show")
def show_record(
    urn: Urn,
    version: Annotated[str, typer.Argument(help="Default: what is given where none is named")] = "",
    alias: Annotated[str, typer.Option(help="The version that this alias names, as production")] = "",
    as_of: Annotated[str, typer.Option("--as-of", help="At that time: 2026-11-28, 2026-11-28T12:00 (UTC)")] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """One version of a record, how it stands and which aliases name it: now, or at a time."""
    from ioi_dagster.adapters.sql.registry_listing import versions_of
    from ioi_dagster.ras.urn import read_urn

    if version and alias:
        raise bad("a version and an alias are given", todo="leave one of them out")
    until = time_of(as_of) if as_of else None
    urn = str(read_urn(urn))
    owner, store = opened(home, domain_home, domain)
    there = [one for one in versions_of(store, urn) if until is None or one.seen <= until]
    state = store.pointers(urn, until)
    named = version or (state.aliases.get(alias) if alias else state.offered([_known(one) for one in there]))
    found = next((one for one in there if one.version == named), None)
    when = f" at {clock(until)}" if until is not None else ""
    if found is None or found.record is None:
        what = f"alias {alias} of {urn}" if alias else f"{urn} {version}".rstrip()
        gone = found is not None or (there and not version and not alias)
        why = "nothing of it is left, or none is given unasked" if gone else "see `ioi ras list`, `ioi ras history`"
        raise bad(f"the registry of {owner.name} gives no {what}{when}", todo=why)
    stand = state.stand(found.version)
    aliases = sorted(name for name, its in state.aliases.items() if its == found.version)
    if as_json:
        shown = {
            "record": found.record.signed.body,
            "digest": found.digest,
            "key_id": found.record.signed.key_id,
            "signature": found.record.signed.signature,
            "registered": found.seen,
            "status": asdict(stand),
            "aliases": aliases,
            "owner": state.owner,
            "versions": {one.version: state.stand(one.version).status.value for one in there},
        }
        print(json.dumps(shown))
        return
    others = [one.version for one in there if one.version != found.version]
    rows = [
        ("urn", urn),
        ("version", f"{found.version} ({found.record.scheme})"),
        ("status", stand_text(stand) + when),
        ("aliases", ", ".join(aliases)),
        ("owner", state.owner),
        ("audience", found.record.audience),
        ("registered", clock(found.seen)),
        ("valid until", clock(found.record.valid_until) if found.record.valid_until else ""),
        ("digest", found.digest),
        ("signed by", found.record.signed.key_id),
        ("supersedes", found.record.supersedes),
        ("other versions", ", ".join(others[:10]) + (f" and {len(others) - 10} more" if others[10:] else "")),
    ]
    for name, text in rows:
        if text:
            out.print(f"[bold]{name:15}[/]{escape(text)}", soft_wrap=True, highlight=False)
    parts = {"spec": found.record.spec, "provenance": list(found.record.provenance)}
    out.print_json(json.dumps({name: part for name, part in parts.items() if part}))


@ras_app.command("find")
def find(
    words: Annotated[str, typer.Argument(help="What is to be done, in words")],
    most: Most = 5,
    kind: KindOption = "",
    capability: Capability = "",
    tag: Annotated[str, typer.Option(help="With a contract that has it")] = "",
    data_class: DataClassOption = "",
    deprecated: Annotated[bool, typer.Option("--deprecated", help="Deprecated ones too")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Who can do what is said in words, best first. Says so where nothing fits, what came nearest, and ends with code 1."""
    from ioi_dagster.adapters.sql.registry_source import SqlRegistry

    owner, store = opened(home, domain_home, domain)
    intent = _intent(owner, words, kind, capability, data_class, deprecated, most)
    with SqlRegistry(store, _by(owner)).discovering(intent, {}, tag) as (found, registry):
        options = found.options[:most]
        contracts = [registry.source.details(one.summary).contract for one in options]
    if as_json:
        print(json.dumps(_found(found, most)))
    elif options:
        table = Fitted(
            Column("#", right=True),
            Column("urn", wraps=30),
            Column("version", 2, wraps=16),
            Column("capability", 1, wraps=16),
            Column("fits", right=True),
            Column("what it does", 3, wraps=40),
        )
        for number, (one, contract) in enumerate(zip(options, contracts, strict=True), 1):
            fit = "" if one.figures.relevance is None else f"{one.figures.relevance:.0%}"
            its = one.summary
            told = (contract.description or contract.name) if contract else ""
            table.add_row(str(number), its.urn, its.version, its.capability, fit, told)
        out.print(table)
        told = f"{len(found.options) - most} more would do; " if found.options[most:] else ""
        out.print(f"[dim]{told}why not another: `ioi ras why-not WORDS URN`[/]", highlight=False)
    else:
        out.print("nothing fits")
        refused = [one for one in found.rejected if one.refusal.code != "ras.not_relevant"]
        for one in found.closest:
            out.print(f"  nearest: {one.urn} {escape(one.capability)}", soft_wrap=True, highlight=False)
        for one in refused[:most]:
            out.print(f"  refused: {one.summary.urn} {escape(str(one.refusal))}", soft_wrap=True, highlight=False)
    if not options:
        raise typer.Exit(1)


@ras_app.command("why-not")
def why_not(
    asked_for: Annotated[list[str], typer.Argument(metavar="[WORDS] URN", help="What was asked, and for which record")],
    capability: Capability = "",
    version: Annotated[str, typer.Option(help="This version of it alone")] = "",
    data_class: DataClassOption = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Why a record is not what is chosen: all that it is refused for, or who is ahead of it and in what. Exit code 1 where it is
    not registered."""
    from ioi_dagster.adapters.sql.registry_source import SqlRegistry
    from ioi_dagster.ras.urn import read_urn
    from ioi_dagster.ras.why_not import Verdict

    *words, urn = asked_for
    if len(words) > 1:
        raise bad(
            "more than words and a URN are given", todo='put words in quotes: `ioi ras why-not "read a page" URN`'
        )
    if not words and not capability:
        raise bad("nothing is asked for", todo="give words before the URN, or --capability")
    urn = str(read_urn(urn))
    owner, store = opened(home, domain_home, domain)
    intent = _intent(owner, words[0] if words else "", "", capability, data_class, False, 500)
    why = SqlRegistry(store, _by(owner)).why_not(intent, {}, urn, version)
    if as_json:
        print(json.dumps(asdict(why)))
    else:
        out.print(escape(f"{urn} is {why.verdict}"), soft_wrap=True, highlight=False)
        for one in why.refusals:
            out.print(
                f"  [bold]{one.code}[/] {escape(one.text)} — {escape(one.remedy)}", soft_wrap=True, highlight=False
            )
        for entry in why.ahead[:5]:
            out.print(f"  after {escape(entry)}", soft_wrap=True, highlight=False)
        for name, lead in sorted(why.lacks.items(), key=lambda item: -item[1]):
            if lead:
                out.print(f"  {name}: the best is {abs(lead):.3f} {'ahead' if lead > 0 else 'behind'}", highlight=False)
    if why.verdict is Verdict.ABSENT:
        raise typer.Exit(1)


def opened(home: Path | None, domain_home: Path | None, domain: str) -> tuple[DomainHome, SqlRecordStore]:
    """The domain that is meant, and its registry."""
    from ioi_dagster.adapters.sql.registry import SqlRecordStore

    owner = owner_of(home, domain_home, domain)
    return owner, SqlRecordStore(owner.registry, owner.trusted())


def version_there(owner: DomainHome, store: SqlRecordStore, urn: str, version: str) -> Record:
    """Raises `BadInputError` where there is none, which names those that there are."""
    from ioi_dagster.adapters.sql.registry_listing import versions_of

    found = store.get(urn, version)
    if found is not None:
        return found
    others = [one.version for one in versions_of(store, urn) if one.record is not None]
    todo = f"it has {', '.join(others[-5:])}" if others else "see `ioi ras list`"
    raise bad(f"the registry of {owner.name} has no {urn} {version}", todo=todo)


def clock(at: float) -> str:
    """Seconds of the epoch as people read them, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def time_of(text: str) -> float:
    """Seconds of the epoch of a day (its end), a time of ISO 8601 (UTC where it names no zone) or such seconds themselves. Raises
    `BadInputError`."""
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise bad(f"{text[:60]!r} is no time", todo="as 2026-11-28 or 2026-11-28T12:00+01:00") from None
    if re.fullmatch(r"\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d-?\d", text):
        found = found.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def bad(what: str, todo: str = "") -> Exception:
    from ioi_dagster.errors import BadInputError

    return BadInputError(what, todo=todo)


def one_of(values: Any, text: str, what: str) -> Any:
    if text not in tuple(values):
        raise bad(f"{text[:60]!r} is no {what}", todo=f"one of {', '.join(values)}")
    return values(text)


def _kinds(kind: str) -> tuple[Kind, ...]:
    from ioi_dagster.ras.urn import Kind

    return (one_of(Kind, kind, "kind"),) if kind else ()


def _by(owner: DomainHome) -> str:
    return f"registry of {owner.name}"


def _intent(
    owner: DomainHome, words: str, kind: str, capability: str, data_class: str, deprecated: bool, most: int
) -> Intent:
    from ioi_dagster.model.data_class import DataClass
    from ioi_dagster.model.trust import TrustDemand
    from ioi_dagster.ras.discovery import Intent

    given = one_of(DataClass, data_class, "data class") if data_class else DataClass.PUBLIC
    return Intent(
        words,
        _kinds(kind),
        capability,
        trust=TrustDemand(given),
        asker=owner.name,
        deprecated=deprecated,
        most=max(most, 100),
    )


def _found(found: Found, most: int) -> dict[str, Any]:
    options = [
        {
            "urn": one.summary.urn,
            "version": one.summary.version,
            "capability": one.summary.capability,
            "digest": one.summary.digest,
            "fit": one.figures.relevance,
            "utility": one.score.utility,
            "dominated_by": one.dominated_by,
            "unknown": one.unknown,
        }
        for one in found.options[:most]
    ]
    rejected = [
        {"urn": one.summary.urn, "version": one.summary.version, "code": one.refusal.code, "text": one.refusal.text}
        for one in found.rejected
    ]
    closest = [{"urn": one.urn, "version": one.version, "capability": one.capability} for one in found.closest]
    return {"options": options, "rejected": rejected, "closest": closest}


def _row(one: Listed) -> dict[str, Any]:
    return {
        "urn": one.urn,
        "kind": str(one.kind),
        "version": one.version,
        "status": one.stand.status.value,
        "successor": one.stand.successor,
        "offered": one.offered,
        "digest": one.digest,
        "registered": one.seen,
        "capabilities": _capabilities(one.record),
    }


def _capabilities(record: Record | None) -> list[str]:
    from ioi_dagster.ras.contracts import offers_of

    return [offer.capability for offer in offers_of(record)] if record is not None else []


def _known(one: Listed) -> Any:
    from ioi_dagster.ras.urn import Scheme
    from ioi_dagster.ras.versions import Known

    its = one.record
    return Known(one.version, its.scheme if its else Scheme.PEP440, one.digest, its.supersedes if its else "")


def stand_text(stand: Any) -> str:
    successor = f" for {stand.successor} {stand.successor_version}".rstrip() if stand.successor else ""
    return f"{stand.status.value}{successor}" + (f": {stand.reason}" if stand.reason else "")
