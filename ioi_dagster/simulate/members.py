"""The network governors of a simulation's domains: whom each sees, as soon as a line is cut and until all see each other again.

While nothing is cut every probe is answered, which leaves a network governor as it was: then none is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from ioi_dagster.governors.network import (
    GONE_PROBE_S,
    PROBE_S,
    NetworkGovernor,
    PeerState,
    Probe,
    ProbeAnswered,
    ProbeMissed,
    Tick,
)
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.wire import Wire

MAX_DOMAINS = 32
"""Of more domains those that are cut off have network governors, so many at most: each probes each."""
TICK_S, ANSWER_S = 0.2, 1.0
"""As a gateway ticks, and how long it waits for an answer."""
MERGED_S = GONE_PROBE_S + ANSWER_S + PROBE_S + TICK_S
"""So long after the last cut everybody sees everybody: who was gone is probed so often, after the probe that is under way."""
NOT_THERE = frozenset({PeerState.SUSPECT, PeerState.GONE})


def watched(domains: Sequence[str], cut_off: Collection[str]) -> tuple[str, ...]:
    """Those whose network governors are to be simulated, where lines to or from `cut_off` are to be cut. Who is named by no cut
    reaches all, and sees all."""
    if not cut_off or len(domains) <= MAX_DOMAINS:
        return tuple(domains) if cut_off else ()
    return tuple(name for name in domains if name in cut_off)[:MAX_DOMAINS]


class Members:
    """`check` is called with each governor after each event, `violated` with what must not be."""

    def __init__(
        self,
        domains: Sequence[str],
        engine: Engine,
        wire: Wire,
        check: Callable[[Any], None],
        violated: Callable[[str], None],
    ) -> None:
        self._engine, self._wire, self._check, self._violated = engine, wire, check, violated
        records = {name: MemberRecord("simulated", name, 1, "", "", (), ()) for name in domains}
        self._governors = {name: NetworkGovernor(name, records) for name in domains}
        self._waiting: dict[tuple[str, str], int] = {}
        """(who asks, whom) → the number of the probe that is under way."""
        self._probes, self._cuts, self._under_way = 0, 0, 0
        self._ticking = False
        for name in self._governors:
            self._begin(name)

    def cut(self) -> None:
        self._cuts, self._under_way = self._cuts + 1, self._under_way + 1
        if self._governors and not self._ticking:
            self._ticking = True
            self._tick()

    def healed(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._engine.after(MERGED_S, self._look, self._cuts, self._wire.dropped)

    def blind(self) -> list[tuple[str, str, str]]:
        """Who does not see whom, and takes it to be what."""
        return [
            (name, heard.domain, heard.state)
            for name, governor in self._governors.items()
            for heard in governor.view()
            if heard.state in NOT_THERE
        ]

    def _look(self, cuts: int, dropped: int) -> None:
        """Both sides are one again, where nothing was in their way since."""
        blind = self.blind()
        if blind and (cuts, dropped) == (self._cuts, self._wire.dropped) and not self._wire.loss:
            domain, other, state = blind[0]
            self._violated(f"row 12: {MERGED_S:g} s after the last cut {domain} sees {other} {state}")

    def _begin(self, name: str) -> None:
        """All are there, and have answered."""
        governor = self._governors[name]
        for item in governor.handle(Tick(), self._engine.now):
            if isinstance(item, Probe):
                governor.handle(ProbeAnswered(item.peer, 1), self._engine.now)

    def _tick(self) -> None:
        for name, governor in self._governors.items():
            for item in governor.handle(Tick(), self._engine.now):
                if isinstance(item, Probe):
                    self._ask(name, item.peer)
            self._check(governor)
        self._ticking = bool(self._under_way or self._waiting or self.blind())
        if self._ticking:
            self._engine.after(TICK_S, self._tick)

    def _ask(self, name: str, peer: str) -> None:
        self._probes += 1
        self._waiting[name, peer] = self._probes
        self._wire.send(name, peer, "probe", self._asked, name, peer, self._probes)
        self._engine.after(ANSWER_S, self._missed, name, peer, self._probes)

    def _asked(self, name: str, peer: str, number: int) -> None:
        heard = self._governors[peer].view()
        self._wire.send(peer, name, "probe-answer", self._answered, name, number, ProbeAnswered(peer, 1, heard))

    def _answered(self, name: str, number: int, event: ProbeAnswered) -> None:
        if self._waiting.get((name, event.peer)) == number:
            del self._waiting[name, event.peer]
            self._governors[name].handle(event, self._engine.now)

    def _missed(self, name: str, peer: str, number: int) -> None:
        if self._waiting.get((name, peer)) == number:
            del self._waiting[name, peer]
            self._governors[name].handle(ProbeMissed(peer, f"no answer within {ANSWER_S:g} s"), self._engine.now)
