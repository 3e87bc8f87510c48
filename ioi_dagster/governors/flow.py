"""The flow governor: owns the outcome of each step of one run.

It turns ready steps into asks, announces them (`flow_rounds`), matches bids to steps and awards (`flow_awards`) by a rule that
can be exchanged (`flow_placing`), starts, re-places what was lost and lets exactly one attempt of each step commit. A contract
net with confirmation (R. G. Smith, "The Contract Net Protocol", IEEE Trans. Computers C-29(12), 1980) with supply curves
instead of per-task bids. No I/O, no clock: the executor performs the instructions and feeds back events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ioi_dagster.governors.failures import (
    AT_MOST_ONCE,
    AT_MOST_ONCE_TODO,
    GANG_BROKEN,
    GANG_LOST,
    GANG_TODO,
    POISON,
    POISON_TODO,
    RULES,
    Cause,
)
from ioi_dagster.governors.flow_awards import BY, COPY_AGAIN_S, Awards
from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_copies import Copies
from ioi_dagster.governors.flow_gangs import Gangs
from ioi_dagster.governors.flow_messages import (
    AdoptStep,
    Answer,
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
    GraphKnown,
    Instruction,
    Intervened,
    Place,
    PlacesFound,
    RefuseStep,
    ReleaseLeases,
    StandingKnown,
    StartRefused,
    StepDropped,
    StepEnded,
    StepFound,
    StepFused,
    StepLost,
    StepReady,
    StepReturned,
    StopStep,
    Tell,
    Tick,
)
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_placing import Placing, objective_of
from ioi_dagster.governors.flow_plan import PlanAhead
from ioi_dagster.governors.flow_rounds import AGAIN_S, DEADLINE_S, PARK_S, Rounds
from ioi_dagster.governors.flow_steering import Steering
from ioi_dagster.governors.flow_steps import OVER, WINDOW, Step, Steps, StepState
from ioi_dagster.governors.flow_texts import Candidates, remedy, why_few, why_nobody
from ioi_dagster.governors.flow_waits import facts_of
from ioi_dagster.governors.node import CANCELLED as CANCELLED_THERE
from ioi_dagster.governors.node import NOT_NOW as NODE_NOT_NOW
from ioi_dagster.governors.reputation import Reputation
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.intervention import CANCELLED, ONCE, PART, Action, Intervention
from ioi_dagster.model.negotiation import Ask, Effect, Lease
from ioi_dagster.model.refusal import GATEWAY_FULL, Refusal
from ioi_dagster.model.standing import Experience
from ioi_dagster.model.story import Chapter

MAX_NODES_LOST = 3
"""A step that took down this many distinct nodes is the likely cause, and is stopped."""
MAX_LOSSES = 5
"""The same where there are fewer nodes to lose: so many losses in all."""
MAX_RETURNED = 50
"""Losses that nobody is blamed for (a scheduler's, a neighbour's) are not counted against a step, but do not go on for ever."""
OF_CLUSTERS = frozenset({Cause.NODE_LOST, Cause.NODE_ERROR, Cause.SCHEDULER_LOST})
"""Losses that are held against the cluster where they happen."""
CANCELLED_TODO = "ask the owner of where it ran; then re-execute the run from failure"
MAX_PLACES_SEEN = 1_000
PASSING = frozenset({"block.circuit_open", "block.queue_full"})
"""Refusals of a start that pass by themselves: the step waits longer from time to time, and is refused after `MAX_PASSING`."""
MAX_PASSING = 20
MAX_PAUSE_S = 3.0
NOT_NOW = NODE_NOT_NOW | GATEWAY_FULL
"""Refusals of a start in which its step has no part: it waits as long as they take."""
NOT_NOW_S = 5.0
"""A node that refused a start for what passes there is avoided for so long, if there is another."""


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
    no room, 0 where all answer at once; `budget`: credits that the run may spend, None for any number; `due`: when (monotonic s)
    it is to be over, None where nobody says.
    Raises `BadInputError` for an objective that is not known."""

    def __init__(
        self,
        run: str,
        origin: str,
        objective: str = "balanced",
        *,
        patience_s: float = 2.0,
        deadline_s: float = DEADLINE_S,
        again_s: float = AGAIN_S,
        budget: float | None = None,
        due: float | None = None,
        park_s: float = PARK_S,
        placing: Placing | None = None,
    ) -> None:
        self._patience_s, self._again_s, self._due, self._overdue = patience_s, again_s, due, False
        self._reputation, self._steps, self._candidates = Reputation(), Steps(), Candidates()
        self._cold, nearness = ColdStarts(), Nearness(self._steps)
        self._placing = placing or PlanAhead(objective_of(objective), origin, self._cold)
        self._gangs, self._copies = Gangs(self._steps), Copies(self._placing)
        self._steering = Steering(self._steps, self._gangs)
        self._cancelled: dict[str, Refusal] = {}
        """Steps that will be asked for again, and are not to start then."""
        self._rounds = Rounds(run, origin, self._reputation, deadline_s=deadline_s, again_s=again_s, park_s=park_s)
        self._awards = Awards(
            run,
            origin,
            self._steps,
            self._gangs,
            self._copies,
            nearness,
            self._cold,
            self._rounds,
            self._reputation,
            self._placing,
            self._steering,
            budget,
        )
        self._places_seen: dict[tuple[Place, ...], tuple[Place, ...]] = {}
        self._last_places: tuple[Place, ...] = ()

    # The one way in ---------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float, more: bool = False) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds); return what is to be done.

        `more`: another one follows at once, so no round is opened or closed yet. One round for what happened together costs
        less than one for each event.
        """
        match event:
            case GraphKnown():
                self._placing.know(event, now)
                out = []
            case StepReady(ask):
                out = self._ready(ask, now)
            case PlacesFound():
                out = self._places(event, now)
            case BidReceived(bid):
                self._rounds.bid(bid, now)
                out = []
            case BidMissed():
                self._placing.away(event.cluster)
                out = self._rounds.missed(event, now)
            case AwardAnswered():
                out = self._awards.answered(event, now)
            case AwardMissed():
                out = self._awards.missed(event, now)
            case StepEnded():
                out = self._ended(event, now)
            case StepFused():
                out = self._fused(event, now)
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
                self._rounds.back(cluster, now)
                out = []
            case Intervened():
                out = self._intervened(event, now)
            case StandingKnown(standings):
                self._reputation.begin(standings)
                out = []
            case Tick():
                out = self._look_at_clock(now)
        return out if more else [*out, *self._advance(now)]

    def resume(self, fences: dict[str, int], spent: float = 0.0) -> None:
        """Start from the fences of an earlier process of this run, so that it is fenced off, and from what it had spent."""
        self._steps.resume(fences)
        self._awards.spent = spent

    def raise_fence(self, step: str) -> int:
        """A new fence for what is made of the step outside of any node; no earlier start of it commits any more."""
        return self._steps.raise_fence(step)

    def fence(self, step: str) -> int:
        """The newest fence of the step; 0 where it was never awarded."""
        return self._steps.fence(step)

    def lease(self, step: str) -> Lease | None:
        """The lease under which the step runs now."""
        known = self._steps.get(step)
        return known.lease if known else None

    def waits_since(self, step: str) -> float | None:
        """Since when (monotonic s) the step waits for a place; None where it does not."""
        known = self._steps.get(step)
        return known.since if known is not None and known.state is StepState.WAITING else None

    def wants(self, lease: Lease) -> bool:
        """Does the step run under `lease` now, as far as is known here?"""
        step = self._steps.get(lease.step)
        return step is not None and any(lease is one for one in step.runs())

    def may_follow(self, step: str) -> bool:
        """May it run at once where the step before it ran, as far as people have said anything of it?"""
        return self._steering.may_join(step) and not self._steering.away(step) and step not in self._cancelled

    def holding(self) -> dict[str, int]:
        """Clusters at which an announcement of this run waits for room, and its round."""
        return self._rounds.holding()

    def experience(self) -> tuple[Experience, ...]:
        """What the run has seen of clusters since this was asked last."""
        return self._reputation.experience()

    def places(self) -> set[str]:
        """Names of the clusters where steps may have run, and of the nodes where they were."""
        seen = (name for step in self._steps.all() for name in (*step.where, *step.lost_on, *step.away))
        return {*self._awards.overbids.slots, *filter(None, seen)}

    def leases(self) -> list[Lease]:
        """Leases in use, to be renewed."""
        return [lease for step in self._steps.all() for lease in step.runs()]

    def chooses_to_wait(self, step: str) -> bool:
        """It was offered a place in the last round, and waits for a better one."""
        known = self._steps.get(step)
        return known is not None and known.state is StepState.WAITING and bool(self._placing.why_waits(known))

    def snapshot(self) -> FlowSnapshot:
        counts: dict[str, int] = {}
        for step in self._steps.all():
            counts[step.state] = counts.get(step.state, 0) + 1
        waiting = {step.ask.step: self._awards.why_waits(step) for step in self._steps.waiting()}
        waiting |= dict.fromkeys(self._steps.behind(), f"{WINDOW} of its kind are before it")
        if self._steering.room() == 0:
            capped = [key for key in waiting if PART not in key]
            waiting |= dict.fromkeys(capped, self._steering.why_capped)
        waiting |= {key: self._steering.why_held(key) for key in self._steps.held()}
        return FlowSnapshot(
            round=self._rounds.number,
            counts=counts,
            waiting=waiting,
            suspects=dict(self._rounds.away),
            spent=self._awards.spent,
            reputation=self._reputation.snapshot(),
        )

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        self._steps.validate()
        self._gangs.validate()
        self._rounds.validate()
        self._awards.validate()

    def _advance(self, now: float) -> list[Instruction]:
        """Close the round that is over, or open one that is due."""
        if not (self._rounds.is_over(now) if self._rounds.is_open else self._rounds.is_due(now)):
            return []
        self._steering.recount()
        if self._rounds.is_open:
            return self._match(now)
        room = self._steering.room()
        waiting = self._steps.waiting()
        if room == 0:
            waiting = [step for step in waiting if self._steering.is_part(step)]
        # Copies of what runs are for room that nothing waits for.
        late = () if room is not None or (waiting and not self._awards.choosy) else tuple(self._copies.late(now))
        late = tuple(step for step in late if self._steering.may_join(step.ask.step))
        if not waiting and not late:
            return []
        out = self._look_up([*waiting, *late], now)
        late = tuple(step for step in late if step.places and not step.looking)
        if waiting or late:
            together = self._gangs.together(waiting)
            about, left_s = self._placing.about(waiting, now), self._placing.remaining_s()
            due_s = None if self._due is None else max(0.0, self._due - now)
            passed = self._awards.asked_in_vain
            out += self._rounds.open(together, now, late, about, left_s, due_s, self._copies.at_most, passed)
        if self._rounds.is_over(now):
            out += self._match(now)
        elif not self._rounds.is_open:
            out += self._awards.told_waits(now, over=False)
        return out

    def _match(self, now: float) -> list[Instruction]:
        return [*self._awards.match(now), *self._awards.told_waits(now, over=True)]

    def _look_at_clock(self, now: float) -> list[Instruction]:
        if self._due is None or self._overdue or now <= self._due:
            return []
        self._overdue = True
        return [Tell("", Chapter.WAIT, "the run's deadline has passed; it goes on")]

    def _look_up(self, steps: Iterable[Step], now: float) -> list[Instruction]:
        """The places of those of which they are not known, or were known too long ago."""
        stale = [step for step in steps if not step.looking and now - step.looked_at > self._patience_s]
        for step in stale:
            step.looking = True
        return [FindPlaces(tuple(step.ask for step in stale))] if stale else []

    # Steps ------------------------------------------------------------------------------------------------------

    def _ready(self, ask: Ask, now: float) -> list[Instruction]:
        known = self._steps.get(ask.step)
        if known is not None and known.state not in OVER:
            return []
        ask = self._steering.shaped(ask)
        step = self._steps.add(ask, now)
        if ask.step in self._cancelled:
            return self._refuse(step, self._cancelled.pop(ask.step))
        step.away = self._steering.away(ask.step)
        self._placing.again(step)
        unfit = self._gangs.ready(ask)
        if unfit is not None:
            return self._refuse(step, unfit)
        self._steering.agree(step)
        self._rounds.soon(now)
        return []

    def _places(self, event: PlacesFound, now: float) -> list[Instruction]:
        step = self._steps.waits(event.step)
        if step is None:
            return self._places_of_running(event, now)
        step.looking, step.looked_at = False, now
        places = _without(event.places, step.away)
        before, step.places = step.places, self._shared(places)
        step.unheard = why_few(event.rejected) if event.may_change and event.rejected else ""
        if event.places and not places:
            return self._kept_away(step, now)
        if places:
            if step.places is before:
                return []
            self._rounds.soon(now)
            return [self._candidates.tell(event)]
        told = self._candidates.tell(event)
        if event.may_change:
            reason = why_nobody(event.rejected)
            first = self._waits_for(step, reason, now)
            return [told, *first] if first else []
        refusal = Refusal(
            "flow.no_place",
            f"no place may take it: {why_nobody(event.rejected)}",
            BY,
            remedy(event.rejected),
        )
        return [told, *self._refuse(step, refusal)]

    def _shared(self, places: tuple[Place, ...]) -> tuple[Place, ...]:
        """Equal ones are one object, so that a round can tell steps that have the same places without comparing them."""
        if places is not self._last_places:
            if len(self._places_seen) > MAX_PLACES_SEEN:
                self._places_seen.clear()
                self._rounds.forget_places()
            self._last_places = self._places_seen.setdefault(places, places)
            self._awards.overbids.slots.update((place.cluster, place.slots) for place in places)
        return self._last_places

    def _places_of_running(self, event: PlacesFound, now: float) -> list[Instruction]:
        step = self._steps.get(event.step)
        if step is not None and step.state is StepState.RUNNING:
            step.looking, step.looked_at = False, now
            step.places = self._shared(_without(event.places, step.away))
        return []

    def _ended(self, event: StepEnded, now: float) -> list[Instruction]:
        running = self._steps.running_under(event.step, event.fence, event.copy)
        if running is None:
            why = f"fence {event.fence} is not current ({self._steps.fence(event.step)})"
            return [
                Tell(event.step, Chapter.COMMIT, f"attempt {event.attempt} discarded: {why}"),
                DiscardAttempt(event.step, event.fence, event.attempt, why),
            ]
        step, lease = running
        seconds = self._cold.learn(step.ask.capability, lease.cluster, event.seconds, step.cold and not lease.copy)
        self._placing.ended(step, lease, seconds, now)
        self._copies.learn(step.ask, event.seconds)
        self._rounds.has_room(lease.cluster)
        others = [other for other in step.runs() if other is not lease]
        step.where = (lease.cluster, lease.node)
        self._steps.close(step, StepState.DONE)
        self._rounds.soon(now)
        why = f"{'its copy' if lease.copy else 'it'} has ended on {lease.node} of {lease.cluster}"
        return [
            *(
                Tell(
                    event.step,
                    Chapter.COPY,
                    f"{'its copy' if other.copy else 'it'} is stopped on {other.node} of {other.cluster}: {why}",
                    {"node": other.node, "cluster": other.cluster, "copy": other.copy},
                )
                for other in others
            ),
            CommitStep(event.step, event.fence, event.attempt),
            ReleaseLeases(lease.cluster, (lease.id,)),
            *(StopStep(other, why) for other in others),
        ]

    def _fused(self, event: StepFused, now: float) -> list[Instruction]:
        ask, lease = event.ask, event.lease
        known = self._steps.get(ask.step)
        fence = self._steps.raise_fence(ask.step)
        if known is not None and known.state not in OVER:
            why = "the step is under way by itself"
            return [DiscardAttempt(ask.step, fence, event.attempt, why)]
        step = self._steps.add_known(ask, StepState.DONE, fence, now)
        step.where = (lease.cluster, lease.node)
        self._placing.began(step, lease.cluster, lease.node, now)
        self._placing.ended(step, lease, event.seconds, now)
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": fence}
        text = f"ran in one task after {lease.step} on {lease.node} of {lease.cluster}"
        return [Tell(ask.step, Chapter.AWARD, text, facts), CommitStep(ask.step, fence, event.attempt)]

    def _found(self, ask: Ask, lease: Lease, now: float) -> list[Instruction]:
        if self._steps.get(ask.step) is not None or self._steps.fence(ask.step) != lease.fence:
            # A newer start of it is wanted by now.
            return [ReleaseLeases(lease.cluster, (lease.id,)), *self._ready(ask, now)]
        step = self._steps.add_known(self._steering.shaped(ask), StepState.RUNNING, lease.fence, now, lease)
        self._steps.held_slots.took(lease, self._rounds.number)
        step.away = self._steering.away(ask.step)
        self._placing.began(step, lease.cluster, lease.node, now)
        self._copies.began(step)
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": lease.fence}
        text = f"runs on {lease.node} of {lease.cluster} since an earlier process of the run: its answer is waited for"
        return [Tell(ask.step, Chapter.AWARD, text, facts), AdoptStep(ask, lease)]

    def _lost(self, event: StepLost, now: float) -> list[Instruction]:
        running = self._steps.running_under(event.step, event.fence, event.copy)
        if running is None:
            return []
        step, lease = running
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
        if event.cause is Cause.SHED:
            step.not_now = (event.node, step.not_now[1], now + NOT_NOW_S)
        if event.cause in OF_CLUSTERS and step.losses <= 1:
            # What a step takes down again and again is its own doing.
            self._reputation.lost(lease.cluster, f"a step was lost on {lease.node}: {event.why}")
        if self._goes_on(step, lease, now):
            return out
        if step.ask.effect is Effect.AT_MOST_ONCE:
            text = f"it may run once only and its outcome is unknown: {event.why}"
            return [*out, *self._fail(step, AT_MOST_ONCE, text, AT_MOST_ONCE_TODO)]
        if not rule.again:
            return [*out, *self._fail(step, f"flow.{rule.cause}", event.why, rule.todo)]
        poison = len(step.lost_on) >= MAX_NODES_LOST or step.losses >= MAX_LOSSES
        if poison or step.returned >= MAX_RETURNED:
            nodes = ", ".join(step.lost_on) or "no node that can be named"
            text = f"it was lost {counted(step.losses if poison else step.returned, 'time')}, on {nodes}; last: {event.why}"
            return [*out, *self._fail(step, POISON, text, POISON_TODO)]
        self._placing.again(step)
        self._steps.wait(step, "to be placed again", now)
        self._rounds.soon(now)
        return [*out, *self._gang_falls(step, f"lost on {lease.node}", now)]

    def _returned(self, event: StepReturned, now: float) -> list[Instruction]:
        running = self._steps.running_under(event.step, event.fence, event.copy)
        if running is None:
            return []
        step, lease = running
        back = self._awards.take_back(step, lease)
        text = f"taken back from {lease.node}, where it had not started: {event.why}"
        out: list[Instruction] = [
            ReleaseLeases(lease.cluster, (lease.id,)),
            Tell(event.step, Chapter.AWARD, text, back),
        ]
        if self._goes_on(step, lease, now):
            return out
        self._placing.again(step)
        self._steps.wait(step, event.why, now)
        self._rounds.soon(now)
        return [*out, *self._gang_falls(step, f"taken back from {lease.node}", now)]

    def _dropped(self, key: str, why: str) -> list[Instruction]:
        step = self._steps.get(key)
        if step is None or step.state in OVER:
            return []
        lease = step.lease
        copy = [StopStep(step.copy, why)] if step.copy is not None else []
        if step.state is StepState.AWARDING:
            # The price is told when it is granted, so there is nothing to tell.
            self._awards.take_back_price(step)
        self._awards.dropped(key)
        told = [Tell(key, Chapter.LOSS, f"dropped: {why}"), *copy, *self._close(step, StepState.DROPPED)]
        return [*told, ReleaseLeases(lease.cluster, (lease.id,))] if lease is not None else told

    def _start_refused(self, event: StartRefused, now: float) -> list[Instruction]:
        running = self._steps.running_under(event.step, event.fence, event.copy)
        if running is None:
            return []
        step, lease = running
        out: list[Instruction] = [
            ReleaseLeases(lease.cluster, (lease.id,)),
            Tell(
                event.step,
                Chapter.REFUSED,
                f"{lease.node} refused the start: {event.refusal}",
                self._awards.take_back(step, lease),
            ),
        ]
        if self._goes_on(step, lease, now):
            return out
        code = event.refusal.code
        if code == CANCELLED_THERE:
            return [*out, *self._fail(step, CANCELLED, event.refusal.text, CANCELLED_TODO)]
        if code in NOT_NOW:
            # However long that takes, and however often: the step has no part in it.
            count = step.not_now[1] + 1
            step.not_now = (lease.node, count, now + NOT_NOW_S)
            step.not_before = now + self._pause(count)
        else:
            step.refused_on = (*step.refused_on, lease.node)
            step.passing += code in PASSING
            step.rejections += code not in PASSING
            if code in PASSING:
                step.not_before = now + self._pause(step.passing)
        if step.rejections >= MAX_NODES_LOST or step.passing >= MAX_PASSING:
            return [*out, *self._refuse(step, event.refusal, told=True)]
        self._placing.again(step)
        self._steps.wait(step, f"refused by {lease.node}: {event.refusal.text}", now)
        self._rounds.pause(now)
        return [*out, *self._gang_falls(step, f"{lease.node} refused the start", now)]

    def _pause(self, times: int) -> float:
        return min(self._again_s * 2 ** min(times, 10), MAX_PAUSE_S)

    def _cluster_lost(self, event: ClusterLost, now: float) -> list[Instruction]:
        self._placing.away(event.cluster)
        unanswered = self._rounds.lost(event.cluster, event.why, now)
        out: list[Instruction] = []
        for step in list(self._steps.all()):
            for lease in step.runs():
                if lease.cluster == event.cluster:
                    # The node is not to blame for its scheduler's death, so it is not counted against the step.
                    lost = StepLost(lease.step, lease.fence, "", event.why, Cause.SCHEDULER_LOST, lease.copy)
                    out += self._lost(lost, now)
        return [*out, *unanswered]

    # What people say ---------------------------------------------------------------------------------------------

    def _intervened(self, event: Intervened, now: float) -> list[Instruction]:
        said = event.said
        out: list[Instruction] = []
        if event.idle is not None:
            text = event.idle.text
        elif said.action not in ONCE:
            text = self._steering.of_run(said)
        elif event.again:
            text = ""
            if said.action is Action.REROUTE:
                self._steering.stay_away(said)
            elif said.action is Action.DRAIN:
                self._steering.pause(said)
        elif said.action is Action.CANCEL:
            text, out = self._cancel(said)
        elif said.action is Action.DRAIN:
            text, out = self._drain(said, now)
        else:
            text, out = self._reroute(said, now)
        self._rounds.soon(now)
        if event.again:
            return out
        refused = event.idle is not None and event.idle.refused
        told = f"{said.action} by {said.who or 'somebody'}" + (f" ({said.why})" if said.why else "") + f": {text}"
        facts = {"who": said.who, "action": str(said.action), "why": said.why, "number": said.number}
        return [*out, Tell(said.step, Chapter.INTERVENTION, told, facts), Answer(said, text, refused)]

    def _meant(self, said: Intervention) -> list[Step]:
        """Those that are known by now, and not over."""
        return [step for step in self._steps.all() if step.state not in OVER and said.means(step.ask.step)]

    def _cancel(self, said: Intervention) -> tuple[str, list[Instruction]]:
        by = f"cancelled by {said.who or 'somebody'}" + (f": {said.why}" if said.why else "")
        refusal = Refusal(CANCELLED, by, BY)
        out: list[Instruction] = []
        meant = self._meant(said)
        # Those have a place and wait for something else, such as a slot in a pool, and will be asked for again.
        away = [
            step
            for step in self._steps.all()
            if step.state is StepState.DROPPED and said.means(step.ask.step) and step.ask.step not in self._cancelled
        ]
        self._cancelled |= {step.ask.step: refusal for step in away}
        for step in meant:
            # The end of one is the end of its gang.
            if step.state is StepState.RUNNING:
                out += [*self._stop(step, by), *self._fail(step, CANCELLED, by, "")]
            elif step.state not in OVER:
                self._awards.let_go(step)
                out += self._refuse(step, refusal)
        count = len(meant) + len(away)
        return (f"{count} cancelled" if count else "nothing to cancel: it is over, or has not come yet"), out

    def _drain(self, said: Intervention, now: float) -> tuple[str, list[Instruction]]:
        """A pause, and what runs is stopped, to begin again once it goes on."""
        self._steering.pause(said)
        running = [step for step in self._meant(said) if step.state is StepState.RUNNING]
        why = self._steering.why_held(said.step)
        again, stay, out = self._stopped(running, why, "paused", now)
        for step in self._meant(said):
            self._unawarded(step, why, now)
        text = "paused" + (f"; {again} stopped, to begin again when it goes on" if again else "")
        return text + (f"; {stay} may run once only, and go on to their end" if stay else ""), out

    def _reroute(self, said: Intervention, now: float) -> tuple[str, list[Instruction]]:
        self._steering.stay_away(said)
        why = f"it is to stay away from {said.away}"
        meant = self._meant(said)
        there, elsewhere = list[Step](), list[Step]()
        for step in meant:
            runs_there = any(said.away in (one.cluster, one.node) for one in step.runs())
            (there if runs_there else elsewhere).append(step)
        again, stay, out = self._stopped(there, why, "rerouted", now)
        for step in elsewhere:
            self._unawarded(step, why, now)
            # Its places are looked up anew, those for copies of it too.
            step.places, step.looked_at = (), float("-inf")
            step.copying = "" if step.copying == said.away else step.copying
        text = f"it stays away from {said.away}" + (f"; {again} stopped there, to run elsewhere" if again else "")
        return text + (f"; {stay} may run once only, and go on there" if stay else ""), out

    def _stopped(self, running: list[Step], why: str, was: str, now: float) -> tuple[int, int, list[Instruction]]:
        """They are to begin again, each with its gang: how many, and how many go on, which may run once only."""
        again, stay, out = 0, 0, list[Instruction]()
        for step in running:
            together = (step, *self._gangs.others(step, StepState.RUNNING))
            if step.state is not StepState.RUNNING:
                again += 1  # it was stopped with its gang
            elif any(one.ask.effect is Effect.AT_MOST_ONCE for one in together):
                stay += 1
            else:
                again += 1
                out += self._stop(step, why)
                self._placing.again(step)
                self._steps.wait(step, why, now)
                out += self._gang_falls(step, was, now)
        return again, stay, out

    def _unawarded(self, step: Step, why: str, now: float) -> None:
        """A step that was on its way to a lease waits again, and so does its gang."""
        if step.state is not StepState.AWARDING:
            return
        for one in (step, *self._gangs.others(step, StepState.AWARDING)):
            self._awards.let_go(one)
            self._placing.again(one)
            self._steps.wait(one, why, now)

    def _kept_away(self, step: Step, now: float) -> list[Instruction]:
        places = ", ".join(sorted(step.away))
        return self._waits_for(step, f"each place that may take it is one to stay away from ({places})", now)

    def _waits_for(self, step: Step, reason: str, now: float) -> list[Instruction]:
        """That is told, if it is new."""
        if step.waiting_for == reason:
            return []
        step.waiting_for = reason
        self._awards.waits.said(step, reason, now)
        return [Tell(step.ask.step, Chapter.WAIT, f"waits: {reason}", facts_of(reason, now - step.since))]

    # ------------------------------------------------------------------------------------------------------------

    def _fail(self, step: Step, code: str, text: str, todo: str) -> list[Instruction]:
        refusal = Refusal(code, text, BY, todo)
        told = [Tell(step.ask.step, Chapter.REFUSED, str(refusal)), FailStep(step.ask.step, refusal)]
        return [*told, *self._close(step, StepState.FAILED)]

    def _refuse(self, step: Step, refusal: Refusal, told: bool = False) -> list[Instruction]:
        """`told`: why is in its story already."""
        out: list[Instruction] = [] if told else [Tell(step.ask.step, Chapter.REFUSED, str(refusal))]
        return [*out, RefuseStep(step.ask.step, refusal), *self._close(step, StepState.REFUSED)]

    def _goes_on(self, step: Step, lease: Lease, now: float) -> bool:
        """One of its starts is over without a result: is there another one?"""
        if step.copy is None:
            return False
        self._placing.stopped(step, lease)
        self._steps.held_slots.left(lease)
        if lease is step.lease:
            step.lease, step.price = step.copy, step.copy_price
        step.copy, step.no_copy_before = None, now + COPY_AGAIN_S
        return True

    # Gangs ------------------------------------------------------------------------------------------------------

    def _gang_falls(self, step: Step, why: str, now: float) -> list[Instruction]:
        """A step waits again: those of its gang that run are stopped, to start again together with it. What may run once only
        cannot, and so they end with it."""
        running = self._gangs.others(step, StepState.RUNNING)
        why = f"{step.ask.step} of its gang {step.ask.gang!r} was {why}" if running else ""
        once = [other for other in running if other.ask.effect is Effect.AT_MOST_ONCE]
        if once:
            text = f"it may run once only, and is stopped with its gang: {why}"
            return [*self._stop(once[0], why), *self._fail(once[0], AT_MOST_ONCE, text, AT_MOST_ONCE_TODO)]
        out: list[Instruction] = []
        for other in running:
            out += self._stop(other, why)
            self._placing.again(other)
            self._steps.wait(other, why, now)
        return out

    def _close(self, step: Step, state: StepState) -> list[Instruction]:
        """It is over, and so are those that cannot do without it."""
        waiting = self._gangs.others(step, StepState.WAITING, StepState.AWARDING)
        running = self._gangs.others(step, StepState.RUNNING)
        self._gangs.over(step)
        for one in (step, *waiting, *running):
            self._placing.gone(one)
        self._steps.close(step, state)
        why = f"{step.ask.step} of its gang {step.ask.gang!r} was {state}"
        refusal = Refusal(GANG_BROKEN, f"it starts with all of its gang or not at all: {why}", BY, GANG_TODO)
        out: list[Instruction] = []
        for other in waiting:
            if other.state is StepState.AWARDING:
                self._awards.take_back_price(other)
                self._awards.dropped(other.ask.step)
            self._gangs.over(other)
            self._steps.close(other, StepState.REFUSED)
            out += [Tell(other.ask.step, Chapter.REFUSED, str(refusal)), RefuseStep(other.ask.step, refusal)]
        refusal = Refusal(GANG_LOST, f"it was stopped with the rest of its gang: {why}", BY, GANG_TODO)
        for other in running:
            out += self._stop(other, why)
            self._gangs.over(other)
            self._steps.close(other, StepState.FAILED)
            out += [Tell(other.ask.step, Chapter.REFUSED, str(refusal)), FailStep(other.ask.step, refusal)]
        return out

    def _stop(self, step: Step, why: str) -> list[Instruction]:
        lease = step.lease
        assert lease is not None
        facts = {"node": lease.node, "cluster": lease.cluster, "domain": lease.domain, "fence": lease.fence}
        told = Tell(step.ask.step, Chapter.LOSS, f"stopped on {lease.node} of {lease.cluster}: {why}", facts)
        return [told, *(StopStep(one, why) for one in step.runs())]


def _without(places: tuple[Place, ...], away: frozenset[str]) -> tuple[Place, ...]:
    return tuple(place for place in places if place.cluster not in away) if away else places
