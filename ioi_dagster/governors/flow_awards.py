"""The end of a flow governor's round: each waiting step takes an offer, clusters are awarded, and grant or do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ioi_dagster.governors.flow_cold import ColdStarts
from ioi_dagster.governors.flow_copies import Copies
from ioi_dagster.governors.flow_gangs import Gangs
from ioi_dagster.governors.flow_hopeless import OFTEN_S, Everywhere, Hopeless, unless
from ioi_dagster.governors.flow_messages import (
    AwardAnswered,
    AwardMissed,
    Instruction,
    Place,
    RefuseStep,
    ReleaseLeases,
    SendAward,
    StartStep,
    Tell,
)
from ioi_dagster.governors.flow_nearness import Nearness
from ioi_dagster.governors.flow_offers import Menu, Offers
from ioi_dagster.governors.flow_overbids import Overbids
from ioi_dagster.governors.flow_placing import Offer, Placing
from ioi_dagster.governors.flow_rounds import Round, Rounds
from ioi_dagster.governors.flow_steering import Steering
from ioi_dagster.governors.flow_steps import Group, Step, Steps, StepState
from ioi_dagster.governors.flow_texts import LOOKED_UP, bids_text, never_in, why_no_slot, why_silent
from ioi_dagster.governors.flow_waits import Waits, facts_of
from ioi_dagster.governors.orders_in_force import CAPPED, PAUSED
from ioi_dagster.governors.reputation import MANY, Reputation
from ioi_dagster.model.negotiation import MAX_LEASES, MAX_SECONDS, Award, Awarded, Bid, Effect, Lease, LeaseRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter

BY = "flow governor"
KEPT = frozenset({"cluster.stale_fence", PAUSED, CAPPED})
"""Refusals that break no bid: of what was granted before, and of what its cluster's owner has ordered meanwhile."""
COPY_AGAIN_S = 5.0
"""Before a step has another copy, where one was lost or not granted."""
TOLD_STEPS = 5
"""So many steps are named at most of those for which leases came that nobody had asked for."""


class Awards:
    """`budget`: credits that the run may spend, None for any number; `spent` is what it has."""

    def __init__(
        self,
        run: str,
        origin: str,
        steps: Steps,
        gangs: Gangs,
        copies: Copies,
        nearness: Nearness,
        cold: ColdStarts,
        rounds: Rounds,
        reputation: Reputation,
        placing: Placing,
        steering: Steering,
        budget: float | None,
    ) -> None:
        self._run, self._origin, self._budget = run, origin, budget
        self._steps, self._gangs, self._copies, self._rounds = steps, gangs, copies, rounds
        self._nearness, self._cold, self._deferred = nearness, cold, False
        self._reputation, self._placing, self._steering = reputation, placing, steering
        self.spent, self.waits = 0.0, Waits(steps, rounds)
        self._copying: dict[str, Step] = {}
        """Steps for which a copy was asked that was not answered for yet, and some for which that is over."""
        self.choosy = False
        """All that wait do so for better places than there were in the last round."""
        self._no_room: dict[str, Bid] | None = None
        """The bids of the last round, if they did not come to every step."""
        self._awarding: dict[str, set[str]] = {}
        self.overbids = Overbids(steps.held_slots, reputation)
        self._nowhere = Hopeless()
        """Steps that could run at none of their places as those are."""
        self._too_dear = Hopeless(OFTEN_S)
        """Those that every place offers to take, and none for what is left of the budget."""
        self._nevers, self._prices = Everywhere(), Everywhere()
        """Of the two, which places have said so by now."""

    # Matching ---------------------------------------------------------------------------------------------------

    def match(self, now: float) -> list[Instruction]:
        """Close the round that is open."""
        round_ = self._rounds.close(now)
        self._copying = {key: step for key, step in self._copying.items() if step.copying}
        for cluster in round_.expected:
            self._placing.away(cluster)
        seen, offers = self._rounds.known_bids(round_), Offers(round_.bids.values())
        awards: dict[str, list[LeaseRequest]] = {}
        out = self.overbids.cut(offers, round_.bids, self._awarded, now)
        no_room, self._no_room = self._no_room, None
        trust = partial(self._reputation.trust, now=now)
        self._placing.look(self._steps.waiting(), round_.bids.values(), trust, now)
        remarks = self._placing.remarks(self._steps.waiting(), self._rounds.untold(round_))
        out += [Tell("", Chapter.CANDIDATES, text) for text in remarks]
        menu = Menu(offers, self._placing, self._nearness, self._cold, trust)
        passed: set[str] = set()
        """Those that were looked at with the first of their gang."""
        waiting = self._placing.order(list(self._gangs.together(self._steps.waiting())))
        self._nowhere.look(waiting)
        self._too_dear.look(waiting)
        self._nevers.look(waiting)
        self._prices.look(waiting)
        room = self._steering.room()
        for step in waiting:
            if offers.exhausted:
                # Why each of the others waits is worked out when somebody asks.
                self._no_room = seen
                break
            if now < step.not_before or step.ask.step in passed:
                continue
            unit = self._gangs.unit(step)
            passed.update(one.ask.step for one in unit[1:])
            if room is not None and len(unit) > room and not self._steering.is_part(step):
                step.waiting_for = self._steering.why_capped
                continue
            first = next(filter(None, map(self._nearness.waits_for, unit)), "")
            if first:
                # Its node is known in a moment.
                self._deferred, step.waiting_for = True, f"it is placed after {first}"
                continue
            near = round_.near(step.places)
            offered = menu.of(unit, near)
            payable = self._payable(offered)
            choice = self._placing.choose(step, payable)
            if choice is None:
                out += self._not_chosen(unit, near, offered, payable, seen, now)
                continue
            self._prices.hears(step, (), [offer.place.cluster for offer in payable])
            told = {
                "round": round_.number,
                "offers": [offer.facts for offer in offered],
                "silent": self._silent(step, near, seen, offered),
                "taken": choice.place.cluster,
            }
            awards.setdefault(choice.place.cluster, []).extend(self._taken(unit, choice, offers, now))
            room = room if room is None or self._steering.is_part(step) else room - len(unit)
            for one in unit:
                out += self.waits.over(one, self._why_waits(one, no_room) or "its places were being looked up", now)
                out.append(Tell(one.ask.step, Chapter.BID, bids_text(told), told))
        out += self._never(waiting, round_, seen, now)
        self.choosy = bool(self._steps.waiting()) and all(map(self._placing.why_waits, self._steps.waiting()))
        for step in round_.copies if self.choosy or not self._steps.waiting() else ():
            out += self._copied(step, round_, offers, menu, awards, now)
        self._rounds.settle(round_, offers, now, by_choice=self.choosy)
        for cluster in round_.late - awards.keys():
            if round_.bids[cluster].points:
                # It keeps room for us, which others may have.
                awards[cluster] = []
        for cluster, requests in sorted(awards.items()):
            out.append(SendAward(Award(cluster, self._run, round_.number, self._origin, tuple(requests))))
        return out

    def _taken(self, unit: Sequence[Step], choice: Offer, offers: Offers, now: float) -> Iterator[LeaseRequest]:
        """All of `unit` take it, and are about to be awarded."""
        cluster = choice.place.cluster
        for step in unit:
            step.cold = not offers.is_warm(cluster, step.group)
            price = offers.take(cluster, step.group)
            self._steps.award(step)
            if choice.prefer:
                self._placing.began(step, cluster, choice.prefer[0], now)
            step.price = price
            self.spent += price
            self._awarding.setdefault(cluster, set()).add(step.ask.step)
            yield self._request(step, choice, step.avoids(now))

    def _request(self, step: Step, choice: Offer, avoid: tuple[str, ...], copy: int = 0) -> LeaseRequest:
        ask, cluster, prefer = step.ask, choice.place.cluster, choice.prefer
        if self._nearness.wishes(ask):
            avoid = tuple(dict.fromkeys((*avoid, *self._nearness.avoid(ask, cluster))))
            prefer = tuple(dict.fromkeys((*self._nearness.prefer(ask, cluster), *prefer)))
        prefer = tuple(node for node in prefer if node not in avoid)
        return LeaseRequest(
            run=self._run,
            step=ask.step,
            fence=step.fence,
            copy=copy,
            capability=ask.capability,
            data_class=ask.data_class,
            tenant=ask.tenant,
            avoid=avoid,
            prefer=prefer,
            preemptible=ask.effect is not Effect.AT_MOST_ONCE,
            checkpointable=ask.checkpointable,
            priority=ask.priority,
            resources=ask.resources,
            gang=ask.gang if step.group.gang else "",
            seconds=min(choice.seconds, MAX_SECONDS),
        )

    def _copied(
        self, step: Step, round_: Round, offers: Offers, menu: Menu, awards: dict[str, list[LeaseRequest]], now: float
    ) -> list[Instruction]:
        """Have a late step run once more, where that is worth it."""
        if not self._copies.may(step, now) or not self._steering.may_join(step.ask.step):
            return []
        offered = menu.of_copy(step, round_.near(step.places))
        payable = self._payable(offered)
        # A copy is there to be early.
        where, node = (self._copies.planned or {}).get(step.ask.step, ("", ""))
        best = [offer for offer in payable if offer.place.cluster == where] if where else payable
        choice = min(best, key=lambda one: (one.seconds / one.trust, one.price, one.place.cluster), default=None)
        if choice is None or not self._copies.is_worth(step, choice.seconds, now):
            return []
        cluster, lease = choice.place.cluster, step.lease
        assert lease is not None
        price = offers.take(cluster, step.group._replace(idle=True))
        step.copying, step.copy_number, step.copy_price = cluster, step.copy_number + 1, price
        self._copying[step.ask.step] = step
        request = self._request(step, choice, (lease.node, *step.avoids(now)), step.copy_number)
        request = replace(request, prefer=(node,) if node and node not in request.avoid else request.prefer)
        awards.setdefault(cluster, []).append(request)
        ran, usual = now - step.started, self._copies.usual(step.ask) or 0.0
        text = (
            f"late: it has run {ran:.1f} s on {lease.node} of {lease.cluster}, its like took {usual:.1f} s; "
            f"a copy is asked of {cluster}"
        )
        facts = {"ran": round(ran, 3), "usual": round(usual, 3), "offers": [offer.facts for offer in offered]}
        return [Tell(step.ask.step, Chapter.COPY, text, facts | {"taken": cluster})]

    def _payable(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Those within what is left of the budget, with what copies cost that are being awarded."""
        if self._budget is None:
            return offers
        left = self._budget - self.spent - sum(step.copy_price for step in self._copying.values())
        return [offer for offer in offers if offer.price <= left]

    def _not_chosen(
        self,
        unit: Sequence[Step],
        near: tuple[Place, ...],
        offers: Sequence[Offer],
        payable: Sequence[Offer],
        bids: dict[str, Bid],
        now: float,
    ) -> list[Instruction]:
        """Why none of `offers` was chosen, of which it may have those that are `payable`."""
        step = unit[0]
        if not offers:
            for one in unit:
                # Why nobody may take it is known better.
                one.waiting_for = (
                    why_no_slot(step.ask, near, bids, self._rounds.away) if near else one.waiting_for or LOOKED_UP
                )
            return []
        better = self._placing.why_waits(step) if payable else ""
        if better:
            self._too_dear.is_over(step.ask.step)
            step.waiting_for = better
            return []
        least = min(offer.price for offer in offers)
        text = f"the run may spend {self._budget:g} credits and has spent {self.spent:g}; the least offer is {least:g}"
        for one in unit:
            one.waiting_for = text
        settled = {offer.place.cluster for offer in offers}
        if len(settled) < len(near):
            able = (bids[one.cluster] for one in near if one.cluster in bids)
            settled |= {bid.cluster for bid in able if never_in(step.ask, step.group.gang, bid)}
        everywhere = self._prices.hears(step, settled)
        if len(settled) < len(near) or not everywhere or step.unheard:
            # A cheaper one may have room later, or be one that was not asked yet or is away.
            return []
        # Prices fall again, with what their clusters have to do, but none falls to nothing.
        if not self._budget or self._too_dear.holds(step.ask.step, now):
            remedy = "raise the run's budget, or let it run where it is cheaper"
            return self._refused(unit, Refusal("flow.budget", text, BY, remedy))
        news = [one for one in unit if self._too_dear.is_news(one.ask.step)]
        return [self._told_unless(one, text, now) for one in news]

    def _never(self, waiting: Sequence[Step], round_: Round, bids: dict[str, Bid], now: float) -> list[Instruction]:
        """Of steps for which each place says that it could never run there: that is told at once, and believed after a while."""
        out: list[Instruction] = []
        alike: dict[tuple[Group, int], dict[str, Refusal]] = {}
        for step in waiting if any(bid.never for bid in bids.values()) else ():
            places = round_.near(step.places)
            if (step.group, id(step.places)) not in alike:
                alike[step.group, id(step.places)] = self._nevers_of(step, places, bids)
            nevers = alike[step.group, id(step.places)]
            if step.state is not StepState.WAITING or not nevers:
                continue
            step.waiting_for, key = why_no_slot(step.ask, places, bids, self._rounds.away), step.ask.step
            text = f"could run nowhere: {step.waiting_for}"
            if step.unheard:
                step.waiting_for = f"could run nowhere that answers: {step.waiting_for}; {step.unheard}"
                if self._nowhere.is_news(key):
                    self.waits.said(step, step.waiting_for, now)
                    facts = facts_of(step.waiting_for, now - step.since)
                    out.append(Tell(key, Chapter.WAIT, f"waits: {step.waiting_for}", facts))
                continue
            if self._nowhere.holds(key, now):
                remedies = "; ".join(dict.fromkeys(refusal.remedy for refusal in nevers.values() if refusal.remedy))
                out += self._refused(self._gangs.unit(step), Refusal("flow.never", text, BY, remedies))
            elif self._nowhere.is_news(key):
                out.append(self._told_unless(step, text, now))
        return out

    def _nevers_of(self, step: Step, near: tuple[Place, ...], bids: dict[str, Bid]) -> dict[str, Refusal]:
        """By cluster, why it could never run there; nothing as long as a place has not said so."""
        known = [bids[place.cluster] for place in near if place.cluster in bids]
        found = {bid.cluster: refusal for bid in known if (refusal := never_in(step.ask, step.group.gang, bid))}
        everywhere = self._nevers.hears(step, found.keys(), [bid.cluster for bid in known if bid.cluster not in found])
        return found if everywhere and len(found) == len(near) else {}

    def asked_in_vain(self, step: Step) -> Collection[str]:
        """Of many places those that need not be asked again before the others: they could not take it, or for too much."""
        return {*self._nevers.of(step), *self._prices.of(step)}

    def _told_unless(self, step: Step, text: str, now: float) -> Tell:
        self.waits.said(step, step.waiting_for, now)
        return Tell(step.ask.step, Chapter.WAIT, unless(text), facts_of(step.waiting_for, now - step.since))

    def _refused(self, unit: Sequence[Step], refusal: Refusal) -> list[Instruction]:
        out: list[Instruction] = []
        for one in unit:
            self._gangs.over(one)
            self._placing.gone(one)
            self._steps.close(one, StepState.REFUSED)
            out += [Tell(one.ask.step, Chapter.REFUSED, str(refusal)), RefuseStep(one.ask.step, refusal)]
        return out

    # Why ---------------------------------------------------------------------------------------------------------

    def why_waits(self, step: Step) -> str:
        return self._why_waits(step, self._no_room)

    def told_waits(self, now: float, *, over: bool) -> list[Tell]:
        """What is new of those that wait, see `Waits.look`."""
        alike: dict[tuple[Group, int, int], str] = {}

        def why(step: Step) -> str:
            if self._no_room is None:
                return step.waiting_for
            key = step.group, step.ask.gang_size, id(step.places)
            if key not in alike:
                alike[key] = _why_no_room(step, self._no_room, self._rounds.away)
            return alike[key] or step.waiting_for

        return self.waits.look(why, now, over=over)

    def _why_waits(self, step: Step, no_room: dict[str, Bid] | None) -> str:
        why = (_why_no_room(step, no_room, self._rounds.away) if no_room else "") or step.waiting_for
        return why if step.unheard in why else "; ".join(filter(None, (why, step.unheard)))

    def _silent(
        self, step: Step, places: tuple[Place, ...], bids: dict[str, Bid], offers: Sequence[Offer]
    ) -> list[dict[str, Any]]:
        """Of the `places` that may take the step: those without an offer to it, and why."""
        offered = {offer.place.cluster for offer in offers}
        return [
            {
                "cluster": place.cluster,
                "why": why_silent(step.ask, place.cluster, bids, self._rounds.away),
            }
            for place in places
            if place.cluster not in offered
        ]

    # Answers ----------------------------------------------------------------------------------------------------

    def answered(self, event: AwardAnswered, now: float) -> list[Instruction]:
        awarded, out = event.awarded, []
        refused = sum(item.refusal.code not in KEPT for item in awarded.rejected)
        broken = refused + len(event.missing) + len(event.excess)
        self._reputation.observe(awarded.cluster, len(awarded.leases), broken, now)
        self._ask_for_deferred(now)
        if event.missing:
            why = f"it has neither a good lease nor a refusal for {', '.join(event.missing[:3])}"
            out += self.missed(AwardMissed(awarded.cluster, event.missing, why), now)
        if event.excess:
            out += self._given_back(awarded, event.excess)
        open_keys = self._awarding.get(awarded.cluster, set())
        granted: dict[str, Lease] = {}
        for lease in awarded.leases:
            step = self._steps.get(lease.step)
            if step is not None and lease.copy and step.copying == awarded.cluster and step.fence == lease.fence:
                out += self._copy_granted(step, lease, now)
            elif step is None or lease.copy or lease.step not in open_keys or step.fence != lease.fence:
                out.append(ReleaseLeases(awarded.cluster, (lease.id,)))
            else:
                granted[lease.step] = lease
        for key, lease in granted.items():
            step = self._steps[key]
            mates = self._gangs.others(step, StepState.AWARDING)
            if all(mate.ask.step in granted for mate in mates):
                continue
            # A gang of which only a part was leased does not start: all of it is asked for again.
            out.append(ReleaseLeases(awarded.cluster, (lease.id,)))
            text = f"{awarded.cluster} leased only a part of gang {step.ask.gang!r}"
            refusal = Refusal("flow.gang_torn", text, BY, "nothing: all of it is asked for again")
            out += self._not_awarded(step, awarded.cluster, open_keys, refusal, now)
        for key, lease in granted.items():
            if key in open_keys:
                open_keys.discard(key)
                out += self._began(self._steps[key], lease, now)
        for rejected in awarded.rejected:
            step = self._steps.get(rejected.step)
            if step is not None and step.copying == awarded.cluster and step.fence == rejected.fence:
                out += self._no_copy(step, str(rejected.refusal), now)
            elif step is not None and rejected.step in open_keys and step.fence == rejected.fence:
                out += self._not_awarded(step, awarded.cluster, open_keys, rejected.refusal, now)
        if not open_keys:
            self._awarding.pop(awarded.cluster, None)
        return out

    def _given_back(self, awarded: Awarded, excess: Sequence[Lease]) -> list[Instruction]:
        """Leases that nobody has asked for. An id under which something of ours runs, or is about to, is not released."""
        cluster = awarded.cluster
        own = {lease.id for lease in awarded.leases}
        own |= {lease.id for step in self._steps.all() for lease in step.runs() if lease.cluster == cluster}
        ids = tuple({lease.id: None for lease in excess if lease.id not in own})[:MAX_LEASES]
        steps = list(dict.fromkeys(lease.step for lease in excess))
        text = (
            f"{cluster} granted {len(excess)} leases that it was not asked for ({', '.join(steps[:TOLD_STEPS])}"
            f"{', …' if len(steps) > TOLD_STEPS else ''}); they are given back, and its bids are trusted less"
        )
        facts = {"cluster": cluster, "leases": len(excess), "steps": steps[:TOLD_STEPS]}
        out: list[Instruction] = [ReleaseLeases(cluster, ids)] if ids else []
        ours = [key for key in steps if self._steps.get(key) is not None]
        return [*out, *(Tell(key, Chapter.AWARD, text, facts) for key in ("", *ours[:TOLD_STEPS]))]

    def _awarded(self, cluster: str) -> int:
        """What it is asked for by awards that it has not answered."""
        return len(self._awarding.get(cluster, ())) + sum(one.copying == cluster for one in self._copying.values())

    def _ask_for_deferred(self, now: float) -> None:
        if self._deferred:
            self._deferred = False
            self._rounds.soon(now)

    def _copy_granted(self, step: Step, lease: Lease, now: float) -> list[Instruction]:
        if any((one.cluster, one.node) == (lease.cluster, lease.node) for one in step.runs()):
            why = f"{lease.cluster} has room on {lease.node} only, where it runs"
            return [ReleaseLeases(lease.cluster, (lease.id,)), *self._no_copy(step, why, now)]
        if lease.node in step.away or lease.cluster in step.away:
            why = f"it is to stay away from {lease.node} of {lease.cluster}"
            return [ReleaseLeases(lease.cluster, (lease.id,)), *self._no_copy(step, why, now)]
        step.copying, step.copy, step.copies = "", lease, step.copies + 1
        self._steps.held_slots.took(lease, self._rounds.number)
        self._placing.copied(step, lease, now)
        self.spent += step.copy_price
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": lease.fence}
        facts |= {"copy": lease.copy} | ({"price": step.copy_price} if step.copy_price else {})
        text = f"its copy was awarded to {lease.node} of {lease.cluster}"
        return [Tell(lease.step, Chapter.COPY, text, facts), StartStep(step.ask, lease)]

    def _no_copy(self, step: Step, why: str, now: float) -> list[Instruction]:
        step.copying, step.no_copy_before = "", now + COPY_AGAIN_S
        return [Tell(step.ask.step, Chapter.COPY, f"no copy: {why}")]

    def _began(self, step: Step, lease: Lease, now: float) -> list[Instruction]:
        step.state, step.lease, step.turned_down_by, step.started = StepState.RUNNING, lease, "", now
        self._steps.held_slots.took(lease, self._rounds.number)
        warm = self._placing.is_warm(step.ask.capability, lease.cluster, lease.node)
        step.cold = step.cold if warm is None else not warm
        self._placing.began(step, lease.cluster, lease.node, now)
        facts = {"cluster": lease.cluster, "domain": lease.domain, "node": lease.node, "fence": lease.fence}
        facts |= {"price": step.price} if step.price else {}
        step.where = (lease.cluster, lease.node)
        self._copies.began(step)
        wishes = self._nearness.told(step.ask, lease.cluster, lease.node) if self._nearness.wishes(step.ask) else ""
        text = f"awarded to {lease.node} of {lease.cluster}" + (f": {wishes}" if wishes else "")
        return [Tell(lease.step, Chapter.AWARD, text, facts), StartStep(step.ask, lease)]

    def _not_awarded(
        self, step: Step, cluster: str, open_keys: set[str], refusal: Refusal, now: float
    ) -> list[Instruction]:
        open_keys.discard(step.ask.step)
        step.turned_down_by = cluster
        self.take_back_price(step)
        self._placing.again(step)
        self._steps.wait(step, refusal.text, now)
        return [Tell(step.ask.step, Chapter.AWARD, f"not awarded: {refusal}")]

    def missed(self, event: AwardMissed, now: float) -> list[Instruction]:
        open_keys = self._awarding.get(event.cluster, set())
        self._reputation.missed(event.cluster, event.why, now)
        self._ask_for_deferred(now)
        out: list[Instruction] = []
        for step in filter(None, map(self._steps.get, event.steps)):
            if step.copying == event.cluster:
                out += self._no_copy(step, f"{event.cluster} did not answer the award: {event.why}", now)
        missed = [self._steps[key] for key in event.steps if key in open_keys]
        # What comes of the others of their gangs is of no use.
        missed += [mate for step in missed for mate in self._gangs.others(step, StepState.AWARDING)]
        for step in missed:
            if step.ask.step in open_keys:
                open_keys.discard(step.ask.step)
                self.take_back_price(step)
                self._placing.again(step)
                self._steps.wait(step, f"{event.cluster} did not answer the award: {event.why}", now)
        if not open_keys:
            self._awarding.pop(event.cluster, None)
        # A lease that was granted all the same is not leaked: it expires, and a newer fence replaces it.
        return [*out, Tell("", Chapter.AWARD, f"award to {event.cluster} not answered: {event.why}")]

    def let_go(self, step: Step) -> None:
        """It is not to be awarded what it is being awarded, if it is."""
        if step.state is StepState.AWARDING:
            self.take_back_price(step)
            self.dropped(step.ask.step)

    def dropped(self, key: str) -> None:
        """Nobody waits for it: a lease that is granted all the same is released when the award is answered."""
        for cluster, open_keys in list(self._awarding.items()):
            open_keys.discard(key)
            if not open_keys:
                del self._awarding[cluster]

    def take_back(self, step: Step, lease: Lease) -> dict[str, Any]:
        """The price of a start that no node began, as facts."""
        if step.copy is lease:
            price, step.copy_price = step.copy_price, 0.0
        else:
            price, step.price = step.price, 0.0
        self.spent -= price
        return {"price": -price} if price else {}

    def take_back_price(self, step: Step) -> None:
        """What nobody granted, or no node began, costs nothing. What was begun is paid, also where it is lost."""
        self.spent, step.price = self.spent - step.price, 0.0

    def validate(self) -> None:
        in_award = {key for keys in self._awarding.values() for key in keys}
        assert in_award == {step.ask.step for step in self._steps.all() if step.state is StepState.AWARDING}


def _why_no_room(step: Step, bids: dict[str, Bid], away: dict[str, str]) -> str:
    """By the `bids` of a round in which offers ended before the step's turn; of many places few were asked. Empty where none
    was."""
    asked = tuple(place for place in step.places if place.cluster in bids)
    return why_no_slot(step.ask, asked if len(step.places) > MANY else step.places, bids, away) if asked else ""
