"""Selection locks: what was asked, what was chosen and from among what, pinned by digest; a run shows it and replays it.

A lock is one canonical document (RFC 8785). Its own digest pins it; a domain may sign it as well. The figures of all that would
have done are in it, so the choice can be made again from the lock alone, and has to come out the same.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import rfc8785

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.discovery import Found, Intent, Option, in_order
from ioi_dagster.ras.summary import Status, Summary
from ioi_dagster.ras.urn import Scheme, read_urn
from ioi_dagster.ras.utility import Figures, scores
from ioi_dagster.signing import canonical, digest

SCHEMA = "ioi.selection/1"
MAX_LOCK = 1024 * 1024
"""Bytes of one."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One of those that would have done."""

    urn: str
    version: str
    digest: str
    capability: str
    scheme: Scheme
    figures: Figures
    utility: float
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.urn} {self.version}"


@dataclass(frozen=True, slots=True)
class Lock:
    """`considered`: best first, the chosen one ahead. `rejected`: how many by code. `at`: seconds of the epoch."""

    asked: dict[str, Any]
    considered: tuple[Pinned, ...]
    rejected: dict[str, int]
    weights: dict[str, float]
    by: str
    at: float

    @property
    def chosen(self) -> Pinned:
        return self.considered[0]

    def document(self) -> dict[str, Any]:
        """Plain JSON, to be stored or signed (`SigningKey.sign`)."""
        return {"schema": SCHEMA, **_plain(self)}

    @property
    def digest(self) -> str:
        return digest(self.document())


def lock(intent: Intent, found: Found, by: str, at: float) -> Lock:
    """Raises `BadInputError` where nothing was chosen, or what was asked is too long to keep."""
    if not found.options:
        raise BadInputError("nothing was chosen, so there is nothing to pin", where=by, todo="ask otherwise")
    counts = Counter(one.refusal.code for one in found.rejected)
    considered = tuple(map(_pinned, found.options))
    return _checked(
        Lock(_plain(_asked(intent)), considered, dict(sorted(counts.items())), dict(intent.weights), by, at)
    )


def _pinned(option: Option) -> Pinned:
    its = option.summary
    return Pinned(
        its.urn,
        its.version,
        its.digest,
        its.capability,
        its.scheme,
        option.figures,
        option.score.utility,
        option.unknown,
    )


def _asked(intent: Intent) -> dict[str, Any]:
    return {name.name: getattr(intent, name.name) for name in dataclasses.fields(intent)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def read_lock(document: Any) -> Lock:
    """Of plain JSON, as `Lock.document` made it. Raises `BadInputError` where it is none, or its choice is not what its figures
    say."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadInputError("this is no selection lock", where="selection lock", todo=f"give one of schema {SCHEMA}")
    _bounded(document)
    try:
        found = converted({name: value for name, value in document.items() if name != "schema"}, Lock)
    except msgspec.ValidationError as error:
        raise BadInputError(str(error), where="selection lock", todo="make it anew") from error
    if found.document() != document:
        raise BadInputError("it says more or less than a lock does", where="selection lock", todo="make it anew")
    return _checked(found)


def _checked(made: Lock) -> Lock:
    _bounded(made.document())
    if not made.considered or _rescored(made.considered, made.weights) != made.considered:
        raise BadInputError("its choice is not what its own figures say", where="selection lock", todo="select anew")
    return made


def _bounded(document: dict[str, Any]) -> None:
    try:
        size = len(canonical(document))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise BadInputError("it holds what JSON cannot say", where="selection lock", todo="make it anew") from error
    if size > MAX_LOCK:
        raise BadInputError(f"{size} bytes", where="selection lock", todo=f"{MAX_LOCK} at most: ask for fewer options")


def _rescored(pinned: tuple[Pinned, ...], weights: Mapping[str, float]) -> tuple[Pinned, ...]:
    """In the order that the figures give: the choice, made again."""
    known = {(one.digest, one.capability): one for one in pinned}
    if len(known) != len(pinned):
        raise BadInputError("a record is in it twice", where="selection lock", todo="make it anew")
    told = scores([one.figures for one in pinned], weights)
    order = in_order(Option(_summary(one), one.figures, score) for one, score in zip(pinned, told, strict=True))
    return tuple(
        dataclasses.replace(known[one.summary.digest, one.summary.capability], utility=one.score.utility)
        for one in order
    )


def _summary(one: Pinned) -> Summary:
    urn = read_urn(one.urn)
    return Summary(one.urn, urn.kind, one.version, one.digest, urn.domain, one.capability, one.scheme)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is so now of a version that a lock pins: the digest that is registered under it, what its owner says of it, and why
    its signature does not count any more (empty: it does)."""

    digest: str
    status: Status = Status.ACTIVE
    successor: str = ""
    valid_until: float = 0.0
    revoked: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """`chosen` is what the lock pins. `refusals`: why it may not be used any more; empty: it is used. `notes`: what has changed
    and does not forbid it. `next_best`: the first of the others that may still be used; it is offered, never taken."""

    chosen: Pinned
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    next_best: Pinned | None


def replay(pinned: Lock, standing: Callable[[Pinned], Standing | None], now: float) -> Replayed:
    """The same records give the same choice; what has become of them since is told exactly. `standing` gives None for what has
    gone."""
    refusals, notes = _since(pinned.chosen, standing(pinned.chosen), pinned.by, now)
    others = (one for one in pinned.considered[1:] if not _since(one, standing(one), pinned.by, now)[0])
    return Replayed(pinned.chosen, refusals, notes, next(others, None))


def _since(one: Pinned, there: Standing | None, by: str, now: float) -> tuple[tuple[Refusal, ...], tuple[str, ...]]:
    if there is None:
        return (Refusal("lock.gone", f"{one} is not registered any more", by, _SELECT),), ()
    after = f" for {there.successor}" if there.successor else ""
    rows = (
        (
            there.digest != one.digest,
            "lock.changed",
            f"{one} is another record now: {there.digest}, pinned is {one.digest}",
        ),
        (there.status is Status.DELETED, "lock.deleted", f"{one} was deleted by its owner"),
        (there.status is Status.YANKED, "lock.yanked", f"{one} was withdrawn by its owner{after}"),
        (bool(there.revoked), "lock.revoked", f"the signature of {one} does not count any more: {there.revoked}"),
        (0 < there.valid_until <= now, "lock.expired", f"its owner's word for {one} has ended"),
    )
    notes = (f"{one} was deprecated by its owner{after}",) if there.status is Status.DEPRECATED else ()
    return tuple(Refusal(code, text, by, _SELECT) for wrong, code, text in rows if wrong), notes


_SELECT = "select anew"
