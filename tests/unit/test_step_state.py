"""What a step is sent of its run is its own part, and makes the same step out of the job's plan as the whole does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DynamicOut, DynamicOutput, in_process_executor, job, op

from ioi_dagster.host import private
from ioi_dagster.host.private import KnownExecutionState, PastExecutionState, StepOutputHandle
from ioi_dagster.host.step_state import StepStates


@op(out={"few": DynamicOut(int), "none": DynamicOut(int)})
def some() -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(1, "a", "few")


@op(out=DynamicOut(int))
def many() -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(1, "0")


@op
def same(value: int) -> int:
    return value


@op
def both(one: list[int], other: list[int]) -> int:
    return len(one) + len(other)


@op
def total(values: list[int]) -> int:
    return sum(values)


@op
def plain() -> int:
    return 1


@job(executor_def=in_process_executor)
def two_fan_outs():
    few, none = some()
    of_few = few.map(same.alias("of_few")).map(same.alias("again"))
    of_none = none.map(same.alias("of_none")).collect()
    of_many = many().map(same.alias("of_many"))
    total.alias("total_none")(of_none)
    total.alias("total_many")(of_many.collect())
    both(of_few.collect(), of_many.collect())
    total.alias("static")([plain(), plain.alias("other")()])


FEW, MANY = ["a", "b"], [str(number) for number in range(1_000)]
MADE = {"some": {"few": FEW, "none": []}, "many": {"result": MANY}}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "static": {},
    "of_few[b]": {"some": {"few": ["b"]}},
    "again[a]": {"some": {"few": ["a"]}},
    "of_many[17]": {"many": {"result": ["17"]}},
    "total_none": {"some": {"none": []}},
    "total_many": {"many": {"result": MANY}},
    "both": {"some": {"few": FEW}, "many": {"result": MANY}},
}


def config() -> Any:
    return private.ResolvedRunConfig.build(two_fan_outs, {})


@pytest.mark.parametrize("key", CASES)
def test_a_step_is_sent_the_mappings_that_it_is_made_of(key: str) -> None:
    fresh = private.create_execution_plan(two_fan_outs)
    states = StepStates(fresh)
    all_known = KnownExecutionState(dynamic_mappings=MADE)
    step = private.create_execution_plan(two_fan_outs, known_state=all_known).get_step_by_key(key)
    assert isinstance(step, private.ExecutionStep)
    sent = states.of(step, all_known)
    assert sent.dynamic_mappings == CASES[key]
    whole = private.create_execution_plan(two_fan_outs)
    assert private.plan_of_step(whole, key, sent, two_fan_outs, config()).get_step_by_key(key) == step


@pytest.mark.parametrize("key", CASES)
def test_what_an_earlier_run_has_made_is_sent_to_what_may_collect_it(key: str) -> None:
    """In a re-execution those steps are in the plan from the start."""
    all_known = KnownExecutionState(dynamic_mappings=MADE)
    plan = private.create_execution_plan(two_fan_outs, known_state=all_known)
    step = plan.get_step_by_key(key)
    assert isinstance(step, private.ExecutionStep)
    sent = StepStates(plan).of(step, all_known)
    whole = private.create_execution_plan(two_fan_outs)
    assert private.plan_of_step(whole, key, sent, two_fan_outs, config()).get_step_by_key(key) == step
    if "[" in key or key == "plain":
        assert sent.dynamic_mappings == CASES[key]


def test_of_earlier_runs_a_step_is_sent_what_they_made_for_it() -> None:
    made = {StepOutputHandle("of_many", "result"), *(StepOutputHandle(f"of_many[{key}]") for key in MANY)}
    older = PastExecutionState("older", made, None)
    past = PastExecutionState("parent", {StepOutputHandle("some", "few", "a"), *made}, older)
    known = KnownExecutionState(dynamic_mappings=MADE, parent_state=past)
    plan = private.create_execution_plan(two_fan_outs, known_state=known)

    def sent(key: str) -> list[tuple[str, set[StepOutputHandle]]]:
        step = plan.get_step_by_key(key)
        assert isinstance(step, private.ExecutionStep)
        state, found = StepStates(plan).of(step, known).parent_state, []
        while state is not None:
            found.append((state.run_id, state.produced_outputs))
            state = state.get_parent_state()
        return found

    assert sent("of_few[a]") == [("parent", {StepOutputHandle("some", "few", "a")}), ("older", set())]
    assert sent("plain") == [("parent", set()), ("older", set())]
    collected = {StepOutputHandle(f"of_many[{key}]") for key in MANY}
    assert sent("total_many") == [("parent", collected), ("older", collected)]
