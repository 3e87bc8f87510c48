"""A simulation: a scenario put together, run to its end, checked after each event, told as a report."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors.flow import MAX_LOSSES
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.standing import Standings
from ioi_dagster.model.capability import Isolate
from ioi_dagster.model.negotiation import Ask, Lease, LeaseRequest
from ioi_dagster.model.placement import Made
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import DomainSpec, Topology
from ioi_dagster.simulate.cluster import SimCluster
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.fairness import SAMPLE_S, Fairness
from ioi_dagster.simulate.faults import AIMED_AT, Aim, Fault, FaultKind
from ioi_dagster.simulate.knowledge import OUTPUT, Known, by_op
from ioi_dagster.simulate.members import Members, watched
from ioi_dagster.simulate.permits import Permits
from ioi_dagster.simulate.process import SimProcess
from ioi_dagster.simulate.recovery import Recovered, Recoveries
from ioi_dagster.simulate.replicas import Replicas
from ioi_dagster.simulate.run import SimRun
from ioi_dagster.simulate.scenario import WORK, Scenario, check
from ioi_dagster.simulate.striking import DEEDS
from ioi_dagster.simulate.timing import PROBE_S, RESTART_S, TOLD_S
from ioi_dagster.simulate.transfers import Transfers
from ioi_dagster.simulate.wire import Wire

BEGAN_AT = 1_800_000_000.0
"""What clocks show at the beginning, in Unix seconds."""
GRACE_S = 600.0
"""Of a simulation that should be over: all its work three times on one slot, after the last arrival and the last fault."""
LAST_RUNS = 5
"""A ledger tells what steps took in so many runs of a job."""
_NOBODY: frozenset[str] = frozenset()
LEASE_S = 40.0
"""So long after the last run nothing may be held any more."""


@dataclass(frozen=True, slots=True)
class TenantReport:
    """`mean_wait_s`: from a step's being ready to its start. `slot_s`: of all that ran for it, also in vain."""

    workflows: int
    steps: int
    failed: int
    mean_wait_s: float
    p99_wait_s: float
    slot_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """Seconds are those of the simulation. `failures`: steps by the code of why, with those that needed them;
    `reasons`: of one step for each of these codes, why, and what would help. `starts` more than
    `done` are starts that were lost or in vain. `given_back`: leases that clusters granted and nobody had asked for. `fairness`:
    Jain's index of the slots of tenants that wait, by weight; None where no two waited at once. `messages`: by kind.
    `faults`: those that struck while a run was under way and met something, by kind. `recoveries`: by row of
    the failure matrix. `trust`: by domain, the part of their bids that clusters are expected to keep, of those that kept not all.
    `bytes_between`, `bytes_inside`: moved from one domain to another, and inside one. `violations`: what must
    never happen and did. `utilisation`: of the slots of nodes while they were there. `node_hours`: of each group of nodes that
    come and go, by cluster and name; `node_credits`: what those cost. `digest`: of every start and commit; the same scenario has
    the same. `late`: workflows that ended after their deadline, and by how many seconds; `spent`: credits of those that have a
    budget, whose steps that found none within it are among `failures`."""

    makespan_s: float
    done: int
    failed: int
    failures: dict[str, int]
    reasons: dict[str, str]
    starts: int
    discarded: int
    given_back: int
    utilisation: float
    node_hours: dict[str, float]
    node_credits: dict[str, float]
    mean_wait_s: float
    p99_wait_s: float
    fairness: float | None
    tenants: dict[str, TenantReport]
    workflows: dict[str, float]
    late: dict[str, float]
    spent: dict[str, float]
    messages: dict[str, int]
    messages_lost: int
    bytes_between: float
    bytes_inside: float
    events: int
    faults: dict[str, int]
    recoveries: dict[str, Recovered]
    trust: dict[str, dict[str, float]]
    violations: tuple[str, ...]
    digest: str


def simulate(
    scenario: Scenario, *, checked: bool = True, tell: Callable[[float, int, int], None] = lambda *_: None
) -> Report:
    """Run it to its end. `checked`: every governor's invariants after each event. `tell(seconds, steps done, of)` is called
    from time to time. Raises `BadInputError` for a scenario that is none."""
    check(scenario)
    return World(scenario, checked, tell).run()


class World:
    def __init__(self, scenario: Scenario, checked: bool, tell: Callable[[float, int, int], None]) -> None:
        self.scenario, self.checked, self._tell = scenario, checked, tell
        self.engine = Engine()
        self._rng = random.Random(f"world/{scenario.seed}")
        self.wire = Wire(self.engine, random.Random(f"wire/{scenario.seed}"))
        self._offers = {domain.name: _offers(scenario, domain) for domain in scenario.topology.domains}
        self._handles = {domain.name: domain.handles for domain in scenario.topology.domains}
        self.clusters = {
            spec.name: SimCluster(
                self.engine, self._rng, domain.name, spec, self._offers[domain.name], self._blocks_of(domain.name)
            )
            for domain in scenario.topology.domains
            for spec in domain.clusters
        }
        self.transfers = Transfers(scenario)
        names = [domain.name for domain in scenario.topology.domains]
        cuts = (fault.sides() for fault in scenario.faults if AIMED_AT[fault.kind] in (Aim.LINK, Aim.SIDES))
        cut_off = {end for sides in cuts for side in sides for end in side}
        self.members = Members(watched(names, cut_off), self.engine, self.wire, self.check, self.violated)
        self.standings = {domain.name: Standings() for domain in scenario.topology.domains}
        """What each domain's gateway knows of clusters by what its own runs have told."""
        self.runs = [SimRun(self, workflow) for workflow in scenario.workflows]
        self._by_name = {run.name: run for run in self.runs}
        self._open = len(self.runs)
        self._last_of: dict[tuple[str, str], deque[SimRun]] = {}
        """The newest runs of each job of a domain."""
        self._answers: dict[tuple[str, str], tuple[tuple[Place, ...], tuple[tuple[str, Refusal], ...]]] = {}
        self._found: list[str] = []
        self.clock_off_s = 0.0
        """So far the clocks of all domains are from what they should show."""
        timed = any(fault.kind is FaultKind.CLOCK_SET for fault in scenario.faults)
        self.permits = Permits(names, self._wall) if timed else None
        """Where nobody sets a clock they would decide nothing, and take their time."""
        self.poisoned: Counter[str] = Counter()
        """`workflow|step` of those that take down the nodes on which they begin."""
        self._victims: Counter[tuple[int, str]] = Counter()
        """How many nodes each of those took down, by the epoch of its run."""
        self.met_by: Counter[tuple[FaultKind, str]] = Counter()
        """How often faults met something, by kind and target."""
        self.recoveries = Recoveries(self._judges, self.violated)
        self._under_way: dict[Fault, int] = {}
        """Faults that struck while a run was under way, and how often such ones had met something by then."""
        self._met: Counter[str] = Counter()
        """Those that met something, by kind."""
        trees = [c.quotas for d in scenario.topology.domains for c in d.clusters]
        self._limited = any(tree != QuotaTree.flat() for tree in (*trees, *(one.quotas for one in scenario.changes)))
        """Tenants may have to wait though there is room."""
        self._fairness = Fairness(_weights(scenario.topology))
        self._hash = hashlib.sha256()
        self._there_s: dict[tuple[str, str], float] = {}
        """How long each node was there, by cluster and name."""
        self._commits, self._steps = 0, sum(len(workflow.steps) for workflow in scenario.workflows)

    def _blocks_of(self, domain: str) -> dict[str, Replicas]:
        """Those that it offers and that have replicas."""
        return {name: its for name, its in self.scenario.blocks.items() if name in self._offers[domain]}

    def run(self) -> Report:
        for cluster in self.clusters.values():
            cluster.told_of_loss, cluster.told_of_return = self._lost, self.back
            cluster.check = self.check if self.checked else None
            cluster.met, cluster.violated, cluster.hit = self.met, self.violated, self._hit
            if self.permits is not None:
                cluster.read_permit = self.permits.read
            cluster.start()
        for run, workflow in zip(self.runs, self.scenario.workflows, strict=True):
            self.engine.after(workflow.arrives, run.start)
        for fault in self.scenario.faults:
            self.engine.after(fault.at, self._strike, fault)
        for change in self.scenario.changes:
            self.engine.after(change.at, self.clusters[change.cluster].change_quotas, change.quotas)
        self.engine.after(SAMPLE_S, self._look)
        self.engine.run(self._longest())
        makespan = self.engine.now
        for fault in list(self._under_way):
            self._count(fault)
        self._there_s = {
            (cluster.name, name): node.there_s(makespan)
            for cluster in self.clusters.values()
            for name, node in cluster.nodes.items()
        }
        if self._open:
            stuck = [run for run in self.runs if not run.over]
            why = "; ".join(run.why_waits() for run in stuck[:5])
            self.violated(f"{len(stuck)} workflows never ended: {why}")
        elif self.checked:
            self._afterwards()
        return self._report(makespan)

    def _look(self) -> None:
        """How the tenants fare now."""
        waiting, running = Counter[str](), Counter[str]()
        for run in self.runs:
            waiting[run.tenant] += run.waiting
            running[run.tenant] += run.running
        self._fairness.look(waiting, running)
        self.recoveries.look()
        if self._open:
            self.engine.after(SAMPLE_S, self._look)

    def _longest(self) -> float:
        its = self.scenario
        steps = [step for workflow in its.workflows for step in workflow.steps.values()]
        slow = min(node.speed for domain in its.topology.domains for one in domain.clusters for node in one.nodes)
        work = sum(step.seconds for step in steps) / min(1.0, slow)
        work += sum(its.blocks[step.capability].loads_s for step in steps if step.capability in its.blocks)
        work += sum(self.transfers.longest(size) for step in steps for size in (step.reads, *step.inputs.values()))
        work += sum(self.transfers.longest(run.makes(key)) for run in self.runs for key in run.workflow.steps)
        last = max(
            0.0,
            *(workflow.arrives for workflow in its.workflows),
            *(fault.until for fault in its.faults),
            *(one.at for one in its.changes),
        )
        slowest = max((fault.amount for fault in its.faults if fault.kind is FaultKind.NODE_SLOW), default=1.0)
        nodes = [node for domain in its.topology.domains for cluster in domain.clusters for node in cluster.groups]
        come = sum(max(r.boot_s, r.give_up_s) + r.after_s for node in nodes if (r := node.autoscale) is not None)
        return last + come + (2 + max(1.0, slowest)) * work * math.exp(its.noise) + GRACE_S

    def _afterwards(self) -> None:
        """Nothing that was granted is held for ever."""
        self.engine.run(self.engine.now + LEASE_S)
        for cluster in self.clusters.values():
            if cluster.governor is not None:
                self.check(cluster.governor)
                held = cluster.governor.snapshot().leases
                if held:
                    self.violated(f"{cluster.name} holds {len(held)} leases though no run is left")

    # For the runs -----------------------------------------------------------------------------------------------

    def find(self, ask: Ask) -> tuple[tuple[Place, ...], tuple[tuple[str, Refusal], ...]]:
        """What the registries would answer; the same while no cluster comes or goes."""
        key = (ask.capability, ask.data_class)
        if key not in self._answers:
            self._answers[key] = self._find(ask)
        return self._answers[key]

    def unheard(self, domain: str) -> frozenset[str]:
        """Whose registries do not answer it now."""
        if not self.wire.is_cut_somewhere:
            return _NOBODY
        return frozenset(one for one in self._handles if not self.wire.reaches(domain, one))

    def _find(self, ask: Ask) -> tuple[tuple[Place, ...], tuple[tuple[str, Refusal], ...]]:
        places, rejected = [], []
        for cluster in self.clusters.values():
            handles = self._handles[cluster.domain]
            if ask.capability not in self._offers[cluster.domain]:
                text = f"{cluster.domain} does not offer {ask.capability}"
                todo = f"name it under `blocks` of a domain that is to take it, or ask for one of {self._offered}"
                rejected.append((cluster.name, Refusal("ras.no_capability", text, "registry", todo)))
            elif not ask.data_class.within(handles):
                text = f"{cluster.domain} handles {handles} at most, the data is {ask.data_class}"
                rejected.append((cluster.name, Refusal("ras.domain_class", text, "registry")))
            elif cluster.governor is not None:
                places.append(Place(cluster.name, cluster.domain, slots=cluster.slots))
        return tuple(places), tuple(rejected) if len(rejected) == len(self.clusters) else ()

    def begins(self, run: SimRun) -> None:
        """Its first process is there."""
        self._last_of.setdefault((run.domain, run.workflow.job or run.name), deque(maxlen=LAST_RUNS)).append(run)

    def took(self, run: SimRun) -> dict[str, float]:
        """Seconds that its steps take, by op, as far as is known when a process of it begins."""
        if self.scenario.known is Known.DECLARED:
            return by_op([{key: its.seconds for key, its in run.workflow.steps.items()}])
        return by_op(its.ledger.took for its in self._last_of[run.domain, run.workflow.job or run.name])

    def made(self, run: SimRun) -> dict[tuple[str, str], Made]:
        """Bytes that its steps make, by op, as far as is known when a process of it begins."""
        if self.scenario.known is Known.DECLARED:
            found = by_op([{key: self.transfers.told(run.makes(key)) for key in run.workflow.steps}])
        else:
            found = by_op(its.ledger.made for its in self._last_of[run.domain, run.workflow.job or run.name])
        return {(op, OUTPUT): Made(size, size) for op, size in found.items() if size}

    def _wall(self) -> float:
        """What clocks show now."""
        if self.clock_off_s:
            self.met(FaultKind.CLOCK_SET, "")
        return BEGAN_AT + self.engine.now + self.clock_off_s

    @property
    def _offered(self) -> str:
        return ", ".join(sorted(frozenset[str]().union(*self._offers.values())))

    def noise(self, run: str, step: str, start: int) -> float:
        """By what the step's seconds differ at its start of that number. Nothing else decides it, so the same workflows take
        the same on any machines."""
        spread = self.scenario.noise
        if not spread:
            return 1.0
        drawn = hashlib.blake2b(f"{self.scenario.seed}\n{run}\n{step}\n{start}".encode(), digest_size=8).digest()
        return math.exp(spread * (int.from_bytes(drawn) / 2**63 - 1.0))

    def check(self, governor: Any) -> None:
        """Its invariants, where they are to be checked at all."""
        try:
            governor.validate()
        except AssertionError as error:
            self.violated(f"{type(governor).__name__}: {error or 'an invariant is broken'}")

    def violated(self, text: str) -> None:
        self._found.append(f"at {self.engine.now:.3f} s: {text}")

    def record(self, kind: str, run: str, step: str, fence: int, where: str) -> None:
        self._hash.update(f"{self.engine.now:.6f} {kind} {run} {step} {fence} {where}\n".encode())
        if kind != "start":
            self._commits += 1
            if self._commits % 1_000 == 0:
                self._tell(self.engine.now, self._commits, self._steps)

    def one_is_over(self) -> None:
        self._open -= 1
        if not self._open:
            self.engine.stop()

    # What runs learn of clusters --------------------------------------------------------------------------------

    def _lost(self, cluster: SimCluster) -> None:
        self._tell_runs(cluster, flow.ClusterLost(cluster.name, "its Dask scheduler went away"), False)

    def back(self, cluster: SimCluster) -> None:
        self._tell_runs(cluster, flow.ClusterBack(cluster.name), True)

    def _tell_runs(self, cluster: SimCluster, event: flow.Event, back: bool) -> None:
        """Each that is there learns of it at its next probe."""
        self._answers.clear()
        for process in (one for run in self.runs for one in run.processes):
            self.engine.after(self._rng.uniform(0.02, PROBE_S), self._tell_if, process, cluster, event, back)

    def _tell_if(self, process: SimProcess, cluster: SimCluster, event: flow.Event, back: bool) -> None:
        """A probe sees what is there now, not what was there when something happened."""
        reachable = cluster.governor is not None and self.wire.reaches(process.domain, cluster.domain)
        if reachable or not back:
            process.take(event)
            if not back and reachable:
                # It came back before it was missed: what ran there is lost all the same.
                process.take(flow.ClusterBack(cluster.name))

    # Faults -----------------------------------------------------------------------------------------------------

    def owner_of(self, node: str) -> SimCluster:
        return next(cluster for cluster in self.clusters.values() if node in cluster.nodes)

    def run_named(self, name: str) -> SimRun:
        return self._by_name[name]

    def met(self, kind: FaultKind, target: str) -> None:
        """A fault of that kind at that target has met something, if there is one."""
        self.met_by[kind, target] += 1

    def _hit(self, kind: FaultKind, leases: Iterable[Lease | LeaseRequest], since: float | None = None) -> None:
        self.recoveries.hit(kind, leases, self.engine.now, since)

    def began(self, run: SimRun, lease: Lease) -> None:
        """A node has begun a step. It dies of it, if that is poisoned."""
        self.recoveries.began(lease, self.engine.now)
        target = f"{run.name}|{lease.step}"
        if self.poisoned[target] <= 0:
            return
        self.met(FaultKind.POISON, target)
        self._victims[run.ledger.epoch, target] += 1
        if self._victims[run.ledger.epoch, target] > MAX_LOSSES + 1:  # one may be of a copy
            self.violated(f"{run.name}/{lease.step} took down {self._victims[run.ledger.epoch, target]} nodes")
        cluster = self.clusters[lease.cluster]
        its_block = self.scenario.blocks.get(lease.capability)
        dies_s = self._rng.uniform(*TOLD_S)
        if its_block is not None and its_block.isolate is Isolate.PROCESS:
            self.engine.after(dies_s, cluster.crash_replica, lease)
        else:
            self.engine.after(dies_s, self._dies_of_it, cluster, lease.node)

    def _judges(self, run: str, step: str) -> bool:
        """Is it a step that goes wherever its data may go, which does not wait by choice, and has some reachable cluster room
        for it now?"""
        its = self._by_name[run]
        asks = its.workflow.steps[step]
        if asks.gang or asks.resources or asks.near or asks.apart or self._limited:
            return False
        if asks.capability in self.scenario.blocks:
            return False  # it begins when a replica has loaded, and room there
        if its.process is not None and its.process.governor.chooses_to_wait(step):
            return False
        return any(
            cluster.room > 0
            and asks.capability in self._offers[cluster.domain]
            and asks.data_class.within(self._handles[cluster.domain])
            for cluster in self.clusters.values()
            if self.wire.reaches(its.domain, cluster.domain)
        )

    def _dies_of_it(self, cluster: SimCluster, node: str) -> None:
        cluster.kill_node(node)
        self.engine.after(RESTART_S, cluster.start_node, node)

    def _strike(self, fault: Fault) -> None:
        deed = DEEDS[fault.kind]
        before = deed.met(self, fault)
        self.engine.after(fault.lasts, self._over, fault, before)
        if any(run.process is not None for run in self.runs):
            self._under_way[fault] = before
        self.recoveries.strikes(fault)
        deed.begin(self, fault)

    def _over(self, fault: Fault, before: int) -> None:
        DEEDS[fault.kind].end(self, fault)
        self.recoveries.over(fault, self.engine.now)
        self._count(fault)

    def _count(self, fault: Fault) -> None:
        """It counts where it met something while a run was under way."""
        before = self._under_way.pop(fault, None)
        if before is not None and DEEDS[fault.kind].met(self, fault) > before:
            self._met[str(fault.kind)] += 1

    def _trust(self, now: float) -> dict[str, dict[str, float]]:
        found = {
            domain: {one.cluster: one.trust for one in its.all(now) if one.trust < 1.0}
            for domain, its in self.standings.items()
        }
        return {domain: clusters for domain, clusters in found.items() if clusters}

    def _report(self, makespan: float) -> Report:
        waits = sorted(wait for run in self.runs for wait in run.waits)
        busy = sum(node.busy_s for cluster in self.clusters.values() for node in cluster.nodes.values())
        slot_s = sum(
            self._there_s[cluster.name, name] * node.spec.slots
            for cluster in self.clusters.values()
            for name, node in cluster.nodes.items()
        )
        hours = {
            (cluster.name, group.name): sum(self._there_s[cluster.name, name] for name in group.members) / 3600
            for cluster in self.clusters.values()
            for group in cluster.spec.groups
        }
        dear = {
            (cluster.name, group.name): group.autoscale.node_hour
            for cluster in self.clusters.values()
            for group in cluster.spec.groups
            if group.autoscale is not None
        }
        by_tenant: dict[str, list[SimRun]] = {}
        for run, workflow in zip(self.runs, self.scenario.workflows, strict=True):
            by_tenant.setdefault(workflow.tenant, []).append(run)
        return Report(
            makespan_s=round(makespan, 6),
            done=sum(len(run.ledger.done) for run in self.runs),
            failed=sum(len(run.ledger.failed) for run in self.runs),
            failures=dict(Counter(refusal.code for run in self.runs for refusal in run.ledger.failed.values())),
            reasons=_reasons(self.runs),
            starts=sum(run.starts.total() for run in self.runs),
            discarded=sum(run.discarded for run in self.runs),
            given_back=sum(run.given_back for run in self.runs),
            utilisation=round(busy / slot_s, 4) if slot_s else 0.0,
            node_hours={"/".join(key): round(its, 4) for key, its in hours.items()},
            node_credits={"/".join(key): round(its * dear[key], 4) for key, its in hours.items()},
            mean_wait_s=_mean(waits),
            p99_wait_s=_p99(waits),
            fairness=self._fairness.index,
            tenants={name: _tenant(its) for name, its in sorted(by_tenant.items())},
            workflows={run.name: round(run.ended - run.began, 6) for run in self.runs if run.over},
            late={
                run.name: round(late, 6)
                for run in self.runs
                if (due := run.workflow.deadline) is not None
                and run.over
                and (late := run.ended - run.workflow.arrives - due) > 0
            },
            spent={run.name: round(run.ledger.spent, 4) for run in self.runs if run.workflow.budget is not None},
            messages=dict(sorted(self.wire.sent.items())),
            messages_lost=self.wire.lost,
            bytes_between=round(self.transfers.between, 3),
            bytes_inside=round(self.transfers.inside, 3),
            events=self.engine.acts,
            faults=dict(sorted(self._met.items())),
            recoveries=self.recoveries.report(),
            trust=self._trust(makespan),
            violations=tuple(self._found),
            digest=self._hash.hexdigest(),
        )


def _offers(scenario: Scenario, domain: DomainSpec) -> frozenset[str]:
    """Own steps, and the blocks that it names. A network of which no domain names any says nothing of who offers what."""
    if not any(one.blocks for one in scenario.topology.domains):
        return frozenset(scenario.capabilities)
    return frozenset({WORK, *domain.blocks})


def _weights(topology: Topology) -> dict[str, float]:
    """Of tenants that are named: by their own weights, and where there are several cohorts by their parts of those. Of a tenant
    that weighs differently from cluster to cluster, the mean."""
    known: dict[str, list[float]] = {}
    for cluster in (cluster for domain in topology.domains for cluster in domain.clusters):
        for cohort in cluster.quotas.cohorts:
            several = len(cluster.quotas.cohorts) > 1
            part = (
                cohort.weight / sum(tenant.weight for tenant in cohort.tenants) if several and cohort.tenants else 1.0
            )
            for tenant in cohort.tenants:
                known.setdefault(tenant.name, []).append(part * tenant.weight)
    return {name: sum(weights) / len(weights) for name, weights in known.items()}


def _tenant(runs: list[SimRun]) -> TenantReport:
    waits = sorted(wait for run in runs for wait in run.waits)
    return TenantReport(
        workflows=len(runs),
        steps=sum(len(run.ledger.done) for run in runs),
        failed=sum(len(run.ledger.failed) for run in runs),
        mean_wait_s=_mean(waits),
        p99_wait_s=_p99(waits),
        slot_s=round(sum(run.slot_s for run in runs), 3),
    )


def _reasons(runs: list[SimRun]) -> dict[str, str]:
    found: dict[str, str] = {}
    for run in runs:
        for step, refusal in run.ledger.failed.items():
            found.setdefault(refusal.code, f"{run.name}/{step} {refusal}")
    return found


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0


def _p99(ordered: list[float]) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 6) if ordered else 0.0
