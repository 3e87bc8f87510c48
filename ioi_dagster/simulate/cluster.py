"""A simulated cluster: the real cluster and node governors before nodes that run nothing but time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ioi_dagster.governors import node as of_node
from ioi_dagster.governors.autoscale_messages import groups_of
from ioi_dagster.governors.block_messages import BatchEnd
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
from ioi_dagster.governors.liveness import CUT_OFF_S
from ioi_dagster.governors.node import FENCE_GRACE_S, NOTHING_NEW_AT, Refuse, StartAsked, StopAll
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Lease,
    RejectedRequest,
    ReleaseRequest,
)
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from ioi_dagster.model.topology import ClusterSpec, NodeSpec
from ioi_dagster.signing import Signed
from ioi_dagster.simulate import lies
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.node import CONTACT_TTL_S, STILL, WAITED_FOR, Running, SimNode, Start
from ioi_dagster.simulate.replicas import Call, Replicas, SimReplicas
from ioi_dagster.simulate.timing import RESTART_S, STOPPED_S, TOLD_S
from ioi_dagster.simulate.watch import SimWatch

REPORT_S = 1.0


class SimCluster:
    """Times are seconds of the simulation."""

    def __init__(
        self,
        engine: Engine,
        rng: random.Random,
        domain: str,
        spec: ClusterSpec,
        offers: frozenset[str],
        blocks: Mapping[str, Replicas],
    ) -> None:
        """`blocks`: those of `offers` that have replicas."""
        self._engine, self._rng, self.domain, self.spec = engine, rng, domain, spec
        self.name, self._offers, self._quotas = spec.name, offers, spec.quotas
        self._blocks = blocks
        self.governor: ClusterGovernor | None = None
        self.epoch = 0
        self.nodes = {name: SimNode(node, spec.name, offers) for name, node in spec.members().items()}
        self._wanted: dict[str, tuple[WantNodes, float]] = {}
        """By group of nodes that come and go, those that its governor wants, and when it said so."""
        self._waiting: dict[tuple[str, int, str], Callable[[Any], None]] = {}
        """Whom to answer whose announcements wait for room."""
        self.mute = self.liar = self.lavish = self.full_disk = 0
        self.late_s = 0.0
        self.dies_granting = 0
        """It dies as soon as it has granted something."""
        self._frozen, self._frozen_epoch = 0, 0
        """So many faults have its process of that epoch stand still."""
        self._unread: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What has come for a process that stands still."""
        self._orphan: tuple[ClusterGovernor, list[tuple[Any, Callable[[Any], None]]]] | None = None
        """The governor of a process that stood still until another took its place, and what it was asked before that."""
        self.met: Callable[[FaultKind, str], None] = lambda *_: None
        """A fault of that kind, at that target, has met something."""
        self.hit: Callable[..., None] = lambda *_: None
        """What was started under these leases was hit by a fault of that kind; and since when it waits, if it only waits."""
        self.read_permit: Callable[[Signed, Lease], StepPermit | Refusal] = _no_permits
        self.violated: Callable[[str], None] = lambda _: None
        self.check: Callable[[Any], None] | None = None
        """Called after each event that a governor of it took."""
        self._watch = self._new_watch()
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
            self.domain,
            self.name,
            self.epoch,
            self.spec.price,
            quotas=self._quotas,
            expected=map(self._joined, self.spec.always),
            groups=groups,
        )
        for node in self.spec.always:
            self.start_node(node.name)
        for want, told_at in list(self._wanted.values()):
            past_s = self._engine.now - told_at
            spent = tuple((age_s + past_s, amount) for age_s, amount in want.spent)
            self._handle(WantedFound(want.group, want.nodes, spent, past_s))
            self._boot(want)
        self._engine.after(REPORT_S, self._report, self.epoch)
        self.told_of_return(self)

    def _new_watch(self) -> SimWatch:
        return SimWatch(self._engine, self.nodes, self._suspect, self._evict, self._checked)

    def _checked(self, governor: Any) -> None:
        if self.check is not None:
            self.check(governor)

    def kill(self) -> None:
        """The scheduler with all its workers, as a supervisor does it: a worker without its scheduler is of no use."""
        if self.governor is None:
            return
        if self._is_used():
            self.met(FaultKind.SCHEDULER_KILLED, self.name)
            self.hit(FaultKind.SCHEDULER_KILLED, self._sent())
        self.governor = None
        self._waiting.clear()
        self._unread.clear()
        self._watch = self._new_watch()
        for node in self.nodes.values():
            node.end(self._engine.now)
            node.counted = False
            node.sent = {}
        self.told_of_loss(self)

    def _sent(self) -> list[Lease]:
        return [start.lease for node in self.nodes.values() for start in node.sent.values()]

    @property
    def room(self) -> int:
        """Slots that nothing was sent to, of nodes that take something; none where it does not keep its word."""
        if self.governor is None or self.still or self.mute or self.liar or self.late_s or self.full_disk:
            return 0
        well = [
            node for node in self.nodes.values() if node.counted and node.in_contact and not (node.full or node.suspect)
        ]
        return sum(node.spec.slots - len(node.sent) for node in well)

    def _is_used(self) -> bool:
        """Somebody waits for it, or for what runs there."""
        return bool(self._waiting) or any(node.sent for node in self.nodes.values())

    def restart(self) -> None:
        """Its supervisor has started another process, if there is none."""
        if self.governor is None:
            self.start()

    def freeze(self) -> None:
        """Its process is stopped."""
        self._frozen += 1
        if self._is_used():
            self.met(FaultKind.SCHEDULER_FROZEN, self.name)
            self.hit(FaultKind.SCHEDULER_FROZEN, self._sent())
        if self._frozen == 1:
            self._frozen_epoch, self._watch.still = self.epoch, True
            self._engine.after(STOPPED_S, self._replace, self.epoch)

    def _replace(self, epoch: int) -> None:
        """It has stood still for too long: another process takes its place. Should the first ever go on, it answers."""
        if not self.still or self.governor is None or epoch != self.epoch:
            return
        asked = [arguments for act, arguments in self._unread if act == self.asked]
        self._orphan = self.governor, [(message, answer) for message, answer in asked]
        self.kill()
        self._engine.after(RESTART_S, self.restart)

    def thaw(self) -> None:
        """It goes on, with what has come meanwhile."""
        self._frozen -= 1
        if self._frozen:
            return
        self._watch.still = False
        unread, self._unread = self._unread, []
        for act, arguments in unread:
            act(*arguments)
        orphan, self._orphan = self._orphan, None
        if orphan is not None:
            governor, asked = orphan
            for message, answer in asked:
                for item in governor.handle(message, self._engine.now):
                    if isinstance(item, Reply) and item.waited is None:
                        self._answer(item.answer, answer)

    @property
    def still(self) -> bool:
        """Its process is stopped. One that took the place of another is not."""
        return self._frozen > 0 and self._frozen_epoch == self.epoch and self.governor is not None

    def _stands_still(self, act: Callable[..., None], *arguments: Any) -> bool:
        """Then it is read later, if at all."""
        if not self._frozen or not self.still:
            return False
        self.met(FaultKind.SCHEDULER_FROZEN, self.name)
        self._unread.append((act, arguments))
        return True

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
        """A process of it begins, where one is to be there, and joins if it gets through."""
        node = self.nodes[name]
        if self.governor is None or node.there or not self._runs(name) or not (node.heard and node.hears):
            return
        if node.counted:
            self._left(node, "its node was replaced")
        node.begin(self._engine.now)
        if self._blocks:
            told = partial(self._warm_changed, node, node.life)
            node.replicas = SimReplicas(self._engine, name, self._blocks, lambda: node.moves, told, self._checked)
        self._handle(self._joined(node.spec))
        self._report_node(node)

    def _joined(self, spec: NodeSpec) -> NodeJoined:
        return NodeJoined(spec.name, spec.slots, self._offers, spec.besides_slots)

    def kill_node(self, name: str) -> None:
        """Its process. Where its machine is reached, its scheduler sees that at once."""
        node = self.nodes[name]
        if not node.there:
            return
        if node.sent:
            self.met(FaultKind.NODE_KILLED, name)
            self.hit(FaultKind.NODE_KILLED, [start.lease for start in node.sent.values()])
        node.end(self._engine.now)
        if node.counted and node.heard:
            self._left(node, "its worker died")

    def _left(self, node: SimNode, why: str) -> None:
        """Its scheduler does not count on it any more, and tells whose steps it had."""
        sent, node.sent, node.counted = node.sent, {}, False
        self._watch.forget(node.spec.name)
        if self.governor is not None:
            self._handle(NodeLeft(node.spec.name))
        for start in sent.values():
            self._engine.after(self._rng.uniform(*TOLD_S), start.lost, why, Cause.NODE_LOST)

    def _suspect(self, name: str, suspect: bool) -> None:
        self.nodes[name].suspect = suspect
        self._report_node(self.nodes[name])

    def _evict(self, name: str, why: str) -> None:
        """It is given up. Its witness ends its process, if that is reached; where it is not, what runs there runs on."""
        node = self.nodes[name]
        kinds = {fault.kind for fault in node.impaired}
        if kinds == {FaultKind.INTERPRETER_HELD} and self._engine.now - node.mended_at > CUT_OFF_S:
            self.violated(f"{name} was evicted though its step merely held the interpreter: {why}")
        self._left(node, why)
        if node.witnessed:
            node.end(self._engine.now)
            self._engine.after(RESTART_S, self.start_node, name)

    def impair(self, fault: Fault) -> None:
        """One of the faults that stand between a node and its scheduler begins."""
        node = self.nodes[fault.target]
        if node.sent:
            self.met(fault.kind, fault.target)
        if node.sent and fault.kind not in WAITED_FOR:
            self.hit(fault.kind, [start.lease for start in node.sent.values()])
        node.touch(self._engine.now)
        node.impaired.append(fault)
        self._watch.look_at(fault.target)
        wait_s = CONTACT_TTL_S + FENCE_GRACE_S
        self._engine.after(wait_s, self._fence_off, node, node.life)

    def mend(self, fault: Fault) -> None:
        node = self.nodes[fault.target]
        if fault not in node.impaired:
            return  # its process ended before that
        if fault.kind in WAITED_FOR and node.counted:
            now = self._engine.now
            overdue = [its.lease for its in node.running.values() if fault.at < its.since + its.seconds <= now]
            untold = [start.lease for key, start in node.sent.items() if key in node.outbox]
            self.hit(fault.kind, [*overdue, *untold], fault.at)
        node.impaired.remove(fault)
        node.mended_at = self._engine.now
        if node.there and node.moves:
            self._fence_off(node, node.life)
            if node.replicas is not None:
                node.replicas.go_on()
            own = [(key, its) for key, its in node.running.items() if not its.call]
            for key, its in own if fault.kind in STILL else ():
                # What it had left when it stood still cannot be less than nothing.
                left = max(0.0, its.since + its.seconds - self._engine.now)
                self._engine.after(left, self._end, node, node.life, key, its)
        if node.in_contact and not node.counted:
            # It hears that it was given up, and makes way for another process.
            node.end(self._engine.now)
            self._engine.after(RESTART_S, self.start_node, fault.target)
        elif node.there:
            self._pass(node)
        else:
            self.start_node(fault.target)

    def _pass(self, node: SimNode) -> None:
        """What waited on the way to it, or from it."""
        while node.hears and node.inbox:
            node.inbox.pop(0)()
        while node.moves and node.heard and node.outbox:
            node.outbox.pop(next(iter(node.outbox)))()

    def _fence_off(self, node: SimNode, life: int) -> None:
        """A node without contact stops what it runs when the leases of that have run out."""
        if node.life != life or not node.there or not node.moves:
            return
        node.touch(self._engine.now)
        for item in node.governor.handle(of_node.Tick(), self._engine.now):
            if isinstance(item, StopAll):
                stopped, node.running = node.running, {}
                for key, its in stopped.items():
                    node.give_up(its)
                    self._say(node, key, its.start.lost, item.why, Cause.LEASE_LOST)

    def _say(self, node: SimNode, key: str, tell: Callable[..., None], *arguments: Any) -> None:
        """What became of a start, told to its run by way of the scheduler."""
        if node.heard:
            self._heard(node, node.life, key, tell, arguments)
        else:
            node.outbox[key] = lambda life=node.life: self._heard(node, life, key, tell, arguments)

    def _heard(self, node: SimNode, life: int, key: str, tell: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._stands_still(self._heard, node, life, key, tell, arguments):
            return
        if node.life == life and node.counted and node.sent.pop(key, None) is not None:
            tell(*arguments)

    def slow_node(self, name: str, times: float) -> None:
        """What begins there from now on takes so many times as long."""
        self.nodes[name].slow.append(times)

    def hurry_node(self, name: str, times: float) -> None:
        """That is over."""
        self.nodes[name].slow.remove(times)

    def fill_node(self, name: str, by: int) -> None:
        node = self.nodes[name]
        node.full += by
        if node.counted:
            self.met(FaultKind.NODE_FULL, name)
        self._report_node(node)

    def _report_node(self, node: SimNode) -> None:
        if node.counted and self.governor is not None:
            name, closed, warm = node.spec.name, node.suspect, self._offers
            if node.replicas is not None:
                warm = warm - self._blocks.keys() | node.replicas.warm
            self._handle(NodeReported(name, warm, node.memory, closed=closed, speed=node.spec.speed))

    def _warm_changed(self, node: SimNode, life: int) -> None:
        """Its scheduler hears of it when it hears of the node."""
        if node.life != life or not node.counted:
            return
        if node.heard and not self.still:
            self._report_node(node)
        else:
            self._engine.after(REPORT_S, self._warm_changed, node, life)

    def _report(self, epoch: int) -> None:
        if self.governor is None or epoch != self.epoch:
            return
        if not self.still:
            self._handle(Tick())
        self._engine.after(REPORT_S, self._report, epoch)

    # What is asked of it ----------------------------------------------------------------------------------------

    def asked(self, message: Any, answer: Callable[[Any], None]) -> None:
        """A message has come; `answer` is called when its answer leaves, and not at all where none does."""
        if self._stands_still(self.asked, message, answer):
            return
        if self.governor is None or self.mute:
            if self.mute:
                self.met(FaultKind.MUTE, self.name)
                self.hit(FaultKind.MUTE, message.requests if isinstance(message, Award) else ())
            return
        if isinstance(message, Announce):
            # A liar has room, and need not wait for it.
            message = replace(message, wait_s=0.0) if self.liar else message
            self._waiting.pop((message.run, message.round, message.origin), None)
        told = self._handle(message)
        if isinstance(message, Announce) and told is None:
            self._waiting[message.run, message.round, message.origin] = answer
            return
        if self.governor is None:
            return  # it died of it
        if self.liar:
            self.met(FaultKind.LIAR, self.name)
            self.hit(FaultKind.LIAR, message.requests if isinstance(message, Award) else ())
            told = lies.for_nothing(message, told)
        self._answer(told, answer)

    def withdrawn(self, event: Withdrawn) -> None:
        """Nobody hears the answer to that announcement any more."""
        if self._stands_still(self.withdrawn, event):
            return
        if self.governor is not None:
            self._handle(event)
            self._waiting.pop((event.run, event.round, event.origin), None)

    def _answer(self, told: Any, answer: Callable[[Any], None]) -> None:
        if self.lavish and isinstance(told, Awarded):
            if told.leases:
                self.met(FaultKind.OVERGRANTS, self.name)
            told = lies.too_many(told)
        if self.late_s:
            self.met(FaultKind.LATE, self.name)
            self._engine.after(self.late_s, answer, told)
        else:
            answer(told)

    def change_quotas(self, tree: QuotaTree) -> None:
        """Its owner has saved others: a process that starts later has them too."""
        self._quotas = tree
        self._heed_quotas()

    def _heed_quotas(self) -> None:
        if not self._stands_still(self._heed_quotas) and self.governor is not None:
            self._handle(QuotasChanged(self._quotas))

    def _handle(self, event: Any) -> Any:
        """Perform what the governor wants done; returns what it answers."""
        assert self.governor is not None
        answer: Any = None
        instructions = self.governor.handle(event, self._engine.now)
        self._checked(self.governor)
        for item in instructions:
            if isinstance(item, Reply) and item.waited is not None:
                waits = self._waiting.pop(item.waited, None)
                if waits is not None and not self.mute:
                    self._answer(item.answer, waits)
            elif isinstance(item, Reply):
                answer = self._written(item)
            elif isinstance(item, WantNodes):
                self._want(item)
            elif isinstance(item, StopStep):
                self._engine.after(self._rng.uniform(*TOLD_S), self._stop, item.lease, item.why)
            elif isinstance(item, StopAbandoned):
                self._engine.after(self._rng.uniform(*TOLD_S), self._stop_abandoned, item.lease, item.why)
        return answer

    def _written(self, reply: Reply) -> Any:
        """What is granted stands in the lease journal before anybody hears of it; what cannot be written is not granted."""
        if not reply.granted:
            return reply.answer
        if self.dies_granting:
            self.met(FaultKind.GOVERNOR_RESTARTED, self.name)
            self.hit(FaultKind.GOVERNOR_RESTARTED, reply.granted)
            self.kill()
            self._engine.after(RESTART_S, self.restart)
            return None
        if not self.full_disk or not isinstance(reply.answer, Awarded):
            return reply.answer
        self.met(FaultKind.DISK_FULL, self.domain)
        ids = tuple(lease.id for lease in reply.granted)
        self._handle(ReleaseRequest(reply.granted[0].run, ids, origin=reply.granted[0].origin))
        no = Refusal("cluster.journal", "the cluster's lease journal cannot be written", self.name)
        rejected = tuple(RejectedRequest(lease.step, lease.fence, no) for lease in reply.granted)
        kept = tuple(lease for lease in reply.answer.leases if lease.id not in ids)
        return replace(reply.answer, leases=kept, rejected=(*reply.answer.rejected, *rejected))

    def _at_node(self, name: str, act: Callable[[], None]) -> None:
        """Once it hears it."""
        node = self.nodes[name]
        if node.hears:
            act()
        elif node.there:
            node.inbox.append(act)

    def _stop(self, lease: Lease, why: str) -> None:
        self._at_node(lease.node, lambda: self._stopped(lease, why))

    def _stopped(self, lease: Lease, why: str) -> None:
        node = self.nodes[lease.node]
        if (its := node.running.pop(lease.key, None)) is not None:
            node.give_up(its)
            self._say(node, lease.key, its.start.lost, why, Cause.LEASE_LOST)

    def _stop_abandoned(self, lease: Lease, why: str) -> None:
        def stopped() -> None:
            self._stopped(lease, why)
            if self.governor is not None:
                self._handle(AbandonedStopped(lease.id))

        self._at_node(lease.node, stopped)

    def start_step(
        self, lease: Lease, seconds: float, moves_s: float, start: Start, permit: Signed | None = None
    ) -> None:
        """A start has come, of something that takes so many seconds at speed 1, and `moves_s` for what it reads and makes."""
        if self._stands_still(self.start_step, lease, seconds, moves_s, start, permit):
            return None
        node = self.nodes.get(lease.node)
        if node is None or not node.counted or self.governor is None:
            return start.lost("its worker was not there", Cause.NODE_LOST)
        if lease.key in node.sent:
            return None  # the message came twice; Dask takes a key once
        node.sent[lease.key] = start
        life = node.life
        self._at_node(lease.node, lambda: self._asked_to_start(node, life, lease, seconds, moves_s, start, permit))

    def _asked_to_start(
        self,
        node: SimNode,
        life: int,
        lease: Lease,
        seconds: float,
        moves_s: float,
        start: Start,
        permit: Signed | None,
    ) -> None:
        if node.life != life or lease.key not in node.sent:
            return  # cancelled, or it was for a process that is gone
        now = self._engine.now
        node.touch(now)
        request = StartRequest("block", lease, None, lease.capability, b"")
        read = None if permit is None else self.read_permit(permit, lease)
        (decision,) = node.governor.handle(StartAsked(request, read, node.memory), now)
        self._checked(node.governor)
        if isinstance(decision, Refuse):
            self._say(node, lease.key, start.ended, "", 0.0, decision.refusal)
            return
        if node.out_s(now) >= NOTHING_NEW_AT * CONTACT_TTL_S:
            self.violated(f"{node.spec.name} began {lease.step} after {node.out_s(now):.1f} s without contact")
        node.attempts += 1
        if node.slow:
            self.met(FaultKind.NODE_SLOW, node.spec.name)
        works_s = seconds * max(node.slow, default=1.0) / node.spec.speed
        its = Running(lease, f"{lease.node}.{node.life}.{node.attempts}", moves_s + works_s, now, start)
        node.running[lease.key] = its
        if node.replicas is not None and node.replicas.offers(lease.capability):
            self._call(node, node.replicas, its, moves_s, works_s)
            return
        start.begun(lease)
        self._engine.after(its.seconds, self._end, node, node.life, lease.key, its)

    def _call(self, node: SimNode, replicas: SimReplicas, its: Running, moves_s: float, works_s: float) -> None:
        """A step of a block: it has its slot while it waits for a replica too."""
        now, key = self._engine.now, its.lease.key
        its.seconds = float("inf")

        def begun() -> None:
            its.seconds = self._engine.now - now + works_s
            its.start.begun(its.lease)

        def over() -> float:
            del node.running[key]
            took = self._engine.now - now
            node.busy_s += took
            return took

        def ended(end: BatchEnd) -> None:
            took = over()
            if end is BatchEnd.DONE:
                self._say(node, key, its.start.ended, its.attempt, took, None)
            else:
                why = f"the replica of {its.lease.capability} was lost during the call"
                self._say(node, key, its.start.lost, why, Cause.NODE_ERROR)

        def refused(refusal: Refusal) -> None:
            over()
            self._say(node, key, its.start.ended, "", 0.0, refusal)

        its.call = replicas.call(Call(its.lease.capability, works_s, begun, ended, refused), moves_s)

    def crash_replica(self, lease: Lease) -> None:
        """That which runs what was started under the lease, if one does."""
        node = self.nodes[lease.node]
        its = node.running.get(lease.key)
        if its is not None and node.replicas is not None:
            node.replicas.crash(its.call)

    def cancel(self, node: str, key: str) -> None:
        """What was sent there under that key is not wanted any more."""
        if self._stands_still(self.cancel, node, key):
            return
        its = self.nodes.get(node)
        if its is not None and its.sent.pop(key, None) is not None:
            self._at_node(node, lambda: self._cancelled(its, key))

    def _cancelled(self, node: SimNode, key: str) -> None:
        if (its := node.running.pop(key, None)) is not None:
            node.give_up(its)

    def _end(self, node: SimNode, life: int, key: str, its: Running) -> None:
        if node.life != life or not node.moves or node.running.get(key) is not its:
            return
        del node.running[key]
        node.busy_s += its.seconds
        self._say(node, key, its.start.ended, its.attempt, its.seconds, None)


def _no_permits(_permit: Signed, _lease: Lease) -> Refusal:
    return Refusal("permit.signature", "nobody issues permits here", "permit check")
