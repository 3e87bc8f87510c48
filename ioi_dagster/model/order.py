"""What the owner of a domain has ordered for a block, a tenant or a node of it, and what of that is in force."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
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
    CANCEL = "cancel"
    REROUTE = "reroute"
    RETURN = "return"


MOVED = "drain it with `--within 0`, which has what runs placed elsewhere, or `ioi reroute` a run"
SENSELESS: dict[tuple[Target, Verb], tuple[str, str]] = {
    (Target.NODE, Verb.REROUTE): ("a node cannot be elsewhere, and where its steps go their runs decide", MOVED),
    (Target.NODE, Verb.RETURN): ("a node cannot be elsewhere", "let it go on by `ioi node resume`"),
    (Target.NODE, Verb.PRIORITISE): (
        "a node gets what there is room for, and nobody waits for one",
        "prioritise a tenant, a block or a run, or cap the node",
    ),
}
"""What makes no sense, why, and what does."""


@dataclass(frozen=True, slots=True)
class Order:
    """`name` is a block's capability, a tenant, or a node or cluster. A pause has nothing more of it start; a drain ends what
    runs too, but for what may run once only, after `within_s` seconds (None: it goes on to its end); a cancel ends for good what
    runs of it when it is heard. `value`: how many of it may run at once in each cluster (on a node: its slots), a tenant's weight
    there, or by how much calls of a block come before others of their tenant; None takes that back. `away`: the cluster of the
    domain that a block or a tenant is taken away from, where what runs is placed elsewhere at once, or may return to. `who` and
    `at` (Unix seconds) are not said by who orders, but found out."""

    target: Target
    name: Name
    verb: Verb
    value: Value | None = None
    within_s: Seconds | None = None
    away: Text = ""
    why: Text = ""
    who: Text = ""
    at: float = 0.0

    def check(self) -> None:
        """Raises `BadInputError` for what makes no sense, or is beyond the bounds of its fields."""
        try:
            converted(msgspec.to_builtins(self), Order)
        except msgspec.ValidationError as error:
            raise BadInputError(f"no order: {error}", todo="keep within that bound") from error
        senseless = SENSELESS.get((self.target, self.verb))
        if senseless is not None:
            why, todo = senseless
            raise BadInputError(f"a {self.target} has no {self.verb}: {why}", todo=todo)
        if self.verb is Verb.PRIORITISE and self.value is not None and not 1 <= self.value <= MAX_WEIGHT:
            raise BadInputError(f"{self.value} is no weight", todo=f"take a number from 1 to {MAX_WEIGHT}, or `none`")
        if self.target is Target.NODE and self.verb is Verb.CAP and self.value == 0:
            raise BadInputError("a node of no slots takes nothing", todo="pause it")
        if self.value is not None and self.verb not in (Verb.CAP, Verb.PRIORITISE):
            raise BadInputError(f"a {self.verb} has no number", todo="leave it out")
        if self.within_s is not None and self.verb is not Verb.DRAIN:
            raise BadInputError(f"a {self.verb} ends nothing", todo="leave the time out, or drain")
        if bool(self.away) != (self.verb in (Verb.REROUTE, Verb.RETURN)):
            where = "of no cluster" if self.away else "away from where, or back to where"
            raise BadInputError(f"a {self.verb} is {where}", todo="name a cluster of the domain for a reroute alone")


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds for one block, tenant or node: the order that stopped it, that which caps it, that which weighs it, those that
    took it away from a cluster, one for each; and the last that cancelled what ran of it, which holds no more."""

    stopped: Order | None = None
    capped: Order | None = None
    weighed: Order | None = None
    cancelled: Order | None = None
    rerouted: tuple[Order, ...] = ()

    @property
    def orders(self) -> tuple[Order, ...]:
        return (*(one for one in (self.stopped, self.capped, self.weighed) if one is not None), *self.rerouted)

    def at(self, cluster: str) -> InForce:
        """What holds in that cluster: what is taken away from there is stopped."""
        there = next((one for one in self.rerouted if one.away == cluster), None)
        return replace(self, stopped=there or self.stopped, rerouted=())


@dataclass(frozen=True, slots=True)
class Orders:
    """All that is in force in a domain for blocks, tenants and nodes, by name: a node's is CLUSTER/NODE. Which nodes are paused
    or drained stands in a file of its own."""

    blocks: dict[str, InForce] = field(default_factory=dict)
    tenants: dict[str, InForce] = field(default_factory=dict)
    nodes: dict[str, InForce] = field(default_factory=dict)

    def of(self, target: Target, name: str) -> InForce:
        return self._table(target).get(name, InForce())

    def after(self, order: Order) -> tuple[Orders, str]:
        """What is in force when `order` was given, and what came of it. One that changes nothing but who said it says so."""
        was = self.of(order.target, order.name)
        now, answer = _given(was, order)
        tables = {target: dict(table) for target, table in self.tables()}
        tables[order.target].pop(order.name, None)
        if now != InForce():
            tables[order.target][order.name] = now
        return Orders(tables[Target.BLOCK], tables[Target.TENANT], tables[Target.NODE]), answer

    def at(self, cluster: str) -> Orders:
        """What holds in that cluster."""
        tables = (
            {name: there for name, its in table.items() if (there := its.at(cluster)) != InForce()}
            for _, table in self.tables()
        )
        return Orders(*tables)

    def listed(self) -> Iterable[Order]:
        for _, table in self.tables():
            for one in table.values():
                yield from one.orders

    def tables(self) -> tuple[tuple[Target, dict[str, InForce]], ...]:
        """By what an order may be for here, what holds by name."""
        return (Target.BLOCK, self.blocks), (Target.TENANT, self.tenants), (Target.NODE, self.nodes)

    def _table(self, target: Target) -> dict[str, InForce]:
        return dict(self.tables())[target]


def _given(was: InForce, order: Order) -> tuple[InForce, str]:
    match order.verb:
        case Verb.PAUSE | Verb.DRAIN:
            same = was.stopped is not None and was.stopped.verb is order.verb
            told = "; what runs goes on to its end"
            if order.verb is Verb.DRAIN and order.within_s is not None:
                told = f"; what runs is placed elsewhere after {order.within_s:g} s, but for what may run once only"
            word = "paused" if order.verb is Verb.PAUSE else "drained"
            return replace(was, stopped=order), f"{word}{' already' if same else told}"
        case Verb.RESUME:
            return replace(was, stopped=None), "goes on" if was.stopped else "was not paused"
        case Verb.CAP:
            text = "any number" if order.value is None else str(order.value)
            return replace(was, capped=_kept(order)), f"may run {text} at once{_already(was.capped, order)}"
        case Verb.PRIORITISE:
            what, usual = (
                ("weight", "the weight of its quota")
                if order.target is Target.TENANT
                else ("priority", "no priority of its own")
            )
            text = usual if order.value is None else f"{what} {order.value}"
            return replace(was, weighed=_kept(order)), f"has {text}{_already(was.weighed, order)}"
        case Verb.CANCEL:
            return replace(was, cancelled=order), "what runs of it is cancelled; what waits may start"
        case Verb.REROUTE:
            same = any(one.away == order.away for one in was.rerouted)
            told = " already" if same else "; what runs there is placed elsewhere, but for what may run once only"
            return replace(was, rerouted=(*_elsewhere(was, order), order)), f"stays away from {order.away}{told}"
        case Verb.RETURN:
            left = _elsewhere(was, order)
            told = f"may go to {order.away} again" if left != was.rerouted else f"did not stay away from {order.away}"
            return replace(was, rerouted=left), told


def _elsewhere(was: InForce, order: Order) -> tuple[Order, ...]:
    return tuple(one for one in was.rerouted if one.away != order.away)


def _kept(order: Order) -> Order | None:
    return None if order.value is None else order


def _already(was: Order | None, order: Order) -> str:
    return " already" if (was.value if was is not None else None) == order.value else ""


def said_by(order: Order) -> str:
    """As a refusal tells it."""
    words = {Verb.PAUSE: "paused", Verb.DRAIN: "drained", Verb.CAP: "capped", Verb.CANCEL: "cancelled"}
    word = words.get(order.verb) or (f"taken away from {order.away}" if order.away else order.verb)
    return f"{word} by {order.who or 'somebody'}" + (f": {order.why}" if order.why else "")
