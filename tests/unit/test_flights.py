"""Answers that nobody took are kept for a while, and only those."""

from __future__ import annotations

from dataclasses import dataclass

from ioi_dagster.adapters.dask.flights import KEPT_S, MAX_KEPT, Flights


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_that_is_awaited_is_not_kept() -> None:
    flights = Flights()
    flights.begin("a")
    flights.end("a", b"x", awaited=True)
    assert flights.claim(["a"]) == []
    assert flights.answers(["a"]) == {}


def test_an_answer_that_nobody_awaits_is_kept_until_it_is_dropped() -> None:
    flights = Flights()
    flights.begin("a")
    assert flights.answers(["a", "b"]) == {"a": b""}
    flights.end("a", b"x", awaited=False)
    assert flights.claim(["a", "b"]) == ["a"]
    assert flights.answers(["a", "b"]) == {"a": b"x"}
    flights.drop(["a"])
    assert flights.answers(["a"]) == {}


def test_what_was_claimed_is_kept_also_where_it_is_awaited() -> None:
    """By a process that stands still, and knows nothing of the one that took over."""
    flights = Flights()
    flights.begin("a")
    assert flights.claim(["a"]) == ["a"]
    flights.end("a", b"x", awaited=True)
    assert flights.answers(["a"]) == {"a": b"x"}


def test_what_asked_its_process_for_something_cannot_be_taken_over() -> None:
    flights = Flights()
    flights.begin("a")
    flights.depend("a")
    assert flights.claim(["a"]) == []
    flights.end("a", b"x", awaited=False)
    assert flights.answers(["a"]) == {}


def test_old_and_too_many_answers_are_forgotten() -> None:
    clock = Clock()
    flights = Flights(clock)
    for key in ("a", "b"):
        flights.begin(key)
        flights.end(key, b"x", awaited=False)
        clock.now += 1.0
    clock.now = KEPT_S + 0.5
    assert flights.claim(["a", "b"]) == ["b"]
    flights.begin("c")
    flights.end("c", bytes(MAX_KEPT), awaited=False)
    assert flights.claim(["a", "b", "c"]) == ["c"]
