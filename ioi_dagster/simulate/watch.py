"""A simulated scheduler's watch of its nodes: the real failure detector, asked only about nodes with which something is wrong.

Beats that come like clockwork leave the detector as it was, so those of all other nodes need not happen one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ioi_dagster.governors import liveness
from ioi_dagster.governors.liveness import BEAT_S, TICK_S, Liveness, NodeWatch
from ioi_dagster.simulate.engine import Engine
from ioi_dagster.simulate.node import SimNode
from ioi_dagster.simulate.timing import ANSWER_S, LOOK_S


class SimWatch:
    """`suspected(node, whether)` and `evict(node, why)` do what it wants done."""

    def __init__(
        self,
        engine: Engine,
        nodes: dict[str, SimNode],
        suspected: Callable[[str, bool], None],
        evict: Callable[[str, str], None],
        check: Callable[[Any], None],
    ) -> None:
        self._engine, self._nodes = engine, nodes
        self._suspected, self._evict, self._check = suspected, evict, check
        self._watch = NodeWatch()
        self._beats: dict[str, tuple[int, int]] = {}
        """Of those that are watched: which process, and how many beats of it were heard."""
        self.still = False
        """Its process stands still, and it with that."""
        self._round = 0

    def look_at(self, name: str) -> None:
        """Something has become wrong with that node."""
        node = self._nodes[name]
        if not node.counted or name in self._beats:
            return
        if not self._beats:
            self._watch = NodeWatch()
            self._round += 1
            self._engine.after(TICK_S, self._tick, self._round)
        beats = self._due(node)
        self._beats[name] = node.life, beats
        self._handle(liveness.Joined(name, str(node.life)), node.since + beats * BEAT_S)

    def forget(self, name: str) -> None:
        """It left."""
        watched = self._beats.pop(name, None)
        if watched is not None:
            self._handle(liveness.Left(name, str(watched[0])), self._engine.now)

    def _due(self, node: SimNode) -> int:
        """So many beats a node has sent by now, if it could."""
        return int((self._engine.now - node.since) / BEAT_S)

    def _tick(self, round_: int) -> None:
        if round_ != self._round or not self._beats:
            return
        self._engine.after(TICK_S, self._tick, round_)
        if self.still:
            return
        for name, (life, beats) in list(self._beats.items()):
            node = self._nodes[name]
            # A beat is a question that waits for its answer: it comes where both ways are whole.
            if node.in_contact and node.life == life and self._due(node) > beats:
                self._beats[name] = life, self._due(node)
                self._handle(liveness.Beat(name, str(life)), self._engine.now)
        self._handle(liveness.Tick(), self._engine.now)
        for name, (life, _) in list(self._beats.items()):
            node = self._nodes[name]
            if node.in_contact and node.life == life and self._watch.state(name) is Liveness.ALIVE:
                self.forget(name)

    def _handle(self, event: liveness.Event, now: float) -> None:
        told = self._watch.handle(event, now)
        self._check(self._watch)
        for instruction in told:
            match instruction:
                case liveness.Look(name, life):
                    node = self._nodes[name]
                    wait_s = LOOK_S if node.witnessed else ANSWER_S
                    self._engine.after(wait_s, self._looked, name, life, node.witnessed)
                case liveness.Suspected(name, _):
                    self._suspected(name, True)
                case liveness.Refuted(name, _):
                    self._suspected(name, False)
                case liveness.Evict(name, _, why):
                    self._beats.pop(name, None)
                    self._evict(name, why)

    def _looked(self, name: str, life: str, answered: bool) -> None:
        if self.still:
            self._engine.after(TICK_S, self._looked, name, life, answered)
            return
        if name not in self._beats:
            return
        node, now = self._nodes[name], self._engine.now
        if not answered:
            self._handle(liveness.Unseen(name, life), now)
            return
        there = node.there and str(node.life) == life
        busy = there and not node.stopped and (bool(node.running) or not node.moves)
        state = "" if not there else "T" if node.stopped else "R" if busy else "S"
        self._handle(liveness.Seen(name, life, state, now if busy else 0.0), now)
