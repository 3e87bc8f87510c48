"""How each fault of a simulation begins and ends, and how it is known that it met something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.simulate.cluster import SimCluster
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.timing import PROBE_S

if TYPE_CHECKING:
    from ioi_dagster.simulate.process import SimProcess
    from ioi_dagster.simulate.run import SimRun
    from ioi_dagster.simulate.world import World

Act = Callable[["World", Fault], None]


def _told(world: World, fault: Fault) -> int:
    return world.met_by[fault.kind, fault.target]


@dataclass(frozen=True, slots=True)
class Deed:
    """`met`: how often faults of its kind and target have met something so far. One that meets nothing from its beginning to its
    end has not bitten."""

    begin: Act
    end: Act
    met: Callable[[World, Fault], int] = _told


def _nothing(_world: World, _fault: Fault) -> None:
    """It is over by itself."""


def _cluster(world: World, fault: Fault) -> SimCluster:
    return world.clusters[fault.target]


def _owner(world: World, fault: Fault) -> SimCluster:
    return world.owner_of(fault.target)


def _impairs(_kind: FaultKind) -> Deed:
    return Deed(
        lambda world, fault: _owner(world, fault).impair(fault), lambda world, fault: _owner(world, fault).mend(fault)
    )


def _counts(name: str) -> Deed:
    """A condition of a cluster that several faults may keep up."""

    def act(by: int) -> Act:
        def change(world: World, fault: Fault) -> None:
            cluster = _cluster(world, fault)
            setattr(cluster, name, getattr(cluster, name) + by)

        return change

    return Deed(act(1), act(-1))


def _late(sign: float) -> Act:
    def act(world: World, fault: Fault) -> None:
        cluster = _cluster(world, fault)
        cluster.late_s = max(0.0, cluster.late_s + sign * fault.amount)

    return act


# Links ----------------------------------------------------------------------------------------------------------------


def _cut(world: World, fault: Fault) -> None:
    for one, other in _pairs(fault):
        world.wire.cut(one, other)
    world.members.cut()
    ends = {frozenset(pair) for pair in _pairs(fault)}
    for process in (process for run in world.runs for process in run.processes):
        there = [lease for lease in process.governor.leases() if frozenset((process.domain, lease.domain)) in ends]
        world.recoveries.hit(fault.kind, there, world.engine.now)
    for cluster in world.clusters.values():
        for process in (process for run in world.runs for process in run.processes):
            if frozenset((process.domain, cluster.domain)) in ends:
                event = flow.ClusterLost(cluster.name, "it cannot be reached")
                world.engine.after(PROBE_S, _tell_cut, world, process, cluster, event)


def _tell_cut(world: World, process: SimProcess, cluster: SimCluster, event: flow.Event) -> None:
    if not world.wire.reaches(process.domain, cluster.domain):
        process.take(event)


def _heal(world: World, fault: Fault) -> None:
    ends = {end for side in fault.sides() for end in side}
    for one, other in _pairs(fault):
        world.wire.heal(one, other)
    world.members.healed()
    for cluster in world.clusters.values():
        if cluster.domain in ends:
            world.back(cluster)


def _pairs(fault: Fault) -> list[tuple[str, str]]:
    """(from, to) of what does not pass."""
    ones, others = fault.sides()
    there = [(one, other) for one in ones for other in others]
    return there if fault.kind is FaultKind.LINK_ONE_WAY else there + [(other, one) for one, other in there]


_LINK = Deed(_cut, _heal, lambda world, fault: sum(world.wire.stopped[pair] for pair in _pairs(fault)))

# Runs, and what they are written on -----------------------------------------------------------------------------------


def _hit_run(world: World, fault: Fault) -> SimRun:
    run = world.run_named(fault.target)
    if run.process is not None:
        world.met(fault.kind, fault.target)
        world.recoveries.hit(fault.kind, run.process.governor.leases(), world.engine.now)
    return run


def _kill_run(world: World, fault: Fault) -> None:
    run = _hit_run(world, fault)
    run.kill()


def _double_run(world: World, fault: Fault) -> None:
    run = _hit_run(world, fault)
    if run.process is not None:
        run.start_another()


def _of_ledgers(act: str) -> Act:
    def change(world: World, fault: Fault) -> None:
        for run in world.runs:
            if run.domain == fault.target:
                getattr(run, act)()

    return change


def _disk(by: int, act: str) -> Act:
    ledgers = _of_ledgers(act)

    def change(world: World, fault: Fault) -> None:
        for cluster in world.clusters.values():
            if cluster.domain == fault.target:
                cluster.full_disk += by
        ledgers(world, fault)

    return change


def _set_clocks(sign: float) -> Act:
    def act(world: World, fault: Fault) -> None:
        world.clock_off_s += sign * fault.amount

    return act


def _part_of_messages(name: str, counted: str) -> Deed:
    return Deed(
        lambda world, fault: setattr(world.wire, name, min(0.9, fault.amount)),
        lambda world, fault: setattr(world.wire, name, 0.0),
        lambda world, fault: getattr(world.wire, counted),
    )


DEEDS: dict[FaultKind, Deed] = {
    FaultKind.NODE_KILLED: Deed(
        lambda world, fault: _owner(world, fault).kill_node(fault.target),
        lambda world, fault: _owner(world, fault).start_node(fault.target),
    ),
    **{
        kind: _impairs(kind)
        for kind in (
            FaultKind.NODE_FROZEN,
            FaultKind.INTERPRETER_HELD,
            FaultKind.NODE_CUT,
            FaultKind.NODE_UNHEARD,
            FaultKind.NODE_DEAF,
            FaultKind.GOVERNOR_AWAY,
        )
    },
    FaultKind.NODE_SLOW: Deed(
        lambda world, fault: _owner(world, fault).slow_node(fault.target, fault.amount),
        lambda world, fault: _owner(world, fault).hurry_node(fault.target, fault.amount),
    ),
    FaultKind.NODE_FULL: Deed(
        lambda world, fault: _owner(world, fault).fill_node(fault.target, 1),
        lambda world, fault: _owner(world, fault).fill_node(fault.target, -1),
    ),
    FaultKind.SCHEDULER_KILLED: Deed(
        lambda world, fault: _cluster(world, fault).kill(), lambda world, fault: _cluster(world, fault).restart()
    ),
    FaultKind.SCHEDULER_FROZEN: Deed(
        lambda world, fault: _cluster(world, fault).freeze(), lambda world, fault: _cluster(world, fault).thaw()
    ),
    FaultKind.GOVERNOR_RESTARTED: _counts("dies_granting"),
    FaultKind.RUN_KILLED: Deed(_kill_run, lambda world, fault: world.run_named(fault.target).resume()),
    FaultKind.RUN_DOUBLED: Deed(_double_run, _nothing),
    FaultKind.LEDGER_AWAY: Deed(_of_ledgers("cannot_write"), _of_ledgers("can_write")),
    FaultKind.DISK_FULL: Deed(_disk(1, "cannot_write"), _disk(-1, "can_write")),
    FaultKind.CLOCK_SET: Deed(_set_clocks(1.0), _set_clocks(-1.0)),
    FaultKind.POISON: Deed(
        lambda world, fault: world.poisoned.update((fault.target,)),
        lambda world, fault: world.poisoned.subtract((fault.target,)),
    ),
    FaultKind.LINK_CUT: _LINK,
    FaultKind.LINK_ONE_WAY: _LINK,
    FaultKind.NETWORK_SPLIT: _LINK,
    FaultKind.MUTE: _counts("mute"),
    FaultKind.LATE: Deed(_late(1.0), _late(-1.0)),
    FaultKind.LIAR: _counts("liar"),
    FaultKind.OVERGRANTS: _counts("lavish"),
    FaultKind.LOSS: _part_of_messages("loss", "dropped"),
    FaultKind.DOUBLING: _part_of_messages("doubling", "doubled"),
}
