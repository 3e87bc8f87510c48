"""What the flow governor asks of others, performed: registries and policy for places, clusters for bids, awards and releases.

Whatever takes time is done elsewhere, and posts back events. An answer is owed to the governor whatever goes wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ioi_dagster.governors import flow
from ioi_dagster.governors.answers import checked_award, checked_bid
from ioi_dagster.governors.flow_messages import (
    AwardAnswered,
    AwardMissed,
    BidMissed,
    BidReceived,
    FindPlaces,
    Place,
    PlacesFound,
    ReleaseLeases,
    SendAnnounce,
    SendAward,
    StandingKnown,
    WithdrawAnnounce,
    from_home,
)
from ioi_dagster.governors.flow_rounds import MAX_HOLDING
from ioi_dagster.host.fleets import Fleet
from ioi_dagster.host.work import Found, Network
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, Ask, Award, Awarded, ReleaseRequest
from ioi_dagster.model.refusal import Refusal

Asked = FindPlaces | SendAnnounce | WithdrawAnnounce | SendAward | ReleaseLeases


class Negotiator:
    """`typed(step)`: is it a block call with one typed input? `post` takes events from any thread."""

    def __init__(
        self, run: str, network: Network, typed: Callable[[str], bool], pool: Executor, post: Callable[[Any], None]
    ) -> None:
        self._run, self._network, self._typed = run, network, typed
        self._pool, self._post = pool, post
        self._waiting = ThreadPoolExecutor(MAX_HOLDING + 1, thread_name_prefix="flow-waits")
        self._begins, self._beginning = True, threading.Lock()

    def perform(self, instruction: Asked) -> None:
        match instruction:
            case FindPlaces(asks):
                self._find(asks)
            case SendAnnounce(cluster, announce):
                self._ask(cluster, announce, lambda bid: BidReceived(checked_bid(bid, cluster, announce)),
                          lambda why: BidMissed(cluster, announce.round, why))  # fmt: skip
            case WithdrawAnnounce(cluster, round_):
                self._network.fleet(cluster).withdraw(self._run, round_)
            case SendAward(award):
                steps = tuple(request.step for request in award.requests)
                self._ask(award.cluster, award, lambda awarded: self._awarded(awarded, award),
                          lambda why: AwardMissed(award.cluster, steps, why))  # fmt: skip
            case ReleaseLeases(cluster, leases):
                # One that is not heard expires by itself.
                self._ask(cluster, ReleaseRequest(self._run, leases), lambda _: None, lambda why: None)

    def close(self, holding: dict[str, int]) -> None:
        """Nothing is waited for any more, of what waits at clusters either: `holding`, by cluster its round."""
        for cluster, round_ in holding.items():
            self._network.fleet(cluster).withdraw(self._run, round_)
        self._waiting.shutdown(wait=False, cancel_futures=True)

    def _awarded(self, answer: Awarded, award: Award) -> AwardAnswered:
        held = checked_award(answer, award, self._network.fleet(award.cluster).domain)
        return AwardAnswered(held.awarded, held.missing, held.excess)

    def _ask(
        self,
        cluster: str,
        message: Announce | Award | ReleaseRequest,
        told: Callable[[Any], Any],
        missed: Callable[[str], Any],
    ) -> None:
        """Post the event that `told` makes of the answer, or the one that says why there is none."""
        fleet = self._network.fleet(cluster)

        def take(answer: Callable[[], Any]) -> None:
            try:
                event = told(answer())
            except Exception as error:
                event = missed(str(error) or type(error).__name__)
            if event is not None:
                self._post(event)

        begun = fleet.begin(message)
        if begun is not None:
            begun.then(take)
        elif self._network.immediate:
            take(lambda: _waited_for(fleet, message))
        else:
            # An announcement that waits for room keeps no thread from the others.
            waits = isinstance(message, Announce) and message.wait_s
            (self._waiting if waits else self._pool).submit(take, lambda: _waited_for(fleet, message))

    # Places -----------------------------------------------------------------------------------------------------

    def _find(self, asks: tuple[Ask, ...]) -> None:
        groups: dict[tuple, list[Ask]] = {}
        for ask in asks:
            groups.setdefault((ask.capability, ask.data_class, ask.domains, self._typed(ask.step)), []).append(ask)
        for (capability, data_class, domains, typed), members in groups.items():
            if self._network.immediate:
                self._find_group(capability, data_class, domains, typed, members)
            else:
                self._pool.submit(self._find_group, capability, data_class, domains, typed, members)

    def _begin(self) -> None:
        """What earlier runs have seen is known before the first places are, and so before anybody is asked for bids."""
        with self._beginning:
            if not self._begins:
                return
            self._begins = False
            standings = self._network.standing()
            if standings:
                self._post(StandingKnown(standings))

    def _find_group(
        self, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool, members: list[Ask]
    ) -> None:
        try:
            found = self._network.find(capability, data_class, domains, typed)
        except Exception as error:
            refusal = Refusal("ras.unreachable", str(error) or type(error).__name__, "registry")
            found = Found((), (("registry", refusal),), True)
        self._begin()
        # Most of them are alike in what their places depend on.
        alike: dict[tuple[str, int], tuple[tuple[Place, ...], tuple[tuple[str, Refusal], ...]]] = {}
        for ask in members:
            key = (ask.cluster, ask.input_bytes)
            if key not in alike:
                alike[key] = (self._places(ask, found), (*found.rejected, *_elsewhere(ask, found.places)))
            self._post(PlacesFound(ask.step, *alike[key], found.may_change))

    def _places(self, ask: Ask, found: Found) -> tuple[Place, ...]:
        places = (place for place in found.places if ask.cluster in ("", place.cluster))
        return from_home(places, self._network.home, ask.input_bytes, self._network.links)


def _waited_for(fleet: Fleet, message: Announce | Award | ReleaseRequest) -> Any:
    match message:
        case Announce():
            return fleet.announce(message)
        case Award():
            return fleet.award(message)
        case ReleaseRequest():
            return fleet.release(message)


def _elsewhere(ask: Ask, places: Iterable[Place]) -> list[tuple[str, Refusal]]:
    text = f"it runs beside the step that asks for it, at {ask.cluster}"
    refusal = Refusal("flow.other_cluster", text, flow.BY)
    return [(place.cluster, refusal) for place in places if ask.cluster not in ("", place.cluster)]
