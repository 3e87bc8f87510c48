"""Parts of several assets become one asset: what goes into it, what it may be given to, and what it says of where it is from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.routing import Leg, Refused, Route
from ioi_dagster.ras.record import MAX_PROVENANCE

BY = "data folding"
BYTES, LINES = "bytes", "lines"
"""One after the other as they are; the same, with a line's end where a part lacks its last one. Any other way of folding is the
name of a function, `module:function`."""


@dataclass(frozen=True, slots=True)
class Fold:
    """`legs`: (URN, part) in the order in which they are folded. `lacks`: `<urn> <part>` of each that cannot be had now."""

    how: str
    legs: tuple[tuple[Asset, Leg], ...]
    lacks: tuple[str, ...]
    data_class: DataClass
    regions: tuple[str, ...]
    refused: tuple[Refused, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.lacks


def plan_fold(routes: Sequence[Route], how: str = BYTES) -> Fold:
    """Of routes to one and the same reader, in their order and that of their assets' parts. The result has the highest class of
    all, also of what is lacking, and may be only where each of them may. What contradicts itself is refused with
    `data.no_region`, and more than the record's provenance can name with `data.too_many`."""
    legs, lacks, refused = [], [], []
    for way in routes:
        by_name = {leg.part.name: leg for leg in way.legs}
        refused += way.refused
        for part in way.asset.parts:
            if part.name in by_name:
                legs.append((way.asset, by_name[part.name]))
            elif part.name in way.missing:
                lacks.append(lacking(way.asset, part.name))
    bound = [frozenset(way.asset.regions) for way in routes if way.asset.regions]
    regions = frozenset.intersection(*bound) if bound else frozenset()
    highest = DataClass.highest(way.asset.data_class for way in routes)
    made = Fold(how, tuple(legs), tuple(lacks), highest, tuple(sorted(regions)), tuple(refused))
    if bound and not regions:
        return _refused(made, "data.no_region", "there is no region in which all of it may be", "fold fewer of them")
    if len(routes) > MAX_PROVENANCE:
        text = f"{len(routes)} assets; {MAX_PROVENANCE} at most are named as where it is from"
        return _refused(made, "data.too_many", text, "fold some of them first")
    return made


def _refused(made: Fold, code: str, text: str, remedy: str) -> Fold:
    lacks = (*made.lacks, *(lacking(asset, leg.part.name) for asset, leg in made.legs))
    return replace(
        made, legs=(), lacks=lacks, refused=(*made.refused, Refused("", "", Refusal(code, text, BY, remedy)))
    )


def lacking(asset: Asset, part: str) -> str:
    return f"{asset.urn} {part}"


def provenance(how: str, used: Iterable[tuple[Asset, str]]) -> tuple[Mapping[str, Any], ...]:
    """Of the record of what was folded, of (asset, part): each asset with its digest and that of each part, in order."""
    found: dict[str, dict[str, Any]] = {}
    for asset, name in used:
        entry = found.setdefault(
            asset.digest,
            {"folded": how, "urn": asset.urn, "version": asset.version, "digest": asset.digest, "parts": {}},
        )
        entry["parts"][name] = asset.part(name).digest
    return tuple(found.values())
