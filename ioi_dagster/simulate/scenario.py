"""What a simulation is made of, as values: machines, workflows, faults and a seed. The same scenario always ends the same way."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Amount, Effect, Priority
from ioi_dagster.model.placement import Link
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

T = TypeVar("T")
MAX_BYTES = 512 * 2**20
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """`seconds`: how long it runs on a node of speed 1; `needs`: the steps before it; `inputs`: bytes that it reads of each of
    those (none of which are named: nothing); `reads`: bytes that it reads from outside, which lie in the workflow's domain. The
    others mean what they mean for a real step, see `Ask`; all steps of a workflow that name one `gang` are that gang."""

    seconds: Seconds
    needs: tuple[str, ...] = ()
    capability: str = "work"
    data_class: DataClass = DataClass.PUBLIC
    effect: Effect = Effect.PURE
    priority: Priority = 0
    resources: dict[str, Amount] = field(default_factory=dict)
    gang: str = ""
    checkpointable: bool = False
    near: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    copies: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    inputs: dict[str, Amount] = field(default_factory=dict)
    reads: Amount = 0.0


@dataclass(frozen=True, slots=True)
class Workflow:
    """A run that a domain starts `arrives` seconds after the beginning. Without a `domain` it is the network's home."""

    name: str
    steps: dict[str, WorkflowStep]
    arrives: Seconds = 0.0
    tenant: str = "default"
    domain: str = ""
    objective: str = "balanced"


class FaultKind(StrEnum):
    """What `Fault.target` names stands behind each."""

    NODE_KILLED = "node_killed"
    """A node: what runs there is lost; it is back after `lasts`."""
    NODE_FROZEN = "node_frozen"
    """A node: it does nothing for `lasts`, then goes on where it was."""
    NODE_SLOW = "node_slow"
    """A node: what begins there within `lasts` takes `amount` times as long."""
    NODE_FULL = "node_full"
    """A node: its memory is full for `lasts`."""
    SCHEDULER_KILLED = "scheduler_killed"
    """A cluster: its governor and all its nodes start anew after `lasts`."""
    RUN_KILLED = "run_killed"
    """A workflow: its run process; another takes over after `lasts`."""
    LINK_CUT = "link_cut"
    """`one|other`: no message passes between two domains for `lasts`."""
    LINK_ONE_WAY = "link_one_way"
    """`one|other`: no message of the first reaches the second for `lasts`, but the other way they do."""
    MUTE = "mute"
    """A cluster: it answers nothing for `lasts`."""
    LATE = "late"
    """A cluster: it answers after `amount` seconds, for `lasts`."""
    LIAR = "liar"
    """A cluster: it bids for everything for nothing, and grants none of it, for `lasts`."""
    OVERGRANTS = "overgrants"
    """A cluster: with each lease it grants a second one for the same request, and one for a step of nobody, for `lasts`."""
    LOSS = "loss"
    """All messages: the part `amount` is lost, for `lasts`."""
    DOUBLING = "doubling"
    """All messages: the part `amount` comes twice, for `lasts`."""


OF_NODES = (FaultKind.NODE_KILLED, FaultKind.NODE_FROZEN, FaultKind.NODE_SLOW, FaultKind.NODE_FULL)
OF_CLUSTERS = (FaultKind.SCHEDULER_KILLED, FaultKind.MUTE, FaultKind.LATE, FaultKind.LIAR, FaultKind.OVERGRANTS)
OF_LINKS = (FaultKind.LINK_CUT, FaultKind.LINK_ONE_WAY)
_AMOUNTS = {FaultKind.LATE: (0.5, 4.0), FaultKind.NODE_SLOW: (1.5, 20.0)}
"""What is drawn for those that are not a part of all messages."""


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at` seconds, for `lasts` seconds."""

    at: Seconds
    kind: FaultKind
    target: str = ""
    lasts: Seconds = 5.0
    amount: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`noise`: steps take their seconds times a factor that is drawn from e to the power of ±`noise`. `bandwidth`: bytes a second
    between two domains; `inside`: between two nodes of one. Where that is 0, and `links` names none between the two, moving takes
    no time."""

    topology: Topology
    workflows: tuple[Workflow, ...]
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    noise: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0
    capabilities: tuple[str, ...] = ("work",)
    bandwidth: Amount = 0.0
    inside: Amount = 0.0
    links: tuple[Link, ...] = ()
    digest: str = field(default="")
    """Of the events of a simulation of it, where it was saved after one."""


def check(scenario: Scenario) -> None:
    """Raises `BadInputError` with all that is wrong with it."""
    wrong = [f"workflow {name!r} is there twice" for name in _doubles([w.name for w in scenario.workflows])]
    domains = {domain.name for domain in scenario.topology.domains}
    for workflow in scenario.workflows:
        wrong += [f"{workflow.name}: {text}" for text in _wrong_in(workflow)]
        if workflow.domain and workflow.domain not in domains:
            wrong.append(f"{workflow.name}: no domain {workflow.domain!r}")
    ends = dict.fromkeys(end for link in scenario.links for end in (link.source, link.target))
    wrong += [f"a link names {end!r}, which is no domain" for end in ends if end not in domains]
    clusters = {c.name for d in scenario.topology.domains for c in d.clusters}
    wrong += [
        f"{n.name}: its speed is {n.speed}, not above 0"
        for d in scenario.topology.domains
        for c in d.clusters
        for n in c.nodes
        if not 0 < n.speed < math.inf
    ]
    nodes = {name for domain in scenario.topology.domains for cluster in domain.clusters for name in cluster.members()}
    known = {
        **dict.fromkeys(OF_NODES, nodes),
        **dict.fromkeys(OF_CLUSTERS, clusters),
        FaultKind.RUN_KILLED: {w.name for w in scenario.workflows},
    }
    for fault in scenario.faults:
        ends = fault.target.split("|") if fault.kind in OF_LINKS else [fault.target]
        among = domains if fault.kind in OF_LINKS else known.get(fault.kind)
        wrong += [
            f"{fault.kind} at {fault.at:g} s: nothing named {end!r}" for end in ends if among and end not in among
        ]
        if fault.kind in OF_LINKS and len(ends) != 2:
            wrong.append(f"{fault.kind} at {fault.at:g} s: its target is two domains, as in 'one|other'")
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise BadInputError("\n".join(wrong[:20]) + more, where="the scenario", todo="mend what is named")


def read_workflows(path: Path) -> tuple[Workflow, ...]:
    """From a JSON file with a list of workflows, or a folder of such files. Raises `BadInputError`."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found: list[Workflow] = []
    for file in files:
        found += decode(file, list[Workflow])
    if not found:
        raise BadInputError("no workflow in it", where=str(path), todo="give a JSON file with a list of workflows")
    return tuple(found)


def decode(file: Path, kind: type[T], most: int = MAX_BYTES, *, ours: bool = True) -> T:
    """The value in a JSON file of `most` bytes at most. Raises `BadInputError`, also for a key that nothing knows, unless the
    format is another's than `ours`."""
    try:
        if file.stat().st_size > most:
            raise BadInputError(f"a file of over {most:,} bytes", where=str(file))
        data = file.read_bytes()
        value = from_json(data, kind)
        strange = next(_strange(from_json(data), msgspec.to_builtins(value), "$"), None) if ours else None
        if strange is not None:
            where, known = strange
            raise BadInputError(f"nothing is called {where}", where=str(file), todo=f"use one of {', '.join(known)}")
        return value
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(
            f"not what is asked for: {error}", where=str(file), todo="see docs/guides/size-a-federation.md"
        ) from error


def _strange(found: Any, known: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    """Keys of what was found that nothing is known of, and what may stand there."""
    if isinstance(found, dict) and isinstance(known, dict):
        for key, value in found.items():
            if key not in known:
                yield f"{path}.{key}", sorted(known)
            else:
                yield from _strange(value, known[key], f"{path}.{key}")
    elif isinstance(found, list) and isinstance(known, list):
        for number, (value, its) in enumerate(zip(found, known, strict=False)):
            yield from _strange(value, its, f"{path}[{number}]")


def grid(clusters: int, nodes: int, slots: int = 1) -> Topology:
    """`clusters` domains of one cluster each, with `nodes` nodes of `slots` slots."""
    return Topology(
        "grid",
        "d0",
        tuple(
            DomainSpec(
                f"d{number}",
                "one",
                (ClusterSpec(f"c{number}", tuple(NodeSpec(f"n{number}.{n}", slots) for n in range(nodes))),),
            )
            for number in range(clusters)
        ),
    )


def draw_faults(scenario: Scenario, rate: float, seconds: float) -> tuple[Fault, ...]:
    """Faults of every kind, `rate` a minute within the first `seconds`, drawn by the scenario's seed."""
    rng = random.Random(f"faults/{scenario.seed}")
    topology = scenario.topology
    domains = [domain.name for domain in topology.domains]
    clusters = [cluster.name for domain in topology.domains for cluster in domain.clusters]
    nodes = [name for domain in topology.domains for cluster in domain.clusters for name in cluster.members()]
    at, faults = rng.expovariate(rate / 60), []
    while at < seconds:
        kind = rng.choice([kind for kind in FaultKind if kind not in OF_LINKS or len(domains) > 1])
        among = {
            **dict.fromkeys(OF_NODES, nodes),
            **dict.fromkeys(OF_CLUSTERS, clusters),
            FaultKind.RUN_KILLED: [workflow.name for workflow in scenario.workflows],
        }.get(kind)
        target = rng.choice(among) if among else ""
        if kind in OF_LINKS:
            target = "|".join(rng.sample(domains, 2))
        amount = rng.uniform(*_AMOUNTS.get(kind, (0.05, 0.5)))
        faults.append(Fault(round(at, 3), kind, target, round(rng.uniform(0.5, 15.0), 3), round(amount, 3)))
        at += rng.expovariate(rate / 60)
    return tuple(faults)


def _wrong_in(workflow: Workflow) -> list[str]:
    if not workflow.steps:
        return ["it has no steps"]
    unknown = [
        f"step {key!r} needs {need!r}, which is not there"
        for key, step in workflow.steps.items()
        for need in step.needs
        if need not in workflow.steps
    ]
    unknown += [
        f"step {key!r} reads {one!r}, which it does not need"
        for key, step in workflow.steps.items()
        for one in step.inputs
        if one not in step.needs
    ]
    if unknown:
        return unknown
    left = {key: set(step.needs) for key, step in workflow.steps.items()}
    after: dict[str, list[str]] = {}
    for key, step in workflow.steps.items():
        for need in step.needs:
            after.setdefault(need, []).append(key)
    ready = [key for key, needs in left.items() if not needs]
    for key in ready:
        for follower in after.get(key, ()):
            left[follower].discard(key)
            if not left[follower]:
                ready.append(follower)
    cycle = sorted(left.keys() - set(ready))
    if cycle:
        return [f"these steps wait for each other: {', '.join(cycle[:5])}"]
    return _wrong_gangs(workflow, ready)


def _wrong_gangs(workflow: Workflow, order: list[str]) -> list[str]:
    """Gangs that could never start, as a run is told of them before it begins. `order`: of all steps, what they need first."""
    gangs: dict[str, list[str]] = {}
    for key, step in workflow.steps.items():
        if step.gang:
            gangs.setdefault(step.gang, []).append(key)
    behind: dict[str, set[str]] = {}
    """Step → the gangs that come before it."""
    for key in order if gangs else ():
        needs = workflow.steps[key].needs
        behind[key] = {name for need in needs for name in (*behind[need], workflow.steps[need].gang) if name}
    wrong = [
        f"gang {name!r}: step {key!r} needs another of it, and they start together"
        for name, keys in gangs.items()
        for key in keys
        if name in behind[key]
    ]
    for name, keys in gangs.items():
        asked = {_asked(workflow.steps[key]) for key in keys}
        if len(asked) > 1:
            wrong.append(f"gang {name!r}: its steps ask for different things")
    return wrong


def _asked(step: WorkflowStep) -> tuple[Any, ...]:
    return step.capability, step.priority, tuple(sorted(step.resources.items()))


def _doubles(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
