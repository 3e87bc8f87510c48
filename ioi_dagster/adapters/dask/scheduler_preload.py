"""`dask scheduler --preload`: puts the cluster governor into the scheduler's process, with a door of its own.

The door (`adapters/link/`) is for the domain's own processes: a socket in its folder or a private address, its token, JSON of the
values in `model/`.
Environment: `IOI_DOMAIN_HOME`, `IOI_CLUSTER`, `IOI_STEP_RUNNER` (set: the cluster takes steps).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import dumps
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from ioi_dagster.adapters.dask.cluster_watch import ClusterWatch
from ioi_dagster.adapters.dask.draining import Draining
from ioi_dagster.adapters.dask.node import cancel, drain, end_abandoned, revoke, revoke_all, stop
from ioi_dagster.adapters.dask.orphans import OrphanedCalls
from ioi_dagster.adapters.dask.periodic import Periodic
from ioi_dagster.adapters.dask.replacing import TURN_OP
from ioi_dagster.adapters.dask.scaling import Scaling, source_of
from ioi_dagster.adapters.files.blocks import read_blocks
from ioi_dagster.adapters.files.drains import ALL, DrainFile
from ioi_dagster.adapters.files.lease_journal import JournalFullError, LeaseJournal
from ioi_dagster.adapters.files.orders import OrderFile
from ioi_dagster.adapters.files.wanted import WantedFile
from ioi_dagster.adapters.http.tls import TlsTo
from ioi_dagster.adapters.link.door import Waiting, open_door
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.autoscale_messages import groups_of
from ioi_dagster.governors.cluster import (
    AbandonedStopped,
    ClusterGovernor,
    Expelled,
    LeaseEnded,
    NodeJoined,
    NodeLeft,
    NodeReported,
    NodeResized,
    Ordered,
    QuotasChanged,
    Reply,
    StopAbandoned,
    StopStep,
    Tick,
    WantNodes,
)
from ioi_dagster.governors.turns import Turns
from ioi_dagster.model.negotiation import (
    OWN_STEP,
    Awarded,
    Lease,
    RejectedRequest,
    ReleaseRequest,
)
from ioi_dagster.model.order import Orders, Target
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import NodeSpec

log = logging.getLogger("ioi.cluster")


class ClusterPlugin(SchedulerPlugin):
    """Feeds the governor with workers and requests, performs its instructions."""

    name = "ioi-cluster-governor"

    def __init__(self, scheduler: Scheduler, home: DomainHome, cluster: str) -> None:
        self._scheduler, self._home, self._clock = scheduler, home, SystemClock()
        self._config: DomainConfig = home.config()
        self._address: ClusterAddress = next(item for item in self._config.clusters if item.name == cluster)
        spec = next(item for item in self._config.spec.clusters if item.name == cluster)
        self._cluster, self._quotas, self._read_at = cluster, spec.quotas, home.changed_at()
        self._specs = spec.members()
        blocks = read_blocks(home)
        steps = {OWN_STEP} if os.environ.get("IOI_STEP_RUNNER") else set()
        self._capabilities = frozenset({block.capability for block in blocks} | steps)
        self._journal = LeaseJournal(home.root / f"leases-{cluster}.jsonl", cluster)
        for lease in self._journal.found:
            log.warning("%s (%s of run %s on %s) ended with its governor", lease.id, lease.step, lease.run, lease.node)
        self.governor = ClusterGovernor(
            home.name,
            cluster,
            self._journal.epoch,
            spec.price,
            quotas=spec.quotas,
            expected=map(self._as_joined, spec.always),
            groups=groups_of(spec, self._capabilities),
        )
        source = partial(source_of, cluster, self._address.scheduler)
        self._scaling = Scaling(WantedFile(home.root, cluster), self._clock, spec.groups, source)
        self._may_come = sum(node.autoscale.most for node in spec.groups if node.autoscale is not None)
        for found in self._scaling.found():
            self.governor.handle(found, self._clock.monotonic())
        self._token = home.token()
        self.waiting = Waiting()
        self.turns = Turns()
        self.watch = ClusterWatch(scheduler, self._clock, self._suspicion_changed)
        self.draining = Draining(DrainFile(home.root), cluster)
        self._orders, self._orders_at, self._ordered = OrderFile(home.root), 0, Orders()
        self._names: dict[str, str] = {}
        self._offered: dict[str, int] = {}
        """Slots of nodes that have not always offered all."""
        self._crowded: dict[str, str] = {}
        """Why they do not, by node."""
        self._drained_told: set[str] = set()
        """Nodes that have heard whether they are drained."""
        self._started = False

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask, possibly more than once."""
        if self._started:
            return
        self._started = True
        # Nothing is granted that an owner has ordered otherwise before this process began.
        self.draining.look(self._clock.monotonic())
        self._look_for_orders(self._clock.monotonic())
        self._door = await open_door(self, self._token, self._address.governor)
        for address, state in scheduler.workers.items():
            self._join(address, state.name)
        await self.watch.start()
        scheduler.handlers[TURN_OP] = self._turn
        # The gateway's certificate is for the domain's name, which no name server needs to know.
        where = {self._home.name: urlsplit(self._config.gateway).hostname}
        self._tls = TlsTo(self._home, self._home.name)
        self._client = AsyncHTTPClient(force_instance=True, hostname_mapping=where)
        self._beat = Periodic(self._report, 1.0)
        self._beat.start()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._join(worker, scheduler.workers[worker].name)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        name = self._names.pop(worker, None)
        if name is not None:
            self.watch.left(worker, name)
            self.turns.left(name, worker, self._clock.monotonic())
            self._drained_told.discard(name)
            self._offered.pop(name, None)
            self._crowded.pop(name, None)
        if name is not None and name not in self._names.values():
            self.perform(self.governor.handle(NodeLeft(name), self._clock.monotonic()))

    def _join(self, address: str, name: Any) -> None:
        self._names[address] = str(name)
        self._offered.pop(str(name), None)
        self.watch.joined(address, str(name))
        self.turns.joined(str(name), address)
        joined = self._as_joined(self._specs.get(str(name), NodeSpec(str(name))))
        slots = self._capped(str(name), joined.slots)
        if slots != joined.slots:
            self._offered[str(name)] = slots
        drained = replace(joined, slots=slots, closed=bool(self.draining.why(str(name))))
        self.perform(self.governor.handle(drained, self._clock.monotonic()))

    def _turn(self, node: str, life: str, busy: int, quiet: bool) -> bool:
        """Asked by a node whose code has changed."""
        return self.turns.asks(node, life, busy, quiet, self._clock.monotonic())

    def _as_joined(self, spec: NodeSpec) -> NodeJoined:
        return NodeJoined(spec.name, spec.slots, self._capabilities, spec.besides_slots)

    def request(self, message: Any) -> Any:
        """Handle a negotiation message; the journal is written before the answer is. None where the answer waits: it
        goes to `answered`."""
        return self.perform(self.governor.handle(message, self._clock.monotonic()))

    def perform(self, instructions: list[Any]) -> Any:
        answer: Any = None
        granted: list[Lease] = []
        ended: list[tuple[str, str]] = []
        for instruction in instructions:
            match instruction:
                case Reply(reply, _, waited) if waited is not None:
                    self.waiting.answer(waited, reply)
                case Reply(reply, its_grants):
                    answer = reply
                    granted += its_grants
                case LeaseEnded(lease, why):
                    ended.append((lease.id, why))
                case StopStep(lease, why, ends):
                    self._scheduler.loop.add_callback(self._stop, lease, why, ends)
                case StopAbandoned(lease, why):
                    self._scheduler.loop.add_callback(self._stop_abandoned, lease, why)
                case WantNodes():
                    self._scaling.want(instruction)
        try:
            self._journal.granted(granted)
        except JournalFullError as error:
            answer = self._take_back(answer, granted, error)
        self._journal.ended(ended)
        return answer

    def _take_back(self, answer: Awarded, granted: list[Lease], error: JournalFullError) -> Awarded:
        """What cannot be written down is not granted: nobody has heard of it yet."""
        log.error("%d leases are not granted: %s", len(granted), error)
        ids = tuple(lease.id for lease in granted)
        self.perform(self.governor.handle(ReleaseRequest(granted[0].run, ids), self._clock.monotonic()))
        text = f"the cluster's lease journal cannot be written: {error.why}"
        refusal = Refusal("cluster.journal", text, self._cluster, "make room on the disk of the cluster's domain")
        rejected = tuple(RejectedRequest(lease.step, lease.fence, refusal) for lease in granted)
        kept = tuple(lease for lease in answer.leases if lease.id not in ids)
        return Awarded(answer.cluster, kept, (*answer.rejected, *rejected))

    async def _stop(self, lease: Lease, why: str, ends: bool) -> None:
        """Have the node of `lease` stop its step. A node that does not answer keeps the lease until that runs out."""
        await self._run_at([lease.node], cancel if ends else revoke, lease.node, {lease.key: why})

    def stop_orphan(self, node: str, key: str) -> None:
        """Have the node stop what runs there under that key, whose gateway has gone."""
        self._scheduler.loop.add_callback(self._run_at, [node], stop, node, [key])

    async def _stop_abandoned(self, lease: Lease, why: str) -> None:
        """Have the node of `lease`, which has run out, stop its step, and wait until it has. Where a node does not say so its
        governor waits a while; one that leaves has stopped it too."""
        if await self._run_at([lease.node], end_abandoned, lease.node, lease.key, why):
            self.perform(self.governor.handle(AbandonedStopped(lease.id), self._clock.monotonic()))

    async def _run_at(self, nodes: Iterable[str], function: Callable[..., Any], *arguments: Any) -> bool:
        """Have the workers of `nodes` call `function`. Have all of them done so? Nothing else is said of one that does not
        answer."""
        message = {"op": "run", "function": dumps(function), "args": dumps(arguments), "kwargs": dumps({})}
        wanted = set(nodes)
        workers = [address for address, name in self._names.items() if name in wanted]
        try:
            answers = await self._scheduler.broadcast(msg=message, workers=workers, on_error="return")
        except Exception as error:  # it left meanwhile
            log.debug("%s did not call %s: %s", ", ".join(wanted), function.__name__, error)
            return False
        return all(isinstance(answer, dict) and answer.get("status") == "OK" for answer in answers.values())

    def _look_for_drains(self, now: float) -> None:
        """Nodes hear of it when it changes and when they join; what still runs there is stopped when its time is over."""
        nodes = set(self._names.values())
        if self.draining.look(now):
            self._drained_told.clear()
        untold = nodes - self._drained_told
        if untold:
            why = {node: reason for node in untold if (reason := self.draining.why(node))}
            self._scheduler.loop.add_callback(self._run_at, untold, drain, why)
        self._drained_told = nodes
        overdue = {node for node in nodes if self.draining.overdue(node, now)}
        if overdue:
            busy = overdue & {lease["node"] for lease in self.governor.snapshot().leases}
            if busy:
                self._scheduler.loop.add_callback(self._run_at, busy, revoke_all)

    async def _report(self) -> None:
        """What the domain's registry should know, leased for five seconds. A gateway that is away costs nothing."""
        now = self._clock.monotonic()
        try:
            self._look_for_drains(now)
            self._look_for_orders(now)
            for address in self._scheduler.workers:
                self._report_node(address, now)
            self._look_for_quotas(now)
            self.perform(self.governor.handle(Tick(), now))
            self._scaling.look()
            await self._client.fetch(
                HTTPRequest(
                    f"https://{self._home.name}:{urlsplit(self._config.gateway).port}/v1/registry/lease",
                    method="POST",
                    headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
                    body=json.dumps(self._leases()),
                    # Longer than the beat: on a busy machine a late report is better than none, and the lease outlasts it.
                    request_timeout=3.0,
                    connect_timeout=2.0,
                    ssl_options=self._tls(),
                )
            )
        except Exception as error:  # the beat goes on: a gateway away, or a worker leaving meanwhile
            log.debug("run-time state not delivered: %s", error)

    def _report_node(self, address: str, now: float) -> None:
        state = self._scheduler.workers[address]
        told = state.metrics.get("ioi") or {}
        limit = state.memory_limit or 1
        memory = state.metrics.get("memory", 0) / limit
        name, warm = self._names.get(address, str(state.name)), frozenset(told.get("warm", ()))
        blocks = tuple(told.get("blocks", ()))
        closed = bool(
            told.get("replaced") or told.get("overloaded") or self.watch.suspects(name) or self.draining.why(name)
        )
        self._crowded[name] = told.get("crowded", "")
        self._resize(name, told.get("slots"), now)
        speed = self._specs.get(name, NodeSpec(name)).speed
        engaged = bool(state.processing or state.has_what)
        self.perform(self.governor.handle(NodeReported(name, warm, memory, blocks, closed, speed, engaged), now))

    def _resize(self, name: str, slots: int | None, now: float) -> None:
        """While others use its machine a node offers fewer slots than it has, and as many as its owner lets it."""
        whole = self._specs.get(name, NodeSpec(name)).slots
        offered = self._capped(name, whole if slots is None else min(whole, slots))
        if self._offered.get(name, whole) != offered:
            self._offered[name] = offered
            self.perform(self.governor.handle(NodeResized(name, offered), now))

    def _capped(self, node: str, slots: int) -> int:
        """As many of its slots as its owner lets it offer."""
        caps = (self._ordered.of(Target.NODE, f"{self._cluster}/{name}").capped for name in (node, ALL))
        return min([slots, *(cap.value for cap in caps if cap is not None and cap.value is not None)])

    def _suspicion_changed(self, node: str) -> None:
        for address in [address for address, name in self._names.items() if name == node]:
            if address in self._scheduler.workers:
                self._report_node(address, self._clock.monotonic())

    def _look_for_quotas(self, now: float) -> None:
        """The domain's configuration may have new quotas, and name those who were put out; all else of it counts from the next
        start. Quotas that make no sense change nothing. What could not be read is read again at the next look."""
        changed = self._home.changed_at()
        if changed == self._read_at:
            return
        try:
            config = self._home.config()
            self.perform(self.governor.handle(Expelled(frozenset(config.expelled)), now))
            spec = next(item for item in config.spec.clusters if item.name == self._cluster)
            if spec.quotas != self._quotas:
                self.perform(self.governor.handle(QuotasChanged(spec.quotas), now))
                self._quotas = spec.quotas
        except (BadInputError, StopIteration) as error:
            log.warning("the quotas stay as they are: %s", error)
            if isinstance(error.__cause__, OSError):
                return
        self._read_at = changed

    def _look_for_orders(self, now: float) -> None:
        """What is ordered in the domain. A file that cannot be read changes nothing."""
        try:
            changed = self._orders.changed_at()
            if changed != self._orders_at:
                self._ordered = self._orders.read()
                self.perform(self.governor.handle(Ordered(self._ordered), now))
                self._orders_at = changed
        except (BadInputError, OSError) as error:
            log.warning("what is ordered stays as it is: %s", error)

    def _leases(self) -> list[dict[str, Any]]:
        snapshot = self.governor.snapshot()
        free = sum(node["free"] for node in snapshot.nodes.values())
        cluster = {
            "scheduler": self._address.scheduler,
            "epoch": snapshot.epoch,
            "nodes": len(snapshot.nodes),
            "slots": sum(node["slots"] for node in snapshot.nodes.values()),
            "free": free,
            "may_come": self._may_come,
            "capabilities": sorted(self._capabilities),
        }
        entries = [{"key": f"cluster/{self._cluster}", "value": cluster, "ttl_s": 5}]
        for name, node in snapshot.nodes.items():
            entries.append({"key": f"node/{self._cluster}/{name}", "value": node | self._told_of(name), "ttl_s": 5})
        return entries

    def status(self) -> Any:
        """The governor's snapshot, with what is known here of its nodes besides."""
        snapshot = self.governor.snapshot()
        return replace(snapshot, nodes={name: node | self._told_of(name) for name, node in snapshot.nodes.items()})

    def _told_of(self, node: str) -> dict[str, Any]:
        """Whether it lives, whether it is drained, and whether others use its machine."""
        crowded = self._crowded.get(node, "")
        drained = {"draining": self.draining.why(node), "paused": self.draining.only_paused(node)}
        return {**self.watch.told(node), **drained, "crowded": crowded}


def dask_setup(scheduler: Scheduler) -> None:
    """Called by Dask when the scheduler starts; Dask then calls the plugin's `start`."""
    plugin = ClusterPlugin(scheduler, DomainHome(Path(os.environ["IOI_DOMAIN_HOME"])), os.environ["IOI_CLUSTER"])
    scheduler.add_plugin(plugin)
    scheduler.add_plugin(OrphanedCalls(scheduler, plugin.stop_orphan))
    scheduler.loop.add_callback(plugin.start, scheduler)
