"""Rounds of a flow governor: whom it asks for room and how, which bids it waits for, and where an announcement waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from ioi_dagster.governors.flow_messages import BidMissed, Instruction, Place, SendAnnounce, Tell, WithdrawAnnounce
from ioi_dagster.governors.flow_offers import Offers
from ioi_dagster.governors.flow_steps import Group, Step
from ioi_dagster.governors.reputation import MANY, Reputation
from ioi_dagster.model.negotiation import MAX_GROUPS, MAX_SECONDS, Announce, Ask, AskGroup, Bid, Effect
from ioi_dagster.model.story import Chapter

OLD_ROUNDS = 100
"""A bid of a round that is longer ago is not looked at."""
SUSPECT_PATIENCE = 4

DEADLINE_S, AGAIN_S = 1.0, 0.2
"""A round waits so long for bids, and so long it is until the next where nobody had room."""
PARK_S = 10.0
"""Where a bid offered nothing, the next announcement waits so long at the cluster for room."""
NOTHING_S = 1.0
"""So long a cluster that had no room is believed to have none. It is not asked that way when a step of ours ended there."""
CHOOSY = 5
"""So many times as long as else it is until a run asks again that had offers, but has steps that wait for better ones."""
MAX_HOLDING = 50
"""At so many clusters at once."""


@dataclass(slots=True)
class Round:
    number: int
    open_until: float
    expected: set[str]
    """Those whose bids are waited for."""
    bids: dict[str, Bid] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    """Those of whom a bid was there already when it began."""
    copies: tuple[Step, ...] = ()
    """Those that run and are late: it is about copies of them."""
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


class Rounds:
    """At most one is open. `away`: clusters that are not asked, and why."""

    def __init__(
        self, run: str, origin: str, reputation: Reputation, *, deadline_s: float, again_s: float, park_s: float
    ) -> None:
        self._run, self._origin, self._reputation = run, origin, reputation
        self._deadline_s, self._again_s, self._park_s = deadline_s, again_s, park_s
        self.away: dict[str, str] = {}
        self.number = 0
        self._round: Round | None = None
        self._next_at = float("-inf")
        self._again = False
        """Something came during the round that it knew nothing of, so there is another one at once."""
        self._asked: dict[str, int] = {}
        """Cluster → the round of its announcement that is not answered."""
        self._overdue: dict[str, int] = {}
        """Those of `_asked` that were taken to be late when their round was over: what becomes of it is no second miss."""
        self._asked_about: dict[str, int] = {}
        """Cluster → the round of its last announcement that asked how its nodes look."""
        self._asked_for: dict[str, frozenset[Group]] = {}
        """Cluster → what it was asked for last."""
        self._holding: dict[str, frozenset[Group]] = {}
        """Those of `_asked` that may wait for room with their answer, and for what."""
        self._turns: dict[str, int] = {}
        """Cluster → how many announcements have waited there to their end."""
        self._nothing: dict[str, tuple[frozenset[Group], float]] = {}
        """Cluster → what it has nothing left for, and until when that is likely."""
        self._last_bids: dict[str, Bid] = {}
        self._late: dict[str, tuple[Bid, float]] = {}
        """Bids that came when their round was over, and until when they are good: they count in the next."""
        self._clusters_of: dict[int, tuple[list[str], tuple[Place, ...]]] = {}
        """By the identity of places, which is theirs as long as they are kept here."""

    # When -------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._round is not None

    def is_over(self, now: float) -> bool:
        """One is open, and nothing more is waited for."""
        return self._round is not None and (not self._round.expected or now >= self._round.open_until)

    def is_due(self, now: float) -> bool:
        return self._round is None and now >= self._next_at

    def soon(self, now: float) -> None:
        """There is something new to ask, or somebody new to ask."""
        self._next_at = min(self._next_at, now)
        self._again = self._round is not None

    def pause(self, now: float) -> None:
        """The next one is not before a while."""
        self._next_at = now + self._again_s

    # Asking -----------------------------------------------------------------------------------------------------

    def open(
        self,
        waiting: Iterable[Step],
        now: float,
        copies: tuple[Step, ...] = (),
        about: tuple[str, ...] = (),
        remaining_s: float = 0.0,
        due_s: float | None = None,
        at_most: Callable[[Ask], float] = lambda ask: 0.0,
        passed: Callable[[Step], Collection[str]] = lambda step: (),
    ) -> list[Instruction]:
        """Ask for all that wait, or for `copies` of what runs; no round is open afterwards where there is nobody to ask. For
        `about`, `remaining_s` and `due_s` see `Announce`; `at_most`: seconds that a step takes, 0 where nobody knows; `passed`:
        of many clusters those that are asked for it after the others."""
        late, self._late = {name: bid for name, (bid, until) in self._late.items() if until > now}, {}
        alike: dict[tuple[Group, int], list[Step]] = {}
        for step in waiting:
            if now >= step.not_before:
                alike.setdefault((step.group, id(step.places)), []).append(step)
        for step in copies:
            alike.setdefault((step.group._replace(idle=True), id(step.places)), []).append(step)
        wanted: dict[str, dict[Group, int]] = {}
        for (group, _), steps in alike.items():
            reason = ""
            for cluster in self._whom_to_ask(steps[0], now, passed):
                if cluster in self.away:
                    reason = f"{cluster} is away: {self.away[cluster]}"
                elif cluster not in late:
                    counts = wanted.setdefault(cluster, {})
                    counts[group] = counts.get(group, 0) + len(steps)
                    if cluster not in self._holding and self._silent_now(cluster, now):
                        reason = f"{cluster} does not answer: {self._reputation.suspect(cluster)}"
            for step in steps if reason else ():
                step.waiting_for = reason
        out = self._withdraw({group for group, _ in alike})
        wanted = {cluster: self._first(cluster, counts) for cluster, counts in wanted.items()}
        groups = {cluster: counts for cluster, counts in wanted.items() if self._asks_now(cluster, counts, now)}
        if not groups and not late:
            self.pause(now)
            return out
        self.number += 1
        expected: set[str] = set()
        asked = _Asked(_seconds(alike, at_most))
        for cluster, counts in sorted(groups.items()):
            waits, announce = self._announce(cluster, counts, asked, now)
            expected |= {cluster} if waits else set()
            if about:
                self._asked_about[cluster] = self.number
            out.append(SendAnnounce(cluster, replace(announce, about=about, remaining_s=remaining_s, due_s=due_s)))
        until = now + self._deadline_s
        self._round = Round(self.number, until, expected, late, frozenset(groups), frozenset(late), copies)
        return out

    def _first(self, cluster: str, counts: dict[Group, int]) -> dict[Group, int]:
        """Of more than an announcement has room for those that are most urgent; of those that are equally so others each time,
        but the same as long as an announcement waits, or none would ever have waited long enough."""
        if len(counts) <= MAX_GROUPS:
            return counts
        first = self._turns.get(cluster, 0) * MAX_GROUPS
        equal: dict[int, list[Group]] = {}
        for group in counts:
            equal.setdefault(group.priority, []).append(group)
        chosen: list[Group] = []
        for _, groups in sorted(equal.items(), reverse=True):
            begin = first % len(groups)
            chosen += [*groups[begin:], *groups[:begin]]
        return {group: counts[group] for group in chosen[:MAX_GROUPS]}

    def _announce(self, cluster: str, counts: dict[Group, int], asked: _Asked, now: float) -> tuple[bool, Announce]:
        """What it is asked, and whether the round waits for its bid."""
        suspect, wait_s = bool(self._reputation.suspect(cluster)), self._wait_s(cluster, counts, now)
        self._holding.pop(cluster, None)
        self._asked[cluster], self._asked_for[cluster] = self.number, frozenset(counts)
        if wait_s:
            self._holding[cluster] = frozenset(counts)
        return not wait_s and not suspect, Announce(
            run=self._run,
            round=self.number,
            origin=self._origin,
            groups=tuple(map(asked.of, counts, counts.values())),
            # Nobody waits for a suspect, so it may take its time.
            deadline_s=self._deadline_s * (SUSPECT_PATIENCE if suspect else 1),
            wait_s=wait_s,
        )

    def _withdraw(self, groups: Collection[Group]) -> list[Instruction]:
        """Announcements that wait, for nothing that is wanted still."""
        out: list[Instruction] = []
        for cluster in [name for name, held in self._holding.items() if held.isdisjoint(groups)]:
            del self._holding[cluster]
            out.append(WithdrawAnnounce(cluster, self._asked.pop(cluster)))
        return out

    def _asks_now(self, cluster: str, counts: dict[Group, int], now: float) -> bool:
        """Where an announcement waits, another one takes its place only if it is for something else."""
        if cluster in self._holding:
            return not counts.keys() <= self._holding[cluster]
        return not self._silent_now(cluster, now)

    def _wait_s(self, cluster: str, counts: dict[Group, int], now: float) -> float:
        if any(group.idle for group in counts):
            return 0.0
        nothing, until = self._nothing.get(cluster, (frozenset(), now))
        return self._park_s if now < until and counts.keys() <= nothing and len(self._holding) < MAX_HOLDING else 0.0

    def _whom_to_ask(self, step: Step, now: float, passed: Callable[[Step], Collection[str]]) -> Collection[str]:
        places = step.places
        if id(places) not in self._clusters_of:
            self._clusters_of[id(places)] = (list(dict.fromkeys(place.cluster for place in places)), places)
        clusters, _ = self._clusters_of[id(places)]
        if len(clusters) <= MANY:
            return clusters
        return self._reputation.ask_whom(clusters, now, f"{self._run}/{self.number + 1}", passed(step))

    def _silent_now(self, cluster: str, now: float) -> bool:
        """It is not asked: it rests after having been silent, or what it was asked last is open still."""
        return self._reputation.rests(cluster, now) or cluster in self._asked

    def holding(self) -> dict[str, int]:
        """Clusters at which an announcement waits for room, and its round."""
        return {cluster: self._asked[cluster] for cluster in self._holding}

    def parked_for(self, group: Group) -> frozenset[str]:
        """Those of them where it waits for room for such steps."""
        return frozenset(cluster for cluster, held in self._holding.items() if group in held)

    def forget_places(self) -> None:
        """The identities of places that were seen mean nothing any more."""
        self._clusters_of.clear()

    # Answers ----------------------------------------------------------------------------------------------------

    def bid(self, bid: Bid, now: float) -> None:
        self._reputation.answered(bid.cluster)
        if self._asked.get(bid.cluster) == bid.round:
            del self._asked[bid.cluster]
            if self._holding.pop(bid.cluster, None) is not None:
                self._turns[bid.cluster] = self._turns.get(bid.cluster, 0) + 1
            self._overdue.pop(bid.cluster, None)
        elif not bid.points:
            return
        if self._round is None or bid.round != self._round.number:
            if self.number - bid.round < OLD_ROUNDS:
                self._late[bid.cluster] = (bid, now + bid.expires_s)
                # Who never could answers an announcement at once that was to wait there, and would answer the next one likewise.
                if bid.points or not bid.never:
                    self.soon(now)
            return
        self._round.expected.discard(bid.cluster)
        self._round.bids[bid.cluster] = bid

    def missed(self, event: BidMissed, now: float) -> list[Instruction]:
        if self._asked.get(event.cluster) != event.round:
            return []
        del self._asked[event.cluster]
        for known in (self._holding, self._nothing, self._last_bids):
            known.pop(event.cluster, None)
        if self._overdue.pop(event.cluster, None) != event.round:
            self._reputation.missed(event.cluster, event.why, now)
        if self._round is not None and event.round == self._round.number:
            self._round.expected.discard(event.cluster)
        return [Tell("", Chapter.BID, f"no bid from {event.cluster}: {event.why}", {"cluster": event.cluster})]

    def lost(self, cluster: str, why: str, now: float) -> list[Instruction]:
        """It is away, and so is what it was to answer."""
        self.away[cluster] = why
        self._late.pop(cluster, None)
        return self.missed(BidMissed(cluster, self._asked[cluster], why), now) if cluster in self._asked else []

    def back(self, cluster: str, now: float) -> None:
        self.away.pop(cluster, None)
        self._reputation.answered(cluster)
        self.soon(now)

    def has_room(self, cluster: str) -> None:
        """Something of ours ended there."""
        self._nothing.pop(cluster, None)

    def close(self, now: float) -> Round:
        """The one that is open. Its bids, and none of them, are what `known_bids` and `settle` go by."""
        round_, self._round = self._round, None
        assert round_ is not None
        for cluster in round_.expected:
            # Its answer is taken when it comes; it is not waited for any more.
            self._overdue[cluster] = round_.number
            self._reputation.missed(cluster, f"no bid within {self._deadline_s:g} s", now)
        self._last_bids |= round_.bids
        return round_

    def known_bids(self, round_: Round) -> dict[str, Bid]:
        """Those of the round; where an announcement waits, what was answered before."""
        return {name: self._last_bids[name] for name in self._holding if name in self._last_bids} | round_.bids

    def untold(self, round_: Round) -> Iterator[Bid]:
        """Of who was asked how its nodes look, and tells of none."""
        for cluster, bid in round_.bids.items():
            if not bid.nodes and self._asked_about.get(cluster) == bid.round:
                yield bid

    def settle(self, round_: Round, offers: Offers, now: float, *, by_choice: bool = False) -> None:
        """What is left of the round's offers tells whom to ask how; the next round is at once, or after a pause, a longer one
        where steps wait for better places `by_choice`."""
        for cluster in round_.bids:
            asked = self._asked_for.get(cluster, frozenset())
            nothing = frozenset(group for group in asked if not offers.left(cluster, group))
            self._nothing[cluster] = (nothing, now + NOTHING_S)
        pause_s = self._again_s * (CHOOSY if by_choice else 1)
        self._next_at = now if self._again else now + pause_s
        self._again = False

    def validate(self) -> None:
        assert self._overdue.keys() <= self._asked.keys()
        assert self._holding.keys() <= self._asked.keys()


class _Asked:
    """What of a group each cluster is asked in one round: clusters are many, and most are asked the same."""

    def __init__(self, seconds: dict[Group, float]) -> None:
        self._seconds = seconds
        self._made: dict[tuple[Group, int], AskGroup] = {}

    def of(self, group: Group, count: int) -> AskGroup:
        made = self._made.get((group, count))
        if made is None:
            made = self._made[group, count] = group.asked(count, self._seconds[group])
        return made


def _seconds(alike: dict[tuple[Group, int], list[Step]], at_most: Callable[[Ask], float]) -> dict[Group, float]:
    """For each group, in what time each of its steps is over; 0 where that is not known of all, or one may not be stopped."""
    found: dict[Group, float] = {}
    for (group, _), steps in alike.items():
        known = 0.0 if group.gang or group.idle else found.get(group, -1.0)
        for step in steps:
            takes = at_most(step.ask) if known and step.ask.effect is not Effect.AT_MOST_ONCE else 0.0
            known = min(max(known, takes), MAX_SECONDS) if takes else 0.0
            if not known:
                break
        found[group] = known
    return found
