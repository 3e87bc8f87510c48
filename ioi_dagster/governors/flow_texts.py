"""What the flow governor says of places, bids and waits, in words for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ioi_dagster.governors.flow_messages import Place, PlacesFound, Tell
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import Ask, Bid
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

LOOKED_UP = "its places are being looked up"
NAMED = 5
"""So many clusters are named at most where it is only told which."""


class Candidates:
    """Where steps may go and where not. Many steps in a row may go to the same places, of which there may be many: it is put in
    words once for them, by their identity."""

    def __init__(self) -> None:
        self._places: tuple[Place, ...] | None = None
        self._rejected: tuple[tuple[str, Refusal], ...] = ()
        self._text, self._facts = "", dict[str, Any]()

    def tell(self, event: PlacesFound) -> Tell:
        if event.places is not self._places or event.rejected is not self._rejected:
            self._places, self._rejected = event.places, event.rejected
            rejected = [{"who": who, "code": refusal.code, "text": refusal.text} for who, refusal in event.rejected]
            self._facts = {"places": [place.cluster for place in event.places], "rejected": rejected}
            self._text = _candidates_text(event)
        return Tell(event.step, Chapter.CANDIDATES, self._text, dict(self._facts))


def _candidates_text(event: PlacesFound) -> str:
    may = ", ".join(place.cluster for place in event.places) or "nobody"
    not_ = "; ".join(f"{who}: {refusal.text} [{refusal.code}]" for who, refusal in event.rejected)
    return f"may go to {may}" + (f"; rejected: {not_}" if not_ else "")


def why_nobody(rejected: tuple[tuple[str, Refusal], ...]) -> str:
    return "; ".join(f"{who}: {refusal.text}" for who, refusal in rejected) or "no registry knows this capability"


def why_few(rejected: tuple[tuple[str, Refusal], ...]) -> str:
    """The same in few words."""
    more = f" and {len(rejected) - NAMED} more" if len(rejected) > NAMED else ""
    return why_nobody(rejected[:NAMED]) + more


def remedy(rejected: tuple[tuple[str, Refusal], ...]) -> str:
    remedies = dict.fromkeys(refusal.remedy for _, refusal in rejected if refusal.remedy)
    return "; ".join(remedies)


def bids_text(facts: dict[str, Any]) -> str:
    offers = [_offer_text(offer) for offer in facts["offers"]]
    silent = [f"{o['cluster']}: {o['why']}" for o in facts["silent"]]
    taken = f"; taken: {facts['taken']}" if len(offers) > 1 else ""
    return f"offers: {', '.join(offers)}{taken}" + (f"; no offer: {'; '.join(silent)}" if silent else "")


def _offer_text(offer: dict[str, Any]) -> str:
    kept = f", keeps {offer['trust']:.0%} of its bids" if offer["trust"] < 1 else ""
    return f"{offer['cluster']} at {offer['price']:g} in {offer['seconds']:g} s{kept}"


def why_no_slot(ask: Ask, places: tuple[Place, ...], bids: dict[str, Bid], away: dict[str, str]) -> str:
    """`away`: by cluster that is, why."""
    reasons = [f"{place.cluster}: {why_silent(ask, place.cluster, bids, away)}" for place in places]
    return "; ".join(reasons) or LOOKED_UP


def asked_to_tell(clusters: Sequence[str]) -> str:
    """An announcement waits there."""
    more = f" and {len(clusters) - NAMED} more" if len(clusters) > NAMED else ""
    return f"; asked to tell as soon as there is room: {', '.join(clusters[:NAMED])}{more}" if clusters else ""


def why_silent(ask: Ask, cluster: str, bids: dict[str, Bid], away: dict[str, str]) -> str:
    bid, capability = bids.get(cluster), ask.capability
    if cluster in away:
        return away[cluster]
    if bid is None:
        return "it made no bid in time"
    never = never_in(ask, ask.gang_size, bid)
    if never is not None:
        return never.text
    if any((point.capability, point.part) == (capability, PART in ask.step) for point in bid.points):
        return "what it had free went to steps before this one"
    return bid.refusals[0].text if bid.refusals else "it has no free slot"


def never_in(ask: Ask, gang: int, bid: Bid) -> Refusal | None:
    """What the ask, with so many in its gang, would need, where the bid says that its cluster, as it is, could never do it."""
    wanted = (ask.capability, ask.data_class, ask.tenant, ask.resources, gang)
    for one in bid.never:
        group = one.group
        if (group.capability, group.data_class, group.tenant, group.resources, group.gang) == wanted:
            return one.refusal
    return None
