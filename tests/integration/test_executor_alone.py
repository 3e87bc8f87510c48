"""The executor by itself: no federation, no policy, any job."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from dagster import (
    DagsterInstance,
    Definitions,
    DynamicOut,
    DynamicOutput,
    Failure,
    RetryPolicy,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
    execute_job,
    job,
    op,
    reconstructable,
)
from distributed import LocalCluster

from ioi_dagster import ExchangeIOManager, governed_executor
from ioi_dagster.compound.codec import decode_value
from ioi_dagster.host.assets import block_op
from ioi_dagster.host.io_manager import ObjectStore, asset_name, default_folder, partition_of
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from tests.conftest import dagster_home

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@op(out=DynamicOut(int))
def numbers():
    for number in range(12):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def square(number: int) -> int:
    return number * number


@op
def total(squares: list[int]) -> int:
    return sum(squares)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def squares():
    total(numbers().map(square).collect())


@op(retry_policy=RetryPolicy(max_retries=2))
def fails_twice(context) -> int:
    if context.retry_number < 2:
        raise ValueError("not yet")
    return context.retry_number


@op
def always_fails(number: int) -> int:
    raise Failure(f"no {number}")


@op
def never_runs(number: int) -> int:
    return number


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def failing():
    never_runs(always_fails(fails_twice()))


@op
def dies_once(context) -> str:
    marker = Path(os.environ["IOI_TEST_MARKER"])
    if not marker.exists():
        marker.write_text("died")
        os._exit(1)
    return "lived"


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def crashing():
    dies_once()


@op
def dies_on_three(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


@op(out=DynamicOut(int))
def forty():
    for number in range(40):
        yield DynamicOutput(number, mapping_key=str(number))


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def poisoned():
    forty().map(dies_on_three)


@op
def kills_its_scheduler(name: str) -> str:
    marker = Path(os.environ["IOI_TEST_MARKER"])
    if not marker.exists():
        marker.write_text("beheaded")
        (parent,) = [p for p in psutil.Process().parent().children() if "dask_scheduler" in " ".join(p.cmdline())]
        parent.kill()
    return name


@op
def named() -> str:
    return "x"


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def beheading():
    name = named()
    kills_its_scheduler.alias("one")(name)
    kills_its_scheduler.alias("two")(name)


@dataclass(frozen=True)
class Word:
    text: str

    def to_payload(self) -> Payload:
        return Payload({"text": self.text})

    @classmethod
    def from_payload(cls, payload: Payload) -> Word:
        return cls(payload.document["text"])


class Loud:
    def load(self) -> None: ...

    def unload(self) -> None: ...

    def invoke(self, batch):
        return [Payload({"text": payload.document["text"].upper()}) for payload in batch]


shout = block_op(
    BlockSpec("loud", "1", "text.loud", f"{__name__}:Loud", Contract("loud", "makes it loud")),
    Word,
    name="shout",
    on_refusal=lambda word, refusal: Word(f"refused: {refusal.code}"),
)


@op
def hello() -> Word:
    return Word("hello")


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def calling():
    shout(hello())


DAYS = StaticPartitionsDefinition(["p1", "p2", "p3"])


@asset(partitions_def=DAYS)
def daily(context) -> str:
    return context.partition_key


@asset(partitions_def=DAYS)
def after_daily(context, daily: str) -> str:
    return f"{daily} for {context.partition_key}"


@asset
def all_days(daily: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(daily.items()))


partitioned = Definitions(
    assets=[daily, after_daily, all_days],
    executor=governed_executor,
    resources={"io_manager": ExchangeIOManager()},
    jobs=[
        define_asset_job("daily_job", [daily], partitions_def=DAYS),
        define_asset_job("after_daily_job", [after_daily], partitions_def=DAYS),
        define_asset_job("all_days_job", [all_days]),
    ],
)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_MARKER", str(tmp_path / "marker"))
    with DagsterInstance.get() as instance:
        yield instance


def test_dynamic_steps_are_mapped_and_collected_and_how_much_they_made_is_kept(instance):
    with execute_job(reconstructable(squares), instance) as result:
        assert result.success
        assert result.output_for_node("total") == sum(number * number for number in range(12))
    assert len([event for event in result.all_events if event.is_step_success]) == 14
    from ioi_dagster.adapters.sql.ledger import Ledger

    ledger = Ledger(default_folder() / "ledger.sqlite")
    made = ledger.made("squares")
    ledger.close()
    # A later run plans by it.
    assert made.keys() == {("numbers", "result"), ("square", "result"), ("total", "result")}
    assert made["numbers", "result"].whole == pytest.approx(12 * made["numbers", "result"].each)
    assert made["square", "result"].whole == made["square", "result"].each > 0


def test_retries_are_the_users_and_failures_stop_what_depends_on_them(instance):
    result = execute_job(reconstructable(failing), instance)
    assert not result.success
    kinds = [(event.step_key, event.event_type_value) for event in result.all_events if event.step_key]
    assert kinds.count(("fails_twice", "STEP_UP_FOR_RETRY")) == 2
    assert ("fails_twice", "STEP_SUCCESS") in kinds
    assert ("always_fails", "STEP_FAILURE") in kinds
    assert ("never_runs", "STEP_START") not in kinds


def test_the_console_shows_what_the_log_holds_of_steps(instance, capfd):
    result = execute_job(reconstructable(failing), instance)
    shown = [line.split(" - ") for line in capfd.readouterr().err.splitlines() if f" - {result.run_id} - " in line]
    told = [(event.step_key, event.event_type_value) for event in result.all_events if event.step_key]
    # date, "dagster", level, job, run, process, step, kind, message
    assert sorted((line[6], line[7]) for line in shown if len(line) > 8) == sorted(told)


def test_the_console_shows_why_a_step_failed(instance, capfd):
    execute_job(reconstructable(failing), instance)
    shown = capfd.readouterr().err
    assert 'always_fails - STEP_FAILURE - Execution of step "always_fails" failed.\n\ndagster._core' in shown
    assert "no 2" in shown


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"workers": -1}, "workers is -1; give 1 or more"),
        ({"workers": 0}, "workers is 0; give 1 or more"),
        ({"max_concurrent": -3}, "max_concurrent is -3; give 0 or more"),
        ({"workers": 2, "address": "tcp://127.0.0.1:1"}, "give address or workers, not both"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(instance, config, words):
    result = execute_job(reconstructable(squares), instance, run_config={"execution": {"config": config}})
    (failure,) = [event for event in result.all_events if event.is_job_failure]
    assert words in str(failure.job_failure_data.error)


def test_a_worker_that_dies_costs_the_step_no_retry(instance):
    with execute_job(reconstructable(crashing), instance) as result:
        assert result.success
        assert result.output_for_node("dies_once") == "lived"
    kinds = [event.event_type_value for event in result.all_events if event.step_key == "dies_once"]
    assert kinds.count("STEP_START") == 1
    assert "STEP_UP_FOR_RETRY" not in kinds


def test_a_poison_step_is_stopped_and_those_that_waited_behind_it_are_not_blamed(instance):
    with execute_job(reconstructable(poisoned), instance) as result:
        assert not result.success
    kinds = [(event.step_key, event.event_type_value) for event in result.all_events if event.step_key]
    done = {step for step, kind in kinds if kind == "STEP_SUCCESS"}
    assert done == {"forty", *(f"dies_on_three[{number}]" for number in range(40) if number != 3)}
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_key == "dies_on_three[3]"
    assert failed.step_failure_data.error.cls_name == "flow.poison_step"
    assert max(kinds.count((step, "STEP_SUCCESS")) for step in done) == 1


def test_what_an_earlier_run_materialised_counts_as_the_highest_class(instance):
    from dagster import AssetKey

    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.host.io_manager import default_folder
    from ioi_dagster.host.private import execute_run
    from ioi_dagster.host.runs import job_of
    from ioi_dagster.local.home import PROJECT

    job = job_of("definitions.conformance.defs", "assets__governed", PROJECT)
    definition = job.get_definition()

    def run(asset: str) -> str:
        selection = {AssetKey([asset])}
        part = job.get_subset(asset_selection=selection)
        created = instance.create_run_for_job(
            part.get_definition(), asset_selection=selection, job_code_origin=job.get_python_origin()
        )
        assert execute_run(part, created, instance).success
        return created.run_id

    assert definition.name == "assets__governed"
    run("upstream")
    later = run("downstream")
    ledger = Ledger(default_folder() / "ledger.sqlite")
    assert [(row.step, row.data_class) for row in ledger.steps(later)] == [("downstream", "restricted")]
    ledger.close()


def test_each_partition_has_a_value_of_its_own(instance):
    from ioi_dagster.host.private import (
        ModuleCodePointer,
        ReconstructableRepository,
        execute_run,
    )
    from ioi_dagster.local.home import PROJECT

    repository = ReconstructableRepository(ModuleCodePointer(__name__, "partitioned", str(PROJECT)))

    def run(name: str, partition: str = "") -> bool:
        job = repository.get_reconstructable_job(name)
        created = instance.create_run_for_job(
            job.get_definition(),
            tags={"dagster/partition": partition} if partition else {},
            run_config={"execution": {"config": {"workers": 1, "max_concurrent": 0}}},
            job_code_origin=job.get_python_origin(),
        )
        return execute_run(job, created, instance).success

    def stored(name: str, partition: str = "") -> str:
        data = ObjectStore(default_folder()).get(asset_name(partition_of(name, partition)))
        assert data is not None
        return decode_value(data)

    assert run("daily_job", "p1")
    assert run("daily_job", "p2")
    assert run("after_daily_job", "p1")
    assert stored("after_daily", "p1") == "p1 for p1"
    assert not run("after_daily_job", "p3"), "p3 was never made"
    assert not run("all_days_job"), "nor is all of it there"
    assert run("daily_job", "p3")
    assert run("all_days_job")
    assert stored("all_days") == "p1=p1 p2=p2 p3=p3"


def test_a_worker_that_dies_on_somebody_elses_cluster_hangs_no_run(instance):
    """Its nanny starts another under the same name, to which Dask gives nothing of what was pinned to the first."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
        config = {"execution": {"config": {"address": cluster.scheduler_address}}}
        with execute_job(reconstructable(crashing), instance, run_config=config) as result:
            assert result.success
    kinds = [event.event_type_value for event in result.all_events if event.step_key == "dies_once"]
    assert kinds.count("STEP_SUCCESS") == 1


def test_a_scheduler_of_ones_own_that_dies_is_started_again(instance, tmp_path):
    """The first of the steps kills its worker's scheduler; all of them end well."""
    with execute_job(reconstructable(beheading), instance) as result:
        assert result.success
    assert (tmp_path / "marker").read_text() == "beheaded"
    assert len([event for event in result.all_events if event.is_step_success]) == 3


def test_a_block_call_alone_uses_the_steps_own_replica(instance):
    with execute_job(reconstructable(calling), instance) as result:
        assert result.success
        assert result.output_for_node("shout").text == "HELLO"
