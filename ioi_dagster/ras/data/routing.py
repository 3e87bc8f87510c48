"""From where a reader takes which part: the cheapest copies first, of those from and to where the data may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ioi_dagster.model.data_move import DataMove, MovePolicy, Place
from ioi_dagster.model.decision import Verdict
from ioi_dagster.model.placement import Link, untold
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset, Part
from ioi_dagster.ras.data.copies import Copy, Standing, Worth

BY = "data routing"
HELD = "data.held"
"""Policy cannot say yet; nothing moves meanwhile, and nothing is lost."""


@dataclass(frozen=True, slots=True)
class Network:
    """What is known of domains and of what lies between them; `policy` decides on each pair of domains once."""

    places: Mapping[str, Place]
    policy: MovePolicy
    links: Mapping[tuple[str, str], Link]

    def link(self, source: str, target: str) -> Link:
        return self.links.get((source, target)) or untold(source, target)


@dataclass(frozen=True, slots=True)
class Source:
    """`path` below the URL of `copy` is where the part lies; `seconds`: what taking it from there is expected to cost."""

    copy: Copy
    path: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Leg:
    """One part, and where it is taken from: the next source when one fails."""

    part: Part
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a copy is not taken from, or (empty `url`) why nothing may go to a domain."""

    domain: str
    url: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Route:
    """`legs`: parts that can be had; `missing`: names of those that cannot, now."""

    asset: Asset
    target: str
    legs: tuple[Leg, ...] = ()
    missing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def seconds(self) -> float:
        """Expected, one part after the other, each from its first source."""
        return sum(leg.sources[0].seconds for leg in self.legs)


def route(
    asset: Asset,
    standings: Iterable[Standing],
    target: str,
    network: Network,
    wanted: Iterable[str] | None = None,
) -> Route:
    """`wanted`: names of the parts (None: all). Sources of one cost in order of domain and URL."""
    parts = asset.parts if wanted is None else [part for part in asset.parts if part.name in frozenset(wanted)]
    names = tuple(part.name for part in parts)
    refusal = may_be_at(asset, target, network)
    if refusal is not None:
        # What policy has to say is told as well: it names the rule, and may be what has to be changed next.
        from_where = dict.fromkeys(one.copy.domain for one in standings if one.copy.domain != target)
        said = [Refused(one, "", why) for one in from_where for why in policy_says(asset, one, target, network)]
        return Route(asset, target, (), names, (Refused(target, "", refusal), *said))
    asked: dict[str, tuple[Refusal, ...]] = {}
    usable, refused = [], []
    for one in standings:
        refusals = _source_refusals(asset, one, target, network, asked)
        refused += [Refused(*one.copy.where, refusal) for refusal in refusals]
        if not refusals:
            usable.append(one)
    legs = [Leg(part, _sources(part, usable, target, network)) for part in parts]
    return Route(
        asset,
        target,
        tuple(leg for leg in legs if leg.sources),
        tuple(leg.part.name for leg in legs if not leg.sources),
        tuple(refused),
    )


def may_be_at(asset: Asset, domain: str, network: Network) -> Refusal | None:
    """Whether data of this class and residency may be there at all; the first reason why not."""
    place = network.places.get(domain)
    if place is None:
        return Refusal("data.unknown_domain", f"nothing is known of {domain}", BY, "it joins, or is heard of again")
    for code, text, remedy in _ROWS:
        found = text(asset, place)
        if found:
            return Refusal(code, found, BY, remedy)
    return None


def may_go(asset: Asset, source: str, target: str, network: Network) -> tuple[Refusal, ...]:
    """Both ends and policy: everything that is against it. Inside one domain policy is not asked: nothing leaves."""
    ends = [refusal for end in (source, target) if (refusal := may_be_at(asset, end, network))]
    return (*ends, *policy_says(asset, source, target, network)) if source != target else tuple(ends)


def policy_says(asset: Asset, source: str, target: str, network: Network) -> tuple[Refusal, ...]:
    """Everything that policy has against it; nothing where a domain is not known, which is refused anyway."""
    if not {source, target} <= network.places.keys():
        return ()
    move = DataMove(
        asset.urn,
        asset.version,
        asset.owner,
        asset.data_class,
        asset.size,
        network.places[source],
        network.places[target],
        asset.regions,
    )
    decision = network.policy(move)
    if decision.allowed and not decision.obligations:
        return ()
    if decision.verdict is Verdict.DENY and decision.refusals:
        return decision.refusals
    why = "; ".join(map(str, decision.refusals)) or "; ".join(f"it owes {one.kind}" for one in decision.obligations)
    code = HELD if decision.verdict is Verdict.HOLD else "data.denied"
    remedy = "approve it, or ask again" if code == HELD else "ask its owner for another policy"
    return (Refusal(code, f"policy says {decision.verdict}: {why or 'no reason given'}", BY, remedy),)


def _class(asset: Asset, place: Place) -> str:
    if asset.data_class.within(place.handles):
        return ""
    return f"{place.domain} handles {place.handles} at most, the data is {asset.data_class}"


def _residency(asset: Asset, place: Place) -> str:
    if not asset.regions or place.region in asset.regions:
        return ""
    kept = f"keeps it in {place.region}" if place.region else "does not say where it keeps it"
    return f"the data has to stay in {', '.join(asset.regions)}, and {place.domain} {kept}"


_ROWS: tuple[tuple[str, Callable[[Asset, Place], str], str], ...] = (
    ("data.class", _class, "choose another domain, or data of a lower class"),
    ("data.residency", _residency, "choose a domain in these regions"),
)


def _source_refusals(
    asset: Asset, one: Standing, target: str, network: Network, asked: dict[str, tuple[Refusal, ...]]
) -> tuple[Refusal, ...]:
    if one.worth is Worth.DIVERGED:
        return (Refusal("data.diverged", one.why, BY, "whoever holds it takes it anew from another"),)
    source = one.copy.domain
    if source not in asked:
        asked[source] = may_go(asset, source, target, network)
    if asked[source] or one.usable:
        return asked[source]
    return (Refusal("data.nothing_of_it", one.why or "it holds no part", BY, "wait until it is filled or refreshed"),)


def _sources(part: Part, usable: Iterable[Standing], target: str, network: Network) -> tuple[Source, ...]:
    found = []
    for one in usable:
        if part.name in one.usable:
            link = network.link(one.copy.domain, target)
            found.append(Source(one.copy, one.usable[part.name], link.latency + part.size / link.bandwidth))
    return tuple(sorted(found, key=lambda source: (source.seconds, source.copy.where)))
