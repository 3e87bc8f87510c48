"""Gangs, plans and waiting: rules that need room in a cluster, or that there is none left. Each gives back what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.adapters.http.conformance.asker import Asker, BrokenError
from ioi_dagster.adapters.http.conformance.messages import NOBODY_CAN
from ioi_dagster.model.negotiation import (
    MAX_OUTLOOK,
    MAX_REQUESTS,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    NodeOutlook,
)
from ioi_dagster.model.refusal import Refusal

MANY = 1_000_000
MOST_AWARDS = 100
LARGEST = 10_000_000
"""Steps of the largest gang that the protocol knows."""
MUCH = 1e18


@dataclass(slots=True)
class Room:
    """What is taken of the cluster for one rule. `free`: slots that were bid before anything was taken."""

    asker: Asker
    leases: list[Lease] = field(default_factory=list)
    free: int = 0

    def hold_for(self, probe: Callable[[Room], None]) -> None:
        self.free = self._bid_now()
        if not self.free:
            raise BrokenError("there was room before, and there is none any more")
        self._give_back_after(probe)

    def fill_for(self, probe: Callable[[Room], None]) -> None:
        """Everything that is free is held first."""

        def filled(room: Room) -> None:
            for _ in range(MOST_AWARDS):
                if not (free := room._bid_now()):
                    return probe(room)
                room.take(free)
            raise BrokenError(f"{len(room.leases):,} slots are held, and there is still room: ask a smaller cluster")

        self._give_back_after(filled)

    def _give_back_after(self, probe: Callable[[Room], None]) -> None:
        try:
            probe(self)
        finally:
            self.give_back(len(self.leases))

    def _bid_now(self) -> int:
        return sum(point.slots for point in self.asker.bid(self.asker.group(MANY)).points)

    def award(self, *requests: LeaseRequest) -> Awarded:
        awarded = self.asker.awarded(*requests)
        known = {lease.id for lease in self.leases}
        self.leases += {lease.id: lease for lease in awarded.leases if lease.id not in known}.values()
        return awarded

    def take(self, count: int) -> None:
        """As many of them as there is room for."""
        while count > 0:
            now = min(count, MAX_REQUESTS)
            if not self.award(*[self.asker.request(self.asker.step(), 1) for _ in range(now)]).leases:
                return
            count -= now

    def give_back(self, count: int) -> None:
        for first in range(0, count, MAX_REQUESTS):
            some = self.leases[: min(MAX_REQUESTS, count - first)]
            del self.leases[: len(some)]
            self.asker.answer(dict, "release", self.asker.releasing(*(lease.id for lease in some)))

    def gang(self, size: int, name: str = "gang") -> list[LeaseRequest]:
        return [self.asker.request(self.asker.step(), 1, gang=name) for _ in range(size)]


def _must(holds: bool, found: object) -> None:
    if not holds:
        raise BrokenError(str(found)[:300])


def _explained(refusals: tuple[Refusal, ...]) -> bool:
    return bool(refusals) and all(refusal.code and refusal.text for refusal in refusals)


def _nothing(awarded: Awarded, asked: list[LeaseRequest]) -> bool:
    """None of them is leased, and each is told why."""
    told = sorted(item.step for item in awarded.rejected)
    why = tuple(item.refusal for item in awarded.rejected)
    return not awarded.leases and told == sorted(one.step for one in asked) and _explained(why)


# With room ----------------------------------------------------------------------------------------------------------


def _bids_whole_gangs(room: Room) -> None:
    bid = room.asker.bid(room.asker.group(6, gang=2))
    _must(all(point.gang == 2 and not point.slots % 2 for point in bid.points), f"points {bid.points}")
    _must(bool(bid.points) or _explained(bid.refusals), "neither room for a gang nor a reason")


def _leases_whole_gangs(room: Room) -> None:
    asked = room.gang(min(2, room.free))
    awarded = room.award(*asked)
    whole = sorted(lease.step for lease in awarded.leases) == sorted(one.step for one in asked)
    _must(whole or _nothing(awarded, asked), awarded)


def _leases_a_gang_again(room: Room) -> None:
    asked = room.gang(min(2, room.free))
    first = room.award(*asked)
    again = room.award(*asked)
    ids = [sorted(lease.id for lease in awarded.leases) for awarded in (first, again)]
    _must(ids[0] == ids[1], f"leases {ids[0]}, then {ids[1]}")


def _leases_no_part_of_a_gang(room: Room) -> None:
    room.take(room.free - MAX_REQUESTS + 1)
    asked = room.gang(min(room.free, MAX_REQUESTS - 1) + 1)
    awarded = room.award(*asked)
    _must(_nothing(awarded, asked), f"{len(awarded.leases)} of {len(asked)} steps leased: {awarded.rejected[:2]}")


def _leases_no_gang_with_an_old_fence(room: Room) -> None:
    steps = room.asker.step(), room.asker.step()
    room.award(room.asker.request(steps[0], 2))
    room.give_back(len(room.leases))
    asked = [room.asker.request(step, 1, gang="gang") for step in steps]
    _must(_nothing(awarded := room.award(*asked), asked), awarded)


def _leases_what_stands_twice_once(room: Room) -> None:
    for gang in ("", "gang"):
        for fences in ((1, 1), (1, 2)):
            step = room.asker.step()
            ids = {
                lease.id
                for lease in room.award(*(room.asker.request(step, fence, gang=gang) for fence in fences)).leases
            }
            _must(len(ids) == 1, f"fences {fences} of {gang or 'a step'}: leases {sorted(ids)}")
            room.give_back(len(room.leases))


def _leases_a_copy_by_itself(room: Room) -> None:
    step = room.asker.step()
    first = room.award(room.asker.request(step, 1))
    idle = room.asker.bid(room.asker.group(idle=True))
    copied = room.award(asked := room.asker.request(step, 1, copy=1))
    leases = first.leases + copied.leases
    _must(len(leases) == 2 if idle.points else _nothing(copied, [asked]), copied)
    _must([lease.copy for lease in leases] == [0, 1][: len(leases)], leases)
    _must(len({lease.id for lease in leases}) == len(leases), leases)


def _says_what_can_never_be(room: Room) -> None:
    group = room.asker.group(LARGEST, gang=LARGEST)
    bid, took = _timed(room, lambda: room.asker.bid(group, wait_s=room.asker.subject.wait_s))
    _must(not bid.points, f"points {bid.points}")
    _must([one.group for one in bid.never] == [group], f"never {bid.never}, refusals {bid.refusals}")
    refusal = bid.never[0].refusal
    _must(bool(refusal.code and refusal.text and refusal.remedy), refusal)
    _must(took < room.asker.subject.wait_s / 2, f"it was told after {took:.1f} s")


def _says_that_no_node_has_so_much(room: Room) -> None:
    names = sorted({name for node in _nodes(room) for name, _ in node.resources})
    for name in names[:1]:
        group = room.asker.group(resources=((name, MUCH),))
        bid = room.asker.bid(group)
        _must([one.group for one in bid.never] == [group], f"never {bid.never}, points {bid.points}")
        awarded = room.award(asked := room.asker.request(room.asker.step(), 1, resources=group.resources))
        _must(_nothing(awarded, [asked]), awarded)


def _answers_under_the_resources_asked(room: Room) -> None:
    known = sorted(one for node in _nodes(room) for one in node.resources)
    resources = ((known[0][0], min(1.0, known[0][1])),) if known else (("conformance", 1.0),)
    bid = room.asker.bid(room.asker.group(resources=resources))
    _must(all(point.resources == resources for point in bid.points), f"points {bid.points}")
    _must(bool(bid.points) or _explained(bid.refusals), "neither room nor a reason")


def _tells_who_plans_of_nodes(room: Room) -> None:
    nodes = _nodes(room)
    _must(len({node.node for node in nodes}) == len(nodes) <= MAX_OUTLOOK, f"nodes {[node.node for node in nodes]}")
    for node in nodes:
        _must(set(node.able) <= {0, 1} and 1 in node.able, f"{node.node} is able to do {node.able} of 0 and 1")


def _tells_nobody_else_of_nodes(room: Room) -> None:
    _must(not (bid := room.asker.bid()).nodes, f"{len(bid.nodes)} nodes")


def _answers_every_priority(room: Room) -> None:
    changes: tuple[dict[str, Any], ...] = ({"priority": -5}, {"priority": 5}, {"tenant": "conformance"})
    for change in changes:
        bid = room.asker.bid(room.asker.group(**change))
        _must(bool(bid.points) or _explained(bid.refusals), f"{change}: neither room nor a reason")
        awarded = room.award(asked := room.asker.request(room.asker.step(), 1, **change))
        _must(len(awarded.leases) == 1 or _nothing(awarded, [asked]), f"{change}: {awarded}")


def _nodes(room: Room) -> tuple[NodeOutlook, ...]:
    return room.asker.bid(about=(NOBODY_CAN, room.asker.subject.capability)).nodes


# Without room -------------------------------------------------------------------------------------------------------


def _waits(room: Room) -> None:
    wait = room.asker.announcement(wait_s=room.asker.subject.wait_s)
    answer = room.asker.answer_within(room.asker.subject.settle_s, "announce", wait)
    _must(answer is None, f"it did not wait: {answer}")


def _forgets_who_hung_up(room: Room) -> None:
    _waits(room)
    time.sleep(room.asker.subject.settle_s)
    room.give_back(1)
    _must(bool((bid := room.asker.bid()).points), f"what became free is kept for who hung up: {bid.refusals}")


def _offered(room: Room) -> Bid:
    """A bid that has waited until something was given back."""
    wait = room.asker.announcement(wait_s=room.asker.subject.wait_s)
    bid, took = room.asker.meanwhile(wait, lambda: room.give_back(1))
    _must(bool(bid.points), f"no room, but there was some: {bid.refusals}")
    _must(took < room.asker.subject.wait_s / 2, f"there was room for {took:.1f} s before it was told")
    return bid


def _keeps_what_it_offered(room: Room) -> None:
    bid = _offered(room)
    slots = sum(point.slots for point in bid.points)
    awarded = room.award(*[room.asker.request(room.asker.step(), 1) for _ in range(slots)])
    _must(len(awarded.leases) == slots, f"{slots} offered, {len(awarded.leases)} leased: {awarded.rejected}")


def _takes_back_what_is_declined(room: Room) -> None:
    _offered(room)
    _must(room.award() == Awarded(room.asker.subject.cluster), "an answer to an award without requests")
    _must(bool((bid := room.asker.bid()).points), f"what was declined is still kept: {bid.refusals}")


def _answers_when_the_wait_is_over(room: Room) -> None:
    bid, took = _timed(room, lambda: room.asker.bid(wait_s=room.asker.subject.settle_s))
    _must(not bid.points and _explained(bid.refusals), f"points {bid.points} and refusals {bid.refusals}")
    _must(took < room.asker.subject.wait_s / 2, f"it waited {took:.1f} s")


def _answers_the_older(room: Room) -> None:
    newer: list[Bid] = []
    older, took = room.asker.meanwhile(
        room.asker.announcement(wait_s=room.asker.subject.wait_s), lambda: newer.append(room.asker.bid(round=2))
    )
    _must((older.round, older.points) == (1, ()), f"the older one was answered with {older}")
    _must(took < room.asker.subject.wait_s / 2, f"the older one waited {took:.1f} s more")
    _must([bid.round for bid in newer] == [2], f"the newer one was answered with {newer}")


def _timed(room: Room, ask: Callable[[], Bid]) -> tuple[Bid, float]:
    since = time.monotonic()
    return ask(), time.monotonic() - since


WITH_ROOM: dict[str, Callable[[Room], None]] = {
    "a gang is bid for as a whole": _bids_whole_gangs,
    "a gang is leased whole or not at all": _leases_whole_gangs,
    "a gang that is awarded again gets the same leases": _leases_a_gang_again,
    "a gang for which there is not room enough gets none": _leases_no_part_of_a_gang,
    "a gang of which one fence is old gets none": _leases_no_gang_with_an_old_fence,
    "a request that stands twice in an award is leased once": _leases_what_stands_twice_once,
    "another copy of a step has a lease of its own": _leases_a_copy_by_itself,
    "a gang larger than the cluster is told at once that it can never be": _says_what_can_never_be,
    "more of a resource than a node has can never be": _says_that_no_node_has_so_much,
    "what asks for resources is answered under them": _answers_under_the_resources_asked,
    "who plans ahead is told of nodes that can do it": _tells_who_plans_of_nodes,
    "who does not plan ahead is told of none": _tells_nobody_else_of_nodes,
    "any tenant and priority is answered": _answers_every_priority,
}
WITHOUT_ROOM: dict[str, Callable[[Room], None]] = {
    "where there is no room an announcement waits": _waits,
    "who has hung up waits no longer": _forgets_who_hung_up,
    "what waits is answered when there is room": lambda room: _offered(room) and None,
    "what was offered after a wait is kept until it is awarded": _keeps_what_it_offered,
    "an award without requests declines what was offered": _takes_back_what_is_declined,
    "what waits in vain is told so when its time is over": _answers_when_the_wait_is_over,
    "a newer announcement has the older one answered": _answers_the_older,
}
