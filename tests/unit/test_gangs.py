"""Gangs of a plan: what cannot start together is named before the run begins; the rest is kept until each gang is whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DynamicOut, DynamicOutput, In, JobDefinition, Nothing, in_process_executor, job, op

from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.gangs import Due, Gangs
from ioi_dagster.host.private import ExecutionPlan, create_execution_plan
from ioi_dagster.host.work import Work
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Ask

GANG = {tags.GANG: "world"}


def plain(name: str, after: bool = False, pool: str | None = None, **more: str) -> Any:
    @op(name=name, tags={**GANG, **more}, ins={"start": In(Nothing)} if after else None, pool=pool)
    def body() -> None: ...

    return body


@op
def first() -> None: ...


@op(out=DynamicOut(int))
def many() -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(1, "0")


@op(tags=GANG)
def mapped(value: int) -> int:
    return value


def job_of(*ops: Any, after: bool = False) -> JobDefinition:
    @job(executor_def=in_process_executor)
    def made() -> None:
        start = first()
        for one in ops:
            one(start) if after else one()

    return made


def plan_of(definition: JobDefinition) -> ExecutionPlan:
    return create_execution_plan(definition)


def errors_of(definition: JobDefinition, *limits: Any) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        Gangs(plan_of(definition), {}, *limits)
    return str(caught.value).removesuffix(" — see the tag ioi/gang in docs/reference/tags.md").splitlines()


def work(step: str, data_class: DataClass = DataClass.INTERNAL) -> Work:
    return Work(Ask("r", step, OWN_STEP, data_class, gang="world"), b"", None, 0, False)


def test_a_plan_without_gangs_keeps_nothing() -> None:
    gangs = Gangs(plan_of(job_of()), {})
    assert not gangs
    assert not gangs.hold(Work(Ask("r", "first", OWN_STEP), b"", None, 0, False))


def test_a_gang_is_kept_until_its_last_step_is_ready_and_has_the_highest_class() -> None:
    gangs = Gangs(plan_of(job_of(plain("a"), plain("b"), plain("c"))), {})
    assert gangs.hold(work("a"))
    assert gangs.hold(work("b", DataClass.RESTRICTED))
    says = "waits for 1 step more of its gang 'world', with which it starts"
    assert gangs.due({"a", "b"}, set(), {}) == Due(wait=(("a", says), ("b", says)))
    assert gangs.due({"a", "b"}, set(), {}) == Due()
    assert gangs.hold(work("c"))
    due = gangs.due({"a", "b", "c"}, set(), {})
    asks = [one.ask for one in due.whole]
    assert [(ask.step, ask.gang, ask.gang_size) for ask in asks] == [
        ("a", "world", 3),
        ("b", "world", 3),
        ("c", "world", 3),
    ]
    assert {ask.data_class for ask in asks} == {DataClass.RESTRICTED}
    assert gangs.due({"a", "b", "c"}, set(), {}) == Due()


def test_a_step_that_is_tried_again_joins_those_that_run() -> None:
    gangs = Gangs(plan_of(job_of(plain("a"), plain("b"))), {})
    gangs.hold(work("b"))
    (again,) = gangs.due({"a", "b"}, set(), {}).whole
    assert (again.ask.step, again.ask.gang, again.ask.gang_size) == ("b", "", 0)


def test_a_gang_of_which_a_step_will_not_run_is_refused() -> None:
    gangs = Gangs(plan_of(job_of(plain("a"), plain("b"))), {})
    gangs.hold(work("a"))
    ((step, refusal),) = gangs.due({"a"}, {"b"}, {}).broken
    assert (step, refusal.code) == ("a", "flow.gang_incomplete")
    assert refusal.text == "gang 'world' cannot start whole: b of it will not run"


def test_a_mapped_gang_is_as_many_as_its_output_made() -> None:
    @job(executor_def=in_process_executor)
    def made() -> None:
        many().map(mapped)

    gangs, mappings = Gangs(plan_of(made), {}), {"many": {"result": ["x", "y"]}}
    gangs.hold(work("mapped[x]"))
    assert not gangs.due({"mapped[x]"}, set(), mappings).whole
    gangs.hold(work("mapped[y]"))
    assert [one.ask.gang_size for one in gangs.due({"mapped[x]", "mapped[y]"}, set(), mappings).whole] == [2, 2]


def test_a_mapped_gang_that_the_executor_lets_in_in_part_only_is_refused() -> None:
    @job(executor_def=in_process_executor)
    def made() -> None:
        many().map(mapped)

    gangs, mappings = Gangs(plan_of(made), {}, 2), {"many": {"result": ["x", "y", "z"]}}
    gangs.hold(work("mapped[x]"))
    assert not gangs.due({"mapped[x]"}, set(), mappings).broken
    gangs.hold(work("mapped[y]"))
    due = gangs.due({"mapped[x]", "mapped[y]"}, set(), mappings)
    assert [step for step, _ in due.broken] == ["mapped[x]", "mapped[y]"]
    assert "max_concurrent 2" in due.broken[0][1].text
    mappings = {"many": {"result": [f"k{number}" for number in range(1_001)]}}
    gangs = Gangs(plan_of(made), {})
    gangs.hold(work("mapped[k0]"))
    ((_, refusal),) = gangs.due({"mapped[k0]"}, set(), mappings).broken
    assert "it has 1001 steps, and 1000 may start together" in refusal.text


def test_steps_that_ask_for_different_things_are_no_gang() -> None:
    ops = (
        plain("a", **{tags.RESOURCES: "gpu=1"}),
        plain("b"),
        plain("c", **{tags.RESOURCES: "gpu=1", tags.PRIORITY: "2"}),
    )
    assert errors_of(job_of(*ops)) == [
        "gang 'world': b asks for a slot, a for gpu=1",
        "gang 'world': c asks for gpu=1 at priority 2, a for gpu=1",
    ]
    ops = plain("a", **{tags.PLACE_IN: "home"}), plain("b")
    assert errors_of(job_of(*ops)) == ["gang 'world': ioi/place_in of b is None, and of a 'home'"]


def test_a_step_cannot_start_with_one_that_it_waits_for() -> None:
    between = op(name="between", ins={"start": In(Nothing)})(lambda: None)

    @job(executor_def=in_process_executor)
    def made() -> None:
        plain("b", after=True)(between(plain("a")()))

    assert errors_of(made) == ["gang 'world': b needs what a makes, so that they cannot start together"]


def test_mapped_and_other_steps_are_no_gang() -> None:
    @job(executor_def=in_process_executor)
    def made() -> None:
        many().map(mapped)
        plain("a")()

    (told,) = errors_of(made)
    assert "mapped over different outputs" in told


def test_what_may_hold_back_some_of_them_is_named() -> None:
    ops = [plain(name) for name in "abc"]
    assert errors_of(job_of(*ops), 2) == ["max_concurrent 2 of the executor lets in only some of the 3 steps of gangs"]
    assert Gangs(plan_of(job_of(*ops)), {}, 3)
    limits = [{"key": tags.GANG, "limit": 2}]
    assert errors_of(job_of(*ops), None, limits) == [
        "the executor's tag_concurrency_limits let in only some of the steps of gangs"
    ]
    assert Gangs(plan_of(job_of(*ops)), {}, None, [{"key": tags.GANG, "limit": 3}])
    pooled = plain("a", pool="door"), plain("b", **{"dagster/concurrency_key": "gate"})
    assert errors_of(job_of(*pooled)) == [
        "gang 'world': a is in the pool 'door', which might let in only some of them",
        "gang 'world': b is in the pool 'gate', which might let in only some of them",
    ]


def test_bad_tags_of_its_steps_are_told_before_the_run_begins() -> None:
    with pytest.raises(BadInputError, match="'gpu' is no resource with an amount"):
        Gangs(plan_of(job_of(plain("a", **{tags.RESOURCES: "gpu"}))), {})
