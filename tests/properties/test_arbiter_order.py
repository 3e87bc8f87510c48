"""Heaps and shelves are there to be fast: who starts, where and in which order is as if every queue were looked at for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ioi_dagster.governors.fairness import Arbiter, Request, Rules, tree
from ioi_dagster.governors.fairness.holds import Holds
from ioi_dagster.governors.fairness.tree import Key, Leaf, Shelf, Tour, Unit
from ioi_dagster.model.quota import ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota

RULES = Rules(aging_s=10.0, min_run_s=1.0, evictions=3, window_s=50.0)
DEMANDS = (
    {"cpu": 1.0, "memory": 2.0}, {"cpu": 1.0, "memory": 8.0}, {"cpu": 2.0, "memory": 2.0}, {"cpu": 4.0, "memory": 4.0},
    {"cpu": 1.0, "gpu": 1.0},
)  # fmt: skip
NEVER = 1 << 30


class Plain:
    """What a unit does with its children, without any heap: the keys of all are gone through for each that starts."""

    def __init__(self) -> None:
        self._keys: dict[Unit, dict[Unit, Key]] = {}

    def next(self, unit: Unit, tour: Tour) -> Unit | None:
        keys = self._keys.setdefault(unit, {})
        for child in unit.stale:
            child.noted = False
            child.version += 1
            head = child.first(tour)
            keys.pop(child, None)
            if head is not None:
                keys[child] = child.key(head)
        unit.stale.clear()
        left = [key for child, key in keys.items() if not self._passes(unit, child, tour)]
        unit.heap = [min(left)] if left else []
        found = unit.heap[0][5] if left else None
        assert not isinstance(found, Shelf)
        return found

    def _passes(self, unit: Unit, child: Unit, tour: Tour) -> bool:
        shape = child.shut() if isinstance(child, Leaf) else None
        if shape is None or not tour.passes(shape) or len(unit.children) < tree.SHELVED:
            return False
        shelf = Shelf(unit, shape)  # tells that the unit is asked anew, when it has room again or the pass ends
        shelf.passed = True
        unit.shelves[shape] = shelf
        shape.shelves[:] = [one for one in shape.shelves if one.unit is not unit] + [shelf]
        tour.passed.append(shelf)
        return True

    def pop(self, unit: Unit) -> Key:
        key = unit.heap.pop()
        del self._keys[unit][key[5]]  # pyright: ignore[reportArgumentType]
        return key

    def push(self, unit: Unit, key: Key) -> None:
        self._keys[unit][key[5]] = key  # pyright: ignore[reportArgumentType]


@contextmanager
def as_it_is(shelved: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "SHELVED", shelved)
        yield


@contextmanager
def plainly(shelved: int) -> Iterator[None]:
    plain = Plain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "SHELVED", shelved)
        patch.setattr(Unit, "next", lambda unit, tour: plain.next(unit, tour))
        patch.setattr(Unit, "pop", lambda unit: plain.pop(unit))
        patch.setattr(Unit, "push", lambda unit, key: plain.push(unit, key))
        patch.setattr(Unit, "list", lambda unit, shelf: None)
        yield


def flat(draw: Random) -> QuotaTree:
    return QuotaTree.of_weights(
        {f"t{number}": draw.choice((1.0, 1.0, 2.0, 4.0)) for number in range(draw.randint(2, 24))}
    )


def deep(draw: Random) -> QuotaTree:
    """Cohorts in cohorts, with classes, guarantees and limits."""
    cohorts: list[CohortQuota] = []
    for number in range(draw.randint(1, 4)):
        tenants = []
        for one in range(draw.randint(1, 6)):
            guarantee = {"cpu": draw.choice((0.0, 0.0, 1.0))}
            quota = Quota(guarantee, borrows={"cpu": draw.choice((2.0, 4.0))} if draw.random() < 0.2 else {})
            classes = (ClassQuota("ocr", 2.0), ClassQuota("llm", 1.0)) if draw.random() < 0.3 else ()
            tenants.append(
                TenantQuota(f"t{number}.{one}", draw.choice((1.0, 3.0)), quota if not classes else Quota(), classes)
            )
        parent = draw.choice(["", *(cohort.name for cohort in cohorts)])
        cohorts.append(CohortQuota(f"c{number}", tuple(tenants), draw.choice((1.0, 2.0)), parent=parent))
    return QuotaTree(tuple(cohorts))


def decided(seed: int, its_tree: QuotaTree, gangs: bool) -> list[object]:
    """All that an arbiter says to a workload drawn from `seed`."""
    draw = Random(seed)
    nodes = {
        f"n{i}": {"cpu": draw.choice((4.0, 8.0)), "memory": draw.choice((8.0, 16.0))} for i in range(draw.randint(1, 6))
    }
    nodes["g"] = {"cpu": 4.0, "memory": 8.0, "gpu": 2.0}
    tenants = [tenant.name for _, tenant in its_tree.tenants()]
    arbiter = Arbiter(nodes, its_tree, RULES, elastic=True)
    said: list[object] = []
    running: list[str] = []
    known: dict[str, Request] = {}
    now = 0.0
    for step in range(30):
        now += draw.random()
        for number in range(draw.randint(0, 12)):
            names = frozenset(draw.sample(sorted(nodes), 2)) if draw.random() < 0.1 and len(nodes) > 1 else None
            one = Request(
                f"r{step}.{number}", draw.choice(tenants), draw.choice(DEMANDS), now, names, draw.choice(("", "ocr", "llm")),
                draw.choice((0, 0, 1)), draw.choice((1, 1, 1, 3)) if gangs else 1, wanted=draw.choice((1, 1, 2)),
                seconds=draw.choice((0.0, 2.0, 9.0)),
            )  # fmt: skip
            known[one.id] = one
            said.append(arbiter.on_request(one))
        for _ in range(draw.randint(0, 6)):
            if running:
                arbiter.on_finished(running.pop(draw.randrange(len(running))))
        if draw.random() < 0.1:
            lost = arbiter.on_node_left("n0")
            running = [name for name in running if name not in lost]
        elif draw.random() < 0.1:
            arbiter.on_node("n0", nodes["n0"])
        granted = arbiter.arbitrate(now)
        running += dict.fromkeys(name for name, _ in granted)
        said += granted
        for told in arbiter.evict(now) if draw.random() < 0.3 else ():
            said.append(told)
            arbiter.on_finished(told.victim)
            running.remove(told.victim)
        arbiter.validate()
    return said


@given(seed=st.integers(0, 1 << 32), shelved=st.sampled_from([0, 4]))
@example(seed=26463, shelved=0)
@example(seed=430873111, shelved=0)
@example(seed=1049, shelved=0)
@settings(max_examples=60, deadline=None)
def test_the_order_is_that_of_going_through_all_queues(seed: int, shelved: int) -> None:
    its_tree = Random(seed).choice((flat, deep))(Random(seed + 1))
    with plainly(shelved):
        expected = decided(seed, its_tree, gangs=True)
    with as_it_is(shelved):
        assert decided(seed, its_tree, gangs=True) == expected


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=40, deadline=None)
def test_of_tenants_side_by_side_it_is_the_same_without_shelves(seed: int) -> None:
    """Nothing that is passed over would have started, had it been looked at. No nodes are held here: when they are no longer,
    within a round, who has been passed over has its turn at once, and who has been looked at in the next."""
    its_tree = flat(Random(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Holds, "wanted", lambda *_: 0)
        with as_it_is(NEVER):
            expected = decided(seed, its_tree, gangs=False)
        with as_it_is(0):
            assert decided(seed, its_tree, gangs=False) == expected
