"""Which nodes of a cluster live: a failure detector over their beats, and a witness beside each of their processes.

The detector is the φ-accrual one (N. Hayashibara, X. Défago, R. Yared, T. Katayama, SRDS 2004): φ = −log10 P(a beat comes
later than this), with P from how the node's beats have come so far. It makes suspects; it alone condemns nobody, since a step
that holds the interpreter is as silent as a frozen machine. What tells them apart is the witness: a process beside the node's
(its supervisor, or Dask's nanny), which knows what the kernel says of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

BEAT_S = 0.5
TICK_S = 0.1
"""How often the driver ticks, and how often the witness of a suspect is asked."""
MIN_DEVIATION_S = 0.05
"""Beats that came like clockwork so far may come a little later all the same."""
MAX_PHI = 300.0
WEIGHT = 1 / 32
"""Of the newest interval in mean and deviation: those of the last quarter of a minute count."""
LONGEST = 4.0
"""An interval counts as so many beats at most: after one long silence the next is not found much later."""

SUSPECT_PHI = 2.0
LOST_PHI = 8.0
STOPPED_LOOKS = 2
UNSEEN_LOOKS = 2
CUT_OFF_S = 1.0
HUNG_S = 20.0
"""A process that runs and does nothing may wait in native code that holds the interpreter. So long it is waited for."""
UNWITNESSED_S = 60.0
"""The same where nobody can say whether it runs."""
BUSY_S = 1.0
"""Who has used the processor within so long is busy: on a crowded machine its turn does not come with every look."""
STALL_S = 0.5
"""Where so long passes between two ticks, this process stood still itself, and the beats of that time lie unread."""


class Arrivals:
    """How the beats of one process come. Exponentially weighted instead of the paper's window, so that each costs the same."""

    __slots__ = ("_deviation", "_expected", "_mean", "_variance", "last")

    def __init__(self, now: float, expected_s: float = BEAT_S) -> None:
        self.last = now
        self._expected = self._mean = expected_s
        self._variance = 0.0
        self._deviation = MIN_DEVIATION_S

    def beat(self, now: float, counts: bool = True) -> None:
        """One came at `now`. `counts`: its interval says how the next ones will come."""
        if counts:
            off = min(max(0.0, now - self.last), LONGEST * self._expected) - self._mean
            self._mean += WEIGHT * off
            self._variance = (1 - WEIGHT) * (self._variance + WEIGHT * off * off)
            self._deviation = max(MIN_DEVIATION_S, math.sqrt(self._variance))
        self.last = max(now, self.last)

    def phi(self, now: float) -> float:
        """From 0 to `MAX_PHI`, never less as silence goes on."""
        later = 0.5 * math.erfc((now - self.last - self._mean) / (self._deviation * math.sqrt(2)))
        return min(MAX_PHI, -math.log10(later)) if later > 0 else MAX_PHI

    def reaches(self, quantile: float) -> float:
        """When φ reaches the value of `quantile` (of the standard normal distribution), if no beat comes; monotonic seconds."""
        return self.last + self._mean + quantile * self._deviation


def quantile_of(phi: float) -> float:
    """The place in the standard normal distribution beyond which a part of 10**−φ lies."""
    return NormalDist().inv_cdf(1 - 10**-phi)


_SUSPECT = quantile_of(SUSPECT_PHI)


# What is heard --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """`life`: which process it is; one that is started again under the node's name has another. `witnessed`: there is somebody
    who can be asked about it."""

    node: str
    life: str
    witnessed: bool = True


@dataclass(frozen=True, slots=True)
class Left:
    node: str
    life: str


@dataclass(frozen=True, slots=True)
class Beat:
    node: str
    life: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A witness answered. `state`: the kernel's letter (proc(5)), empty where there is no such process; `cpu_s`: what it has used
    of the processor so far."""

    node: str
    life: str
    state: str
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unseen:
    """The witness did not answer."""

    node: str
    life: str


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = Joined | Left | Beat | Seen | Unseen | Tick


# What is wanted done --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the witness of the node; `Seen` or `Unseen` is owed."""

    node: str
    life: str


@dataclass(frozen=True, slots=True)
class Suspected:
    """Give it nothing new."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Refuted:
    """It beats again."""

    node: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class Evict:
    """Place what ran there elsewhere, and have its witness end the process, should it be there still."""

    node: str
    life: str
    why: str


Instruction = Look | Suspected | Refuted | Evict


# How a suspect is judged ----------------------------------------------------------------------------------------------


class Liveness(StrEnum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"


class Sight(StrEnum):
    """What the witness makes of a suspect, by its last answers."""

    UNKNOWN = "not asked yet"
    GONE = "there is no process"
    STOPPED = "it is stopped"
    BUSY = "it is busy"
    WAITING = "it waits"
    UNSEEN = "its witness does not answer"
    UNWITNESSED = "it has no witness"


@dataclass(frozen=True, slots=True)
class Case:
    """What has been found out about a suspect: `sight`, which was the same in the last `looks` answers; `silent_s` and `phi` of
    its beats; `idle_s`, for how long it has been seen without using the processor."""

    sight: Sight
    looks: int
    silent_s: float
    phi: float
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    sight: Sight
    lost: Callable[[Case], bool]
    why: str


VERDICTS = (
    Verdict(Sight.GONE, lambda case: True, "its process has ended"),
    Verdict(Sight.STOPPED, lambda case: case.looks >= STOPPED_LOOKS, "its process is stopped"),
    Verdict(Sight.BUSY, lambda case: False, "a step holds its interpreter; limits of time are the step's own"),
    Verdict(Sight.WAITING, lambda case: case.idle_s >= HUNG_S, f"its process has done nothing for {HUNG_S:g} s"),
    Verdict(
        Sight.UNSEEN,
        lambda case: case.looks >= UNSEEN_LOOKS and case.phi >= LOST_PHI and case.silent_s >= CUT_OFF_S,
        "neither it nor its witness is heard: the machine, or the way to it, is down",
    ),
    Verdict(
        Sight.UNWITNESSED, lambda case: case.silent_s >= UNWITNESSED_S, f"nothing was heard for {UNWITNESSED_S:g} s"
    ),
    Verdict(Sight.UNKNOWN, lambda case: False, "its witness is being asked"),
)
"""A suspect is lost when the row of its sight says so. To evict one that lives costs what it runs, and the fences see to it that
nothing is committed twice; to wait for one that is lost costs only time. So each row waits as long as it takes to be sure."""
_VERDICTS = {verdict.sight: verdict for verdict in VERDICTS}

_SIGHTS = {"": Sight.GONE, "Z": Sight.GONE, "X": Sight.GONE, "x": Sight.GONE, "T": Sight.STOPPED}
"""By the kernel's letter; what else it says is told apart by progress. One under a debugger (t) is not meant: it waits."""


@dataclass(slots=True)
class _Watched:
    life: str
    witnessed: bool
    arrivals: Arrivals
    due: float
    """When it is a suspect, should no beat come."""
    state: Liveness = Liveness.ALIVE
    sight: Sight = Sight.UNKNOWN
    looks: int = 0
    cpu_s: float | None = None
    progressed: float = -math.inf
    """When it was last seen to have used the processor."""
    idle_since: float | None = None
    look_due: float = 0.0
    looking: bool = False
    was_busy: bool = False
    why: str = ""


@dataclass(slots=True)
class NodeWatch:
    """One a cluster. Nodes begin alive when they join; a life that is lost stays so until its node joins with another."""

    _nodes: dict[str, _Watched] = field(default_factory=dict)
    _ticked: float | None = None
    _excused_until: float = -math.inf

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds)."""
        if isinstance(event, Tick):
            return self._tick(now)
        if isinstance(event, Joined):
            arrivals = Arrivals(now)
            watched = _Watched(event.life, event.witnessed, arrivals, arrivals.reaches(_SUSPECT))
            self._nodes[event.node] = watched
            return []
        known = self._nodes.get(event.node)
        if known is None or known.life != event.life:
            return []
        if isinstance(event, Left):
            del self._nodes[event.node]
            return []
        if known.state is Liveness.LOST:
            return []
        match event:
            case Beat():
                return self._beat(event.node, known, now)
            case Seen() if known.looking:
                return self._seen(event, known, now)
            case Unseen() if known.looking:
                known.looking = False
                return self._saw(event.node, known, Sight.UNSEEN, now)
            case _:
                return []  # nobody asked, or the answer is of an earlier suspicion

    def knows(self, node: str, life: str) -> bool:
        """Is this the life of the node that counts, and not lost?"""
        known = self._nodes.get(node)
        return known is not None and known.life == life and known.state is not Liveness.LOST

    def state(self, node: str) -> Liveness | None:
        """None of a node that is not there."""
        known = self._nodes.get(node)
        return None if known is None else known.state

    def told(self, node: str, now: float) -> dict[str, Any]:
        """For people: its state and why, for how long it has been silent, φ of that, and what its witness last said. Empty where
        it is not there."""
        known = self._nodes.get(node)
        if known is None:
            return {}
        return {
            "liveness": str(known.state),
            "why": known.why,
            "silent_s": round(max(0.0, now - known.arrivals.last), 2),
            "phi": round(known.arrivals.phi(now), 1),
            "witness": str(known.sight) if known.state is not Liveness.ALIVE else "",
        }

    def validate(self) -> None:
        """Assert every invariant; tests call it after each event."""
        for name, known in self._nodes.items():
            alive = known.state is Liveness.ALIVE
            assert alive == (not known.why), name
            assert not alive or (known.sight is Sight.UNKNOWN and known.looks == 0), name
            assert (known.sight is Sight.UNWITNESSED) <= (not known.witnessed), name
            assert not known.looking or known.witnessed, name

    # ------------------------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Instruction]:
        if self._ticked is not None and now - self._ticked > STALL_S:
            # As in Lifeguard (Dadgar, Phillips, Currey, 2017): who was away himself is in no position to accuse others.
            self._excused_until = now + BEAT_S
        self._ticked = now
        if now < self._excused_until:
            return []
        out: list[Instruction] = []
        for name, known in self._nodes.items():
            if known.state is Liveness.ALIVE and now >= known.due:
                known.state = Liveness.SUSPECT
                known.why = f"no beat for {now - known.arrivals.last:.2f} s"
                out.append(Suspected(name, known.why))
            if known.state is Liveness.SUSPECT:
                out += self._examine(name, known, now)
        return out

    def _examine(self, node: str, known: _Watched, now: float) -> list[Instruction]:
        if not known.witnessed:
            return self._saw(node, known, Sight.UNWITNESSED, now)
        if known.looking or now < known.look_due:
            return self._judge(node, known, now)
        known.looking, known.look_due = True, now + TICK_S
        return [*self._judge(node, known, now), Look(node, known.life)]

    def _beat(self, node: str, known: _Watched, now: float) -> list[Instruction]:
        silent_s, suspect = now - known.arrivals.last, known.state is Liveness.SUSPECT
        # A silence that its steps explain says nothing about the way that its beats come.
        known.arrivals.beat(now, counts=not known.was_busy)
        known.due = known.arrivals.reaches(_SUSPECT)
        known.state, known.sight, known.looks, known.why = Liveness.ALIVE, Sight.UNKNOWN, 0, ""
        known.cpu_s, known.idle_since, known.was_busy, known.looking = None, None, False, False
        return [Refuted(node, silent_s)] if suspect else []

    def _seen(self, event: Seen, known: _Watched, now: float) -> list[Instruction]:
        before, known.cpu_s, known.looking = known.cpu_s, event.cpu_s, False
        # One tick of the kernel's (10 ms) is progress enough: on a crowded machine it may be all that it gets.
        if before is None or event.cpu_s > before:
            known.progressed = -math.inf if before is None else now
            known.idle_since = now
        sight = _SIGHTS.get(event.state)
        if sight is None:
            if before is None:
                return []
            sight = Sight.BUSY if now - known.progressed <= BUSY_S else Sight.WAITING
        return self._saw(event.node, known, sight, now)

    def _saw(self, node: str, known: _Watched, sight: Sight, now: float) -> list[Instruction]:
        if known.state is not Liveness.SUSPECT:
            return []
        known.looks = known.looks + 1 if sight is known.sight else 1
        known.sight = sight
        known.was_busy = known.was_busy or sight is Sight.BUSY
        return self._judge(node, known, now)

    def _judge(self, node: str, known: _Watched, now: float) -> list[Instruction]:
        silent_s = now - known.arrivals.last
        idle_s = 0.0 if known.idle_since is None else now - known.idle_since
        case = Case(known.sight, known.looks, silent_s, known.arrivals.phi(now), idle_s)
        verdict = _VERDICTS[known.sight]
        if now < self._excused_until or not verdict.lost(case):
            return []
        known.state, known.looking = Liveness.LOST, False
        known.why = f"{verdict.why} (silent for {silent_s:.2f} s)"
        return [Evict(node, known.life, known.why)]
