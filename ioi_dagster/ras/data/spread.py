"""From one domain to many: who gives a copy to whom, so that no holder is read more often than need be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.copies import Standing, Worth
from ioi_dagster.ras.data.routing import BY, Network, Refused, may_be_at, may_go


@dataclass(frozen=True, slots=True)
class Hop:
    """A whole copy goes from `source` to `target`, and is expected there at `at` seconds. Hops of one `wave` begin once those of
    the waves before are done."""

    source: str
    target: str
    wave: int
    at: float


@dataclass(frozen=True, slots=True)
class Spread:
    asset: Asset
    hops: tuple[Hop, ...] = ()
    refused: tuple[Refused, ...] = ()


def spread(
    asset: Asset, standings: Iterable[Standing], targets: Iterable[str], network: Network, fan_out: int = 2
) -> Spread:
    """A tree from the whole copies to `targets` that have none. Each copy is read `fan_out` times at most (1: a chain), unless
    there is no other way that may be gone. Of all pairs the one that ends first is next (Prim's way of growing a tree, by time
    of arrival); equal ones by name."""
    free = dict.fromkeys(sorted(one.copy.domain for one in standings if one.worth is Worth.WHOLE), 0.0)
    wave = dict.fromkeys(free, 0)
    given = dict.fromkeys(free, 0)
    left = sorted(set(targets) - free.keys())
    refused = [Refused(one, "", why) for one in left if (why := may_be_at(asset, one, network))]
    left = [one for one in left if one not in {its.domain for its in refused}]
    asked: dict[tuple[str, str], tuple[Refusal, ...]] = {}
    hops: list[Hop] = []

    def may(source: str, target: str) -> bool:
        if (source, target) not in asked:
            asked[source, target] = may_go(asset, source, target, network)
        return not asked[source, target]

    while left:
        ways = [
            (given[source] >= fan_out, free[source] + _seconds(asset, source, target, network), source, target)
            for source in free
            for target in left
            if may(source, target)
        ]
        if not ways:
            break
        _, at, source, target = min(ways)
        hops.append(Hop(source, target, wave[source] + 1, at))
        free[source] = free[target] = at
        given[source] += 1
        given[target] = 0
        wave[target] = wave[source] + 1
        left.remove(target)
    refused += [Refused(target, "", why) for target in left for why in _why_none(target, list(free), asked)]
    return Spread(asset, tuple(hops), tuple(refused))


def _seconds(asset: Asset, source: str, target: str, network: Network) -> float:
    link = network.link(source, target)
    return link.latency + asset.size / link.bandwidth


def _why_none(
    target: str, holders: list[str], asked: dict[tuple[str, str], tuple[Refusal, ...]]
) -> tuple[Refusal, ...]:
    found = tuple(why for source in holders for why in asked.get((source, target), ()))
    if found or holders:
        return found
    return (
        Refusal("data.no_source", "nobody has a whole copy", BY, "its owner's domain comes back, or makes it anew"),
    )
