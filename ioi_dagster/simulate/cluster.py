"""A simulated cluster: the real cluster and node governors before nodes that run nothing but time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ioi_dagster.governors.autoscale_messages import groups_of
from ioi_dagster.governors.cluster import (
    AbandonedStopped,
    ClusterGovernor,
    NodeJoined,
    NodeLeft,
    NodeReported,
    QuotasChanged,
    Reply,
    StopAbandoned,
    StopStep,
    Tick,
    WantedFound,
    WantNodes,
    Withdrawn,
)
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import NodeGovernor, Refuse, StartAsked
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, Lease, RejectedRequest, SupplyPoint
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.model.topology import ClusterSpec, NodeSpec
from ioi_dagster.simulate.engine import Engine

BEAT_S = 1.0


class Start(Protocol):
    """A step that was sent to a node, as its run knows it. One of `ended` and `lost` is called, or, where nobody can know, none
    of them."""

    def begun(self) -> None:
        """Its code begins."""
        ...

    def ended(self, attempt: str, took: float, refusal: Refusal | None) -> None:
        """It was answered: after how many seconds, or with the node's refusal."""
        ...

    def lost(self, why: str, cause: Cause) -> None: ...


@dataclass(slots=True)
class _Running:
    lease: Lease
    attempt: str
    seconds: float
    since: float
    start: Start


@dataclass(slots=True)
class SimNode:
    """One worker. `life` counts its processes: what was to end in an earlier one does not."""

    spec: NodeSpec
    cluster: str
    offers: frozenset[str]
    life: int = 0
    there: bool = False
    frozen: int = 0
    full: int = 0
    slow: list[float] = field(default_factory=list)
    """So many times as long it takes for what begins there: the longest of these counts."""
    running: dict[str, _Running] = field(default_factory=dict)
    governor: NodeGovernor | None = None
    attempts: int = 0
    busy_s: float = 0.0
    since: float = 0.0
    was_there_s: float = 0.0
    """Until it was gone last."""

    @property
    def memory(self) -> float:
        """How full it is."""
        return 1.0 if self.full else 0.0

    def there_s(self, now: float) -> float:
        """How long it has been there in all."""
        return self.was_there_s + (now - self.since if self.there else 0.0)

    def end(self, now: float) -> None:
        self.was_there_s, self.there = self.there_s(now), False
        self.running = {}
        self.life += 1

    def begin(self, now: float) -> None:
        self.was_there_s, self.since = self.there_s(now), now
        self.life, self.there, self.frozen = self.life + 1, True, 0
        self.governor = NodeGovernor(self.spec.name, self.cluster, self.offers, governed=False)


class SimCluster:
    """Times are seconds of the simulation."""

    def __init__(
        self, engine: Engine, rng: random.Random, domain: str, spec: ClusterSpec, offers: frozenset[str]
    ) -> None:
        self._engine, self._rng, self.domain, self.spec = engine, rng, domain, spec
        self.name, self._offers = spec.name, offers
        self.governor: ClusterGovernor | None = None
        self.epoch = 0
        self.nodes = {name: SimNode(node, spec.name, offers) for name, node in spec.members().items()}
        self._wanted: dict[str, tuple[WantNodes, float]] = {}
        """By group of nodes that come and go, those that its governor wants, and when it said so."""
        self._waiting: dict[tuple[str, int, str], Callable[[Any], None]] = {}
        """Whom to answer whose announcements wait for room."""
        self.mute = self.liar = self.lavish = 0
        self.late_s = 0.0
        self.check: Callable[[ClusterGovernor], None] | None = None
        """Called after each event that its governor took."""
        self.told_of_loss: Callable[[SimCluster], None] = lambda _: None
        self.told_of_return: Callable[[SimCluster], None] = lambda _: None

    @property
    def slots(self) -> int:
        return sum(node.spec.slots for node in self.nodes.values())

    # Its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.epoch += 1
        groups = groups_of(self.spec, self._offers)
        self.governor = ClusterGovernor(
            self.domain, self.name, self.epoch, self.spec.price, quotas=self.spec.quotas, groups=groups
        )
        for node in self.spec.always:
            self.start_node(node.name)
        for want, told_at in list(self._wanted.values()):
            past_s = self._engine.now - told_at
            spent = tuple((age_s + past_s, amount) for age_s, amount in want.spent)
            self._handle(WantedFound(want.group, want.nodes, spent, past_s))
            self._boot(want)
        self._engine.after(BEAT_S, self._beat, self.epoch)
        self.told_of_return(self)

    def kill(self) -> None:
        """The scheduler with all its workers, as a supervisor does it: a worker without its scheduler is of no use."""
        if self.governor is None:
            return
        self.governor = None
        self._waiting.clear()
        for node in self.nodes.values():
            node.end(self._engine.now)
        self.told_of_loss(self)

    def _want(self, want: WantNodes) -> None:
        """Those that are wanted come when they have booted; the others go at once, since nothing runs there."""
        self._wanted[want.group] = want, self._engine.now
        for spec in self.spec.groups:
            for name in spec.members if spec.name == want.group else ():
                if name not in want.nodes:
                    self.kill_node(name)
        self._boot(want)

    def _boot(self, want: WantNodes) -> None:
        boot_s = {spec.name: spec.autoscale.boot_s for spec in self.spec.groups if spec.autoscale is not None}
        for name in want.nodes:
            if not self.nodes[name].there:
                self._engine.after(boot_s[want.group], self.start_node, name)

    def _runs(self, name: str) -> bool:
        """Is it to be there?"""
        always = any(node.name == name for node in self.spec.always)
        return always or any(name in want.nodes for want, _ in self._wanted.values())

    def start_node(self, name: str) -> None:
        node = self.nodes[name]
        if self.governor is None or node.there or not self._runs(name):
            return
        node.begin(self._engine.now)
        self._handle(NodeJoined(name, node.spec.slots, self._offers, node.spec.besides_slots))
        self._handle(NodeReported(name, self._offers, node.memory, speed=node.spec.speed))

    def kill_node(self, name: str) -> None:
        node = self.nodes[name]
        if not node.there:
            return
        running = node.running
        node.end(self._engine.now)
        if self.governor is not None:
            self._handle(NodeLeft(name))
        for its in running.values():
            self._engine.after(self._rng.uniform(0.02, 0.2), its.start.lost, "its worker died", Cause.NODE_LOST)

    def freeze_node(self, name: str) -> None:
        self.nodes[name].frozen += 1

    def thaw_node(self, name: str) -> None:
        node = self.nodes[name]
        node.frozen = max(0, node.frozen - 1)
        if not node.frozen:
            for key, its in list(node.running.items()):
                # What it had left when it stood still cannot be less than nothing.
                left = max(0.0, its.since + its.seconds - self._engine.now)
                self._engine.after(left, self._end, node, node.life, key, its)

    def slow_node(self, name: str, times: float) -> None:
        """What begins there from now on takes so many times as long."""
        self.nodes[name].slow.append(times)

    def hurry_node(self, name: str, times: float) -> None:
        """That is over."""
        self.nodes[name].slow.remove(times)

    def fill_node(self, name: str, by: int) -> None:
        node = self.nodes[name]
        node.full += by
        if node.there and self.governor is not None:
            self._handle(NodeReported(name, self._offers, node.memory, speed=node.spec.speed))

    def _beat(self, epoch: int) -> None:
        if self.governor is None or epoch != self.epoch:
            return
        self._handle(Tick())
        self._engine.after(BEAT_S, self._beat, epoch)

    # What is asked of it ----------------------------------------------------------------------------------------

    def asked(self, message: Any, answer: Callable[[Any], None]) -> None:
        """A message has come; `answer` is called when its answer leaves, and not at all where none does."""
        if self.governor is None or self.mute:
            return
        if isinstance(message, Announce):
            # A liar has room, and need not wait for it.
            message = replace(message, wait_s=0.0) if self.liar else message
            self._waiting.pop((message.run, message.round, message.origin), None)
        told = self._handle(message)
        if isinstance(message, Announce) and told is None:
            self._waiting[message.run, message.round, message.origin] = answer
            return
        self._answer(self._lie(message, told) if self.liar else told, answer)

    def withdrawn(self, event: Withdrawn) -> None:
        """Nobody hears the answer to that announcement any more."""
        if self.governor is not None:
            self._handle(event)
            self._waiting.pop((event.run, event.round, event.origin), None)

    def _answer(self, told: Any, answer: Callable[[Any], None]) -> None:
        if self.lavish and isinstance(told, Awarded):
            seconds = [replace(lease, id=f"{lease.id}/again") for lease in told.leases]
            nobodys = [replace(lease, id=f"{lease.id}/more", step=f"{lease.step}/more") for lease in told.leases]
            told = replace(told, leases=(*told.leases, *seconds, *nobodys))
        if self.late_s:
            self._engine.after(self.late_s, answer, told)
        else:
            answer(told)

    def change_quotas(self, tree: QuotaTree) -> None:
        if self.governor is not None:
            self._handle(QuotasChanged(tree))

    def _handle(self, event: Any) -> Any:
        """Perform what the governor wants done; returns what it answers."""
        assert self.governor is not None
        answer: Any = None
        instructions = self.governor.handle(event, self._engine.now)
        if self.check is not None:
            self.check(self.governor)
        for item in instructions:
            if isinstance(item, Reply) and item.waited is not None:
                waits = self._waiting.pop(item.waited, None)
                if waits is not None and not self.mute:
                    self._answer(item.answer, waits)
            elif isinstance(item, Reply):
                answer = item.answer
            elif isinstance(item, WantNodes):
                self._want(item)
            elif isinstance(item, StopStep):
                self._engine.after(self._rng.uniform(0.02, 0.2), self._stop, item.lease, item.why)
            elif isinstance(item, StopAbandoned):
                self._engine.after(self._rng.uniform(0.02, 0.2), self._stop_abandoned, item.lease, item.why)
        return answer

    def _stop(self, lease: Lease, why: str) -> None:
        node = self.nodes[lease.node]
        if not node.frozen and (its := node.running.pop(lease.key, None)) is not None:
            its.start.lost(why, Cause.LEASE_LOST)

    def _stop_abandoned(self, lease: Lease, why: str) -> None:
        self._stop(lease, why)
        if self.governor is not None and lease.key not in self.nodes[lease.node].running:
            self._handle(AbandonedStopped(lease.id))

    def _lie(self, message: Any, honest: Any) -> Any:
        """Everything is free and for nothing, and none of it is given."""
        if isinstance(message, Announce) and isinstance(honest, Bid):
            points = tuple(
                SupplyPoint(g.capability, g.data_class, g.count, 0.0, g.count, idle=g.idle, part=g.part)
                for g in message.groups
            )
            return replace(honest, points=points, refusals=())
        if isinstance(message, Award) and isinstance(honest, Awarded):
            no = Refusal("cluster.full", "not today", self.name)
            return Awarded(self.name, (), tuple(RejectedRequest(r.step, r.fence, no) for r in message.requests))
        return honest

    def start_step(self, lease: Lease, seconds: float, moves_s: float, start: Start) -> None:
        """A start has come, of something that takes so many seconds at speed 1 once its inputs are there."""
        node = self.nodes.get(lease.node)
        if node is None or not node.there or self.governor is None:
            return start.lost("its worker was not there", Cause.NODE_LOST)
        assert node.governor is not None
        request = StartRequest("block", lease, None, lease.capability, b"")
        (decision,) = node.governor.handle(StartAsked(request, None, node.memory), self._engine.now)
        if isinstance(decision, Refuse):
            return start.ended("", 0.0, decision.refusal)
        if lease.key in node.running:
            return None  # the message came twice; Dask takes a key once
        node.attempts += 1
        seconds = moves_s + seconds * max(node.slow, default=1.0) / node.spec.speed
        its = _Running(lease, f"{lease.node}.{node.life}.{node.attempts}", seconds, self._engine.now, start)
        node.running[lease.key] = its
        start.begun()
        self._engine.after(seconds, self._end, node, node.life, lease.key, its)

    def cancel(self, node: str, key: str) -> None:
        if node in self.nodes:
            self.nodes[node].running.pop(key, None)

    def _end(self, node: SimNode, life: int, key: str, its: _Running) -> None:
        if node.life != life or node.frozen or node.running.get(key) is not its:
            return
        del node.running[key]
        node.busy_s += its.seconds
        its.start.ended(its.attempt, its.seconds, None)
