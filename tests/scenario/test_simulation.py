"""What a simulation tells is what the governors do, the same each time, and wrong scenarios are named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import PlacesFound
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.capability import Isolate
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Award, Lease, LeaseRequest
from ioi_dagster.model.quota import QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import ClusterSpec, NodeSpec, Topology
from ioi_dagster.simulate.cluster import SimCluster
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.members import watched
from ioi_dagster.simulate.replicas import Replicas
from ioi_dagster.simulate.scenario import QuotasChange, Scenario, Workflow, WorkflowStep, grid, read_workflows
from ioi_dagster.simulate.shapes import SHAPES, draw
from ioi_dagster.simulate.world import Report, World, simulate
from tests.quotas import share
from tests.scenario.swarm import scenario

CHAIN = Workflow("chain", {"a": WorkflowStep(1.0), "b": WorkflowStep(2.0, ("a",)), "c": WorkflowStep(3.0, ("b",))})


def run(*workflows: Workflow, topology=None, faults: tuple[Fault, ...] = (), **more: Any) -> Report:
    return simulate(Scenario(topology or grid(2, 1), workflows, faults, **more))


def test_a_chain_takes_the_sum_of_its_steps_and_a_little_for_negotiation() -> None:
    report = run(CHAIN)
    assert (report.done, report.failed, report.starts, report.discarded, report.violations) == (3, 0, 3, 0, ())
    assert 6.0 < report.makespan_s < 6.2
    assert report.utilisation == pytest.approx(6.0 / (2 * report.makespan_s), abs=0.001)


def test_a_bag_fills_all_slots_and_no_more() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(1.0) for number in range(12)})
    report = run(bag, topology=grid(3, 2))
    assert 2.0 < report.makespan_s < 2.2
    assert report.workflows == {"bag": report.makespan_s}


def guests_limited_to(slots: int) -> QuotaTree:
    return QuotaTree.flat((share("guest", borrows=slots),))


@pytest.mark.parametrize("faults", [(), (Fault(30.0, FaultKind.SCHEDULER_KILLED, "c0", 2.0),)])
def test_quotas_that_are_lowered_while_work_runs_stop_what_is_too_much_and_outlive_the_scheduler(
    faults: tuple[Fault, ...],
) -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(20.0) for number in range(4)}, tenant="guest")
    change = QuotasChange(5.0, "c0", guests_limited_to(1))
    report = run(bag, topology=grid(1, 4), faults=faults, changes=(change,))
    assert (report.done, report.failed, report.violations) == (4, 0, ())
    assert report.starts == 7 + len(faults), "three were stopped, and with a scheduler the one that ran"
    assert report.makespan_s > 80.0, "from then on one runs at a time"


def test_quotas_that_are_raised_let_more_run_at_once() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(20.0) for number in range(4)}, tenant="guest")
    (cluster,) = grid(1, 4).domains[0].clusters
    domain = replace(grid(1, 4).domains[0], clusters=(replace(cluster, quotas=guests_limited_to(1)),))
    its = Scenario(Topology("grid", "d0", (domain,)), (bag,), changes=(QuotasChange(5.0, "c0", guests_limited_to(4)),))
    report = simulate(its)
    assert (report.done, report.starts, report.violations) == (4, 4, ())
    assert 25.0 < report.makespan_s < 27.0


def test_quotas_heard_while_the_scheduler_stands_still_are_those_of_when_it_goes_on() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(3.0) for number in range(4)}, arrives=8.0, tenant="guest")
    changes = (QuotasChange(4.0, "c0", guests_limited_to(4)), QuotasChange(5.0, "c0", guests_limited_to(1)))
    frozen = (Fault(3.0, FaultKind.SCHEDULER_FROZEN, "c0", 3.0),)
    report = run(bag, topology=grid(1, 4), faults=frozen, changes=changes)
    assert (report.done, report.starts, report.violations) == (4, 4, ())
    assert report.makespan_s > 20.0


def test_quotas_that_cannot_be_meant_are_named() -> None:
    changes = (
        QuotasChange(1.0, "c9", QuotaTree.flat()),
        QuotasChange(2.5, "c0", QuotaTree.flat((share("guest", guarantee=9),))),
    )
    with pytest.raises(BadInputError) as told:
        run(CHAIN, changes=changes)
    assert "quotas at 1 s: no cluster 'c9'" in str(told.value)
    assert "quotas at 2.5 s of c0: the cohorts are guaranteed 9 slots, but the cluster has 1" in str(told.value)


@pytest.mark.parametrize("boot_s", [30.0, 3000.0])
def test_nodes_come_for_what_waits_and_take_their_time(boot_s: float) -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(20.0) for number in range(4)})
    topology = grid(1, 1)
    (domain,) = topology.domains
    rules = Autoscale(max=8, boot_s=boot_s, give_up_s=boot_s, after_s=0, up_pause_s=1, node_hour=9)
    group = NodeSpec("g", 1, autoscale=rules)
    cluster = replace(domain.clusters[0], nodes=(group,))
    report = run(bag, topology=replace(topology, domains=(replace(domain, clusters=(cluster,)),)))
    assert (report.done, report.failed, report.starts, report.violations) == (4, 0, 4, ())
    took_s = report.makespan_s - boot_s
    assert 20.0 < took_s < 25.0  # all four at once, when their nodes have booted
    # Of eight that may come four were there, and not before they had booted.
    assert report.utilisation == pytest.approx(20 / took_s, abs=0.15)
    (group_of, hours) = next(iter(report.node_hours.items()))
    assert group_of.endswith("/g")
    assert hours == pytest.approx(4 * took_s / 3600, rel=0.15)
    assert report.node_credits[group_of] == pytest.approx(hours * 9, rel=0.01)


def flood_and_late(tenant: str, *shares: TenantQuota, steps: int = 100, seconds: float = 1.0) -> float:
    """Seconds that a run of eight steps of a second takes, which comes five seconds after one of `steps` of `seconds`."""
    flood = Workflow("flood", {f"f{number}": WorkflowStep(seconds) for number in range(steps)}, tenant="a")
    late = Workflow("late", {f"l{number}": WorkflowStep(1.0) for number in range(8)}, 5.0, tenant)
    topology = grid(1, 4)
    (domain,) = topology.domains
    (cluster,) = domain.clusters
    cluster = replace(cluster, quotas=QuotaTree.flat(shares))
    report = run(flood, late, topology=replace(topology, domains=(replace(domain, clusters=(cluster,)),)))
    assert (report.done, report.failed, report.violations) == (steps + 8, 0, ())
    return report.workflows["late"]


def test_a_tenant_that_comes_to_a_full_cluster_gets_its_share_as_slots_come_free() -> None:
    # Two of the four slots are its own: four seconds, one more until the first come free, and the rounds of asking.
    alike = flood_and_late("b")
    assert 4.0 < alike < 7.5
    assert flood_and_late("b", share("b", 3.0)) < alike
    # Runs of one tenant come by how long they have waited, so that the later one does not wait for the end of the first.
    assert 4.0 < flood_and_late("a") < 10.0


LONG = {"steps": 12, "seconds": 60.0}


def test_a_guarantee_is_not_waited_for_until_long_steps_end() -> None:
    # Two slots for eight steps of a second. Nobody gives one back within the minute that each step of the flood takes.
    assert flood_and_late("b", **LONG) > 50.0
    assert 4.0 < flood_and_late("b", share("b", guarantee=2), **LONG) < 7.5


def test_a_limit_leaves_the_rest_to_who_comes() -> None:
    assert 2.0 < flood_and_late("b", share("a", borrows=1), **LONG) < 4.0


@pytest.mark.parametrize(
    ("fault", "at_least", "at_most"),
    [
        (Fault(3.0, FaultKind.NODE_KILLED, "n0.0", 1.0), 0, 2),
        (Fault(3.0, FaultKind.SCHEDULER_KILLED, "c0", 1.0), 0, 3),
        (Fault(3.0, FaultKind.NODE_FROZEN, "n0.0", 5.0), 0, 1),
        (Fault(3.0, FaultKind.NODE_CUT, "n0.0", 5.0), 0, 1),
        (Fault(3.0, FaultKind.NODE_UNHEARD, "n0.0", 5.0), 0, 1),
        (Fault(3.0, FaultKind.INTERPRETER_HELD, "n0.0", 10.0), 0, 0),
        (Fault(3.0, FaultKind.NODE_DEAF, "n0.0", 5.0), 0, 0),
        (Fault(3.0, FaultKind.GOVERNOR_AWAY, "n0.0", 5.0), 0, 0),
        (Fault(3.0, FaultKind.SCHEDULER_FROZEN, "c0", 0.3), 0, 0),
        (Fault(3.0, FaultKind.SCHEDULER_FROZEN, "c0", 5.0), 0, 1),
        (Fault(0.0, FaultKind.GOVERNOR_RESTARTED, "c0", 1_000.0), 0, 1),
        (Fault(3.0, FaultKind.RUN_DOUBLED, "chain"), 1, 1),
        (Fault(1.5, FaultKind.LEDGER_AWAY, "d0", 10.0), 0, 0),
        (Fault(1.5, FaultKind.DISK_FULL, "d0", 10.0), 0, 0),
        (Fault(3.0, FaultKind.CLOCK_SET, "", 5.0, 3_600.0), 0, 0),
        (Fault(3.0, FaultKind.CLOCK_SET, "", 5.0, -3_600.0), 0, 0),
        (Fault(3.0, FaultKind.NETWORK_SPLIT, "d0|d1", 10.0), 0, 1),
        (Fault(3.0, FaultKind.RUN_KILLED, "chain", 1.0), 1, 1),
        (Fault(0.0, FaultKind.NODE_SLOW, "n0.0", 1_000.0, 5.0), 0, 0),
        (Fault(0.0, FaultKind.NODE_FULL, "n0.0", 1_000.0), 0, 0),
        (Fault(3.0, FaultKind.LINK_CUT, "d0|d1", 10.0), 0, 1),
        (Fault(3.0, FaultKind.LINK_ONE_WAY, "d0|d1", 10.0), 0, 1),
        (Fault(3.0, FaultKind.LINK_ONE_WAY, "d1|d0", 10.0), 0, 1),
        (Fault(0.0, FaultKind.LIAR, "c0", 1_000.0), 0, 0),
        (Fault(0.0, FaultKind.OVERGRANTS, "c0", 1_000.0), 0, 0),
        (Fault(0.0, FaultKind.MUTE, "c0", 1_000.0), 0, 0),
        (Fault(0.0, FaultKind.LATE, "c0", 1_000.0, 2.0), 0, 0),
        (Fault(0.0, FaultKind.LOSS, "", 1_000.0, 0.3), 0, 0),
        (Fault(0.0, FaultKind.DOUBLING, "", 1_000.0, 0.5), 0, 0),
    ],
    ids=lambda value: str(value.kind) if isinstance(value, Fault) else "",
)
def test_no_fault_alone_costs_a_step_or_more_than_the_starts_that_it_hit(fault, at_least, at_most) -> None:
    report = run(CHAIN, faults=(fault,))
    assert (report.done, report.failed, report.violations) == (3, 0, ())
    assert at_least <= report.starts - 3 <= at_most
    assert report.makespan_s < 40


def test_only_faults_that_strike_while_a_run_is_under_way_and_meet_something_are_counted() -> None:
    at = (0.5, 3.0, 10_000.0)
    killed = tuple(Fault(when, FaultKind.NODE_KILLED, "n0.0", 1.0) for when in at)
    mute = Fault(3.0, FaultKind.MUTE, "c0", 3.0), Fault(4.6, FaultKind.MUTE, "c1", 0.1)
    report = run(replace(CHAIN, arrives=1.0), faults=(*killed, *mute))
    assert report.faults == {"mute": 1, "node_killed": 1}


ONE = Workflow("one", {"a": WorkflowStep(20.0)})


def one(
    kind: FaultKind, target: str, lasts: float = 1_000.0, at: float = 3.0, step: WorkflowStep | None = None
) -> Report:
    """A run of one step of 20 s, of which `kind` strikes at what has it, with room elsewhere."""
    report = run(replace(ONE, steps={"a": step or ONE.steps["a"]}), faults=(Fault(at, kind, target, lasts),))
    assert report.faults == {str(kind): 1}
    return report


@pytest.mark.parametrize(
    ("kind", "lasts", "least", "most"),
    [
        # The detector of nodes finds out a process that is stopped, and a machine that is not reached.
        (FaultKind.NODE_FROZEN, 1_000.0, 23.5, 24.5),
        (FaultKind.NODE_CUT, 1_000.0, 24.0, 25.0),
        (FaultKind.NODE_UNHEARD, 1_000.0, 24.0, 25.0),
        (FaultKind.NODE_DEAF, 1_000.0, 24.0, 25.0),
        # A supervisor ends a scheduler that stands still.
        (FaultKind.SCHEDULER_FROZEN, 1_000.0, 23.5, 24.5),
        # What is busy is not evicted, and goes on to its end.
        (FaultKind.INTERPRETER_HELD, 10.0, 20.0, 20.5),
        (FaultKind.INTERPRETER_HELD, 30.0, 33.0, 33.5),
        # Its outcome is told when its governor is reached again.
        (FaultKind.GOVERNOR_AWAY, 25.0, 28.0, 28.5),
        (FaultKind.LEDGER_AWAY, 25.0, 27.9, 28.5),
        (FaultKind.DISK_FULL, 25.0, 27.9, 28.5),
    ],
)
def test_what_a_fault_costs_is_what_it_takes_to_be_sure_of_it(
    kind: FaultKind, lasts: float, least: float, most: float
) -> None:
    target = {FaultKind.SCHEDULER_FROZEN: "c0", FaultKind.LEDGER_AWAY: "d0", FaultKind.DISK_FULL: "d0"}.get(
        kind, "n0.0"
    )
    report = one(kind, target, lasts)
    assert (report.done, report.failed, report.violations) == (1, 0, ())
    assert least < report.makespan_s < most
    assert report.starts == (1 if most < 23 or least > 26 else 2)


def test_a_node_that_reaches_nobody_fences_itself_off() -> None:
    """Its process is heard of by its witness, so that it is waited for; it stops what it runs when its leases have run out."""
    report = one(FaultKind.GOVERNOR_AWAY, "n0.0", 34.0, step=WorkflowStep(100.0))
    assert (report.done, report.starts, report.violations) == (1, 2, ())
    assert 37.0 + 100.0 < report.makespan_s < 37.0 + 101.0, "it says so when it is reached again"


def test_a_step_that_takes_down_its_nodes_fails_after_three_of_them() -> None:
    report = run(ONE, topology=grid(2, 4), faults=(Fault(0.0, FaultKind.POISON, "one|a", 1_000.0),))
    assert (report.failures, report.starts, report.violations) == ({"flow.poison_step": 1}, 3, ())


def test_of_two_processes_of_a_run_the_later_one_commits_and_the_other_falls_silent() -> None:
    report = one(FaultKind.RUN_DOUBLED, "one", 1.0)
    assert (report.done, report.starts, report.violations) == (1, 2, ())
    assert 23.0 < report.makespan_s < 23.5, "its step is not adopted: it is begun anew"


def test_a_run_that_waits_too_long_for_its_ledger_is_resumed_when_it_can_be_written() -> None:
    report = one(FaultKind.LEDGER_AWAY, "d0", 100.0)
    assert (report.done, report.starts, report.violations) == (1, 2, ())
    assert 123.0 < report.makespan_s < 123.5, "what was not written was not done"


def test_what_a_cluster_granted_when_it_died_is_granted_anew_and_runs_once() -> None:
    report = one(FaultKind.GOVERNOR_RESTARTED, "c0", at=0.0)
    assert (report.done, report.starts, report.discarded, report.violations) == (1, 1, 0, ())


class Told:
    """A start, as its run hears of it."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.codes: list[str] = []

    def begun(self, lease: Lease) -> None:
        self.codes.append("begun")

    def ended(self, attempt: str, took: float, refusal: Refusal | None) -> None:
        self.codes.append(refusal.code if refusal is not None else "ended")

    def lost(self, why: str, cause: Cause) -> None:
        self.codes.append(cause)


def test_what_a_scheduler_grants_that_another_has_replaced_starts_nothing_at_nodes_that_know_of_the_other() -> None:
    engine, granted = Engine(), list[Lease]()
    spec = ClusterSpec("c", (NodeSpec("n", 2),))
    cluster = SimCluster(engine, random.Random(1), "d", spec, frozenset({"work"}), {})
    cluster.start()

    def ask(step: str) -> None:
        award = Award("c", "run", 1, "d", (LeaseRequest("run", step, 1, "work", DataClass.PUBLIC),))
        cluster.asked(award, lambda told: granted.extend(told.leases))

    def start(lease: Lease) -> list[str]:
        its = Told(lease)
        cluster.start_step(lease, 1.0, 0.0, its)
        engine.run(engine.now + 2.0)
        return its.codes

    engine.after(1.0, cluster.freeze)
    engine.after(1.1, ask, "old")
    engine.after(6.0, ask, "new")
    engine.after(7.0, cluster.thaw)
    engine.run(8.0)
    assert [(lease.step, lease.epoch) for lease in granted] == [("new", 2), ("old", 1)]
    assert [start(lease) for lease in granted] == [["begun", "ended"], ["node.old_epoch"]]


def test_what_begins_on_a_slow_node_takes_longer_and_a_full_node_is_given_nothing() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(10.0) for number in range(4)})
    whole = run(bag, topology=grid(1, 4)).makespan_s
    assert 10.0 < whole < 10.5
    slow = run(bag, topology=grid(1, 4), faults=(Fault(0.0, FaultKind.NODE_SLOW, "n0.0", 1e6, 3.0),))
    assert 30.0 < slow.makespan_s < 30.5
    full = run(bag, topology=grid(1, 4), faults=(Fault(0.0, FaultKind.NODE_FULL, "n0.0", 1e6),))
    assert 20.0 < full.makespan_s < 20.5


def test_a_liar_loses_what_is_negotiated_after_its_first_broken_bid() -> None:
    bag = Workflow("bag", {f"s{number}": WorkflowStep(1.0) for number in range(8)})
    liar = (Fault(0.0, FaultKind.LIAR, "c0", 1e6),)
    assert run(bag, faults=liar, topology=grid(2, 4)).makespan_s < 2 * run(bag, topology=grid(1, 4)).makespan_s


def test_a_domain_s_next_run_knows_who_has_lied_to_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> Report:
        first = Workflow("first", {f"s{number}": WorkflowStep(1.0) for number in range(4)}, objective="fastest")
        lies = (Fault(0.0, FaultKind.LIAR, "c0", 1e6),)
        return run(first, replace(first, name="second", arrives=60.0), topology=grid(2, 4), faults=lies)

    report = twice()
    assert (report.done, report.failed, report.violations) == (8, 0, ())
    assert report.trust == {"d0": {"c0": 0.5}}
    assert report.workflows["second"] < 1.1 < report.workflows["first"]
    monkeypatch.setattr("ioi_dagster.governors.standing.Standings.all", lambda *_: ())
    assert twice().workflows["second"] > 1.1, "who knows nothing of it believes it once more"


def test_each_side_of_a_split_goes_on_by_itself_and_sees_the_other_again_when_it_is_healed() -> None:
    chain = {f"s{number}": WorkflowStep(1.0, (f"s{number - 1}",) if number else ()) for number in range(40)}
    runs = tuple(Workflow(f"w{number}", chain, domain=f"d{number}") for number in range(4))
    split = Fault(5.0, FaultKind.NETWORK_SPLIT, "d0,d1|d2,d3", 15.0)
    world = World(Scenario(grid(4, 2), runs, (split,)), True, lambda *_: None)
    unseen: dict[float, set[tuple[str, str]]] = {}
    for at in (4.0, 10.0, 19.0, 28.0):
        world.engine.after(at, lambda at=at: unseen.update({at: {(a, b) for a, b, _ in world.members.blind()}}))
    report = world.run()
    assert (report.done, report.failed, report.violations) == (160, 0, ())
    across = {(f"d{a}", f"d{b}") for a in range(4) for b in range(4) if (a < 2) != (b < 2)}
    assert unseen == {4.0: set(), 10.0: across, 19.0: across, 28.0: set()}
    assert report.makespan_s < 50, "nobody has stood still"


def test_who_does_not_see_the_others_again_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioi_dagster.governors.network.GONE_PROBE_S", 1_000.0)
    split = Fault(3.0, FaultKind.NETWORK_SPLIT, "d0|d1", 30.0)
    report = run(Workflow("w", {"a": WorkflowStep(60.0)}), faults=(split,))
    assert any("row 12: " in text and "sees d" in text for text in report.violations)


def test_of_many_domains_those_that_are_cut_off_have_network_governors() -> None:
    split = Fault(3.0, FaultKind.NETWORK_SPLIT, "d0|d5,d9", 10.0)
    world = World(Scenario(grid(40, 1), (Workflow("w", {"a": WorkflowStep(40.0)}),), (split,)), True, lambda *_: None)
    unseen: list[tuple[str, str]] = []
    world.engine.after(10.0, lambda: unseen.extend((a, b) for a, b, _ in world.members.blind()))
    report = world.run()
    assert (report.done, report.violations) == (1, ())
    assert sorted(unseen) == [("d0", "d5"), ("d0", "d9"), ("d5", "d0"), ("d9", "d0")]
    names = [f"d{number}" for number in range(40)]
    assert watched(names, {"d7", "d3"}) == ("d3", "d7")
    assert watched(names, set(names)) == tuple(names[:32])
    assert (watched(names[:32], {"d3"}), watched(names, ())) == (tuple(names[:32]), ())


def test_a_run_asks_all_domains_whatever_the_network_governor_of_its_own_thinks_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[tuple[float, list[str]]] = []
    handle = FlowGovernor.handle

    def listening(its: FlowGovernor, event: Any, now: float, more: bool = False) -> Any:
        if isinstance(event, PlacesFound):
            found.append((now, [place.domain for place in event.places]))
        return handle(its, event, now, more)

    monkeypatch.setattr(FlowGovernor, "handle", listening)
    chain = {f"s{number}": WorkflowStep(0.5, (f"s{number - 1}",) if number else ()) for number in range(40)}
    split = Fault(3.0, FaultKind.NETWORK_SPLIT, "d0|d1", 12.0)
    world = World(Scenario(grid(2, 1), (Workflow("w", chain),), (split,)), True, lambda *_: None)
    blind: list[bool] = []
    for at in (4.0, 12.0):
        world.engine.after(at, lambda: blind.append(bool(world.members.blind())))
    report = world.run()
    assert (report.done, report.failed, report.violations, blind) == (40, 0, (), [False, True])
    both = [(at, its == ["d0", "d1"]) for at, its in found]
    assert {whether for at, whether in both if at < 3.0 or at > 15.2} == {True}
    assert {whether for at, whether in both if 3.2 < at < 15.0} == {False}, (
        "no place, also before it is not seen any more"
    )
    # Who was not missed before is waited for, once.
    times = [at for at, _ in both if 2.0 < at < 15.0]
    waits = [later - at for at, later in pairwise(times)]
    assert sum(wait > 2.0 for wait in waits) == 1
    assert max(waits) < 3.0


def test_a_step_waits_for_a_domain_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = grid(2, 1).domains
    topology = Topology("net", "d0", (replace(first, handles=DataClass.PUBLIC), second))
    step = WorkflowStep(1.0, data_class=DataClass.INTERNAL)
    cut = Fault(0.0, FaultKind.LINK_CUT, "d0|d1", 10.0)
    report = run(Workflow("w", {"a": step}, 1.0), topology=topology, faults=(cut,))
    assert (report.done, report.failed, report.violations) == (1, 0, ())
    assert 10.0 < report.makespan_s < 16.0


def test_leases_that_nobody_asked_for_start_nothing_are_given_back_and_cost_a_cluster_its_trust() -> None:
    steps = {
        f"{layer}.{number}": WorkflowStep(1.0, tuple(f"{layer - 1}.{one}" for one in range(4) if layer))
        for layer in range(10)
        for number in range(4)
    }
    bag = Workflow("bag", steps)
    honest = run(bag, topology=grid(2, 4))
    lavish = run(bag, topology=grid(2, 4), faults=(Fault(0.0, FaultKind.OVERGRANTS, "c0", 1e6),))
    assert (honest.given_back, lavish.done, lavish.failed, lavish.starts, lavish.violations) == (0, 40, 0, 40, ())
    granted = lavish.given_back // 2
    assert (lavish.given_back % 2, granted > 0) == (0, True), "two more with each that it grants"
    assert granted < honest.done / 4, "who is trusted less is given less"


def test_the_same_scenario_always_ends_the_same_way_and_another_seed_does_not() -> None:
    first, again = simulate(scenario(7)), simulate(scenario(7))
    assert first == again
    assert simulate(replace(scenario(7), seed=8)).digest != first.digest
    assert replace(simulate(scenario(7), checked=False), events=0) == replace(first, events=0)


def test_a_step_that_nobody_may_take_fails_with_its_reason_and_takes_with_it_what_needs_it() -> None:
    steps = {
        "open": WorkflowStep(1.0),
        "secret": WorkflowStep(1.0, ("open",), data_class=DataClass.RESTRICTED),
        "last": WorkflowStep(1.0, ("secret",)),
    }
    report = run(Workflow("w", steps))
    assert (report.done, report.failures, report.violations) == (1, {"flow.no_place": 2}, ())


def offering(**blocks: str) -> Topology:
    """Domains with a cluster of one node each, and the block that each names."""
    topology = grid(len(blocks), 1)
    named = [
        replace(domain, blocks=(block,) if block else ())
        for domain, block in zip(topology.domains, blocks.values(), strict=True)
    ]
    return replace(topology, domains=tuple(named))


def test_a_step_that_calls_a_block_runs_only_where_it_is_offered() -> None:
    scans = {f"s{number}": WorkflowStep(2.0, capability="ocr") for number in range(4)}
    own = {f"o{number}": WorkflowStep(2.0) for number in range(3)}
    scanned = run(Workflow("w", scans), topology=offering(one="", two="ocr", three="summary"))
    assert (scanned.done, scanned.failed) == (4, 0)
    assert 8.0 < scanned.makespan_s < 9.0, "one after another, on the one node of who offers it"
    assert 2.0 < run(Workflow("w", own), topology=offering(one="", two="ocr", three="")).makespan_s < 2.5


def test_a_block_that_nobody_offers_is_named_with_what_would_be_needed() -> None:
    report = run(Workflow("w", {"a": WorkflowStep(2.0, capability="sing")}), topology=offering(one="", two="ocr"))
    assert report.failures == {"flow.no_place": 1}
    (reason,) = report.reasons.values()
    assert reason.startswith(
        "w/a [flow.no_place] no place may take it: c0: d0 does not offer sing; c1: d1 does not offer sing"
    )
    assert "name it under `blocks` of a domain that is to take it, or ask for one of ocr, work" in reason


def test_what_nothing_could_ever_satisfy_says_why_and_what_would_be_needed(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(msgspec.json.encode([Workflow("w", {"a": WorkflowStep(2.0, resources={"memory": 1e11})})]))
    told = " ".join(invoke("2x1", str(file)).stdout.replace("│", " ").split())
    assert "1 × flow.never, as w/a [flow.never] could run nowhere: c0: it needs 1 slot, 93.13 GiB memory on one" in told
    assert "ask for less, allow more nodes, or add a node of that size" in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--seed", "3"), "--seed says nothing"),
        (("--faults", "3", "--noise", "0.1"), "--faults, --noise say nothing"),
        (("4x2",), "TOPOLOGY says nothing"),
    ],
)
def test_what_changes_nothing_of_a_saved_scenario_is_refused(
    arguments: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    saved = tmp_path / "scenario.json"
    invoke("2x2", "bag:1x3", "--save", str(saved))
    assert invoke("--replay", str(saved), "--no-checked", "--json").exit_code == 0
    assert named in str(invoke("--replay", str(saved), *arguments).exception)


@pytest.mark.parametrize(
    ("attribute", "broken", "text"),
    [
        ("_ended", lambda original: _deaf_to_fences(original), "an attempt of fence 1 counted for 2"),
        ("resume", lambda _: lambda self, fences, spent=0.0: None, "which is not the newest"),
    ],
)
def test_a_governor_that_is_broken_is_found_out(
    monkeypatch: pytest.MonkeyPatch, attribute: str, broken: Callable, text: str
) -> None:
    monkeypatch.setattr(FlowGovernor, attribute, broken(getattr(FlowGovernor, attribute)))
    assert any(text in violation for seed in range(80) for violation in simulate(scenario(seed)).violations)


def _deaf_to_fences(original: Callable) -> Callable:
    def ended(self: FlowGovernor, event: Any, now: float) -> Any:
        step = self._steps.get(event.step)
        return original(self, replace(event, fence=step.fence) if step is not None else event, now)

    return ended


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
def test_a_shape_has_the_size_that_was_asked_for_and_is_a_graph(shape: str, size: int) -> None:
    workflow = draw(shape, size, 1)
    assert size <= len(workflow.steps) <= size + 2
    assert draw(shape, size, 1) == workflow
    order = list(workflow.steps)
    assert all(order.index(need) < order.index(key) for key, step in workflow.steps.items() for need in step.needs)


@pytest.mark.parametrize(
    ("scenario_", "text"),
    [
        (Scenario(grid(1, 1), (CHAIN, CHAIN)), "workflow 'chain' is there twice"),
        (Scenario(grid(1, 1), (Workflow("w", {}),)), "w: it has no steps"),
        (
            Scenario(grid(1, 1), (Workflow("w", {"a": WorkflowStep(1.0, ("b",))}),)),
            "step 'a' needs 'b', which is not there",
        ),
        (
            Scenario(
                grid(1, 1),
                (
                    Workflow(
                        "w", {"a": WorkflowStep(1.0, ("b",)), "b": WorkflowStep(1.0, ("a",)), "c": WorkflowStep(1.0)}
                    ),
                ),
            ),
            "these steps wait for each other: a, b",
        ),
        (Scenario(grid(1, 1), (replace(CHAIN, domain="nowhere"),)), "chain: no domain 'nowhere'"),
        (Scenario(grid(1, 1), (CHAIN,), (Fault(1.0, FaultKind.MUTE, "c9"),)), "mute at 1 s: nothing named 'c9'"),
        (Scenario(grid(1, 1), (CHAIN,), (Fault(1.0, FaultKind.LINK_CUT, "d0"),)), "its target is two domains"),
        (Scenario(grid(1, 1), (CHAIN,), blocks={"scan": Replicas()}), "block 'scan': nobody offers it"),
        (Scenario(grid(1, 1), (CHAIN,), blocks={"work": Replicas()}), "block 'work': nobody offers it"),
        (
            Scenario(
                grid(1, 1),
                (CHAIN,),
                capabilities=("scan",),
                blocks={"scan": Replicas(concurrency=2, isolate=Isolate.PROCESS)},
            ),
            "block 'scan': a replica in a process of its own takes one batch at a time",
        ),
    ],
)
def test_a_scenario_that_is_none_is_named(scenario_: Scenario, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        simulate(scenario_)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *arguments])


def test_a_saved_scenario_is_played_again(tmp_path: Path) -> None:
    saved = tmp_path / "scenario.json"
    first = invoke("4x2", "layers:3x20", "--seed", "5", "--faults", "30", "--save", str(saved), "--json")
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert report["done"] == 60
    assert report["violations"] == []
    again = invoke("--replay", str(saved), "--json")
    assert json.loads(again.stdout) == report
    told = invoke("--replay", str(saved))
    assert told.exit_code == 0
    assert "60 done" in told.stdout
    changed = from_json(saved.read_bytes(), Scenario)
    saved.write_bytes(msgspec.json.encode(replace(changed, seed=6)))
    assert invoke("--replay", str(saved)).exit_code == 1


def test_workflows_come_from_files_and_topologies_too(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(msgspec.json.encode([CHAIN]))
    (tmp_path / "two.json").write_bytes(msgspec.json.encode([replace(CHAIN, name="other", arrives=3.0)]))
    result = invoke("deployments/local/topology.yaml", str(tmp_path), "--noise", "0", "--json")
    assert json.loads(result.stdout)["workflows"].keys() == {"chain", "other"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give a topology and workflows, or --replay"),
        (("4x2",), "give a topology and workflows"),
        (("0x2", "bag:1x1"), "no number of nodes"),
        (("4x2", "bag:1"), "no number of workflows and steps"),
        (("4x2", "bag:1x100000000"), "10,000,000 steps at most"),
        (("4x2", "no-such-file.json"), "cannot be read: No such file"),
        (("no-such.yaml", "bag:1x1"), "cannot be read"),
        (("4x2", "pyproject.toml"), "not what is asked for"),
    ],
)
def test_what_cannot_be_simulated_is_named(arguments: tuple[str, ...], text: str) -> None:
    result = invoke(*arguments)
    assert text in str(result.exception)


@pytest.mark.parametrize(
    ("workflow", "text"),
    [
        ({"name": "w", "steps": {"a": {"seconds": 3, "secs": 3}}}, r"nothing is called \$\[0\]\.steps\.a\.secs"),
        ({"name": "w", "steps": {"a": {"seconds": 3}}, "dead_line": 60}, r"nothing is called \$\[0\]\.dead_line"),
    ],
)
def test_a_misspelt_key_of_a_workflow_is_named_and_not_left_out(workflow: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([workflow]))
    with pytest.raises(BadInputError, match=text):
        read_workflows(tmp_path)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (WorkflowStep(1.0, ("a",), gang="g"), "gang 'g': step 'b' needs another of it, and they start together"),
        (WorkflowStep(1.0, ("c",), gang="g"), "gang 'g': step 'b' needs another of it, and they start together"),
        (WorkflowStep(1.0, gang="g", resources={"gpu": 1.0}), "gang 'g': its steps ask for different things"),
    ],
)
def test_a_gang_that_could_never_start_is_named_before_anything_is_simulated(other: WorkflowStep, text: str) -> None:
    steps = {"a": WorkflowStep(1.0, gang="g"), "c": WorkflowStep(1.0, ("a",)), "b": other}
    with pytest.raises(BadInputError, match=text):
        run(Workflow("w", steps), topology=grid(1, 4))
    assert run(Workflow("w", steps | {"b": WorkflowStep(1.0, gang="g")}), topology=grid(1, 4)).done == 3
