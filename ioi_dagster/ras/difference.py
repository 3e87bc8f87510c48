"""What differs between two versions of a record: value by value, and whether callers of one may call the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ioi_dagster.errors import FinalError
from ioi_dagster.ras.compatibility.check import Answer, Compatibility, compatible
from ioi_dagster.ras.contracts import Offer, offers_of
from ioi_dagster.ras.formats.document import shown_path
from ioi_dagster.ras.record import Record

ABSENT = object()
"""In place of a value that is not there."""
_UNSIGNED = frozenset({"schema", "urn", "kind", "version"})


@dataclass(frozen=True, slots=True)
class Change:
    """At `path`, as `spec.contract.tags[0]`, there was `before` and is `after` (`ABSENT`: nothing)."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Callers:
    """May who calls `capability` of the one version call the other instead? `side`: `inputs`, where all that could be given has
    to be taken still, or `outputs`, where all that may come has to be what could come before."""

    capability: str
    side: str
    answer: Answer
    why: str = ""


def changes(one: Record, other: Record) -> list[Change]:
    """All that differs in what both say, beside their versions, in order of paths as they stand."""
    before, after = ({k: v for k, v in its.signed.body.items() if k not in _UNSIGNED} for its in (one, other))
    return list(_differing(before, after, ()))


def _differing(before: Any, after: Any, path: tuple[str | int, ...]) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in (*before, *(name for name in after if name not in before)):
            yield from _differing(before.get(name, ABSENT), after.get(name, ABSENT), (*path, name))
    elif isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            old, new = (its[place] if place < len(its) else ABSENT for its in (before, after))
            yield from _differing(old, new, (*path, place))
    elif before is ABSENT or after is ABSENT or type(before) is not type(after) or before != after:
        yield Change(shown_path(path), before, after)


def callers(one: Record, other: Record) -> list[Callers]:
    """For each capability of `one`. Raises `BadInputError` where a contract cannot be read."""
    there = {offer.capability: offer for offer in offers_of(other)}
    found: list[Callers] = []
    for offer in offers_of(one):
        new = there.get(offer.capability)
        if new is None:
            found.append(Callers(offer.capability, "inputs", Answer.NO, "it is not offered any more"))
        else:
            found += _sides(offer, new)
    return found


def _sides(offer: Offer, new: Offer) -> Iterator[Callers]:
    pairs = (
        ("inputs", offer.contract.inputs, new.contract.inputs),
        ("outputs", new.contract.outputs, offer.contract.outputs),
    )
    for side, gives, takes in pairs:
        if gives == takes:
            yield Callers(offer.capability, side, Answer.YES)
            continue
        answer = _compared(gives, takes)
        why = "" if answer.answer is Answer.YES else f"{answer.path} {answer.reason}".strip()
        yield Callers(offer.capability, side, answer.answer, why)


def _compared(gives: Any, takes: Any) -> Compatibility:
    try:
        return compatible(gives, takes)
    except FinalError as error:
        return Compatibility(Answer.UNKNOWN, "$", str(error))
