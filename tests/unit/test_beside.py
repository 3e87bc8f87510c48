"""Near and apart: whom the words in a step's tags mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from dagster import DynamicOut, DynamicOutput, in_process_executor, job, op

from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.beside import Beside
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep, create_execution_plan


@op(out=DynamicOut(int))
def many() -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(1, "0")


@op(tags={tags.APART: "copies"})
def one() -> int:
    return 1


@op(tags={tags.APART: "copies, one"})
def two() -> int:
    return 2


@op(tags={tags.NEAR: "one, elsewhere"})
def three() -> int:
    return 3


@op(tags={tags.APART: "shards"})
def shard(value: int) -> int:
    return value


@op(tags={tags.NEAR: "shard"})
def after(value: int) -> int:
    return value


@op(tags={tags.APART: "shard"})
def total(values: list[int]) -> int:
    return sum(values)


@job(executor_def=in_process_executor)
def of_all() -> None:
    one(), two(), three()
    total(many().map(shard).map(after).collect())


KEYS = ["a", "b", "c"]
MADE = {"many": {"result": KEYS}}


def plan() -> ExecutionPlan:
    return create_execution_plan(of_all)


def step_of(key: str, made: dict[str, Any] = MADE) -> ExecutionStep:
    known = plan()
    known.resolve(made)
    return cast("ExecutionStep", known.get_step_by_key(key))


@pytest.mark.parametrize(
    ("step", "tag", "meant"),
    [
        ("one", tags.APART, ("two",)),
        ("two", tags.APART, ("one",)),
        ("one", tags.NEAR, ()),
        ("three", tags.NEAR, ("one",)),
        ("shard[b]", tags.APART, ("shard[a]", "shard[c]")),
        ("after[b]", tags.NEAR, ("shard[b]",)),
        ("total", tags.APART, ("shard[a]", "shard[b]", "shard[c]")),
    ],
)
def test_whom_a_word_means(step: str, tag: str, meant: tuple[str, ...]) -> None:
    assert Beside(plan()).keys(step_of(step), tag, MADE) == meant


def test_a_word_that_means_nobody_is_told() -> None:
    assert list(Beside(plan()).nothing_meant()) == [
        "ioi/near of three names 'elsewhere', which is no step of this run, and no other step names it"
    ]


def test_of_too_many_steps_none_can_be_apart() -> None:
    made = {"many": {"result": [f"k{number}" for number in range(1_002)]}}
    with pytest.raises(BadInputError, match="means 1001 steps — name 1000 at most"):
        Beside(plan()).keys(step_of("shard[k0]", made), tags.APART, made)
