"""Gangs under the executor by itself: they start when the last of them is ready, or not at all, and bad tags are told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    JobExecutionResult,
    RetryPolicy,
    execute_job,
    job,
    op,
    reconstructable,
)

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.host import tags
from ioi_dagster.host.private import SerializableErrorInfo
from tests.conftest import dagster_home

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WORLD = {tags.GANG: "world"}
BOTH = {"io_manager": ExchangeIOManager()}


def meet(name: str, others: set[str]) -> None:
    """Only goes on when all `others` are here too."""
    folder = Path(os.environ["IOI_TEST_MARKER"])
    (folder / name).touch()
    until = time.monotonic() + 60
    while not others <= {path.name for path in folder.iterdir()}:
        assert time.monotonic() < until, f"{name} is alone"
        time.sleep(0.02)


@op
def late() -> int:
    return 1


@op(tags=WORLD)
def one() -> None:
    meet("one", {"two"})


@op(tags=WORLD, retry_policy=RetryPolicy(max_retries=1))
def two(context, number: int) -> None:
    meet("two", {"one"})
    if context.retry_number == 0:
        raise ValueError("once more")


@job(executor_def=governed_executor, resource_defs=BOTH)
def meeting() -> None:
    one()
    two(late())


@op
def fails() -> int:
    raise ValueError("nothing comes of it")


@job(executor_def=governed_executor, resource_defs=BOTH)
def broken() -> None:
    one()
    two(fails())


@op(tags={**WORLD, tags.RESOURCES: "gpu=1"})
def greedy() -> None: ...


@job(executor_def=governed_executor, resource_defs=BOTH)
def unlike() -> None:
    one()
    greedy()


@op(out=DynamicOut(int))
def three():
    for number in range(3):
        yield DynamicOutput(number, mapping_key=str(number))


@op(tags={tags.GANG: "shards", tags.APART: "shards", tags.NEAR: "nobody"})
def shard(number: int) -> int:
    meet(f"shard {number}", {f"shard {other}" for other in range(3)})
    return number


@op(tags={tags.RESOURCES: "memory=lots"})
def unfit() -> None: ...


@op(tags={tags.CHECKPOINTABLE: "true", tags.PRIORITY: "2"})
def total(numbers: list[int]) -> int:
    return sum(numbers)


@job(executor_def=governed_executor, resource_defs=BOTH)
def sharded() -> None:
    total(three().map(shard).collect())
    unfit()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where steps say that they are there."""
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "places").mkdir()
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_MARKER", str(tmp_path / "places"))
    return tmp_path / "places"


def run_of(name: str) -> JobExecutionResult:
    config = {"execution": {"config": {"workers": 3}}}
    with DagsterInstance.get() as instance:
        return execute_job(reconstructable(globals()[name]), instance=instance, run_config=config)


def error_of(result: JobExecutionResult, step: str) -> SerializableErrorInfo:
    failure = result.failure_data_for_node(step)
    assert failure is not None
    assert failure.error is not None
    return failure.error


def of_kind(result: JobExecutionResult, kind: DagsterEventType) -> list[str]:
    return [str(event.step_key) for event in result.all_events if event.event_type is kind]


def test_a_gang_starts_when_its_last_step_is_ready_and_one_of_it_is_tried_again(places) -> None:
    result = run_of("meeting")
    assert result.success, result.all_events
    moves = [(event.event_type_value, event.step_key) for event in result.all_events if event.step_key]
    assert moves.index(("STEP_SUCCESS", "late")) < moves.index(("STEP_START", "one"))
    assert of_kind(result, DagsterEventType.STEP_RESTARTED) == ["two"]


def test_a_gang_of_which_a_step_will_not_run_is_refused(places) -> None:
    result = run_of("broken")
    assert of_kind(result, DagsterEventType.STEP_FAILURE) == ["fails", "one"]
    error = error_of(result, "one")
    assert error.cls_name == "flow.gang_incomplete"
    assert "gang 'world' cannot start whole: two of it will not run" in error.message
    assert list(places.iterdir()) == []


def test_steps_that_ask_for_different_things_end_the_run_before_it_begins(places) -> None:
    result = run_of("unlike")
    assert not result.success
    assert of_kind(result, DagsterEventType.STEP_START) == []
    (failure,) = [event for event in result.all_events if event.event_type is DagsterEventType.RUN_FAILURE]
    assert "gang 'world': one asks for a slot, greedy for gpu=1" in str(failure.event_specific_data)


def test_mapped_steps_are_a_gang_and_a_bad_tag_fails_its_own_step_only(places) -> None:
    result = run_of("sharded")
    assert "total" in of_kind(result, DagsterEventType.STEP_SUCCESS)
    (placed,) = [e for e in result.all_events if e.step_key == "total" and str(e.message).startswith("Ran on")]
    assert placed.engine_event_data.metadata["ioi/priority"].value == "2"
    assert of_kind(result, DagsterEventType.STEP_FAILURE) == ["unfit"]
    error = error_of(result, "unfit")
    assert "the tag ioi/resources says 'memory=lots': 'lots' is no amount" in error.message
