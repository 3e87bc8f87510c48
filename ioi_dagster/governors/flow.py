"""The flow governor: owns the outcome of each step of one run.

It turns ready steps into asks, announces them, matches bids to steps, awards, starts, re-places what was lost and
lets exactly one attempt of each step commit. A contract net with confirmation (R. G. Smith, "The Contract Net
Protocol", IEEE Trans. Computers C-29(12), 1980) with supply curves instead of per-task bids. No I/O, no clock: the
executor performs the instructions and feeds back events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.failures import AT_MOST_ONCE, AT_MOST_ONCE_TODO, POISON, POISON_TODO, RULES, Cause
from ioi_dagster.governors.flow_messages import (
    AdoptStep,
    AwardAnswered,
    AwardMissed,
    BidMissed,
    BidReceived,
    ClusterBack,
    ClusterLost,
    CommitStep,
    DiscardAttempt,
    Event,
    FailStep,
    FindPlaces,
    Instruction,
    Place,
    PlacesFound,
    RefuseStep,
    ReleaseLeases,
    SendAnnounce,
    SendAward,
    StartRefused,
    StartStep,
    StepDropped,
    StepEnded,
    StepFound,
    StepFused,
    StepLost,
    StepReady,
    StepReturned,
    Tell,
    Tick,
    WithdrawAnnounce,
)
from ioi_dagster.governors.flow_texts import bids_text, candidates_text, remedy, why_no_slot, why_nobody, why_silent
from ioi_dagster.governors.node import REPLACED
from ioi_dagster.governors.reputation import MANY, Reputation
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
)
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

BY = "flow governor"
MAX_NODES_LOST = 3
"""A step that took down this many distinct nodes is the likely cause, and is stopped."""
MAX_LOSSES = 5
"""The same where there are fewer nodes to lose: so many losses in all."""
MAX_RETURNED = 50
"""Losses that nobody is blamed for (a scheduler's, a neighbour's) are not counted against a step, but do not go on for ever."""


MAX_PLACES_SEEN = 1_000
OLD_ROUNDS = 100
"""A bid of a round that is longer ago is not looked at."""
SUSPECT_PATIENCE = 4
STALE_FENCE = "cluster.stale_fence"

PASSING = frozenset({"block.circuit_open", "block.queue_full"})
"""Refusals of a start that pass by themselves: the step waits longer from time to time, and is refused after `MAX_PASSING`."""
MAX_PASSING = 20
MAX_PAUSE_S = 3.0
REPLACED_S = 5.0
"""A node that refused a start since its process is being replaced is avoided for so long, if there is another."""

TOLD_WAIT_S = 1.0
"""A wait for room that was shorter is no part of a step's story."""

PARK_S = 10.0
"""Where a bid offered nothing, the next announcement waits so long at the cluster for room."""
NOTHING_S = 1.0
"""So long a cluster that had no room is believed to have none. It is not asked that way when a step of ours ended there."""
MAX_HOLDING = 50
"""At so many clusters at once."""

WINDOW = 512
"""Waiting steps of one kind that are negotiated for at a time; the others come after them anyway, and a round's cost must
not grow with a run's size."""


class StepState(StrEnum):
    WAITING = "waiting"
    AWARDING = "awarding"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    DROPPED = "dropped"


OVER = frozenset({StepState.DONE, StepState.FAILED, StepState.REFUSED, StepState.DROPPED})


@dataclass(frozen=True, slots=True)
class Objective:
    """How much a second and a credit weigh when offers are compared."""

    second: float
    credit: float


OBJECTIVES = {
    "fastest": Objective(1.0, 0.01),
    "balanced": Objective(1.0, 1.0),
    "cheapest": Objective(0.01, 1.0),
}


_Group = tuple[str, DataClass, str, int]
"""What makes asks the same to a bidder: (capability, class, tenant, priority)."""
_Kind = tuple[str, DataClass, str, int, tuple[str, ...], str]
"""Steps of one kind have the same places: (capability, class, tenant, priority, domains, cluster)."""

# State --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Step:
    ask: Ask
    order: int
    state: StepState = StepState.WAITING
    fence: int = 0
    places: tuple[Place, ...] = ()
    looked_at: float = float("-inf")
    looking: bool = False
    lease: Lease | None = None
    lost_on: tuple[str, ...] = ()
    losses: int = 0
    returned: int = 0
    refused_on: tuple[str, ...] = ()
    rejections: int = 0
    passing: int = 0
    replaced: tuple[str, int, float] = ("", 0, float("-inf"))
    """The node that was being replaced when it was to start there last, how often that was so, and until when it is avoided."""
    not_before: float = float("-inf")
    waiting_for: str = ""
    turned_down_by: str = ""
    """The cluster that did not keep its bid when this step was awarded to it last."""
    price: float = 0.0
    since: float = 0.0
    """When its wait for a place began."""

    def avoids(self, now: float) -> tuple[str, ...]:
        """Nodes that it is given only where there is no other."""
        node, _, until = self.replaced
        return (*self.lost_on, *self.refused_on, *((node,) if now < until else ()))


@dataclass(slots=True)
class _Round:
    number: int
    open_until: float
    expected: set[str]
    """Those whose bids are waited for."""
    bids: dict[str, Bid] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    """Those of whom a bid was there already when it began."""
    _near: dict[int, tuple[tuple[Place, ...], tuple[Place, ...]]] = field(default_factory=dict)
    """By the identity of places, which is theirs as long as they are kept here."""

    def near(self, places: tuple[Place, ...]) -> tuple[Place, ...]:
        """Those of a step's places that matter in this round: where they are many, those that were asked."""
        if len(places) <= MANY:
            return places
        if id(places) not in self._near:
            near = tuple(p for p in places if p.cluster in self.asked or p.cluster in self.bids)
            self._near[id(places)] = (near, places)
        return self._near[id(places)][0]


@dataclass(frozen=True, slots=True)
class FlowSnapshot:
    """Counts by state, for each waiting step why it waits, credits that were spent, and what is thought of clusters."""

    round: int
    counts: dict[str, int]
    waiting: dict[str, str]
    suspects: dict[str, str]
    spent: float
    reputation: dict[str, dict[str, object]]


class FlowGovernor:
    """See the module. `patience_s`: how long a place list stays good; `deadline_s`: how long a round waits for bids;
    `again_s`: pause before asking again when nobody had room; `park_s`: how long an announcement may wait at a cluster that had
    no room, 0 where all answer at once; `budget`: credits that the run may spend, None for any number.
    Raises `BadInputError` for an objective that is not known."""

    def __init__(
        self,
        run: str,
        origin: str,
        objective: str = "balanced",
        *,
        patience_s: float = 2.0,
        deadline_s: float = 1.0,
        again_s: float = 0.2,
        budget: float | None = None,
        park_s: float = PARK_S,
    ) -> None:
        if objective not in OBJECTIVES:
            raise BadInputError(f"no objective {objective!r}", todo=f"take one of {', '.join(OBJECTIVES)}")
        self._run, self._origin = run, origin
        self._weights = OBJECTIVES[objective]
        self._budget, self._spent = budget, 0.0
        self._reputation = Reputation()
        self._places_seen: dict[tuple[Place, ...], tuple[Place, ...]] = {}
        self._clusters_of: dict[int, tuple[list[str], tuple[Place, ...]]] = {}
        """By the identity of places, which is theirs as long as they are kept here."""
        self._asked: dict[str, int] = {}
        """Cluster → the round of its announcement that is not answered."""
        self._asked_for: dict[str, frozenset[_Group]] = {}
        """Cluster → what it was asked for last."""
        self._holding: dict[str, frozenset[_Group]] = {}
        """Those of `_asked` that may wait for room with their answer, and for what."""
        self._nothing: dict[str, tuple[frozenset[_Group], float]] = {}
        """Cluster → what it has nothing left for, and until when that is likely."""
        self._last_bids: dict[str, Bid] = {}
        self._late: dict[str, tuple[Bid, float]] = {}
        """Bids that came when their round was over, and until when they are good: they count in the next."""
        self._patience_s, self._deadline_s, self._again_s, self._park_s = patience_s, deadline_s, again_s, park_s
        self._steps: dict[str, _Step] = {}
        self._waiting: dict[str, _Step] = {}
        self._in_window: dict[_Kind, int] = {}
        self._backlog: dict[_Kind, dict[str, _Step]] = {}
        self._no_room: dict[str, Bid] | None = None
        self._fences: dict[str, int] = {}
        self._order = 0
        self._round: _Round | None = None
        self._round_number = 0
        self._next_round_at = float("-inf")
        self._ask_again = False
        """Something came during the round that it knew nothing of, so there is another one at once."""
        self._awarding: dict[str, set[str]] = {}
        self._suspects: dict[str, str] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    # The one way in ---------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float, more: bool = False) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds); return what is to be done.

        `more`: another one follows at once, so no round is opened or closed yet. One round for what happened together costs
        less than one for each event.
        """
        match event:
            case StepReady(ask):
                out = self._ready(ask, now)
            case PlacesFound():
                out = self._places(event, now)
            case BidReceived(bid):
                out = self._bid(bid, now)
            case BidMissed():
                out = self._bid_missed(event, now)
            case AwardAnswered(awarded):
                out = self._awarded(awarded, now)
            case AwardMissed():
                out = self._award_missed(event, now)
            case StepEnded():
                out = self._ended(event, now)
            case StepFused():
                out = self._fused(event)
            case StepFound(ask, lease):
                out = self._found(ask, lease, now)
            case StepLost():
                out = self._lost(event, now)
            case StepReturned():
                out = self._returned(event, now)
            case StepDropped(step, why):
                out = self._dropped(step, why)
            case StartRefused():
                out = self._start_refused(event, now)
            case ClusterLost():
                out = self._cluster_lost(event, now)
            case ClusterBack(cluster):
                self._suspects.pop(cluster, None)
                self._reputation.answered(cluster)
                self._ask_soon(now)
                out = []
            case Tick():
                out = []
        return out if more else [*out, *self._advance(now)]

    def resume(self, fences: dict[str, int], spent: float = 0.0) -> None:
        """Start from the fences of an earlier process of this run, so that it is fenced off, and from what it had spent."""
        self._fences.update(fences)
        self._spent = spent

    def raise_fence(self, step: str) -> int:
        """A new fence for what is made of the step outside of any node; no earlier start of it commits any more."""
        fence = self._fences[step] = self.fence(step) + 1
        return fence

    def fence(self, step: str) -> int:
        """The newest fence of the step; 0 where it was never awarded."""
        return self._fences.get(step, 0)

    def lease(self, step: str) -> Lease | None:
        """The lease under which the step runs now."""
        known = self._steps.get(step)
        return known.lease if known else None

    def holding(self) -> dict[str, int]:
        """Clusters at which an announcement of this run waits for room, and its round."""
        return {cluster: self._asked[cluster] for cluster in self._holding}

    def leases(self) -> list[Lease]:
        """Leases in use, to be renewed."""
        return [step.lease for step in self._steps.values() if step.lease is not None]

    def snapshot(self) -> FlowSnapshot:
        counts: dict[str, int] = {}
        for step in self._steps.values():
            counts[step.state] = counts.get(step.state, 0) + 1
        return FlowSnapshot(
            round=self._round_number,
            counts=counts,
            waiting=self._why_each_waits(),
            suspects=dict(self._suspects),
            spent=self._spent,
            reputation=self._reputation.snapshot(),
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        for key, step in self._steps.items():
            behind = key in self._backlog.get(_kind(step.ask), {})
            assert (key in self._waiting or behind) == (step.state is StepState.WAITING), key
            assert not (key in self._waiting and behind), key
            assert (step.lease is not None) == (step.state is StepState.RUNNING), key
            assert step.fence <= self._fences.get(key, 0), key
            if step.lease is not None:
                assert step.lease.fence == step.fence == self._fences[key], key
        assert self._in_window == Counter(_kind(step.ask) for step in self._waiting.values())
        for kind, behind in self._backlog.items():
            assert behind and self._in_window[kind] >= WINDOW, kind
        assert self._holding.keys() <= self._asked.keys()
        in_award = {key for keys in self._awarding.values() for key in keys}
        assert in_award == {k for k, s in self._steps.items() if s.state is StepState.AWARDING}

    # Steps ------------------------------------------------------------------------------------------------------

    def _ready(self, ask: Ask, now: float) -> list[Instruction]:
        known = self._steps.get(ask.step)
        if known is not None and known.state not in OVER:
            return []
        self._order += 1
        step = _Step(ask, self._order, fence=self._fences.get(ask.step, 0), since=now)
        self._steps[ask.step] = step
        kind = _kind(ask)
        if self._in_window.get(kind, 0) < WINDOW:
            self._enter(step)
        else:
            self._backlog.setdefault(kind, {})[ask.step] = step
        self._ask_soon(now)
        return []

    def _places(self, event: PlacesFound, now: float) -> list[Instruction]:
        step = self._waiting.get(event.step)
        if step is None:
            return []
        step.looking, step.looked_at = False, now
        changed = step.places != event.places
        # Equal ones are one object, so that a round can tell steps that have the same places without comparing them.
        if len(self._places_seen) > MAX_PLACES_SEEN:
            self._places_seen.clear()
            self._clusters_of.clear()
        step.places = self._places_seen.setdefault(event.places, event.places)
        told = Tell(
            event.step,
            Chapter.CANDIDATES,
            candidates_text(event),
            {
                "places": [place.cluster for place in event.places],
                "rejected": [
                    {"who": who, "code": refusal.code, "text": refusal.text} for who, refusal in event.rejected
                ],
            },
        )
        if event.places:
            if changed:
                self._ask_soon(now)
            return [told] if changed else []
        if event.may_change:
            reason = why_nobody(event.rejected)
            first = step.waiting_for != reason
            step.waiting_for = reason
            return [told, Tell(event.step, Chapter.WAIT, f"waits: {reason}")] if first else []
        refusal = Refusal(
            "flow.no_place",
            f"no place may take it: {why_nobody(event.rejected)}",
            BY,
            remedy(event.rejected),
        )
        self._close(step, StepState.REFUSED)
        return [told, Tell(event.step, Chapter.REFUSED, str(refusal)), RefuseStep(event.step, refusal)]

    def _ended(self, event: StepEnded, now: float) -> list[Instruction]:
        step = self._steps.get(event.step)
        if step is None or step.state is not StepState.RUNNING or step.fence != event.fence:
            why = f"fence {event.fence} is not current ({self._fences.get(event.step, 0)})"
            return [
                Tell(event.step, Chapter.COMMIT, f"attempt {event.attempt} discarded: {why}"),
                DiscardAttempt(event.step, event.fence, event.attempt, why),
            ]
        lease = step.lease
        assert lease is not None
        self._learn(step.ask.capability, lease.cluster, event.seconds)
        self._nothing.pop(lease.cluster, None)
        self._close(step, StepState.DONE)
        self._ask_soon(now)
        return [
            CommitStep(event.step, event.fence, event.attempt),
            ReleaseLeases(lease.cluster, (lease.id,)),
        ]

    def _fused(self, event: StepFused) -> list[Instruction]:
        ask, lease = event.ask, event.lease
        known = self._steps.get(ask.step)
        fence = self._fences[ask.step] = self._fences.get(ask.step, 0) + 1
        if known is not None and known.state not in OVER:
            why = "the step is under way by itself"
            return [DiscardAttempt(ask.step, fence, event.attempt, why)]
        self._order += 1
        self._steps[ask.step] = _Step(ask, self._order, StepState.DONE, fence)
        self._learn(ask.capability, lease.cluster, event.seconds)
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": fence}
        text = f"ran in one task after {lease.step} on {lease.node} of {lease.cluster}"
        return [Tell(ask.step, Chapter.AWARD, text, facts), CommitStep(ask.step, fence, event.attempt)]

    def _found(self, ask: Ask, lease: Lease, now: float) -> list[Instruction]:
        if ask.step in self._steps or self._fences.get(ask.step, 0) != lease.fence:
            # A newer start of it is wanted by now.
            return [ReleaseLeases(lease.cluster, (lease.id,)), *self._ready(ask, now)]
        self._order += 1
        self._steps[ask.step] = _Step(ask, self._order, StepState.RUNNING, lease.fence, lease=lease)
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": lease.fence}
        text = f"runs on {lease.node} of {lease.cluster} since an earlier process of the run: its answer is waited for"
        return [Tell(ask.step, Chapter.AWARD, text, facts), AdoptStep(ask, lease)]

    def _lost(self, event: StepLost, now: float) -> list[Instruction]:
        step = self._steps.get(event.step)
        if step is None or step.state is not StepState.RUNNING or step.fence != event.fence:
            return []
        lease = step.lease
        assert lease is not None
        out: list[Instruction] = [
            ReleaseLeases(lease.cluster, (lease.id,)),
            Tell(
                event.step,
                Chapter.LOSS,
                f"lost on {lease.node} of {lease.cluster}: {event.why}",
                {"node": lease.node, "cluster": lease.cluster, "domain": lease.domain, "fence": event.fence},
            ),
        ]
        rule = RULES[event.cause]
        step.returned += 1
        if event.node and rule.blames:
            step.losses += 1
            step.lost_on = tuple(dict.fromkeys((*step.lost_on, event.node)))
        if step.ask.effect is Effect.AT_MOST_ONCE:
            text = f"it may run once only and its outcome is unknown: {event.why}"
            return [*out, *self._fail(step, AT_MOST_ONCE, text, AT_MOST_ONCE_TODO)]
        if not rule.again:
            return [*out, *self._fail(step, f"flow.{rule.cause}", event.why, rule.todo)]
        poison = len(step.lost_on) >= MAX_NODES_LOST or step.losses >= MAX_LOSSES
        if poison or step.returned >= MAX_RETURNED:
            nodes = ", ".join(step.lost_on) or "no node that can be named"
            text = f"it was lost {step.losses if poison else step.returned} times, on {nodes}; last: {event.why}"
            return [*out, *self._fail(step, POISON, text, POISON_TODO)]
        self._wait(step, "to be placed again", now)
        self._ask_soon(now)
        return out

    def _returned(self, event: StepReturned, now: float) -> list[Instruction]:
        step = self._steps.get(event.step)
        if step is None or step.state is not StepState.RUNNING or step.fence != event.fence:
            return []
        lease = step.lease
        assert lease is not None
        back = {"price": -step.price} if step.price else {}
        self._take_back_price(step)
        self._wait(step, event.why, now)
        self._ask_soon(now)
        text = f"taken back from {lease.node}, where it had not started: {event.why}"
        return [ReleaseLeases(lease.cluster, (lease.id,)), Tell(event.step, Chapter.AWARD, text, back)]

    def _dropped(self, key: str, why: str) -> list[Instruction]:
        step = self._steps.get(key)
        if step is None or step.state in OVER:
            return []
        lease = step.lease
        if step.state is StepState.AWARDING:
            # The price is told when it is granted, so there is nothing to tell.
            self._take_back_price(step)
        behind = self._backlog.get(_kind(step.ask), {})
        if behind.pop(key, None) is not None and not behind:
            del self._backlog[_kind(step.ask)]
        for cluster, open_keys in list(self._awarding.items()):
            # A lease that is granted all the same is released when the award is answered.
            open_keys.discard(key)
            if not open_keys:
                del self._awarding[cluster]
        self._close(step, StepState.DROPPED)
        told = Tell(key, Chapter.LOSS, f"dropped: {why}")
        return [told, ReleaseLeases(lease.cluster, (lease.id,))] if lease is not None else [told]

    def _start_refused(self, event: StartRefused, now: float) -> list[Instruction]:
        step = self._steps.get(event.step)
        if step is None or step.state is not StepState.RUNNING or step.fence != event.fence:
            return []
        lease = step.lease
        assert lease is not None
        code = event.refusal.code
        if code == REPLACED:
            # However long that takes: what runs there has to end first.
            count = step.replaced[1] + 1
            step.replaced = (lease.node, count, now + REPLACED_S)
            step.not_before = now + self._pause(count)
        else:
            step.refused_on = (*step.refused_on, lease.node)
            step.passing += code in PASSING
            step.rejections += code not in PASSING
            if code in PASSING:
                step.not_before = now + self._pause(step.passing)
        back = {"price": -step.price} if step.price else {}
        self._take_back_price(step)
        out: list[Instruction] = [
            ReleaseLeases(lease.cluster, (lease.id,)),
            Tell(event.step, Chapter.REFUSED, f"{lease.node} refused the start: {event.refusal}", back),
        ]
        if step.rejections >= MAX_NODES_LOST or step.passing >= MAX_PASSING:
            self._close(step, StepState.REFUSED)
            return [*out, RefuseStep(event.step, event.refusal)]
        self._wait(step, f"refused by {lease.node}: {event.refusal.text}", now)
        self._next_round_at = now + self._again_s
        return out

    def _pause(self, times: int) -> float:
        return min(self._again_s * 2 ** min(times, 10), MAX_PAUSE_S)

    def _cluster_lost(self, event: ClusterLost, now: float) -> list[Instruction]:
        self._suspects[event.cluster] = event.why
        out: list[Instruction] = []
        for step in list(self._steps.values()):
            if step.lease is not None and step.lease.cluster == event.cluster:
                # The node is not to blame for its scheduler's death, so it is not counted against the step.
                out += self._lost(StepLost(step.ask.step, step.fence, "", event.why, Cause.SCHEDULER_LOST), now)
        if event.cluster in self._asked:
            out += self._bid_missed(BidMissed(event.cluster, self._asked[event.cluster], event.why), now)
        self._late.pop(event.cluster, None)
        return out

    def _wait(self, step: _Step, why: str, now: float) -> None:
        if step.state is StepState.RUNNING:
            step.since = now
        step.state, step.lease, step.waiting_for = StepState.WAITING, None, why
        # An answer that is still under way is taken when it comes; it is not waited for.
        step.looked_at, step.looking = float("-inf"), False
        self._enter(step)

    def _close(self, step: _Step, state: StepState) -> None:
        self._leave(step)
        step.state, step.lease = state, None

    def _enter(self, step: _Step) -> None:
        kind = _kind(step.ask)
        if step.ask.step not in self._waiting:
            self._waiting[step.ask.step] = step
            self._in_window[kind] = self._in_window.get(kind, 0) + 1

    def _leave(self, step: _Step) -> None:
        """Out of the window, and the next of its kind into it."""
        if self._waiting.pop(step.ask.step, None) is None:
            return
        kind = _kind(step.ask)
        self._in_window[kind] -= 1
        behind = self._backlog.get(kind, {})
        if behind and self._in_window[kind] < WINDOW:
            self._enter(behind.pop(next(iter(behind))))
            if not behind:
                del self._backlog[kind]
        if self._in_window[kind] == 0:
            del self._in_window[kind]

    def _why_each_waits(self) -> dict[str, str]:
        why = {key: self._why_waits(step, self._no_room) for key, step in self._waiting.items()}
        for behind in self._backlog.values():
            why |= dict.fromkeys(behind, f"{WINDOW} of its kind are before it")
        return why

    def _why_waits(self, step: _Step, no_room: dict[str, Bid] | None) -> str:
        """`no_room`: the bids of the last round that did not come to every step."""
        asked = no_room is not None and any(place.cluster in no_room for place in step.places)
        return why_no_slot(step.ask, step.places, no_room) if asked and no_room is not None else step.waiting_for

    def _fail(self, step: _Step, code: str, text: str, todo: str) -> list[Instruction]:
        self._close(step, StepState.FAILED)
        refusal = Refusal(code, text, BY, todo)
        return [Tell(step.ask.step, Chapter.REFUSED, str(refusal)), FailStep(step.ask.step, refusal)]

    # Rounds -----------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Instruction]:
        if self._round is not None:
            if self._round.expected and now < self._round.open_until:
                return []
            return self._close_round(now)
        if not self._waiting or now < self._next_round_at:
            return []
        stale = [s for s in self._waiting.values() if not s.looking and now - s.looked_at > self._patience_s]
        out: list[Instruction] = []
        if stale:
            for step in stale:
                step.looking = True
            out.append(FindPlaces(tuple(step.ask for step in stale)))
        out += self._open_round(now)
        if self._round is not None and not self._round.expected:
            out += self._close_round(now)
        return out

    def _ask_soon(self, now: float) -> None:
        self._next_round_at = min(self._next_round_at, now)
        self._ask_again = self._round is not None

    def _open_round(self, now: float) -> list[Instruction]:
        late, self._late = {name: bid for name, (bid, until) in self._late.items() if until > now}, {}
        alike: dict[tuple[_Group, int], list[_Step]] = {}
        for step in self._waiting.values():
            if now >= step.not_before:
                alike.setdefault((_group(step.ask), id(step.places)), []).append(step)
        wanted: dict[str, dict[_Group, int]] = {}
        for (group, _), steps in alike.items():
            reason = ""
            for cluster in self._whom_to_ask(steps[0].places, now):
                if cluster in self._suspects:
                    reason = f"{cluster} is away: {self._suspects[cluster]}"
                elif cluster not in late:
                    counts = wanted.setdefault(cluster, {})
                    counts[group] = counts.get(group, 0) + len(steps)
                    if cluster not in self._holding and self._silent_now(cluster, now):
                        reason = f"{cluster} does not answer: {self._reputation.suspect(cluster)}"
            for step in steps if reason else ():
                step.waiting_for = reason
        out = self._withdraw({group for group, _ in alike})
        groups = {cluster: counts for cluster, counts in wanted.items() if self._asks_now(cluster, counts, now)}
        if not groups and not late:
            self._next_round_at = now + self._again_s
            return out
        self._round_number += 1
        expected: set[str] = set()
        for cluster, counts in sorted(groups.items()):
            suspect, wait_s = bool(self._reputation.suspect(cluster)), self._wait_s(cluster, counts, now)
            self._holding.pop(cluster, None)
            self._asked[cluster], self._asked_for[cluster] = self._round_number, frozenset(counts)
            if wait_s:
                self._holding[cluster] = frozenset(counts)
            elif not suspect:
                expected.add(cluster)
            announce = Announce(
                run=self._run,
                round=self._round_number,
                origin=self._origin,
                groups=tuple(
                    AskGroup(capability, data_class, count, tenant, priority)
                    for (capability, data_class, tenant, priority), count in counts.items()
                ),
                # Nobody waits for a suspect, so it may take its time.
                deadline_s=self._deadline_s * (SUSPECT_PATIENCE if suspect else 1),
                wait_s=wait_s,
            )
            out.append(SendAnnounce(cluster, announce))
        self._round = _Round(
            self._round_number, now + self._deadline_s, expected, late, frozenset(groups), frozenset(late)
        )
        return out

    def _withdraw(self, groups: Collection[_Group]) -> list[Instruction]:
        """Announcements that wait, for nothing that is wanted still."""
        out: list[Instruction] = []
        for cluster in [name for name, held in self._holding.items() if held.isdisjoint(groups)]:
            del self._holding[cluster]
            out.append(WithdrawAnnounce(cluster, self._asked.pop(cluster)))
        return out

    def _asks_now(self, cluster: str, counts: dict[_Group, int], now: float) -> bool:
        """Where an announcement waits, another one takes its place only if it is for something else."""
        if cluster in self._holding:
            return not counts.keys() <= self._holding[cluster]
        return not self._silent_now(cluster, now)

    def _wait_s(self, cluster: str, counts: dict[_Group, int], now: float) -> float:
        nothing, until = self._nothing.get(cluster, (frozenset(), now))
        return self._park_s if now < until and counts.keys() <= nothing and len(self._holding) < MAX_HOLDING else 0.0

    def _whom_to_ask(self, places: tuple[Place, ...], now: float) -> Collection[str]:
        if id(places) not in self._clusters_of:
            self._clusters_of[id(places)] = (list(dict.fromkeys(place.cluster for place in places)), places)
        clusters, _ = self._clusters_of[id(places)]
        return self._reputation.ask_whom(clusters, now, f"{self._run}/{self._round_number + 1}")

    def _silent_now(self, cluster: str, now: float) -> bool:
        """It is not asked: it rests after having been silent, or what it was asked last is open still."""
        return self._reputation.rests(cluster, now) or cluster in self._asked

    def _bid(self, bid: Bid, now: float) -> list[Instruction]:
        self._reputation.answered(bid.cluster)
        if self._asked.get(bid.cluster) == bid.round:
            del self._asked[bid.cluster]
            self._holding.pop(bid.cluster, None)
        elif not bid.points:
            return []
        if self._round is None or bid.round != self._round.number:
            if self._round_number - bid.round < OLD_ROUNDS:
                self._late[bid.cluster] = (bid, now + bid.expires_s)
                self._ask_soon(now)
            return []
        self._round.expected.discard(bid.cluster)
        self._round.bids[bid.cluster] = bid
        return []

    def _bid_missed(self, event: BidMissed, now: float) -> list[Instruction]:
        if self._asked.get(event.cluster) != event.round:
            return []
        del self._asked[event.cluster]
        for known in (self._holding, self._nothing, self._last_bids):
            known.pop(event.cluster, None)
        self._reputation.missed(event.cluster, event.why, now)
        if self._round is not None and event.round == self._round.number:
            self._round.expected.discard(event.cluster)
        return [Tell("", Chapter.BID, f"no bid from {event.cluster}: {event.why}", {"cluster": event.cluster})]

    def _close_round(self, now: float) -> list[Instruction]:
        round_, self._round = self._round, None
        assert round_ is not None
        for cluster in round_.expected:
            # Its answer is taken when it comes; it is not waited for any more.
            self._reputation.missed(cluster, f"no bid within {self._deadline_s:g} s", now)
        self._last_bids |= round_.bids
        seen = {name: self._last_bids[name] for name in self._holding if name in self._last_bids} | round_.bids
        offers = _Offers(round_.bids.values())
        awards: dict[str, list[LeaseRequest]] = {}
        out: list[Instruction] = []
        no_room, self._no_room = self._no_room, None
        for step in sorted(self._waiting.values(), key=_matching_order):
            if offers.exhausted:
                # Why each of the others waits is worked out when somebody asks.
                self._no_room = seen
                break
            if now < step.not_before:
                continue
            near = round_.near(step.places)
            choice, considered = self._choose(step, near, offers, now)
            if choice is None:
                out += self._not_chosen(step, near, considered, seen)
                continue
            silent = self._silent(step, near, seen, considered)
            out += self._told_wait(step, no_room, now)
            offers.take(choice.cluster)
            key = step.ask.step
            step.price = next(offer["price"] for offer in considered if offer["cluster"] == choice.cluster)
            self._spent += step.price
            step.fence = self._fences[key] = self._fences.get(key, 0) + 1
            step.state = StepState.AWARDING
            self._leave(step)
            self._awarding.setdefault(choice.cluster, set()).add(key)
            awards.setdefault(choice.cluster, []).append(
                LeaseRequest(
                    run=self._run,
                    step=key,
                    fence=step.fence,
                    capability=step.ask.capability,
                    data_class=step.ask.data_class,
                    tenant=step.ask.tenant,
                    avoid=step.avoids(now),
                    preemptible=step.ask.effect is not Effect.AT_MOST_ONCE,
                )
            )
            facts = {"round": round_.number, "offers": considered, "silent": silent, "taken": choice.cluster}
            out.append(Tell(key, Chapter.BID, bids_text(facts), facts))
        for cluster in round_.bids:
            asked = self._asked_for.get(cluster, frozenset())
            nothing = frozenset(group for group in asked if not offers.left(cluster, group))
            self._nothing[cluster] = (nothing, now + NOTHING_S)
        for cluster in round_.late - awards.keys():
            if round_.bids[cluster].points:
                # It keeps room for us, which others may have.
                awards[cluster] = []
        for cluster, requests in sorted(awards.items()):
            out.append(SendAward(Award(cluster, self._run, round_.number, self._origin, tuple(requests))))
        self._next_round_at = now if self._ask_again else now + self._again_s
        self._ask_again = False
        return out

    def _choose(
        self, step: _Step, places: tuple[Place, ...], offers: _Offers, now: float
    ) -> tuple[Place | None, list[dict[str, Any]]]:
        """The place with the least expected cost, of those that can be paid; and all that was offered."""
        best: tuple[bool, float, str] | None = None
        choice, considered = None, []
        for place in places:
            offer = offers.price(place.cluster, step.ask)
            if offer is None:
                continue
            price, trust = offer, self._reputation.trust(place.cluster, now)
            seconds = self._expect(step.ask.capability, place.cluster) + place.transfer_s
            considered.append(
                {"cluster": place.cluster, "price": price, "seconds": round(seconds, 3), "trust": round(trust, 3)}
            )
            # A bid that is not kept costs a round, so what is offered is worth as much of it as is kept.
            cost = (self._weights.second * seconds + self._weights.credit * price) / trust
            rank = (place.cluster == step.turned_down_by, cost, place.cluster)
            if self._can_pay(price) and (best is None or rank < best):
                best, choice = rank, place
        return choice, considered

    def _can_pay(self, price: float) -> bool:
        return self._budget is None or self._spent + price <= self._budget

    def _not_chosen(
        self, step: _Step, near: tuple[Place, ...], offers: list[dict[str, Any]], bids: dict[str, Bid]
    ) -> list[Instruction]:
        if not offers:
            step.waiting_for = why_no_slot(step.ask, near, bids)
            return []
        least = min(offer["price"] for offer in offers)
        text = f"the run may spend {self._budget:g} credits and has spent {self._spent:g}; the least offer is {least:g}"
        if len(offers) < len(step.places):
            # A cheaper one may have room later.
            step.waiting_for = text
            return []
        refusal = Refusal("flow.budget", text, BY, "raise the run's budget, or let it run where it is cheaper")
        self._close(step, StepState.REFUSED)
        return [Tell(step.ask.step, Chapter.REFUSED, str(refusal)), RefuseStep(step.ask.step, refusal)]

    def _told_wait(self, step: _Step, no_room: dict[str, Bid] | None, now: float) -> list[Instruction]:
        """How long the step has waited for room, once it has it."""
        waited = now - step.since
        if waited < TOLD_WAIT_S:
            return []
        why = self._why_waits(step, no_room) or "its places were being looked up"
        text = f"waited {waited:.1f} s for a place: {why}"
        return [Tell(step.ask.step, Chapter.WAIT, text, {"seconds": round(waited, 3), "why": why})]

    def _silent(
        self, step: _Step, places: tuple[Place, ...], bids: dict[str, Bid], offers: list[dict[str, Any]]
    ) -> list[dict[str, str]]:
        """Of the `places` that may take the step: those without an offer to it, and why."""
        offered = {offer["cluster"] for offer in offers}
        return [
            {
                "cluster": place.cluster,
                "why": self._suspects.get(place.cluster) or why_silent(step.ask, place.cluster, bids),
            }
            for place in places
            if place.cluster not in offered
        ]

    def _awarded(self, awarded: Awarded, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        broken = [item for item in awarded.rejected if item.refusal.code != STALE_FENCE]
        self._reputation.observe(awarded.cluster, len(awarded.leases), len(broken), now)
        open_keys = self._awarding.get(awarded.cluster, set())
        for lease in awarded.leases:
            step = self._steps.get(lease.step)
            if step is None or lease.step not in open_keys or step.fence != lease.fence:
                out.append(ReleaseLeases(awarded.cluster, (lease.id,)))
                continue
            open_keys.discard(lease.step)
            step.state, step.lease, step.turned_down_by = StepState.RUNNING, lease, ""
            facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": lease.fence}
            facts |= {"price": step.price} if step.price else {}
            out.append(Tell(lease.step, Chapter.AWARD, f"awarded to {lease.node} of {lease.cluster}", facts))
            out.append(StartStep(step.ask, lease))
        for rejected in awarded.rejected:
            step = self._steps.get(rejected.step)
            if step is None or rejected.step not in open_keys or step.fence != rejected.fence:
                continue
            open_keys.discard(rejected.step)
            step.turned_down_by = awarded.cluster
            self._take_back_price(step)
            self._wait(step, rejected.refusal.text, now)
            out.append(Tell(rejected.step, Chapter.AWARD, f"not awarded: {rejected.refusal}"))
        if not open_keys:
            self._awarding.pop(awarded.cluster, None)
        return out

    def _award_missed(self, event: AwardMissed, now: float) -> list[Instruction]:
        open_keys = self._awarding.get(event.cluster, set())
        self._reputation.missed(event.cluster, event.why, now)
        for key in event.steps:
            if key in open_keys:
                open_keys.discard(key)
                self._take_back_price(self._steps[key])
                self._wait(self._steps[key], f"{event.cluster} did not answer the award: {event.why}", now)
        if not open_keys:
            self._awarding.pop(event.cluster, None)
        # A lease that was granted all the same is not leaked: it expires, and a newer fence replaces it.
        return [Tell("", Chapter.AWARD, f"award to {event.cluster} not answered: {event.why}")]

    def _take_back_price(self, step: _Step) -> None:
        """What nobody granted, or no node began, costs nothing. What was begun is paid, also where it is lost."""
        self._spent, step.price = self._spent - step.price, 0.0

    # What was learnt --------------------------------------------------------------------------------------------

    def _learn(self, capability: str, cluster: str, seconds: float) -> None:
        old = self._seconds.get((capability, cluster), seconds)
        self._seconds[capability, cluster] = 0.7 * old + 0.3 * seconds

    def _expect(self, capability: str, cluster: str) -> float:
        """Seconds expected there; where nothing is known, the mean of the others, so that all get tried."""
        known = self._seconds.get((capability, cluster))
        if known is not None:
            return known
        others = [seconds for (name, _), seconds in self._seconds.items() if name == capability]
        return sum(others) / len(others) if others else 1.0


class _Offers:
    """Supply that is left in a round. Points of one cluster share its slots."""

    def __init__(self, bids: Iterable[Bid]) -> None:
        self._points = {
            (bid.cluster, point.capability, point.data_class): point for bid in bids for point in bid.points
        }
        self._left: dict[str, int] = {}
        for (cluster, _, _), point in self._points.items():
            self._left[cluster] = max(self._left.get(cluster, 0), point.slots)

    @property
    def exhausted(self) -> bool:
        return not any(left > 0 for left in self._left.values())

    def price(self, cluster: str, ask: Ask) -> float | None:
        """None where it has no room."""
        point = self._points.get((cluster, ask.capability, ask.data_class))
        if point is None or point.slots < 1 or self._left.get(cluster, 0) < 1:
            return None
        return point.price

    def left(self, cluster: str, group: _Group) -> bool:
        point = self._points.get((cluster, *group[:2]))
        return point is not None and point.slots > 0 and self._left[cluster] > 0

    def take(self, cluster: str) -> None:
        self._left[cluster] -= 1


def _group(ask: Ask) -> _Group:
    return ask.capability, ask.data_class, ask.tenant, ask.priority


def _kind(ask: Ask) -> _Kind:
    return ask.capability, ask.data_class, ask.tenant, ask.priority, ask.domains, ask.cluster


def _matching_order(step: _Step) -> tuple[int, int, int]:
    """Priority first; then who has the fewest places, lest others take their only one; then age."""
    return (-step.ask.priority, len(step.places), step.order)
