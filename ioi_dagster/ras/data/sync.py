"""Copies are kept as an owner wants them: what is to be copied, refreshed and dropped, for one asset at a time.

Only an owner writes versions, so copies never conflict: each is of the version in force, of an older one, or of none.
A plan is made of what is known now; made again after it was performed, it comes to nothing more to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.copies import Copy, Standing, Worth
from ioi_dagster.ras.data.routing import Network, Refused, Route, may_be_at, route

BY = "data sync"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which domains are to hold `asset`, the version in force. `withdrawn`: its owner has deleted it, so no copy is to stay."""

    asset: Asset
    domains: frozenset[str]
    withdrawn: bool = False


class Deed(StrEnum):
    """COPY: there is nothing of it, or a part of it. REFRESH: there is an older version, which is dropped once this is whole."""

    COPY = "copy"
    REFRESH = "refresh"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Action:
    """What `domain` is to do. `route`: from where (not for DROP); `copy`: which one is dropped."""

    deed: Deed
    domain: str
    why: str
    route: Route | None = None
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`refused`: what is wanted or should go, and why that is not done now. `in_sync`: all that may be is as it is wanted."""

    actions: tuple[Action, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def in_sync(self) -> bool:
        return not self.actions


def plan_sync(wanted: Wanted, standings: Iterable[Standing], network: Network) -> Plan:
    """`standings`: those that are told of now (a copy whose lease has ended is nothing to count on). A whole copy is dropped only
    where another whole one stays that this plan does not drop, and is wanted where it is. So of two who plan at once for the same
    wanted domains, neither drops what the other counts on."""
    known = tuple(sorted(standings, key=lambda one: one.copy.where))
    if wanted.withdrawn:
        return _all_gone(known)
    asset = wanted.asset
    actions, refused = [], []
    for domain in sorted(wanted.domains):
        here = [one for one in known if one.copy.domain == domain]
        if any(one.worth is Worth.WHOLE for one in here):
            continue
        way = route(asset, known, domain, network)
        refused += way.refused
        if not way.complete:
            if not any(not one.url for one in way.refused):
                names = ", ".join(way.missing[:3])
                refused.append(Refused(domain, "", Refusal("data.no_source", f"nobody gives {names}", BY, _WAIT)))
            held = {name for one in here if one.worth is Worth.PARTIAL for name in one.usable}
            if all(leg.part.name in held for leg in way.legs):
                continue
        stale = any(one.worth is Worth.STALE for one in here)
        why = here[0].why if here else "it has none"
        actions.append(Action(Deed.REFRESH if stale else Deed.COPY, domain, why, way))
    # Where one is being made, it may be made of the one that lies there: what to drop is seen when it is whole.
    busy = {action.domain for action in actions}
    dropped, kept = _dropped(wanted, known, network, busy)
    return Plan((*actions, *dropped), (*refused, *kept))


def _dropped(
    wanted: Wanted, known: tuple[Standing, ...], network: Network, busy: set[str]
) -> tuple[tuple[Action, ...], tuple[Refused, ...]]:
    whole = [one for one in known if one.worth is Worth.WHOLE]
    anchors = _anchors(wanted, whole, network)
    actions, refused = [], []
    for one in known:
        why = _unwanted(wanted, one, known, network)
        if not why or one.copy.domain in busy:
            continue
        if one.copy.original:
            its = Refusal("data.original", f"{why}; it is where its owner made it", BY, "its owner removes it himself")
            refused.append(Refused(*one.copy.where, its))
        elif any(anchor.copy.where != one.copy.where for anchor in anchors) and one not in anchors:
            actions.append(Action(Deed.DROP, one.copy.domain, why, copy=one.copy))
        else:
            its = Refusal("data.last_copy", f"{why}, but no whole copy is where it is wanted", BY, _WAIT)
            refused.append(Refused(*one.copy.where, its))
    return tuple(actions), tuple(refused)


def _anchors(wanted: Wanted, whole: list[Standing], network: Network) -> list[Standing]:
    """Whole copies that stay, whatever else goes: where they are wanted and may be, one in each domain. Without any none goes."""
    found: dict[str, Standing] = {}
    for one in sorted(whole, key=_first_to_stay):
        if one.copy.domain in wanted.domains and may_be_at(wanted.asset, one.copy.domain, network) is None:
            found.setdefault(one.copy.domain, one)
    return list(found.values())


def _unwanted(wanted: Wanted, one: Standing, known: tuple[Standing, ...], network: Network) -> str:
    domain = one.copy.domain
    if domain not in wanted.domains:
        return "it is not wanted there"
    refusal = may_be_at(wanted.asset, domain, network)
    if refusal is not None:
        return f"it may not be there: {refusal.text}"
    better = [its for its in known if its.copy.domain == domain and its.worth is Worth.WHOLE]
    if one.worth is Worth.DIVERGED or (one.worth is not Worth.WHOLE and better):
        return one.why or str(one.worth)
    if better and one is not min(better, key=_first_to_stay) and one.worth is Worth.WHOLE:
        return "it is there twice"
    return ""


def _first_to_stay(one: Standing) -> tuple[bool, tuple[str, str]]:
    return (not one.copy.original, one.copy.where)


def _all_gone(known: tuple[Standing, ...]) -> Plan:
    why = "its owner has deleted it"
    its = Refusal("data.original", f"{why}; it is where its owner made it", BY, "its owner removes it himself")
    return Plan(
        tuple(Action(Deed.DROP, one.copy.domain, why, copy=one.copy) for one in known if not one.copy.original),
        tuple(Refused(*one.copy.where, its) for one in known if one.copy.original),
    )


_WAIT = "wait until a whole copy is heard of; nothing is lost meanwhile"
