"""Whatever is lent of a gang's nodes: it starts no later than it was due when that was lent, as long as steps end when they said,
and is held up by nothing else but what is being stopped."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.governors.fairness import Arbiter, Request


def played(seed: int, honest: bool) -> tuple[int, float | None, list[float]]:
    """How much was lent, when the gang started, and when it was due each time something was lent."""
    draw = Random(seed)
    nodes = {f"n{i}": {"cpu": float(draw.randint(1, 3))} for i in range(draw.randint(2, 6))}
    arbiter = Arbiter(nodes, {"a": 1.0, "b": 1.0, "c": 2.0})
    size = draw.randint(2, int(sum(amounts["cpu"] for amounts in nodes.values())))
    takes: dict[str, float] = {}
    ends: list[tuple[float, str]] = []
    due: list[float] = []
    began: float | None = None

    def asks(name: str, tenant: str, now: float, longest: int) -> None:
        says = float(draw.randint(1, longest))
        takes[name] = says if honest else says * draw.choice((0.5, 1.0, 3.0))
        arbiter.on_request(Request(name, tenant, {"cpu": 1.0}, now, seconds=says))

    def lets(now: float) -> None:
        nonlocal began
        for told in arbiter.evict(now):
            assert told.victim in arbiter.lent()
            arbiter.on_finished(told.victim)
        for name, _ in arbiter.arbitrate(now):
            if name == "gang":
                began = now
            else:
                heappush(ends, (now + takes[name], name))
        arbiter.validate()
        due.extend(until for until in arbiter.lent().values() if until not in due)

    for number in range(draw.randint(1, 12)):
        asks(f"l{number}", "b", 0.0, 40)
    lets(0.0)
    arbiter.on_request(Request("gang", "a", {"cpu": 1.0}, copies=size))
    lets(0.0)
    for number in range(30):
        asks(f"s{number}", draw.choice("bc"), 0.5, 20)
    lets(0.5)
    now = 0.5
    while ends and began is None:
        # Whoever is due to be stopped is looked for each second, as a governor does.
        now = min(ends[0][0], now + 1.0)
        while ends and ends[0][0] <= now:
            arbiter.on_finished(heappop(ends)[1])
        lets(now)
    return len(due), began, due


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=80, deadline=None)
def test_a_gang_starts_when_it_was_due_though_its_nodes_are_lent(seed: int) -> None:
    _, began, due = played(seed, honest=True)
    assert began is not None
    assert all(began <= at + 1e-6 for at in due)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=80, deadline=None)
def test_who_takes_longer_than_it_said_holds_up_no_gang_for_ever(seed: int) -> None:
    _, began, _ = played(seed, honest=False)
    assert began is not None


def test_something_is_lent_in_these_plays() -> None:
    assert sum(played(seed, honest=True)[0] > 0 for seed in range(40)) >= 10
