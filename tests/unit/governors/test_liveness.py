"""The failure detector by its arithmetic, and who is condemned on whose word. Virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioi_dagster.governors.liveness import (
    BEAT_S,
    HUNG_S,
    LONGEST,
    LOST_PHI,
    MAX_PHI,
    TICK_S,
    UNWITNESSED_S,
    Arrivals,
    Beat,
    Event,
    Evict,
    Instruction,
    Joined,
    Left,
    Liveness,
    Look,
    NodeWatch,
    Refuted,
    Seen,
    Suspected,
    Tick,
    Unseen,
    quantile_of,
)

intervals = st.lists(st.floats(0.0, 30.0), max_size=200)
silences = st.lists(st.floats(0.0, 1e6), min_size=2, max_size=50)


def after(gaps: Iterable[float]) -> Arrivals:
    arrivals, now = Arrivals(100.0), 100.0
    for gap in gaps:
        now += gap
        arrivals.beat(now)
    return arrivals


# The arithmetic -------------------------------------------------------------------------------------------------------


@given(intervals, silences)
def test_suspicion_never_falls_while_silence_goes_on_and_stays_in_bounds(gaps: list[float], waits: list[float]) -> None:
    arrivals = after(gaps)
    phis = [arrivals.phi(arrivals.last + wait) for wait in sorted(waits)]
    assert all(0.0 <= one <= MAX_PHI for one in phis)
    assert all(one <= later for one, later in pairwise(phis))


@given(intervals, st.floats(0.5, 14.0))
def test_the_time_at_which_a_suspicion_is_reached_is_told_beforehand(gaps: list[float], phi: float) -> None:
    arrivals = after(gaps)
    assert arrivals.phi(arrivals.reaches(quantile_of(phi))) == pytest.approx(phi, rel=1e-3)


@given(st.integers(0, 2**32), st.floats(0.02, 0.2), st.floats(0.25, 0.45))
def test_who_beats_unevenly_is_given_longer(seed: int, steady: float, uneven: float) -> None:
    rng = random.Random(seed)
    even = after(BEAT_S + rng.uniform(-steady, steady) for _ in range(300))
    other = after(BEAT_S + rng.uniform(-uneven, uneven) for _ in range(300))
    quantile = quantile_of(LOST_PHI)
    assert even.reaches(quantile) - even.last < other.reaches(quantile) - other.last


@given(intervals, st.floats(1.0, 1e5))
def test_one_long_silence_delays_the_next_suspicion_by_a_beat_or_so(gaps: list[float], silence: float) -> None:
    arrivals, quantile = after([*gaps, *([BEAT_S] * 300)]), quantile_of(2.0)
    before = arrivals.reaches(quantile) - arrivals.last
    arrivals.beat(arrivals.last + silence)
    assert arrivals.reaches(quantile) - arrivals.last - before < LONGEST * BEAT_S / 2


@given(intervals)
def test_whatever_came_before_beats_like_clockwork_are_believed_again_in_a_minute(gaps: list[float]) -> None:
    arrivals = after([*gaps, *([BEAT_S] * 240)])
    assert arrivals.reaches(quantile_of(2.0)) - arrivals.last < 2 * BEAT_S


# The watch ------------------------------------------------------------------------------------------------------------

Witness = Callable[[float], tuple[str, float] | None]
"""What the witness says so long after the silence began: the kernel's letter and seconds of processor, or nothing."""

STOPPED: Witness = lambda after_s: ("T", 1.0)
GONE: Witness = lambda after_s: ("", 0.0)
SPINNING: Witness = lambda after_s: ("R", round(after_s, 2))
CROWDED: Witness = lambda after_s: ("R", int(after_s / 0.7) * 0.01)
ASLEEP: Witness = lambda after_s: ("S", 1.0)
TRACED: Witness = lambda after_s: ("t", 1.0)
AWAY: Witness = lambda after_s: None


class Play:
    """A node that beats for a while and then falls silent, with a witness that answers at once."""

    def __init__(self, witnessed: bool = True) -> None:
        self.watch, self.now = NodeWatch(), 0.0
        self.told: list[tuple[float, Instruction]] = []
        self.handle(Joined("n", "one", witnessed))
        self.beats(10.0)
        self.silent_since = self.now

    def handle(self, event: Event) -> list[Instruction]:
        out = self.watch.handle(event, self.now)
        self.watch.validate()
        self.told += [(self.now, one) for one in out if not isinstance(one, Look)]
        return out

    def beats(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.handle(Beat("n", "one"))
            for _ in range(5):
                self.now += TICK_S
                self.handle(Tick())
        self.handle(Beat("n", "one"))

    def silence(self, seconds: float, witness: Witness) -> None:
        self.silent_since = self.now
        until = self.now + seconds
        while self.now < until:
            self.now += TICK_S
            for instruction in self.handle(Tick()):
                if isinstance(instruction, Look):
                    seen = witness(self.now - self.silent_since)
                    self.handle(Unseen("n", "one") if seen is None else Seen("n", "one", *seen))

    def evicted_after(self) -> float | None:
        return next((at - self.silent_since for at, one in self.told if isinstance(one, Evict)), None)


@pytest.mark.parametrize(
    ("witness", "least_s", "most_s", "why"),
    [
        (STOPPED, 0.6, 0.9, "its process is stopped"),
        (GONE, 0.6, 0.8, "its process has ended"),
        (AWAY, 1.0, 1.3, "neither it nor its witness is heard"),
        (ASLEEP, HUNG_S, HUNG_S + 2, "its process has done nothing for 20 s"),
        (TRACED, HUNG_S, HUNG_S + 2, "its process has done nothing for 20 s"),
    ],
)
def test_a_silent_node_is_lost_as_soon_as_its_witness_makes_sure(witness, least_s, most_s, why) -> None:
    play = Play()
    play.silence(30.0, witness)
    evicted = play.evicted_after()
    assert evicted is not None
    assert least_s <= round(evicted, 3) <= most_s
    (suspected, evict) = [one for _, one in play.told]
    assert isinstance(suspected, Suspected)
    assert isinstance(evict, Evict)
    assert (evict.node, evict.life) == ("n", "one")
    assert evict.why.startswith(why)


@pytest.mark.parametrize("witness", [SPINNING, CROWDED])
def test_a_step_that_holds_the_interpreter_costs_its_node_nothing_but_new_work(witness) -> None:
    play = Play()
    play.silence(120.0, witness)
    assert [type(one) for _, one in play.told] == [Suspected]
    play.handle(Beat("n", "one"))
    refuted = play.told[-1][1]
    assert isinstance(refuted, Refuted)
    assert refuted.silent_s == pytest.approx(120.0, abs=0.2)
    assert play.watch.state("n") is Liveness.ALIVE
    # It is found as soon as ever when it freezes after that.
    play.beats(1.0)
    play.silence(2.0, STOPPED)
    assert 0.6 <= (play.evicted_after() or 0.0) <= 0.9


def test_a_stop_that_is_over_before_the_second_look_is_refuted() -> None:
    play = Play()
    play.silence(0.65, STOPPED)
    play.handle(Beat("n", "one"))
    assert [type(one) for _, one in play.told] == [Suspected, Refuted]


def test_where_nobody_can_say_whether_it_runs_a_node_is_waited_for_longer() -> None:
    play = Play(witnessed=False)
    play.silence(UNWITNESSED_S + 1.0, AWAY)
    assert play.evicted_after() == pytest.approx(UNWITNESSED_S, abs=0.2)


def test_a_witness_that_is_away_for_a_moment_condemns_nobody() -> None:
    play, answers = Play(), cycle((True, True, False))
    play.silence(8.0, lambda after_s: SPINNING(after_s) if next(answers) else None)
    assert play.evicted_after() is None


def test_who_stood_still_himself_accuses_nobody() -> None:
    play = Play()
    play.now += 30.0
    assert play.handle(Tick()) == []
    play.handle(Beat("n", "one"))
    play.beats(2.0)
    assert play.told == []


def test_a_lost_life_stays_lost_and_the_next_one_of_the_node_begins_alive() -> None:
    play = Play()
    play.silence(2.0, STOPPED)
    assert play.handle(Beat("n", "one")) == []
    assert play.watch.state("n") is Liveness.LOST
    assert not play.watch.knows("n", "one")
    play.handle(Joined("n", "two"))
    assert play.watch.knows("n", "two")
    assert play.handle(Left("n", "one")) == []
    assert play.watch.state("n") is Liveness.ALIVE
    play.handle(Left("n", "two"))
    assert play.watch.state("n") is None


def test_it_is_told_why_a_node_is_a_suspect() -> None:
    play = Play()
    play.silence(3.0, SPINNING)
    assert play.watch.told("other", play.now) == {}
    its = play.watch.told("n", play.now)
    assert its == {
        "liveness": "suspect",
        "why": its["why"],
        "silent_s": pytest.approx(3.0, abs=0.11),
        "phi": its["phi"],
        "witness": "it is busy",
    }
    assert its["why"].startswith("no beat for 0.")
    assert LOST_PHI < its["phi"] <= MAX_PHI


class Watching(RuleBasedStateMachine):
    """Anything in any order: a node is condemned only once a life, only as a suspect, and never while it is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.watch, self.now = NodeWatch(), 0.0
        self.suspects: set[str] = set()
        self.evicted: set[tuple[str, str]] = set()
        self.cpu_s = 0.0

    def tell(self, event: Event) -> None:
        for one in self.watch.handle(event, self.now):
            match one:
                case Suspected(node, _):
                    assert node not in self.suspects
                    self.suspects.add(node)
                case Refuted(node, _):
                    self.suspects.remove(node)
                case Evict(node, life, _):
                    assert node in self.suspects
                    assert (node, life) not in self.evicted
                    assert not (isinstance(event, Seen) and event.state in ("R", "S") and self.cpu_s == event.cpu_s)
                    self.suspects.remove(node)
                    self.evicted.add((node, life))

    nodes, lives = st.sampled_from("ab"), st.sampled_from("12")

    @rule(node=nodes, life=lives, witnessed=st.booleans())
    def joins(self, node: str, life: str, witnessed: bool) -> None:
        # An address is another's when it is used again.
        self.evicted.discard((node, life))
        self.suspects.discard(node)
        self.tell(Joined(node, life, witnessed))

    @rule(node=nodes, life=lives)
    def leaves(self, node: str, life: str) -> None:
        if self.watch.knows(node, life):
            self.suspects.discard(node)
        self.tell(Left(node, life))

    @rule(node=nodes, life=lives)
    def beats(self, node: str, life: str) -> None:
        self.tell(Beat(node, life))

    @rule(node=nodes, life=lives, state=st.sampled_from(["", "T", "Z", "t", "D"]))
    def is_seen(self, node: str, life: str, state: str) -> None:
        self.tell(Seen(node, life, state, 0.0))

    @rule(node=nodes, life=lives, state=st.sampled_from("RS"))
    def is_seen_busy(self, node: str, life: str, state: str) -> None:
        self.cpu_s += 0.01
        self.tell(Seen(node, life, state, self.cpu_s))

    @rule(node=nodes, life=lives)
    def is_not_seen(self, node: str, life: str) -> None:
        self.tell(Unseen(node, life))

    @rule(ticks=st.integers(1, 30))
    def time_goes_on(self, ticks: int) -> None:
        for _ in range(ticks):
            self.now += TICK_S
            self.tell(Tick())

    @rule(seconds=st.floats(0.0, 300.0))
    def time_jumps(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @invariant()
    def holds(self) -> None:
        self.watch.validate()
        told = {node: self.watch.told(node, self.now) for node in "ab"}
        assert {node for node, its in told.items() if its and its["liveness"] == "suspect"} == self.suspects


TestWatching = Watching.TestCase
