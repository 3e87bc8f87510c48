"""What a simulation is made of, as values: machines, workflows, faults and a seed. The same scenario always ends the same way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Amount, Effect, Priority
from ioi_dagster.model.placement import Link
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from ioi_dagster.simulate import faults
from ioi_dagster.simulate.faults import Fault, Seconds
from ioi_dagster.simulate.knowledge import Known
from ioi_dagster.simulate.replicas import Replicas

T = TypeVar("T")
WORK = "work"
"""The capability of steps of the user's own code, which runs in every domain."""
MAX_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """`seconds`: how long it runs on a node of speed 1; `needs`: the steps before it; `inputs`: bytes that it reads of each of
    those (none of which are named: nothing); `reads`: bytes that it reads from outside, which lie in the workflow's domain;
    `writes`: bytes of what it makes, where nobody says it the most that one step reads of it. The others mean what they mean for
    a real step, see `Ask`; all steps of a workflow that name one `gang` are that gang."""

    seconds: Seconds
    needs: tuple[str, ...] = ()
    capability: str = WORK
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
    writes: Amount | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """A run that a domain starts `arrives` seconds after the beginning. Without a `domain` it is the network's home.
    `budget`: credits that its steps may cost together; `deadline`: so many seconds after its arrival it is to be over. `job`:
    what it is a run of, for what is learnt of others in its domain; without one it is the only one."""

    name: str
    steps: dict[str, WorkflowStep]
    arrives: Seconds = 0.0
    tenant: str = "default"
    domain: str = ""
    objective: str = "balanced"
    budget: Amount | None = None
    deadline: Seconds | None = None
    job: str = ""


@dataclass(frozen=True, slots=True)
class QuotasChange:
    """From `at` seconds on the cluster has these quotas."""

    at: Seconds
    cluster: str
    quotas: QuotaTree


@dataclass(frozen=True, slots=True)
class Scenario:
    """`noise`: steps take their seconds times a factor that is drawn from e to the power of ±`noise`, by the seed, for each start
    of a step, whatever machines there are. `bandwidth`: bytes a second between two domains; `inside`: between two machines of
    one. Where that is 0, and neither `links` nor the topology name one between the two, moving takes no time; runs know of the
    topology's links alone. `store`: the domain of a store that all nodes reach, as runs have it whose values an
    `FsspecIOManager` keeps; without it values travel through the run's process, in its domain. `capabilities`: what every
    domain offers where none names its blocks; else each offers those and own steps. `blocks`: by capability, how those live at
    nodes that have replicas; others are always warm, and take any number of calls. `changes`: of quotas, while it goes on."""

    topology: Topology
    workflows: tuple[Workflow, ...]
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    noise: Annotated[float, msgspec.Meta(ge=0, le=5)] = 0.0
    capabilities: tuple[str, ...] = (WORK,)
    bandwidth: Amount = 0.0
    inside: Amount = 0.0
    links: tuple[Link, ...] = ()
    store: str = ""
    known: Known = Known.DECLARED
    changes: tuple[QuotasChange, ...] = ()
    blocks: dict[str, Replicas] = field(default_factory=dict)
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
    if scenario.store and scenario.store not in domains:
        wrong.append(f"the store is in {scenario.store!r}, which is no domain")
    wrong += [
        f"{n.name}: its speed is {n.speed}, not above 0"
        for d in scenario.topology.domains
        for c in d.clusters
        for n in c.nodes
        if not 0 < n.speed < math.inf
    ]
    offered = {name for domain in scenario.topology.domains for name in domain.blocks} or {*scenario.capabilities}
    wrong += [f"block {name!r}: nobody offers it" for name in scenario.blocks if name not in offered - {WORK}]
    wrong += [text for capability, its in scenario.blocks.items() for text in _wrong_block(capability, its)]
    capacities = {c.name: c.capacity for d in scenario.topology.domains for c in d.clusters}
    for change in scenario.changes:
        where, capacity = f"quotas at {change.at:g} s", capacities.get(change.cluster)
        if capacity is None:
            wrong.append(f"{where}: no cluster {change.cluster!r}")
        else:
            wrong += [f"{where} of {change.cluster}: {text}" for text in change.quotas.errors(capacity)]
    wrong += faults.wrong_in(scenario)
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise BadInputError("\n".join(wrong[:20]) + more, where="the scenario", todo="mend what is named")


def _wrong_block(capability: str, its: Replicas) -> Iterator[str]:
    try:
        its.spec(capability)
    except BadInputError as error:
        yield str(error)


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
