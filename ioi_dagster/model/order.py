"""What the owner of a domain has ordered for a block, a tenant or a node of it, and what of that is in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.intervention import MAX_CAP, MAX_TEXT

MAX_WEIGHT = 1_000
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Value = Annotated[int, Meta(ge=0, le=MAX_CAP)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class Target(StrEnum):
    BLOCK = "block"
    TENANT = "tenant"
    NODE = "node"


class Verb(StrEnum):
    PAUSE = "pause"
    DRAIN = "drain"
    RESUME = "resume"
    CAP = "cap"
    PRIORITISE = "prioritise"


MAY: dict[Target, frozenset[Verb]] = {
    Target.BLOCK: frozenset({Verb.PAUSE, Verb.DRAIN, Verb.RESUME, Verb.CAP}),
    Target.TENANT: frozenset({Verb.PAUSE, Verb.RESUME, Verb.CAP, Verb.PRIORITISE}),
    Target.NODE: frozenset({Verb.DRAIN, Verb.RESUME}),
}


@dataclass(frozen=True, slots=True)
class Order:
    """`name` is a block's capability, a tenant, or a node or cluster. A pause has nothing more of it start; a drain ends what
    runs too, but for what may run once only, after `within_s` seconds (None: it goes on to its end). `value`: how many of it may
    run at once in each cluster, or a tenant's weight there; None takes that back. `who` and `at` (Unix seconds) are not said by
    who orders, but found out."""

    target: Target
    name: Name
    verb: Verb
    value: Value | None = None
    within_s: Seconds | None = None
    why: Text = ""
    who: Text = ""
    at: float = 0.0

    def check(self) -> None:
        """Raises `BadInputError` for what makes no sense, or is beyond the bounds of its fields."""
        try:
            converted(msgspec.to_builtins(self), Order)
        except msgspec.ValidationError as error:
            raise BadInputError(f"no order: {error}", todo="keep within that bound") from error
        if self.verb not in MAY[self.target]:
            can = ", ".join(sorted(MAY[self.target]))
            raise BadInputError(f"a {self.target} has no {self.verb}", todo=f"one of {can}")
        if self.verb is Verb.PRIORITISE and self.value is not None and not 1 <= self.value <= MAX_WEIGHT:
            raise BadInputError(f"{self.value} is no weight", todo=f"take a number from 1 to {MAX_WEIGHT}, or `none`")
        if self.value is not None and self.verb not in (Verb.CAP, Verb.PRIORITISE):
            raise BadInputError(f"a {self.verb} has no number", todo="leave it out")
        if self.within_s is not None and self.verb is not Verb.DRAIN:
            raise BadInputError(f"a {self.verb} ends nothing", todo="leave the time out, or drain")


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds for one block or tenant: the order that stopped it, that which caps it, that which weighs it."""

    stopped: Order | None = None
    capped: Order | None = None
    weighed: Order | None = None

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(one for one in (self.stopped, self.capped, self.weighed) if one is not None)


@dataclass(frozen=True, slots=True)
class Orders:
    """All that is in force in a domain for blocks and tenants, by name; what is drained of nodes stands with those."""

    blocks: dict[str, InForce] = field(default_factory=dict)
    tenants: dict[str, InForce] = field(default_factory=dict)

    def of(self, target: Target, name: str) -> InForce:
        return self._table(target).get(name, InForce())

    def after(self, order: Order) -> tuple[Orders, str]:
        """What is in force when `order` was given, and what came of it. One that changes nothing but who said it says so."""
        was = self.of(order.target, order.name)
        now, answer = _given(was, order)
        table = dict(self._table(order.target))
        table.pop(order.name, None)
        if now.orders:
            table[order.name] = now
        its = (table, self.tenants) if order.target is Target.BLOCK else (self.blocks, table)
        return Orders(*its), answer

    def listed(self) -> Iterable[Order]:
        for _, table in self.tables():
            for one in table.values():
                yield from one.orders

    def tables(self) -> tuple[tuple[Target, dict[str, InForce]], ...]:
        """By what an order may be for here, what holds by name."""
        return (Target.BLOCK, self.blocks), (Target.TENANT, self.tenants)

    def _table(self, target: Target) -> dict[str, InForce]:
        return dict(self.tables())[target]


def _given(was: InForce, order: Order) -> tuple[InForce, str]:
    match order.verb:
        case Verb.PAUSE | Verb.DRAIN:
            same = was.stopped is not None and was.stopped.verb is order.verb
            told = "; what runs goes on to its end"
            if order.verb is Verb.DRAIN and order.within_s is not None:
                told = f"; what runs is placed elsewhere after {order.within_s:g} s, but for what may run once only"
            word = f"{order.verb}d" if order.verb is Verb.PAUSE else "drained"
            return InForce(order, was.capped, was.weighed), f"{word}{' already' if same else told}"
        case Verb.RESUME:
            return InForce(None, was.capped, was.weighed), "goes on" if was.stopped else "was not paused"
        case Verb.CAP:
            capped = None if order.value is None else order
            text = "any number" if order.value is None else str(order.value)
            already = " already" if (was.capped.value if was.capped else None) == order.value else ""
            return InForce(was.stopped, capped, was.weighed), f"may run {text} at once{already}"
        case Verb.PRIORITISE:
            weighed = None if order.value is None else order
            text = "the weight of its quota" if order.value is None else f"weight {order.value}"
            already = " already" if (was.weighed.value if was.weighed else None) == order.value else ""
            return InForce(was.stopped, was.capped, weighed), f"has {text}{already}"


def said_by(order: Order) -> str:
    """As a refusal tells it."""
    word = {Verb.PAUSE: "paused", Verb.DRAIN: "drained", Verb.CAP: "capped", Verb.PRIORITISE: "weighed"}.get(order.verb)
    return f"{word or order.verb} by {order.who or 'somebody'}" + (f": {order.why}" if order.why else "")
