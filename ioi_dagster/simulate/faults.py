"""Faults of a simulation, as values: of which kinds they are, what each is aimed at, and how they are drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec

if TYPE_CHECKING:
    from ioi_dagster.simulate.scenario import Scenario

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
HOUR_S = 3_600.0


class FaultKind(StrEnum):
    """What `Fault.target` names stands in `AIMED_AT`."""

    NODE_KILLED = "node_killed"
    """What runs there is lost; it is back after `lasts`."""
    NODE_FROZEN = "node_frozen"
    """Its process is stopped for `lasts`, and goes on then, if nobody has ended it."""
    INTERPRETER_HELD = "interpreter_held"
    """A step keeps the interpreter of its node for `lasts`: the node neither beats nor begins or ends anything."""
    NODE_CUT = "node_cut"
    """No message reaches it or its witness, or comes from them, for `lasts`."""
    NODE_UNHEARD = "node_unheard"
    """Nothing that it or its witness says is heard, for `lasts`; what is said to it is."""
    NODE_DEAF = "node_deaf"
    """Nothing that is said to it or its witness is heard, for `lasts`; the outcomes of its steps are."""
    GOVERNOR_AWAY = "governor_away"
    """It and its governor do not reach each other for `lasts`, but its witness is heard."""
    NODE_SLOW = "node_slow"
    """What begins there within `lasts` takes `amount` times as long."""
    NODE_FULL = "node_full"
    """Its memory is full for `lasts`."""
    SCHEDULER_KILLED = "scheduler_killed"
    """Its governor and all its nodes start anew after `lasts`."""
    SCHEDULER_FROZEN = "scheduler_frozen"
    """Its process is stopped for `lasts`. If that is long its supervisor starts another; the first answers when it goes on."""
    GOVERNOR_RESTARTED = "governor_restarted"
    """It dies with the first award that it grants within `lasts`, before anybody hears of that."""
    RUN_KILLED = "run_killed"
    """Its process; another takes over after `lasts`."""
    RUN_DOUBLED = "run_doubled"
    """Another process takes over though the one that it has is alive."""
    LEDGER_AWAY = "ledger_away"
    """The ledger of its runs cannot be written for `lasts`."""
    DISK_FULL = "disk_full"
    """Neither the ledger of its runs nor the lease journals of its clusters can be written for `lasts`."""
    CLOCK_SET = "clock_set"
    """All clocks of the network: they are `amount` seconds ahead (less than 0: behind) for `lasts`."""
    POISON = "poison"
    """`workflow|step`: each node on which the step begins within `lasts` dies of it; where it calls a block that has a process of
    its own, the replica does."""
    LINK_CUT = "link_cut"
    """`one|other`: no message passes between two domains for `lasts`."""
    LINK_ONE_WAY = "link_one_way"
    """`one|other`: no message of the first reaches the second for `lasts`, but the other way they do."""
    NETWORK_SPLIT = "network_split"
    """`one,two|three,four`: no message passes between the two sides for `lasts`."""
    MUTE = "mute"
    """It answers nothing for `lasts`."""
    LATE = "late"
    """It answers after `amount` seconds, for `lasts`."""
    LIAR = "liar"
    """It bids for everything for nothing, and grants none of it, for `lasts`."""
    OVERGRANTS = "overgrants"
    """With each lease it grants a second one for the same request, and one for a step of nobody, for `lasts`."""
    LOSS = "loss"
    """The part `amount` of all messages is lost, for `lasts`."""
    DOUBLING = "doubling"
    """The part `amount` of all messages comes twice, for `lasts`."""


class Aim(StrEnum):
    """What a fault is aimed at."""

    NODE = "a node"
    CLUSTER = "a cluster"
    DOMAIN = "a domain"
    WORKFLOW = "a workflow"
    STEP = "a workflow and a step of it, as in 'one|other'"
    LINK = "two domains, as in 'one|other'"
    SIDES = "two sides of domains, as in 'one,two|three,four'"
    NETWORK = "the whole network, with an empty name"


AIMED_AT: dict[FaultKind, Aim] = {
    FaultKind.NODE_KILLED: Aim.NODE,
    FaultKind.NODE_FROZEN: Aim.NODE,
    FaultKind.INTERPRETER_HELD: Aim.NODE,
    FaultKind.NODE_CUT: Aim.NODE,
    FaultKind.NODE_UNHEARD: Aim.NODE,
    FaultKind.NODE_DEAF: Aim.NODE,
    FaultKind.GOVERNOR_AWAY: Aim.NODE,
    FaultKind.NODE_SLOW: Aim.NODE,
    FaultKind.NODE_FULL: Aim.NODE,
    FaultKind.SCHEDULER_KILLED: Aim.CLUSTER,
    FaultKind.SCHEDULER_FROZEN: Aim.CLUSTER,
    FaultKind.GOVERNOR_RESTARTED: Aim.CLUSTER,
    FaultKind.RUN_KILLED: Aim.WORKFLOW,
    FaultKind.RUN_DOUBLED: Aim.WORKFLOW,
    FaultKind.LEDGER_AWAY: Aim.DOMAIN,
    FaultKind.DISK_FULL: Aim.DOMAIN,
    FaultKind.CLOCK_SET: Aim.NETWORK,
    FaultKind.POISON: Aim.STEP,
    FaultKind.LINK_CUT: Aim.LINK,
    FaultKind.LINK_ONE_WAY: Aim.LINK,
    FaultKind.NETWORK_SPLIT: Aim.SIDES,
    FaultKind.MUTE: Aim.CLUSTER,
    FaultKind.LATE: Aim.CLUSTER,
    FaultKind.LIAR: Aim.CLUSTER,
    FaultKind.OVERGRANTS: Aim.CLUSTER,
    FaultKind.LOSS: Aim.NETWORK,
    FaultKind.DOUBLING: Aim.NETWORK,
}
_AMOUNTS = {
    FaultKind.LATE: (0.5, 4.0),
    FaultKind.NODE_SLOW: (1.5, 20.0),
    FaultKind.CLOCK_SET: (-HOUR_S, HOUR_S),
}
"""What is drawn for those that are not a part of all messages."""
_LASTS = {FaultKind.GOVERNOR_AWAY: (0.5, 28.0), FaultKind.NODE_DEAF: (0.5, 40.0)}
"""Those that nobody ends before their time show what they do only when they last."""
LASTS_S = (0.5, 15.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at` seconds, for `lasts` seconds."""

    at: Seconds
    kind: FaultKind
    target: str = ""
    lasts: Seconds = 5.0
    amount: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] = 0.0

    @property
    def until(self) -> float:
        return self.at + self.lasts

    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The two sides of a link or of a split network."""
        one, _, other = self.target.partition("|")
        return tuple(one.split(",")), tuple(other.split(","))


def wrong_in(scenario: Scenario) -> Iterator[str]:
    """Faults that are aimed at what is not there."""
    known = _targets(scenario)
    for fault in scenario.faults:
        aim, where = AIMED_AT[fault.kind], f"{fault.kind} at {fault.at:g} s"
        if aim is Aim.NETWORK:
            continue
        if aim in (Aim.LINK, Aim.SIDES) and fault.target.count("|") != 1:
            yield f"{where}: its target is {aim}"
            continue
        sides = fault.sides() if aim in (Aim.LINK, Aim.SIDES) else ((fault.target,), ())
        ends = [end for side in sides for end in side]
        if aim is Aim.LINK and len(ends) != 2:
            yield f"{where}: its target is {aim}"
        if len(set(ends)) < len(ends):
            yield f"{where}: it names one twice"
        for end in ends:
            if end not in known[aim]:
                yield f"{where}: nothing named {end!r}"


def draw_faults(scenario: Scenario, rate: float, seconds: float, apart_s: float | None = None) -> tuple[Fault, ...]:
    """Faults of every kind, `rate` a minute within the first `seconds`, drawn by the scenario's seed. With `apart_s` none before
    the one before it has been over for so long."""
    rng = random.Random(f"faults/{scenario.seed}")
    known = {aim: list(names) for aim, names in _targets(scenario).items()}
    domains = len(scenario.topology.domains)
    kinds = [kind for kind in FaultKind if domains > 1 or AIMED_AT[kind] not in (Aim.LINK, Aim.SIDES)]
    at, faults = rng.expovariate(rate / 60), []
    while at < seconds:
        faults.append(_drawn(rng.choice(kinds), at, known, rng))
        at = at if apart_s is None else faults[-1].until + apart_s
        at += rng.expovariate(rate / 60)
    return tuple(faults)


def draw_fault(scenario: Scenario, kind: FaultKind, at: float) -> Fault:
    """One of that kind, drawn by the scenario's seed. Raises `ValueError` where there is nothing that it can be aimed at."""
    known = {aim: list(names) for aim, names in _targets(scenario).items()}
    if AIMED_AT[kind] in (Aim.LINK, Aim.SIDES) and len(known[Aim.LINK]) < 2:
        raise ValueError(f"{kind} needs two domains")
    return _drawn(kind, at, known, random.Random(f"fault/{kind}/{scenario.seed}"))


def _drawn(kind: FaultKind, at: float, known: dict[Aim, list[str]], rng: random.Random) -> Fault:
    aim = AIMED_AT[kind]
    if aim is Aim.NETWORK:
        target = ""
    elif aim is Aim.LINK:
        target = "|".join(rng.sample(known[aim], 2))
    elif aim is Aim.SIDES:
        mixed = rng.sample(known[aim], len(known[aim]))
        half = len(mixed) // 2
        target = f"{','.join(mixed[:half])}|{','.join(mixed[half:])}"
    else:
        target = rng.choice(known[aim])
    amount = rng.uniform(*_AMOUNTS.get(kind, (0.05, 0.5)))
    lasts = rng.uniform(*_LASTS.get(kind, LASTS_S))
    return Fault(round(at, 3), kind, target, round(lasts, 3), round(amount, 3))


def _targets(scenario: Scenario) -> dict[Aim, dict[str, None]]:
    """What may be aimed at, in order."""
    topology = scenario.topology
    clusters = [cluster for domain in topology.domains for cluster in domain.clusters]
    domains = dict.fromkeys(domain.name for domain in topology.domains)
    return {
        Aim.NODE: dict.fromkeys(name for cluster in clusters for name in cluster.members()),
        Aim.CLUSTER: dict.fromkeys(cluster.name for cluster in clusters),
        Aim.DOMAIN: domains,
        Aim.WORKFLOW: dict.fromkeys(workflow.name for workflow in scenario.workflows),
        Aim.STEP: dict.fromkeys(f"{its.name}|{key}" for its in scenario.workflows for key in its.steps),
        Aim.LINK: domains,
        Aim.SIDES: domains,
        Aim.NETWORK: {"": None},
    }
