"""Orders for blocks, tenants and nodes of one domain: asked of its policy, written down, and then in force."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from ioi_dagster.adapters.files.blocks import read_blocks
from ioi_dagster.adapters.files.drains import ALL, Drain, DrainFile
from ioi_dagster.adapters.files.orders import OrderFile
from ioi_dagster.adapters.http.protocol import OrderAnswer, RunAnswer, RunOrder
from ioi_dagster.adapters.link.caller import RefusedError
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError, NotAllowedError, UnreachableError
from ioi_dagster.local.targets import find
from ioi_dagster.local.tenants import tenants_seen
from ioi_dagster.model.names import near
from ioi_dagster.model.negotiation import DEFAULT_TENANT, OWN_STEP
from ioi_dagster.model.order import Order, Target, Verb
from ioi_dagster.model.quota import ANY
from ioi_dagster.policy.documents import order_document
from ioi_dagster.policy.gate import Gate, allowed_from

if TYPE_CHECKING:
    from ioi_dagster.local.run_orders import RunOrders

MAX_REFUSED, REFUSED_S = 20, 3600.0
OF_DRAINS = frozenset({Verb.PAUSE, Verb.DRAIN, Verb.RESUME})
"""What is ordered for nodes in the file of what is drained."""
UNSEEN = "one that is yet to come is ordered for all the same with --unseen (`unseen` in the request)"


class Ordering:
    """`now`: Unix seconds; `seen`: the tenants that the clusters of a domain know, which raises as `tenants_seen` does."""

    def __init__(
        self,
        home: DomainHome,
        gate: Gate,
        now: Callable[[], float] = time.time,
        seen: Callable[[DomainHome], set[str]] = tenants_seen,
    ) -> None:
        self._home, self._gate, self._now, self._seen = home, gate, now, seen
        self._refused: dict[str, tuple[float, int]] = {}
        """By domain: since when, and how often."""
        self._file = OrderFile(home.root)

    def give(self, order: Order, subject: str, of: str, unseen: bool = False) -> OrderAnswer:
        """Have `order` in force, which `subject` gives, for whom the domain `of` vouches. The clusters go by it within about a
        second. `unseen`: a tenant may be one of whom nobody has heard yet. Raises `BadInputError` for what makes no sense or is
        not there, and `NotAllowedError`."""
        who = self._named(subject, of)
        order = replace(order, who=who, at=self._now())
        order.check()
        document = order_document(now=order.at, domain=self._home.name, subject=who, of=of, order=order)
        with self._patience(of):
            decision = allowed_from(self._gate.decide("intervene", document), of, self._home.name)
        if order.target is Target.NODE and order.verb in OF_DRAINS:
            answer = self._drained(order)
            self._file.note(order, answer, decision)
        elif order.target is Target.NODE:
            answer = self._file.give(replace(order, name=find([self._home], order.name).key), decision)
        else:
            self._check_away(order)
            self._check_known(order, unseen)
            answer = self._file.give(order, decision)
        return OrderAnswer(order, answer, decision)

    def say(self, said: RunOrder, of: str) -> RunAnswer:
        """Leave word for a run of the domain's, as `RunOrders.say`."""
        with self._patience(of):
            return self._runs.say(said, self._named(said.subject, of), of, self._now())

    def heard(self, said: RunAnswer) -> RunAnswer:
        return self._runs.heard(said)

    @cached_property
    def _runs(self) -> RunOrders:
        """What a command for a block has no use for, nor for the databases that it imports."""
        from ioi_dagster.local.run_orders import RunOrders

        return RunOrders(self._home.name, self._home.ledger, self._gate)

    def _named(self, subject: str, of: str) -> str:
        """Nobody of another domain is called as one of this one is."""
        return subject if of == self._home.name or not subject else f"{subject}@{of}"

    @contextmanager
    def _patience(self, of: str) -> Iterator[None]:
        """Each decision is written down. Of a domain that was refused `MAX_REFUSED` times within `REFUSED_S` the next are refused
        without one, so that nobody fills the disk of another."""
        since, count = self._refused.get(of, (self._now(), 0))
        if not 0 <= self._now() - since < REFUSED_S:
            since, count = self._now(), 0
        if of != self._home.name and count >= MAX_REFUSED:
            raise NotAllowedError(
                f"intervene.too_often: {of} was refused {count} times; policy is not asked for a while"
            )
        try:
            yield
        except NotAllowedError:
            self._refused[of] = (since, count + 1)
            raise

    def in_force(self) -> list[dict[str, Any]]:
        """For people: each order that holds, and what is drained of nodes."""
        found = [asdict(replace(order, name=_shown(order))) for order in self._file.read().listed()]
        for cluster, nodes in sorted(DrainFile(self._home.root).read().items()):
            for node, drain in sorted(nodes.items()):
                name = cluster if node == ALL else node
                verb = Verb.PAUSE if drain.paused else Verb.DRAIN
                its = Order(
                    Target.NODE, name, verb, within_s=drain.within_s, why=drain.why, who=drain.who, at=drain.since
                )
                found.append(asdict(its))
        return found

    def _check_away(self, order: Order) -> None:
        clusters = {cluster.name for cluster in self._home.config().clusters}
        if order.away and order.away not in clusters:
            raise BadInputError(f"{self._home.name} has no cluster {order.away!r}", todo=near(order.away, clusters))

    def _check_known(self, order: Order, unseen: bool) -> None:
        """What is ordered already may be taken back whatever has become of it."""
        if self._file.read().of(order.target, order.name).orders:
            return
        if order.target is Target.TENANT:
            names = self._check_weighs(order)
            if not unseen:
                self._check_seen(order.name, names | {DEFAULT_TENANT, *self._file.read().tenants})
            return
        known = {OWN_STEP, *(block.capability for block in read_blocks(self._home))}
        if order.name not in known:
            raise BadInputError(f"{self._home.name} has no block {order.name!r}", todo=near(order.name, known))

    def _check_seen(self, name: str, known: set[str]) -> None:
        """A tenant is whoever runs say, so that only those can be told who have quotas or were here."""
        if name in known:
            return
        try:
            known = known | self._seen(self._home)
        except (UnreachableError, RefusedError, msgspec.MsgspecError) as error:
            text = f"whether {self._home.name} knows a tenant {name!r} cannot be told: {error}"
            raise BadInputError(text, todo=UNSEEN) from error
        if name not in known:
            raise BadInputError(f"{self._home.name} knows no tenant {name!r}", todo=f"{near(name, known)}; {UNSEEN}")

    def _check_weighs(self, order: Order) -> set[str]:
        """Those who have quotas here. One for whom quotas have no place weighs nothing."""
        trees = [cluster.quotas for cluster in self._home.config().spec.clusters]
        names = {tenant.name for tree in trees for _, tenant in tree.tenants()}
        if order.verb is Verb.PRIORITISE and trees and names.isdisjoint((order.name, ANY)):
            text = f"no quotas of {self._home.name} have a place for tenant {order.name!r}, so that it has no weight"
            raise BadInputError(text, todo=f"{near(order.name, names)} Or give it a place by `ioi quota`")
        return names - {ANY}

    def _drained(self, order: Order) -> str:
        target = find([self._home], order.name)
        if order.verb is Verb.RESUME:
            return "takes steps again" if target.rejoin() else "was not drained"
        paused = order.verb is Verb.PAUSE
        fresh = target.drain(Drain(order.why, order.at, order.within_s, order.who, paused))
        word = "paused" if paused else "drained"
        told = "; what runs there goes on to its end" if paused else ""
        return f"is {word}{told}" if fresh else f"was {word} already"


def _shown(order: Order) -> str:
    """The name of its target, as people say it: a cluster's for all of its nodes."""
    return order.name.removesuffix(f"/{ALL}") if order.target is Target.NODE else order.name
