"""What a step finds on the node where it runs alone: its instance, its output, its limits, its neighbours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    DynamicPartitionsDefinition,
    Failure,
    ReexecutionOptions,
    RetryPolicy,
    RetryRequested,
    asset,
    define_asset_job,
    execute_job,
    job,
    op,
    reconstructable,
    repository,
)
from distributed import LocalCluster, get_worker

from ioi_dagster import governed_executor
from ioi_dagster.compound.invocation import answering, invoke
from ioi_dagster.errors import NodeUnableError, RetryableError
from ioi_dagster.host import alone_fleets, fusion
from ioi_dagster.host.exchange import current_exchange
from ioi_dagster.model.block import Payload
from tests.conftest import dagster_home

if TYPE_CHECKING:
    from ioi_dagster.model.capability import BlockSpec

WORDS = DynamicPartitionsDefinition(name="words")
ALONE = {"execution": {"config": {"workers": 2}}}


@pytest.fixture
def instance(tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    with DagsterInstance.get() as instance:
        yield instance


def folder() -> Path:
    return Path(os.environ["IOI_TEST_FOLDER"])


def failures(result) -> dict[str, str]:
    return {
        event.step_key: str(event.step_failure_data.error.cause or event.step_failure_data.error)
        for event in result.all_events
        if event.event_type == DagsterEventType.STEP_FAILURE
    }


# The instance -------------------------------------------------------------------------------------------------------


@asset
def root_value() -> int:
    return 1


@asset
def child_value(context, root_value: int) -> int:
    event = context.instance.get_latest_materialization_event(AssetKey("root_value"))
    assert event is not None and event.run_id == context.run_id
    context.instance.add_dynamic_partitions("words", ["one", "two"])
    return root_value + 1


@asset(partitions_def=WORDS)
def by_word(context) -> str:
    assert context.instance.has_dynamic_partition("words", context.partition_key)
    return context.partition_key


@repository
def assets():
    return [
        root_value,
        child_value,
        by_word,
        define_asset_job("values", ["root_value", "child_value"], executor_def=governed_executor),
        define_asset_job("words", ["by_word"], executor_def=governed_executor),
    ]


def values_job():
    return assets.get_job("values")


def words_job():
    return assets.get_job("words")


def test_a_step_sees_the_instance_of_its_run(instance):
    with execute_job(reconstructable(values_job), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
    assert instance.get_dynamic_partitions("words") == ["one", "two"]
    made = instance.get_latest_materialization_event(AssetKey("child_value"))
    root = instance.get_latest_materialization_event(AssetKey("root_value"))
    assert made is not None and made.asset_materialization is not None and root is not None
    root_tags = root.asset_materialization.tags
    assert made.asset_materialization.tags["dagster/input_data_version/root_value"] == root_tags["dagster/data_version"]
    with execute_job(
        reconstructable(words_job), instance, run_config=ALONE, tags={"dagster/partition": "two"}
    ) as result:
        assert result.success, failures(result)
    assert instance.get_materialized_partitions(AssetKey("by_word")) == {"two"}


# Output -------------------------------------------------------------------------------------------------------------


@op
def prints() -> int:
    print("from python")
    os.write(2, b"from below\n")
    return 1


@job(executor_def=governed_executor)
def printing():
    prints()


def test_what_a_step_prints_is_in_its_logs(instance):
    with execute_job(reconstructable(printing), instance, run_config=ALONE) as result:
        assert result.success
        (captured,) = [e for e in result.all_events if e.event_type == DagsterEventType.LOGS_CAPTURED]
    assert captured.logs_captured_data.step_keys == ["prints"]
    log_key = [result.run_id, "compute_logs", captured.logs_captured_data.file_key]
    data = instance.compute_log_manager.get_log_data(log_key)
    assert data.stdout == b"from python\n"
    assert b"from below\n" in (data.stderr or b"")
    assert instance.compute_log_manager.is_capture_complete(log_key)


# Limits -------------------------------------------------------------------------------------------------------------


@op(tags={"ioi/timeout_s": "0.3"}, retry_policy=RetryPolicy(max_retries=1))
def for_ever(context) -> None:
    (folder() / f"try-{context.retry_number}").touch()
    while True:
        time.sleep(0.01)


@op(tags={"ioi/timeout_s": "0.3"})
def deaf() -> None:
    (folder() / f"deaf-{time.time_ns()}").touch()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue


@op
def harmless() -> int:
    return 1


@op(tags={"ioi/timeout_s": "soon"})
def misspelt() -> None: ...


@job(executor_def=governed_executor)
def limited():
    for_ever()
    deaf()
    harmless()


def test_a_step_that_takes_too_long_fails_and_harms_nobody(instance, tmp_path):
    with execute_job(reconstructable(limited), instance, run_config=ALONE) as result:
        assert not result.success
        failed = failures(result)
        assert failed.keys() == {"for_ever", "deaf"}
        assert "ran longer than its tag ioi/timeout_s allows" in failed["for_ever"]
        assert "flow.timeout" in failed["deaf"]
        assert result.output_for_node("harmless") == 1
    assert sorted(path.name for path in tmp_path.glob("try-*")) == ["try-0", "try-1"]
    assert len(list(tmp_path.glob("deaf-*"))) == 1


# Config -------------------------------------------------------------------------------------------------------------


@op(out=DynamicOut(int))
def six() -> Iterator[DynamicOutput[int]]:
    for number in range(6):
        yield DynamicOutput(number, mapping_key=str(number))


@op(config_schema={"words": [str]})
def spoils_its_config(context, number: int) -> list[str]:
    context.op_config["words"].append(str(number))
    return list(context.op_config["words"])


@job(executor_def=governed_executor)
def spoiling():
    six().map(spoils_its_config)


def test_a_step_that_changes_its_config_changes_its_own(instance):
    config = {**ALONE, "ops": {"spoils_its_config": {"config": {"words": ["a"]}}}}
    with execute_job(reconstructable(spoiling), instance, run_config=config) as result:
        assert result.success, failures(result)
        words = result.output_for_node("spoils_its_config")
    assert words == {str(number): ["a", str(number)] for number in range(6)}


# Neighbours ---------------------------------------------------------------------------------------------------------


@op(out=DynamicOut(int))
def forty() -> Iterator[DynamicOutput[int]]:
    for number in range(40):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def waits_for_the_others(number: int) -> int:
    """The twentieth ends when all the others have."""
    others = folder() / "others"
    if number != 20:
        others.mkdir(exist_ok=True)
        (others / str(number)).touch()
        return number
    until = time.monotonic() + 60
    while len(list(others.iterdir())) < 39:
        if time.monotonic() > until:
            raise Failure("the others wait behind this one")
        time.sleep(0.01)
    return number


@job(executor_def=governed_executor)
def one_long():
    forty().map(waits_for_the_others)


def test_short_steps_do_not_wait_behind_a_long_one(instance):
    with execute_job(reconstructable(one_long), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
        starts = [e.step_key for e in result.all_events if e.event_type == DagsterEventType.STEP_START]
    assert len(starts) == len(set(starts)) == 41


# Short steps in one task -------------------------------------------------------------------------------------------


@op(out=DynamicOut(int))
def eighty() -> Iterator[DynamicOutput[int]]:
    for number in range(80):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op
def one_of_them_kills(number: int) -> int:
    if number == 70:
        os._exit(1)
    return number


@op
def one_of_them_waits(context, number: int) -> int:
    """One waits until all others are told, though it shares its task with some of them."""
    until = time.monotonic() + 60
    while number == 70 and len(successes(context.instance, context.run_id)) < 80:
        assert time.monotonic() < until, "the others' outcomes waited for this one"
        time.sleep(0.05)
    return number


def successes(instance: DagsterInstance, run: str) -> list[str]:
    records = instance.get_records_for_run(run, of_type=DagsterEventType.STEP_SUCCESS).records
    return [str(record.event_log_entry.step_key) for record in records]


@job(executor_def=governed_executor)
def deadly_batch():
    eighty().map(one_of_them_kills)


@job(executor_def=governed_executor)
def waiting_batch():
    eighty().map(one_of_them_waits)


def test_a_step_that_kills_its_node_costs_those_in_its_task_nothing(instance):
    result = execute_job(reconstructable(deadly_batch), instance, raise_on_error=False, run_config=ALONE)
    assert set(failures(result)) == {"one_of_them_kills[n70]"}
    succeeded = [event.step_key for event in result.all_events if event.is_step_success]
    assert sorted(succeeded) == sorted(["eighty", *(f"one_of_them_kills[n{n}]" for n in range(80) if n != 70)])


def test_those_that_share_a_task_with_one_that_takes_long_do_not_wait_for_it(instance):
    result = execute_job(reconstructable(waiting_batch), instance, raise_on_error=False, run_config=ALONE)
    assert failures(result) == {}
    assert result.success


# Priority -----------------------------------------------------------------------------------------------------------


LOW = ["low_1", "low_2", "low_3"]


def begins(step: str) -> None:
    with (folder() / "begun").open("a") as file:
        file.write(f"{step}\n")


def begun() -> list[str]:
    return (folder() / "begun").read_text().split()


def queued() -> list[str]:
    """The steps that wait at this worker for its thread."""
    tasks = list(get_worker().state.tasks.values())
    return [str(task.key).split("/")[2] for task in tasks if task.state == "constrained"]


def until_sent(*steps: str) -> None:
    until = time.monotonic() + 60
    while set(steps) - set(queued()) - set(begun()):
        assert time.monotonic() < until, f"{steps} were not sent"
        time.sleep(0.01)


@op
def warms() -> int:
    begins("warms")
    return 1


@op(tags={"dagster/priority": "10"})
def holds_all(number: int) -> None:
    """Until all others are at the worker that could be."""
    begins("holds_all")
    until_sent("opens", "holds_low", *LOW)


@op(tags={"dagster/priority": "8"})
def opens(number: int) -> int:
    begins("opens")
    return number


@op(tags={"dagster/priority": "6"})
def holds_low(number: int) -> None:
    """Until the urgent step, which was sent last, is at the worker too."""
    begins("holds_low")
    until_sent("urgent")
    (folder() / "queued").write_text(" ".join(queued()))


@op(tags={"dagster/priority": "9"})
def urgent(number: int) -> None:
    begins("urgent")


@op
def low(context, number: int) -> None:
    begins(context.op_handle.name)


@job(executor_def=governed_executor)
def prioritised():
    number = warms()
    for name in LOW:
        low.alias(name)(number)
    holds_all(number)
    holds_low(number)
    urgent(opens(number))


def test_what_waits_at_a_worker_begins_by_priority_and_then_in_the_order_in_which_it_was_sent(instance, monkeypatch):
    monkeypatch.setattr(alone_fleets, "AHEAD_S", 1000.0)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        # With a limit no two steps share a task.
        limits = [{"key": "nobody's", "limit": 1}]
        config = {"address": cluster.scheduler_address, "tag_concurrency_limits": limits}
        with execute_job(
            reconstructable(prioritised), instance, run_config={"execution": {"config": config}}
        ) as result:
            assert result.success, failures(result)
    assert begun() == ["warms", "holds_all", "opens", "holds_low", "urgent", *LOW]
    assert sorted((folder() / "queued").read_text().split()) == [*LOW, "urgent"]


# Chains -------------------------------------------------------------------------------------------------------------


@op
def first() -> int:
    return 0


@op
def one_more(number: int) -> int:
    return number + 1


@op
def dies(number: int) -> int:
    os._exit(1)


@op
def once_more(context, number: int) -> int:
    if context.retry_number < 2:
        raise RetryRequested(max_retries=2)
    return number + 1


@op
def slow(number: int) -> int:
    time.sleep(0.15)
    return number + 1


def runs_here(name: str) -> int:
    """How often `name` has begun, this time among them."""
    with (folder() / name).open("a") as file:
        file.write("x")
    return (folder() / name).stat().st_size


@op
def counted(number: int) -> int:
    return number + runs_here("counted")


@op
def unable_at_first(number: int) -> int:
    def unable(*_):
        raise NodeUnableError(RetryableError("no replica"))

    if runs_here("follower") == 1:
        with answering(unable, unable):
            invoke(cast("BlockSpec", None), Payload({}))
    return number + 1


@op
def unwritten_at_first(number: int) -> int:
    if runs_here("follower") == 1:
        exchange, write = current_exchange(), Future()
        write.set_exception(OSError("no space left"))
        assert exchange is not None
        exchange.writes.append(write)
    return number + 1


@job(executor_def=governed_executor)
def unable_chain():
    unable_at_first(counted(one_more(first())))


@job(executor_def=governed_executor)
def unwritten_chain():
    unwritten_at_first(counted(one_more(first())))


@job(executor_def=governed_executor)
def chain():
    number = first()
    for _ in range(30):
        number = one_more(number)


@job(executor_def=governed_executor)
def deadly_chain():
    one_more.alias("after")(dies(one_more(first())))


@job(executor_def=governed_executor)
def stubborn_chain():
    one_more.alias("after")(once_more(slow(first())))


@job(executor_def=governed_executor)
def mapped_chain():
    forty().map(lambda number: one_more.alias("twice")(one_more(number)))


@op
def sum_of(one: list[int], other: list[int]) -> int:
    return sum(one) + sum(other)


@op
def not_at_first(number: int) -> int:
    if number == 3 and runs_here("not_at_first") == 1:
        raise Failure("meant to fail", allow_retries=False)
    return number


@job(executor_def=governed_executor)
def two_fan_outs():
    few, many = six().map(one_more), forty().map(one_more.alias("of_many"))
    sum_of(few.collect(), many.collect())
    sum_of.alias("again")(few.map(not_at_first).collect(), [first(), first.alias("other")()])


def fused(result) -> dict[str, str]:
    return {
        event.step_key: event.event_specific_data.metadata["ioi/fused_after"].value
        for event in result.all_events
        if event.event_type == DagsterEventType.ENGINE_EVENT
        and event.step_key
        and "ioi/fused_after" in event.event_specific_data.metadata
    }


def test_a_chain_of_short_steps_is_few_tasks_and_each_step_tells_its_own(instance):
    with execute_job(reconstructable(chain), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
        assert result.output_for_node("one_more_30") == 30
        ended = [e.step_key for e in result.all_events if e.event_type == DagsterEventType.STEP_SUCCESS]
        assert ended == ["first", "one_more", *(f"one_more_{number}" for number in range(2, 31))]
        assert len(fused(result)) >= 10


def test_a_chain_blames_the_step_that_kills_its_node(instance):
    with execute_job(reconstructable(deadly_chain), instance, run_config=ALONE) as result:
        assert failures(result).keys() == {"dies"}
        assert result.output_for_node("one_more") == 1


def test_a_chain_stops_where_a_step_takes_its_time_or_tries_again(instance):
    with execute_job(reconstructable(stubborn_chain), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
        assert result.output_for_node("after") == 3
        assert "once_more" not in fused(result)
        assert result.retry_attempts_for_node("once_more") == 2


@pytest.mark.parametrize(
    ("troubled", "follower"), [(unable_chain, unable_at_first), (unwritten_chain, unwritten_at_first)]
)
def test_a_step_whose_node_is_unable_costs_those_before_it_in_its_chain_nothing(instance, troubled, follower):
    with execute_job(reconstructable(troubled), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
        assert result.output_for_node(follower.name) == 3
    assert (folder() / "counted").stat().st_size == 1
    assert (folder() / "follower").stat().st_size == 2


def test_mapped_chains_are_fused_too(instance):
    with execute_job(reconstructable(mapped_chain), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
        assert result.output_for_node("twice") == {str(number): number + 2 for number in range(40)}
        assert fused(result)["twice[0]"] == "one_more[0]"


def test_fan_outs_beside_each_other_are_collected_also_by_a_re_execution(instance):
    """Those of an earlier run too."""
    with execute_job(reconstructable(two_fan_outs), instance, run_config=ALONE) as result:
        assert failures(result).keys() == {"not_at_first[2]"}
        assert result.output_for_node("sum_of") == 21 + 820
    again = ReexecutionOptions.from_failure(result.run_id, instance)
    with execute_job(reconstructable(two_fan_outs), instance, run_config=ALONE, reexecution_options=again) as result:
        assert result.success, failures(result)
        assert {event.step_key for event in result.all_events if event.is_step_success} == {"not_at_first[2]", "again"}
        assert result.output_for_node("again") == 21


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(`sent` or `told`, step): when tasks went to nodes, and when successes went to the log."""
    seen: list[tuple[str, str]] = []
    send, handle = alone_fleets._AloneFleet._send, DagsterInstance.handle_new_event

    def sending(self, starts, on_done):
        seen.extend(("sent", start.lease.step) for start in starts)
        send(self, starts, on_done)

    def handling(self, event, **more):
        if event.is_dagster_event and event.dagster_event_type == DagsterEventType.STEP_SUCCESS:
            seen.append(("told", event.step_key))
        handle(self, event, **more)

    monkeypatch.setattr(alone_fleets._AloneFleet, "_send", sending)
    monkeypatch.setattr(DagsterInstance, "handle_new_event", handling)
    return seen


def test_a_chain_that_goes_on_is_sent_before_what_happened_is_told(instance, order, monkeypatch):
    monkeypatch.setattr(fusion, "MAX_FUSED", 3)
    with execute_job(reconstructable(chain), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
    tasks = [step for what, step in order if what == "sent"]
    assert 10 <= len(tasks) < 31
    for before, after in pairwise(tasks):
        of_before = order[order.index(("sent", before)) :]
        assert of_before.index(("sent", after)) < of_before.index(("told", before)), (before, after)
    assert [step for what, step in order if what == "told"][:2] == ["first", "one_more"]


def test_what_an_asset_tells_is_in_the_log_before_what_depends_on_it_is_sent(instance, order):
    with execute_job(reconstructable(values_job), instance, run_config=ALONE) as result:
        assert result.success, failures(result)
    # A step of which nothing is heard for long may be sent again.
    said = list(dict.fromkeys(order))
    assert said == [("sent", "root_value"), ("told", "root_value"), ("sent", "child_value"), ("told", "child_value")]
