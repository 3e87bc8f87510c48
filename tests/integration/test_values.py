"""Where values lie between the steps of a run: IO managers of ours on a real embedded cluster."""

from __future__ import annotations

import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    BackfillPolicy,
    DagsterInstance,
    Definitions,
    DynamicOut,
    DynamicOutput,
    EnvVar,
    Out,
    Output,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
    execute_job,
    job,
    op,
    reconstructable,
)
from distributed import Client, LocalCluster

from ioi_dagster import ExchangeIOManager, FsspecIOManager, LocalFilesIOManager, MemoryIOManager, governed_executor
from ioi_dagster.adapters.dask.held import held

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@op
def dies_after_its_output():
    """The first attempt's output is written, and its process ends before the step does."""
    marker = Path(os.environ["IOI_TEST_MARKER"])
    first = not marker.exists()
    marker.touch()
    yield Output("of the first attempt" if first else "of the second")
    if first:
        os._exit(1)


@op(out=DynamicOut(str))
def words(text: str):
    for number, word in enumerate(text.split()):
        yield DynamicOutput(word, mapping_key=f"w{number}")


@op
def shout(word: str) -> str:
    return word.upper()


@op
def sentence(shouted: list[str]) -> str:
    Path(os.environ["IOI_TEST_RESULT"]).write_text(" ".join(shouted))
    return " ".join(shouted)


def _graph() -> None:
    sentence(words(dies_after_its_output()).map(shout).collect())


@job(
    executor_def=governed_executor,
    resource_defs={"io_manager": LocalFilesIOManager(folder=EnvVar("IOI_TEST_STORE"))},
)
def in_files():
    _graph()


@job(
    executor_def=governed_executor,
    resource_defs={"io_manager": FsspecIOManager(url=EnvVar("IOI_TEST_STORE_URL"))},
)
def behind_a_url():
    _graph()


@job(
    executor_def=governed_executor,
    resource_defs={"io_manager": MemoryIOManager(folder=EnvVar("IOI_TEST_STORE"))},
)
def in_memory():
    _graph()


@op(out=DynamicOut(int))
def many():
    for number in range(120):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def four_megabytes() -> bytes:
    return os.urandom(4_000_000)


@op
def uses(number: int, value: bytes) -> int:
    return number + len(value)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def many_over_one():
    value = four_megabytes()
    many().map(lambda number: uses(number, value))


@op
def large() -> bytes:
    return bytes([7]) * 8_000_000


@op(tags={"dagster/priority": "1"})
def removes_the_files(large: bytes) -> bool:
    """What is read after this comes from memory."""
    folder = Path(os.environ["IOI_TEST_STORE"])
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 1_000_000:
            path.unlink()
    return True


@op
def measures(large: bytes, after: bool) -> int:
    return len(large)


@op
def sizes(measured: list[int]) -> None:
    Path(os.environ["IOI_TEST_RESULT"]).write_text(" ".join(map(str, measured)))


@job(
    executor_def=governed_executor,
    resource_defs={"io_manager": MemoryIOManager(folder=EnvVar("IOI_TEST_STORE"))},
)
def only_in_memory():
    value = large()
    after = removes_the_files(value)
    sizes([measures.alias(f"measures_{number}")(value, after) for number in range(4)])


@op(out={"value": Out(bytes), "pid": Out(int)})
def large_and_where():
    yield Output(bytes([7]) * 8_000_000, "value")
    yield Output(os.getpid(), "pid")


@op(tags={"dagster/priority": "1"})
def kills(pid: int) -> bool:
    """The worker that has the value in memory; it may be this one, which then dies once."""
    marker = Path(os.environ["IOI_TEST_MARKER"])
    if not marker.exists():
        marker.touch()
        os.kill(pid, signal.SIGKILL)
    return True


@job(
    executor_def=governed_executor,
    resource_defs={"io_manager": MemoryIOManager(folder=EnvVar("IOI_TEST_STORE"))},
)
def holder_dies():
    value, pid = large_and_where()
    sizes([measures(value, kills(pid))])


ABC = StaticPartitionsDefinition(["a", "b", "c"])


@asset(partitions_def=ABC, backfill_policy=BackfillPolicy.single_run())
def letters(context) -> Any:
    return {key: key * 2 for key in context.partition_keys}


@asset(partitions_def=ABC, backfill_policy=BackfillPolicy.single_run())
def capitals(letters: Any) -> Any:
    return {key: value.upper() for key, value in letters.items()}


@asset
def all_capitals(capitals: Any) -> list[str]:
    found = sorted(capitals.values())
    Path(os.environ["IOI_TEST_RESULT"]).write_text(" ".join(found))
    return found


def _partitioned(io_manager: Any) -> Definitions:
    return Definitions(
        assets=[letters, capitals, all_capitals],
        jobs=[
            define_asset_job("partitioned", [letters, capitals]),
            define_asset_job("collected", [all_capitals]),
        ],
        executor=governed_executor,
        resources={"io_manager": io_manager},
    )


files_defs = _partitioned(LocalFilesIOManager(folder=EnvVar("IOI_TEST_STORE")))
exchange_defs = _partitioned(ExchangeIOManager())


def files_partitioned():
    return files_defs.resolve_job_def("partitioned")


def files_collected():
    return files_defs.resolve_job_def("collected")


def exchange_partitioned():
    return exchange_defs.resolve_job_def("partitioned")


def exchange_collected():
    return exchange_defs.resolve_job_def("collected")


@pytest.fixture
def store(tmp_path, monkeypatch, clean_environment) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IOI_TEST_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("IOI_TEST_STORE_URL", f"file://{tmp_path}/store")
    monkeypatch.setenv("IOI_TEST_MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("IOI_TEST_RESULT", str(tmp_path / "result"))
    return tmp_path / "store"


WORKERS = {"execution": {"config": {"workers": 2}}}


def _execute(factory: Any, run_config: Any = WORKERS, **more: Any) -> Any:
    with (
        DagsterInstance.local_temp(os.environ["DAGSTER_HOME"]) as instance,
        execute_job(reconstructable(factory), instance, run_config=run_config, **more) as result,
    ):
        assert result.success
        return result.run_id


@pytest.mark.parametrize("factory", [in_files, behind_a_url, in_memory])
def test_a_killed_attempt_leaves_nothing(store, tmp_path, factory):
    (tmp_path / "home").mkdir()
    run = _execute(factory)
    assert (tmp_path / "result").read_text() == "OF THE SECOND"
    staged = [path for path in (store / "staged" / run).rglob("*") if path.is_file()]
    published = [path for path in (store / "runs" / run).rglob("*") if path.is_file()]
    # dies_after_its_output, three words, three shouts, a sentence; nothing of the attempt that was killed.
    assert (len(staged), len(published)) == (8, 8)


def test_values_go_from_worker_to_worker_and_are_dropped_with_the_run(store, tmp_path):
    (tmp_path / "home").mkdir()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,  # pyright: ignore
        Client(cluster) as client,
    ):
        _execute(only_in_memory, run_config={"execution": {"config": {"address": cluster.scheduler_address}}})
        assert (tmp_path / "result").read_text() == " ".join(["8000000"] * 4)
        assert set(client.run(held_sizes).values()) == {()}
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size > 8_000_000]


def held_sizes() -> tuple[str, ...]:
    return tuple(held.sizes())


@pytest.mark.slow
def test_steps_that_wait_do_not_hold_the_value_that_they_take(store, tmp_path):
    """Many over one of four megabytes: the process of the run holds those few that are on their way to a node."""
    (tmp_path / "home").mkdir()
    tracemalloc.start()
    try:
        _execute(many_over_one, {"execution": {"config": {"workers": 1}}})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 120 * 4_000_000 * 0.6


def test_a_worker_that_dies_loses_no_committed_value(store, tmp_path):
    (tmp_path / "home").mkdir()
    _execute(holder_dies)
    assert (tmp_path / "result").read_text() == "8000000"


@pytest.mark.parametrize(
    ("partitioned", "collected"), [(files_partitioned, files_collected), (exchange_partitioned, exchange_collected)]
)
def test_several_partitions_in_one_step(store, tmp_path, partitioned, collected):
    (tmp_path / "home").mkdir()
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    _execute(partitioned, tags=tags)
    _execute(collected)
    assert (tmp_path / "result").read_text() == "AA BB CC"
