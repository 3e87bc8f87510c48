"""Sees each change of state that governors make, from outside: their code has nothing for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ioi_dagster.governors import block, flow_steps, liveness, network
from ioi_dagster.governors.block import BlockGovernor
from ioi_dagster.governors.cluster import ClusterGovernor, LeaseEnded, Reply
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.liveness import NodeWatch
from ioi_dagster.governors.network import NetworkGovernor
from ioi_dagster.governors.node import Admit, NodeGovernor, StartAsked
from ioi_dagster.governors.states import ANY, NOTHING, AnnouncementState, LeaseState, Machine, NodeState, StartState
from ioi_dagster.model.negotiation import Award, Bid

Seen = tuple[str, str, str, str]
"""(from, to, event, what was told)"""


class _State:
    """In the place of an attribute: tells `seen(owner, before, after)` before it is set. `before` is None of a new owner."""

    def __init__(self, owner: type, name: str, seen: Callable[[Any, Any, Any], None]) -> None:
        self._slot, self._seen = owner.__dict__[name], seen

    def __get__(self, obj: Any, kind: type | None = None) -> Any:
        return self if obj is None else self._slot.__get__(obj, kind)

    def __set__(self, obj: Any, value: Any) -> None:
        try:
            before = self._slot.__get__(obj)
        except AttributeError:
            before = None
        self._seen(obj, before, value)
        self._slot.__set__(obj, value)


class _Table(dict[Any, Any]):
    """A governor's own table, that remembers which of its rows were used."""

    def __init__(self, rows: dict[Any, Any]) -> None:
        super().__init__(rows)
        self.used: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        becomes = super().__getitem__(key)
        self.used.add(key)
        return becomes


@dataclass
class Watch:
    """`changes`: by the name of a machine. `firsts`: in which states things began."""

    changes: dict[str, set[Seen]] = field(default_factory=dict)
    firsts: dict[str, set[str]] = field(default_factory=dict)
    _event: Any = None
    _steps: dict[str, str] = field(default_factory=dict)
    """Of the flow governor that handles something."""
    _of: dict[int, tuple[Any, dict[str, str]]] = field(default_factory=dict)
    """The same, of each; with the governor, so that its id stays its own."""

    def seen(self, machine: str, was: str, becomes: str, on: str = "", told: str = "") -> None:
        if was != becomes or machine in ("replica", "circuit"):
            self.changes.setdefault(machine, set()).add((was, becomes, on or type(self._event).__name__, told))

    def on(self, patch: pytest.MonkeyPatch) -> None:
        self._on_flow(patch)
        self._on_block(patch)
        self._around(patch, ClusterGovernor, self._leases, self._leased)
        self._around(patch, ClusterGovernor, _waiting, self._parked)
        self._around(patch, NodeGovernor, lambda node: bool(node._draining), self._started)
        members = lambda governor: {name: peer.state for name, peer in governor._peers.items()}
        self._around(patch, NetworkGovernor, members, self._probed)
        self._around(patch, NodeWatch, lambda _: None, lambda *_: None)
        patch.setattr(liveness._Watched, "state", _State(liveness._Watched, "state", self._lived))
        new_peer = lambda _, was, becomes: was is None and self._begins("member", becomes)
        patch.setattr(network._Peer, "state", _State(network._Peer, "state", new_peer))

    def _around(self, patch: pytest.MonkeyPatch, kind: type, before: Callable, after: Callable) -> None:
        original = kind.__dict__["handle"]

        def handle(governor: Any, event: Any, now: float, *more: Any) -> list[Any]:
            self._event, known = event, before(governor)
            out = original(governor, event, now, *more)
            after(governor, known, out)
            return out

        patch.setattr(kind, "handle", handle)

    def _begins(self, machine: str, state: str) -> None:
        self.firsts.setdefault(machine, set()).add(state)

    # Network and node -------------------------------------------------------------------------------------------

    def _probed(self, governor: NetworkGovernor, known: dict[str, str], _: list[Any]) -> None:
        for name, peer in governor._peers.items():
            self.seen("member", known.get(name, network.PeerState.UNKNOWN), peer.state)

    def _started(self, governor: NodeGovernor, drained: bool, out: list[Any]) -> None:
        states = (NodeState.TAKING, NodeState.DRAINING)
        self._begins("node", NodeState.TAKING)
        self.seen("node", states[drained], states[bool(governor._draining)])
        if isinstance(self._event, StartAsked):
            (decision,) = out
            self._begins("start", StartState.ASKED)
            admitted = isinstance(decision, Admit)
            told = "" if admitted else decision.refusal.code
            self.seen("start", StartState.ASKED, StartState.ADMITTED if admitted else StartState.REFUSED, told=told)

    def _lived(self, _: Any, was: Any, becomes: Any) -> None:
        if was is None:
            self._begins("liveness", becomes)
        else:
            self.seen("liveness", was, becomes)

    # Cluster ----------------------------------------------------------------------------------------------------

    def _leases(self, governor: ClusterGovernor) -> dict[str, LeaseState]:
        waiting = {held.lease.id for held in governor._leases if held.waits}
        return {
            name: LeaseState.STOPPING
            if name in governor._stopping
            else LeaseState.WAITING
            if name in waiting
            else LeaseState.HELD
            for name in governor._leases.held
        }

    def _leased(self, governor: ClusterGovernor, known: dict[str, LeaseState], out: list[Any]) -> None:
        for item in out:
            for lease in item.granted if isinstance(item, Reply) else ():
                self.seen("lease", NOTHING, LeaseState.HELD)
                known[lease.id] = LeaseState.HELD
        for item in out:
            if isinstance(item, LeaseEnded):
                self.seen("lease", known.pop(item.lease.id), NOTHING, told=item.why)
        now = self._leases(governor)
        assert now.keys() == known.keys(), "what is granted or ends is told"
        for name, was in known.items():
            self.seen("lease", was, now[name])

    def _parked(self, governor: ClusterGovernor, known: dict[tuple[str, str], int], out: list[Any]) -> None:
        now = _waiting(governor)
        answered = {item.waited: item.answer for item in out if isinstance(item, Reply) and item.waited is not None}
        goes_on = set()
        for whose, number in known.items():
            origin, run = whose
            # One that is sent again is answered, and waits anew.
            if now.get(whose) == number and (run, number, origin) not in answered:
                goes_on.add(whose)
                continue
            answer = answered.pop((run, number, origin), None)
            told = "withdrawn" if answer is None else "offered" if answer.points else "in vain"
            if answer is not None and answer == Bid(answer.cluster, answer.domain, run, number, answer.epoch):
                told = "served" if isinstance(self._event, Award) else "newer"
            self.seen("announcement", AnnouncementState.WAITING, NOTHING, told=told)
        assert not answered, "who does not wait is not answered"
        for whose in now:
            if whose not in goes_on:
                self.seen("announcement", NOTHING, AnnouncementState.WAITING)

    # Block ------------------------------------------------------------------------------------------------------

    def _on_block(self, patch: pytest.MonkeyPatch) -> None:
        tables = {"replica": _Table(block.REPLICA), "circuit": _Table(block.BREAKER)}
        patch.setattr(block, "REPLICA", tables["replica"])
        patch.setattr(block, "BREAKER", tables["circuit"])

        def by_table(machine: str) -> Callable[[Any, Any, Any], None]:
            def seen(_: Any, was: Any, becomes: Any) -> None:
                if was is None:
                    return self._begins(machine, becomes)
                signs = {sign for before, sign in tables[machine].used if before == was}
                tables[machine].used.clear()
                assert len(signs) == 1, f"{machine}: from {was} to {becomes} without its table"
                self.seen(machine, was, becomes, on=signs.pop())

            return seen

        def version(one: Any, was: Any, becomes: Any) -> None:
            self.seen("version", was or NOTHING, becomes)

        def gone(governor: BlockGovernor, known: dict[int, Any], _: list[Any]) -> None:
            left = {id(one) for one in governor._versions}
            for name, one in known.items():
                if name not in left:
                    self.seen("version", one.state, NOTHING)

        patch.setattr(block._Replica, "state", _State(block._Replica, "state", by_table("replica")))
        patch.setattr(block._Version, "breaker", _State(block._Version, "breaker", by_table("circuit")))
        patch.setattr(block._Version, "state", _State(block._Version, "state", version))
        self._around(patch, BlockGovernor, lambda governor: {id(one): one for one in governor._versions}, gone)

    # Flow -------------------------------------------------------------------------------------------------------

    def _on_flow(self, patch: pytest.MonkeyPatch) -> None:
        def step(one: Any, _: Any, becomes: Any) -> None:
            self.seen("step", self._steps.get(one.ask.step, NOTHING), becomes)
            self._steps[one.ask.step] = becomes

        def begin(governor: FlowGovernor) -> None:
            _, self._steps = self._of.setdefault(id(governor), (governor, {}))

        patch.setattr(flow_steps.Step, "state", _State(flow_steps.Step, "state", step))
        self._around(patch, FlowGovernor, begin, lambda *_: None)


def _waiting(governor: ClusterGovernor) -> dict[tuple[str, str], int]:
    """By origin and run, the round of its announcement that waits, for room or for what is ordered."""
    held = {whose: one.announce.round for whose, one in governor._orders._waits.items()}
    return held | {whose: asked.wanted.round for whose, asked in governor._bids.desk.asked.items() if asked.waits}


def unknown(machine: Machine, seen: set[Seen]) -> set[Seen]:
    """What was seen and is not in the table."""
    return {one for one in seen if not any(_is(change, one) for change in machine.changes)}


def unseen(machine: Machine, seen: set[Seen]) -> list[Any]:
    """Changes of the table that were not seen. What ANY event may bring about counts only where no other row says it."""
    exact = {(change.was, change.becomes, change.on) for change in machine.changes if change.on != ANY}
    return [
        change
        for change in machine.changes
        if not any(_is(change, one) and (change.on != ANY or one[:3] not in exact or one[3]) for one in seen)
    ]


def _is(change: Any, seen: Seen) -> bool:
    was, becomes, on, told = seen
    return (change.was, change.becomes) == (was, becomes) and change.on in (on, ANY) and told.startswith(change.told)
