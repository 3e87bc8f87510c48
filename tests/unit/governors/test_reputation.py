"""What a run thinks of clusters: it follows what they do, and fades."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors.reputation import HALF_LIFE_S, LONGEST_REST_S, MANY, Reputation


def test_who_is_not_known_is_trusted_and_a_broken_bid_costs_half() -> None:
    reputation = Reputation()
    assert reputation.trust("new", 0.0) == 1.0
    reputation.observe("liar", 0, 10, 0.0)
    assert reputation.trust("liar", 0.0) == 0.5
    reputation.observe("liar", 0, 10, 0.0)
    assert reputation.trust("liar", 0.0) == 1 / 3
    reputation.observe("honest", 10, 0, 0.0)
    assert reputation.trust("honest", 0.0) == 1.0


def test_half_of_what_was_seen_is_forgotten_in_a_half_life() -> None:
    reputation = Reputation()
    reputation.observe("liar", 0, 1, 0.0)
    assert reputation.trust("liar", HALF_LIFE_S) == 1 / 1.5
    assert reputation.trust("liar", 100 * HALF_LIFE_S) > 0.999


def test_who_does_not_answer_is_asked_less_and_less_often_until_he_does() -> None:
    reputation = Reputation()
    rests = []
    now = 0.0
    for _ in range(8):
        reputation.missed("mute", "no answer", now)
        begun = now
        while reputation.rests("mute", now):
            now += 0.25
        rests.append(now - begun)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_REST_S, LONGEST_REST_S, LONGEST_REST_S]
    assert reputation.suspect("mute") == "no answer"
    reputation.answered("mute")
    assert reputation.suspect("mute") == ""
    assert not reputation.rests("mute", now)
    reputation.missed("mute", "again", now)
    assert not reputation.rests("mute", now + 0.5)


def test_of_many_clusters_the_best_and_a_sample_are_asked_and_all_in_time() -> None:
    reputation = Reputation()
    names = [f"c{number:03}" for number in range(MANY + 10)]
    for name in names[:5]:
        reputation.observe(name, 0, 1, 0.0)
    for name in (*names[-2:], "elsewhere"):
        reputation.observe(name, 1, 0, 0.0)

    def ask(number: int, of: list[str]) -> list[str]:
        return list(reputation.ask_whom(of, 0.0, f"run/{number}"))

    asked = [ask(number, names) for number in range(400)]
    assert all(some[:2] == names[-2:] and len(set(some)) == len(some) == 5 for some in asked)
    assert set().union(*asked) == set(names)
    assert ask(1, names) == asked[1]
    assert ask(1, names[:MANY]) == names[:MANY]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1e6)), max_size=50))
def test_trust_stays_in_its_bounds_whatever_the_clock_does(seen: list[tuple[int, int, float]]) -> None:
    reputation = Reputation()
    for kept, broken, now in seen:
        reputation.observe("c", kept, broken, now)
        assert 0 < reputation.trust("c", now) <= 1
