"""Random walks of governors that the simulations do not lead everywhere: each is decided by its seed.

They keep to what drivers owe: one answer to each question, late or not, and one end of each start. What is said of older fences,
of steps that are over and of what is not known comes all the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ioi_dagster.governors import block, block_messages, cluster, flow, liveness, network, node
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow_messages import SendAnnounce, SendAward, StartStep
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    Ask,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Effect,
    Lease,
    LeaseRequest,
    RejectedRequest,
    ReleaseRequest,
    RenewRequest,
    SupplyPoint,
    VerifyRequest,
)
from ioi_dagster.model.order import Order, Orders, Target, Verb
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartRequest
from tests.members import author
from tests.quotas import share

NO = Refusal("x.no", "no", "the walk")


def walk_network(seed: int, events: int = 200) -> None:
    rng = random.Random(f"network/{seed}")
    names = ("a", "b", "c")
    governor = network.NetworkGovernor("a", {name: author(name).record() for name in names})
    open_: list[str] = []
    epoch, serial = 5, 1
    for now in range(events):
        if not open_ or rng.random() < 0.3:
            open_ += [item.peer for item in governor.handle(network.Tick(), now) if isinstance(item, network.Probe)]
        else:
            peer = open_.pop(rng.randrange(len(open_)))
            epoch += rng.random() < 0.05
            its = epoch - (rng.random() < 0.4)
            well = rng.random() < (0.05 if now % 100 < 60 else 0.6)
            governor.handle(network.ProbeAnswered(peer, its) if well else network.ProbeMissed(peer, "away"), now)
        if rng.random() < 0.05:
            serial += 1
            signed = author(rng.choice("bc")).signed(serial, left=rng.random() < 0.5)
            governor.handle(network.RecordsPulled("b", signed.body["domain"], (signed,)), now)
        if rng.random() < 0.02:
            signed = author(rng.choice("bc")).signed(serial + 1)
            governor.handle(network.Joined(signed, anew=rng.random() < 0.8), now)
        governor.handle(network.ProbeAnswered("stranger", 1), now)
        governor.validate()


def walk_liveness(seed: int, episodes: int = 20) -> None:
    rng, watch, now = random.Random(f"liveness/{seed}"), liveness.NodeWatch(), 0.0
    for episode in range(episodes):
        life = f"life {episode}"
        watch.handle(liveness.Joined("n", life, witnessed=rng.random() < 0.8), now)
        state, silence = rng.choice(["", "T", "S", "R", "away"]), rng.choice([0.5, 0.9, 3.0, 70.0])
        for beat in range(10):
            watch.handle(liveness.Beat("n", life), now)
            for tick in range(int((silence if beat == 9 else 0.5) / liveness.TICK_S)):
                now += liveness.TICK_S
                out = watch.handle(liveness.Tick(), now)
                if state == "away" and tick % 3 == 2:
                    watch.handle(liveness.Unseen("n", life), now)
                elif state != "away" and any(isinstance(one, liveness.Look) for one in out):
                    watch.handle(liveness.Seen("n", life, state, tick if state == "R" else 1.0), now)
                watch.validate()
        watch.handle(rng.choice([liveness.Beat, liveness.Left])("n", life), now)


def walk_node(seed: int, events: int = 100) -> None:
    rng = random.Random(f"node/{seed}")
    governor = node.NodeGovernor(
        "n", "c", frozenset({"ocr", "trim"}), governed=rng.random() < 0.7, contact_ttl_s=rng.choice([None, 10.0])
    )
    rare = lambda usual, other: other if rng.random() < 0.08 else usual
    for number in range(events):
        if number > events * 0.9:
            governor.handle(
                node.DrainAsked("it is to be replaced") if rng.random() < 0.7 else node.RejoinAsked(), number
            )
        if rng.random() < 0.3:
            governor.handle(node.InContact(number - rng.random()), number)
        governor.handle(node.Tick(), number)
        others = 100.0 if 0.4 * events < number < 0.5 * events else 0.0
        governor.handle(node.MachineSeen(others, rng.choice([0.1, 0.98]) if number < 0.4 * events else 0.1), number)
        governor.handle(node.RunningSeen((node.RunningStart("a"), node.RunningStart("b"))[: rng.randint(0, 2)]), number)
        governor.validate()
        lease = Lease(
            id=f"l{number}",
            run="r",
            step=rng.choice("abc"),
            fence=rng.randint(1, 1 + number // 10),
            copy=0,
            capability=rare("ocr", "fly"),
            cluster=rare("c", "d"),
            domain="d",
            node=rare("n", "m"),
            epoch=1 + number // 50 - rare(0, 1),
            origin=rare("i", "j"),
        )
        permit: StepPermit | Refusal | None = StepPermit(
            "r", lease.step, lease.fence, 0, lease.id, lease.capability, DataClass.PUBLIC, "d", "c", "n", "", 0.0, 1e9,
            nonce=str(rare(number, 1)), issuer="i",
        )  # fmt: skip
        permit = rare(rare(permit, Refusal("permit.signature", "not ours", "the walk")), None)
        request = StartRequest("block", lease, None, rare(lease.capability, "trim"), b"")
        governor.handle(node.StartAsked(request, permit, rare(0.5, 0.99)), number)


class ClusterWalk:
    def __init__(self, seed: int) -> None:
        self._rng, self._also = random.Random(f"cluster/{seed}"), random.Random(f"cancels/{seed}")
        self._governor = cluster.ClusterGovernor(
            "d", "c", 1, 1.0, ttl_s=10.0, quotas=QuotaTree.flat((share("a", guarantee=2),))
        )
        self._now = 0.0
        self._orders = Orders()
        self._leases: list[Lease] = []
        self._heard = seed % 2 == 0
        """Nodes say that what ran on under a lease that ran out has stopped."""
        self._fences: dict[str, int] = {}
        self._round = 0
        self._borrows = self._rng.choice([(None, 0, 1, 2), (1, 2), (None,)])

    def run(self, events: int = 400) -> None:
        often = [self._award] * 3 + [self._renew, self._wait] * 2
        acts = [*often, self._nodes, self._announce, self._release, self._shares, self._order]
        for _ in range(events):
            self._rng.choice(acts)()

    def _tell(self, event: Any) -> None:
        stopped: list[str] = []
        for item in self._governor.handle(event, self._now):
            if isinstance(item, cluster.Reply) and isinstance(item.answer, Awarded):
                self._leases += item.answer.leases
            elif isinstance(item, cluster.StopAbandoned):
                stopped += [item.lease.id] * self._heard
        self._leases = self._leases[-30:]
        self._governor.validate()
        for lease in stopped:
            self._tell(cluster.AbandonedStopped(lease))

    def _nodes(self) -> None:
        name = self._rng.choice(["n1", "n2", "n3"])
        joined = cluster.NodeJoined(name, self._rng.randint(1, 3), frozenset({"ocr"}))
        resized = cluster.NodeResized(name, self._rng.randint(0, 3))
        full = cluster.NodeReported(name, frozenset({"ocr"}), self._rng.random())
        self._tell(self._rng.choice([joined, joined, resized, full, full, cluster.NodeLeft(name)]))

    def _announce(self) -> None:
        group = AskGroup("ocr", DataClass.PUBLIC, self._rng.randint(1, 4), self._rng.choice("ab"))
        run = f"run-{group.tenant}{self._rng.choice(['', '-2'])}"
        self._round += 1
        self._tell(Announce(run, self._round, "d", (group,), wait_s=self._rng.choice([0.0, 4.0, 20.0])))
        if self._rng.random() < 0.1:
            self._tell(cluster.Withdrawn(run, self._round, "d"))

    def _award(self) -> None:
        tenant = self._rng.choice("abbb")
        self._tell(
            Award("c", f"run-{tenant}", 1, "d", tuple(self._request(tenant) for _ in range(self._rng.randint(1, 3))))
        )

    def _request(self, tenant: str) -> LeaseRequest:
        step = f"{tenant}{self._rng.randrange(5)}"
        fence = self._fences[step] = max(1, self._fences.get(step, 0) + self._rng.choice([-1, 0, 1, 1]))
        return LeaseRequest(f"run-{tenant}", step, fence, "ocr", DataClass.PUBLIC, tenant=tenant)

    def _some(self) -> tuple[Lease, ...]:
        """Of those that are held, or of all that were granted lately."""
        held = {lease["id"] for lease in self._governor.snapshot().leases}
        among = [lease for lease in self._leases if lease.id in held or self._rng.random() < 0.2]
        return tuple(self._rng.sample(among, min(len(among), 6)))

    def _renew(self) -> None:
        names = tuple(lease.id for lease in self._some())
        waiting = names if self._rng.random() < 0.5 else ()
        for run in ("run-a", "run-b"):
            self._tell(RenewRequest(run, names, waiting))

    def _release(self) -> None:
        for lease in self._some()[:2]:
            self._tell(VerifyRequest(lease))
            self._tell(ReleaseRequest(self._rng.choice([lease.run, lease.run, "run-of-others"]), (lease.id,)))

    def _shares(self) -> None:
        borrows = self._rng.choice(self._borrows)
        self._tell(cluster.QuotasChanged(QuotaTree.flat((share("a", guarantee=2), share("b", borrows=borrows)))))

    def _order(self) -> None:
        target, name = self._rng.choice([(Target.BLOCK, "ocr"), (Target.TENANT, "a")])
        drains = [Verb.DRAIN] if target is Target.BLOCK else []
        verb = self._rng.choice([Verb.CAP, *drains, Verb.PAUSE, Verb.RESUME, Verb.RESUME])
        value = self._rng.choice([None, 1, 3]) if verb is Verb.CAP else None
        within_s = self._rng.choice([0.0, 1.0]) if verb is Verb.DRAIN else None
        self._give(Order(target, name, verb, value, within_s))
        if self._also.random() < 0.1:
            self._give(Order(target, name, Verb.CANCEL, at=self._now))
        if self._also.random() < 0.05:
            self._tell(cluster.Expelled(frozenset({"d"})))

    def _give(self, order: Order) -> None:
        self._orders, _ = self._orders.after(order)
        self._tell(cluster.Ordered(self._orders))

    def _wait(self) -> None:
        self._now += self._rng.choice([0.1, 0.5, 1.5, 6.0])
        if self._rng.random() < 0.7:
            self._tell(cluster.Tick())


class BlockWalk:
    """Two blocks, which do not fit in together in some versions."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"block/{seed}")
        self._governor = block.BlockGovernor("n", 1_000 * block.MIB)
        self._now = 0.0
        self._calls = 0
        self._owed: list[Callable[[], Any]] = []
        self._loads = self._rng.choice([0.3, 0.6, 0.9])
        self._offer()

    def run(self, events: int = 300) -> None:
        acts = [self._answer] * 8 + [self._call] * 6 + [self._give_up, self._wait, self._wait, self._rarely]
        for _ in range(events):
            self._rng.choice(acts)()

    def _tell(self, event: Any) -> None:
        out = self._governor.handle(event, self._now)
        self._governor.validate()
        for item in out:
            match item:
                case block_messages.Load(name, _):
                    self._owed.append(lambda name=name: self._loaded(name))
                case block_messages.Unload(name):
                    self._owed.append(lambda name=name: block_messages.ReplicaUnloaded(name))
                case block_messages.RunBatch(batch, _, _):
                    self._owed.append(lambda batch=batch: self._ended(batch))

    def _offer(self) -> None:
        name = self._rng.choice(["ocr", "trim"])
        spec = BlockSpec(
            name, str(self._rng.randint(1, 9)), name, "m:C", Contract(name, name),
            memory_mb=self._rng.choice([100, 300, 500]), replicas=2, concurrency=2,
            max_batch=self._rng.randint(1, 2), idle_s=self._rng.choice([0.0, 4.0]), max_failures=2, rest_s=3.0,
        )  # fmt: skip
        self._tell(block_messages.Offered(name, spec))

    def _rarely(self) -> None:
        if self._rng.random() < 0.5:
            self._offer()
        else:
            self._tell(block_messages.MemoryShort())

    def _call(self) -> None:
        self._calls += 1
        self._tell(block_messages.CallAsked(self._calls, self._rng.choice(["ocr", "trim"])))

    def _give_up(self) -> None:
        self._tell(block_messages.CallGivenUp(self._rng.randint(max(1, self._calls - 4), self._calls + 1)))

    def _wait(self) -> None:
        self._now += self._rng.choice([0.1, 1.0, 4.0])
        self._tell(block_messages.Tick())

    def _answer(self) -> None:
        if self._owed:
            self._tell(self._owed.pop(self._rng.randrange(len(self._owed)))())

    def _loaded(self, name: str) -> Any:
        well = self._rng.random() < self._loads
        return block_messages.ReplicaLoaded(name) if well else block_messages.LoadFailed(name, "no weights")

    def _ended(self, batch: int) -> Any:
        ends = block_messages.BatchEnd
        return block_messages.BatchEnded(batch, self._rng.choice([ends.DONE, ends.DONE, ends.FAILED, *ends]))


class FlowWalk:
    """Two clusters, one of which may be away, and a run of some steps."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"flow/{seed}")
        self._governor = flow.FlowGovernor("r", "home", budget=self._rng.choice([None, None, 20.0]))
        self._now = 0.0
        self._owed: list[Callable[[], Any]] = []
        """Answers that have not come yet."""
        self._fused = 0
        self._ends = [self._rng.random() ** 3 for _ in range(4)]
        """How often each end of a start comes: another one is usual in each walk."""
        effects = (Effect.PURE, Effect.PURE, Effect.AT_MOST_ONCE)
        self._asks = [
            Ask("r", f"s{number}", "ocr", effect=self._rng.choice(effects), copies=number % 2) for number in range(6)
        ]
        self._asks += [
            Ask("r", f"g{n}", "ocr", effect=self._rng.choice(effects), gang="g", gang_size=2) for n in (0, 1)
        ]
        size = self._rng.choice([2, 3, 0])
        self._asks += [Ask("r", f"h{number}", "ocr", gang="h", gang_size=max(2, size)) for number in range(2)]
        self._asks.append(Ask("r", "h2", "ocr", gang="h", gang_size=size))
        self._governor.resume({"s0": 2, "s1": 3})
        for step in ("s0", "s1"):
            self._tell(
                flow.StepFound(self._ask(step), self._lease(LeaseRequest("r", step, 2, "ocr", DataClass.PUBLIC), "a"))
            )

    def run(self, events: int = 400) -> None:
        acts = [self._ready, self._wait, self._drop, self._cluster, self._fuse, *[self._answer] * 10]
        for _ in range(events):
            self._rng.choice(acts)()

    def _tell(self, event: flow.Event) -> None:
        out = self._governor.handle(event, self._now, self._rng.random() < 0.2)
        self._governor.validate()
        for item in out:
            match item:
                case flow.FindPlaces(asks):
                    self._owed += [lambda ask=ask: self._places(ask) for ask in asks]
                case SendAnnounce(name, announce):
                    self._owed.append(lambda name=name, announce=announce: self._bid(name, announce))
                case SendAward(award):
                    self._owed.append(lambda award=award: self._awarded(award))
                case StartStep(_, lease) | flow.AdoptStep(_, lease):
                    self._owed.append(lambda lease=lease: self._end(lease))

    def _ask(self, step: str) -> Ask:
        return next(ask for ask in self._asks if ask.step == step)

    def _lease(self, request: LeaseRequest, name: str) -> Lease:
        where = f"{name}{self._rng.randint(1, 3)}"
        return Lease(
            f"{request.step}/{request.fence}/{request.copy}",
            "r",
            request.step,
            request.fence,
            request.copy,
            "ocr",
            name,
            name,
            where,
            1,
        )

    # What is answered -------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        if self._owed:
            self._tell(self._owed.pop(self._rng.randrange(len(self._owed)))())

    def _places(self, ask: Ask) -> flow.Event:
        places = tuple(flow.Place(name, name) for name in self._rng.choice(["a", "ab", "ab", "ab", ""]))
        return flow.PlacesFound(ask.step, places, (("b", NO),), self._rng.random() < 0.8)

    def _bid(self, name: str, announce: Announce) -> flow.Event:
        if self._rng.random() < 0.2:
            return flow.BidMissed(name, announce.round, "no answer")
        points = tuple(
            SupplyPoint(g.capability, g.data_class, self._rng.randint(0, 3), 2.0, gang=g.gang, idle=g.idle, part=g.part)
            for g in announce.groups
        )
        return flow.BidReceived(Bid(name, name, "r", announce.round, 1, points, (NO,)))

    def _awarded(self, award: Award) -> flow.Event:
        if self._rng.random() < 0.2:
            return flow.AwardMissed(award.cluster, tuple(request.step for request in award.requests), "no answer")
        if award.requests and self._rng.random() < 0.05:
            self._tell(flow.StepDropped(award.requests[0].step, "nobody waits for it"))
        kept = [self._rng.random() < 0.8 for _ in award.requests]
        pairs = list(zip(award.requests, kept, strict=True))
        return flow.AwardAnswered(
            Awarded(
                award.cluster,
                tuple(self._lease(request, award.cluster) for request, well in pairs if well),
                tuple(RejectedRequest(request.step, request.fence, NO) for request, well in pairs if not well),
            )
        )

    def _end(self, lease: Lease) -> flow.Event:
        step, fence, copy = lease.step, lease.fence, lease.copy
        codes = ["block.queue_full", "node.memory", *4 * ["node.not_offered"]]
        refusal = replace(NO, code=self._rng.choice(codes))
        cause = self._rng.choice([Cause.NODE_LOST, Cause.NODE_LOST, Cause.NEIGHBOUR, Cause.TIMEOUT])
        (event,) = self._rng.choices(
            [
                flow.StepEnded(step, fence, f"{lease.id}/{self._now}", 1.0, copy),
                flow.StepLost(step, fence, lease.node, "it died", cause, copy),
                flow.StepReturned(step, fence, "it waited behind a long step", copy),
                flow.StartRefused(step, fence, lease.node, refusal, copy),
            ],
            self._ends,
        )
        return event

    # What comes by itself ---------------------------------------------------------------------------------------

    def _ready(self) -> None:
        ask = self._rng.choice(self._asks)
        together = ask.gang and self._rng.random() < 0.8
        for one in [one for one in self._asks if one.gang == ask.gang] if together else [ask]:
            self._tell(flow.StepReady(one))

    def _wait(self) -> None:
        self._now += self._rng.choice([0.1, 0.5, 3.0])
        self._tell(flow.Tick())

    def _drop(self) -> None:
        if self._rng.random() < 0.7:
            self._tell(flow.StepDropped(self._rng.choice(self._asks).step, "nobody waits for it"))

    def _cluster(self) -> None:
        name = self._rng.choice("ab")
        self._tell(flow.ClusterBack(name) if self._rng.random() < 0.7 else flow.ClusterLost(name, "it went away"))

    def _fuse(self) -> None:
        """A step that is not known yet ran in one task after another."""
        self._fused += 1
        lease = self._lease(LeaseRequest("r", "s0", 1, "ocr", DataClass.PUBLIC), "a")
        self._tell(flow.StepFused(Ask("r", f"f{self._fused}", "ocr"), lease, f"fused-{self._fused}", 1.0))
