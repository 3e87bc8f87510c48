"""One negotiation, from the bid to the last lease's end."""

from __future__ import annotations

from collections.abc import Generator

import msgspec

from ioi_dagster.adapters.http.conformance.asker import Asker, BrokenError, Outcome, Subject, found
from ioi_dagster.model.negotiation import MAX_POINTS, Awarded, Bid, Lease, LeaseRequest, Renewed

MORE = 2
"""Asked for beyond what a bid has."""


def negotiated(asker: Asker) -> Generator[Outcome, None, bool]:
    """One negotiation from the bid to the last lease's end; each rule stands on what those before it found. Was there room?"""
    its = asker.subject
    leases: list[Lease] = []
    try:
        bid = asker.bid(asker.group(1_000_000))
        yield Outcome("a bid answers its announcement", found(lambda: _bid_fits(its, bid)))
        room = sum(point.slots for point in bid.points)
        if not room:
            yield Outcome("a cluster that has room bids for it", f"no room, so nothing else was asked: {bid.refusals}")
            return False
        requests = [asker.request(f"step-{number}", 2) for number in range(min(room + MORE, 1_000))]
        awarded = asker.awarded(*requests)
        leases += awarded.leases
        yield Outcome(
            "each request of an award is leased or rejected", found(lambda: _award_fits(its, requests, awarded))
        )
        if not leases:
            yield Outcome("room that was bid is there a moment later", f"nothing was leased: {awarded.rejected[:3]}")
            return False
        first = leases[0]
        again = asker.awarded(asker.request(first.step, first.fence))
        yield Outcome(
            "an award that is sent again gives the same lease", "" if again.leases == (first,) else str(again)
        )
        older = asker.awarded(asker.request(first.step, first.fence - 1))
        yield Outcome("an older fence gets no lease", "" if _rejected(older) else str(older))
        foreign = asker.awarded(asker.request("foreign", 1, "another-run"))
        yield Outcome("a request for another run gets no lease", "" if _rejected(foreign) else str(foreign))
        renewed = asker.answer(Renewed, "renew", asker.renewal(first.id, "no-such-lease"))
        expected = Renewed((first.id,), ("no-such-lease",))
        yield Outcome("renewing tells what is held and what is not", "" if renewed == expected else str(renewed))
        newer = asker.awarded(asker.request(first.step, first.fence + 1))
        leases += newer.leases
        yield Outcome("a newer fence takes over the slot of the older", "" if newer.leases else str(newer))
        renewed = asker.answer(Renewed, "renew", asker.renewal(first.id))
        yield Outcome("a lease ends when a newer fence is granted", "" if renewed.lost == (first.id,) else str(renewed))
        ids = [lease.id for lease in leases]
        asker.answer(dict, "release", asker.releasing(*ids))
        renewed = asker.answer(Renewed, "renew", asker.renewal(*ids))
        yield Outcome("what was released is not held", "" if renewed == Renewed((), tuple(ids)) else str(renewed))
        asker.answer(dict, "release", asker.releasing(*ids))
        yield Outcome("releasing twice is no error")
        spent = asker.awarded(asker.request(leases[-1].step, leases[-1].fence))
        leases += spent.leases
        yield Outcome("a fence that was released gets no lease again", "" if _rejected(spent) else str(spent))
    except BrokenError as error:
        yield Outcome("every message of a negotiation is answered", str(error))
        return False
    else:
        return True
    finally:
        if leases:
            asker.send("POST", "release", msgspec.json.encode(asker.releasing(*(lease.id for lease in leases))))


def _bid_fits(its: Subject, bid: Bid) -> None:
    expected = (its.cluster, its.domain, its.run, 1)
    if (bid.cluster, bid.domain, bid.run, bid.round) != expected:
        raise BrokenError(f"a bid of {bid.cluster}, {bid.domain} for {bid.run}, round {bid.round}, not {expected}")
    for point in bid.points:
        if (point.capability, point.data_class) != (its.capability, its.data_class) or point.warm > point.slots:
            raise BrokenError(f"a point that nobody asked for: {point}")
    if len(bid.points) > MAX_POINTS:
        raise BrokenError(f"a supply curve of {len(bid.points)} points, where {MAX_POINTS} are the most")


def _award_fits(its: Subject, requests: list[LeaseRequest], awarded: Awarded) -> None:
    told = sorted([*(lease.step for lease in awarded.leases), *(item.step for item in awarded.rejected)])
    if told != sorted(request.step for request in requests):
        raise BrokenError(f"{len(requests)} requests, but {len(told)} answers")
    if not all(item.refusal.code and item.refusal.text for item in awarded.rejected):
        raise BrokenError("a rejection without a code or a text")
    for lease in awarded.leases:
        given = (lease.run, lease.fence, lease.capability, lease.cluster, lease.domain, lease.origin, lease.ttl_s > 0)
        expected = (its.run, 2, its.capability, its.cluster, its.domain, its.key.domain, True)
        if given != expected:
            raise BrokenError(f"a lease of {given}, not {expected}")


def _rejected(awarded: Awarded) -> bool:
    return not awarded.leases and len(awarded.rejected) == 1
