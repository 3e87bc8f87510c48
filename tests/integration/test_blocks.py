"""Blocks called by steps of runs, on the real workers of somebody's Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, JobExecutionResult, execute_job, reconstructable
from distributed import Client, LocalCluster

from ioi_dagster.adapters.dask import node
from tests.conftest import dagster_home, eventually
from tests.integration import block_project
from tests.integration.block_project import Story, Word, notes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """One worker with four threads, and the folder in which its blocks leave notes. Anew for each test: replicas stay warm."""
    folder = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOI_TEST_FOLDER", str(folder))
        with LocalCluster(n_workers=1, threads_per_worker=4, processes=True, dashboard_address=None) as cluster:  # pyright: ignore
            yield folder, cluster.scheduler_address


@pytest.fixture
def folder(place) -> Iterator[Path]:
    folder, _ = place
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def instance(tmp_path: Path, clean_environment, place, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_FOLDER", str(place[0]))
    with DagsterInstance.get() as instance:
        yield instance


def run(job, words: list[str], place, instance, meanwhile: bool = False) -> tuple[JobExecutionResult, list[Word]]:
    config = {
        "ops": {"words": {"config": words}},
        "execution": {"config": {"address": place[1]}},
    }
    selection = None if meanwhile else ["*gather"]
    with execute_job(reconstructable(job), instance, run_config=config, op_selection=selection) as result:
        said = result.output_for_node("gather") if result.success else []
    return result, said


def kinds(result: JobExecutionResult) -> list[tuple[str, str]]:
    return [(event.step_key or "", event.event_type_value) for event in result.all_events]


def workers(place) -> list[int]:
    with Client(place[1]) as client:
        return sorted(client.run(lambda: psutil.Process().pid).values())


def test_a_replica_stays_warm_between_steps_and_runs(place, instance, folder):
    for _ in range(2):
        result, said = run(block_project.in_thread, ["a", "b", "c"], place, instance)
        assert result.success
        assert [word.text for word in said] == ["A", "B", "C"]
    assert len(notes("load 1")) == 1
    with Client(place[1]) as client:
        (worker,) = client.scheduler_info()["workers"].values()
        blocks = worker["metrics"]["ioi"]["blocks"]
    assert [(one["block"], one["replicas"], one["breaker"]) for one in blocks] == [("loud", {"idle": 1}, "closed")]


def test_another_version_is_loaded_beside_the_one_that_an_earlier_run_left(place, instance, folder):
    for job, version in ((block_project.in_thread, "1"), (block_project.newer, "2"), (block_project.in_thread, "1")):
        _, said = run(job, ["a"], place, instance)
        assert [word.version for word in said] == [version]
    assert len(notes("load 2")) == 1


def test_steps_that_call_at_the_same_time_share_a_batch(place, instance, folder):
    result, said = run(block_project.batched, ["a", "b", "raise", "c"], place, instance)
    assert not result.success
    failed = [step for step, kind in kinds(result) if kind == "STEP_FAILURE"]
    assert failed == ["shout[2]"]
    assert (len(notes("invoke 4")), len(notes("invoke 1"))) == (1, 4)
    result, said = run(block_project.batched, ["d", "e", "f", "g"], place, instance)
    assert [(word.text, word.batch) for word in said] == [("D", 4), ("E", 4), ("F", 4), ("G", 4)]


def test_a_crash_in_a_process_of_its_own_harms_no_step(place, instance, folder):
    before = workers(place)
    result, said = run(block_project.in_process, ["a", "crash once", "b"], place, instance)
    assert result.success
    assert [word.text for word in said] == ["A", "CRASH ONCE", "B"]
    assert workers(place) == before
    assert not any(word.pid in before for word in said)
    happened = kinds(result)
    assert not [kind for _, kind in happened if kind in ("STEP_UP_FOR_RETRY", "STEP_FAILURE")]
    assert len([kind for _, kind in happened if kind == "STEP_SUCCESS"]) == 5


def test_a_block_that_always_crashes_ends_as_a_refused_value(place, instance, folder):
    result, said = run(block_project.in_process, ["a", "exit"], place, instance)
    assert result.success
    assert said[0].text == "A"
    assert said[1].text.startswith("refused exit: [flow.poison_step]")
    assert "its process ended with status 3" in said[1].text


def test_a_streamed_result_is_made_of_its_pieces_or_it_is_none(place, instance, folder):
    def told(text: str, at: int) -> tuple[JobExecutionResult, Story | None]:
        config = {
            "ops": {"asked": {"config": {"text": text, "pieces": 5, "at": at}}},
            "execution": {"config": {"address": place[1]}},
        }
        with execute_job(reconstructable(block_project.streamed), instance, run_config=config) as result:
            return result, result.output_for_node("heard") if result.success else None

    assert told("", -1)[1] == Story("told", 5, numbers=(0, 1, 2, 3, 4))
    result, story = told("raise", 3)
    assert story is None
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "tell"
    assert "this word is not known" in str(failure.event_specific_data)
    assert not [event for event in result.all_events if event.is_successful_output and event.step_key == "tell"]
    (broke,) = [event for event in result.all_events if "which are no result" in (event.message or "")]
    facts = {name: value.value for name, value in broke.engine_event_data.metadata.items()}
    assert (facts["ioi/step"], facts["ioi/pieces"], facts["ioi/broke"]) == ("tell", 3, True)


def test_a_call_that_is_stopped_for_somebody_else_goes_on_after_the_pieces_that_came(place, instance, folder):
    """As its cluster's governor tells the node to."""

    def stops() -> dict[str, list[str]]:
        eventually(lambda: notes("waiting"), 60, "a call at work")
        with Client(place[1], set_as_default=False) as client:
            stopped = client.run(node.revoke_all)
        (folder / "go").touch()
        return stopped

    config = {
        "ops": {"asked": {"config": {"text": "wait", "pieces": 5, "at": 3}}},
        "execution": {"config": {"address": place[1]}},
    }
    with ThreadPoolExecutor(1) as beside:
        stopped = beside.submit(stops)
        with execute_job(reconstructable(block_project.streamed), instance, run_config=config) as result:
            assert result.output_for_node("heard") == Story("told", 5, numbers=(0, 1, 2, 3, 4))
    ((key,),) = stopped.result(60).values()
    assert "tell" in key
    assert len(notes("stream 0")) == 1
    assert not [kind for _, kind in kinds(result) if kind in ("STEP_UP_FOR_RETRY", "STEP_FAILURE")]


def test_a_block_that_holds_its_interpreter_lock_stalls_no_other_step(place, instance, folder):
    with execute_job(
        reconstructable(block_project.in_process),
        instance,
        run_config={"ops": {"words": {"config": ["hold"]}}, "execution": {"config": {"address": place[1]}}},
    ) as result:
        assert result.success
        assert result.output_for_node("meanwhile") > 5


def test_an_open_circuit_in_a_step_is_no_failure_of_the_step(place, instance, folder):
    """It does not load at first, which opens the circuit; the step waits until the circuit lets one call try."""
    (folder / "no weights yet").touch()
    result, said = run(block_project.careful, ["a"], place, instance)
    assert result.success
    assert [word.text for word in said] == ["A"]
    assert [kind for step, kind in kinds(result) if step == "shout[0]" and kind.startswith("STEP_")] == [
        "STEP_START",
        "STEP_INPUT",
        "STEP_OUTPUT",
        "STEP_SUCCESS",
    ]
