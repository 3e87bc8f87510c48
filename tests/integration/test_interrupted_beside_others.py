"""A run that is interrupted where others go on: on a shared Dask cluster, and in a federation that lives on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance
from distributed import Client, LocalCluster

from ioi_dagster.local.home import PROJECT
from tests.asking import status_of
from tests.conftest import dagster_home, eventually
from tests.integration.ending_defs import MODULE, STEPS, config_of
from tests.integration.federations import federation_of, topology_of

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

TOPOLOGY = topology_of("[{name: library-1}, {name: library-2}, {name: library-3}]")
ROOM = STEPS + 2
OF_BESIDE = {"several", "adds", *(f"stands[{number}]" for number in range(STEPS))}
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A process for a run of one of the jobs; what it says is in the file `<job>.log`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(job: str, **more: object) -> subprocess.Popen[bytes]:
        config = {**config_of(job, tmp_path), **more}
        with (tmp_path / f"{job}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.governed_run", MODULE, job, json.dumps(config), "{}"],
                cwd=PROJECT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def happened(folder: Path) -> dict[str, list[int]]:
    """What the steps marked → the process of each time."""
    marks: dict[str, list[int]] = {}
    for path in folder.glob("* * *"):
        what, pid, _ = path.name.split(" ")
        marks.setdefault(what, []).append(int(pid))
    return marks


def standing_at(marks: dict[str, list[int]]) -> dict[str, list[int]]:
    """Of the run beside, which waits until it is let go."""
    return {what: pids for what, pids in marks.items() if what.startswith("stands")}


def standing(folder: Path) -> int:
    return len(standing_at(happened(folder)))


def steps(instance: DagsterInstance, job: str, kind: str) -> Counter[str | None]:
    (run,) = [run for run in instance.get_runs() if run.job_name == job]
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    return Counter(event.step_key for event in events if event is not None and event.event_type_value == kind)


def statuses(instance: DagsterInstance) -> dict[str, str]:
    return {run.job_name: run.status.value for run in instance.get_runs()}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with DagsterInstance.get() as instance:
        yield instance


def test_on_a_shared_cluster_only_what_does_not_stop_costs_a_process(
    alone: DagsterInstance, start: Start, tmp_path: Path
) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=ROOM, processes=True, dashboard_address=None) as cluster,  # pyright: ignore
        Client(cluster, set_as_default=False) as client,
    ):
        at = {"execution": {"config": {"address": cluster.scheduler_address}}}

        def workers() -> set[int]:
            return set(client.run(os.getpid).values())  # pyright: ignore

        at_first = workers()
        beside = start("beside", **at)
        eventually(lambda: standing(tmp_path) == STEPS, what="the other run's steps")
        stops, goes_on = start("stops", **at), start("goes_on", **at)
        eventually(lambda: {"polite", "deaf"} <= happened(tmp_path).keys(), what="the steps to interrupt")
        ((polite,), (deaf,)) = (happened(tmp_path)[step] for step in ("polite", "deaf"))

        stops.send_signal(signal.SIGINT)
        assert stops.wait(60) == 1
        marks = happened(tmp_path)
        assert (marks["polite"], marks["held"], marks["let-go"]) == ([polite], [polite], [polite])
        assert workers() == at_first
        assert set(map(len, standing_at(marks).values())) == {1}

        goes_on.send_signal(signal.SIGTERM)
        assert goes_on.wait(60) == 1
        eventually(lambda: not psutil.pid_exists(deaf), what="the end of its process")
        eventually(lambda: len(workers()) == 2, what="a worker in its place")
        assert at_first - workers() == {deaf}

        assert beside.poll() is None
        (tmp_path / "go").touch()
        assert beside.wait(100) == 0, (tmp_path / "beside.log").read_text()
    marks = happened(tmp_path)
    assert marks["deaf"] == [deaf]
    stood = standing_at(marks)
    assert {what: len(pids) for what, pids in stood.items()} == {
        f"stands-{number}": 1 + (deaf in stood[f"stands-{number}"]) for number in range(STEPS)
    }, "what ran in the process that ended ran again, and nothing else did"
    assert steps(alone, "stops", "STEP_FAILURE") == {"polite": 1}
    assert steps(alone, "goes_on", "STEP_FAILURE") == {"deaf": 1}
    assert steps(alone, "beside", "STEP_SUCCESS") == dict.fromkeys(OF_BESIDE, 1)
    assert steps(alone, "beside", "STEP_FAILURE") == {}
    assert (tmp_path / "sum").read_text() == "28"
    assert statuses(alone) == {"stops": "FAILURE", "goes_on": "FAILURE", "beside": "SUCCESS"}


@pytest.mark.slow
def test_in_a_federation_that_lives_on_its_leases_are_given_back(start: Start, tmp_path: Path) -> None:
    with federation_of(tmp_path, MODULE, TOPOLOGY) as federation:

        def books() -> dict:
            return status_of(federation.home_domain)

        def leases() -> Counter[str]:
            return Counter(names[lease["run"]] for lease in books()["leases"])

        with DagsterInstance.get() as instance:
            interrupted = start("both")
            eventually(lambda: {"polite", "deaf"} <= happened(tmp_path).keys(), what="both steps")
            other = start("beside")
            eventually(lambda: standing(tmp_path) == 1, what="a step of the other run")
            names = {run.run_id: run.job_name for run in instance.get_runs()}
            assert leases() == {"both": 2, "beside": 1}
            interrupted.send_signal(signal.SIGINT)
            assert interrupted.wait(60) == 1, (tmp_path / "both.log").read_text()
            assert leases()["both"] == 0
            marks = happened(tmp_path)
            eventually(lambda: not psutil.pid_exists(marks["deaf"][0]), what="the end of the deaf one's process")
            assert psutil.pid_exists(marks["polite"][0])
            assert (len(marks["polite"]), len(marks["deaf"])) == (1, 1)
            assert (marks["held"], marks["let-go"]) == (marks["polite"], marks["polite"])
            eventually(lambda: leases() == {"beside": 3}, what="all nodes, which the other run has now")
            (tmp_path / "go").touch()
            assert other.wait(100) == 0, (tmp_path / "beside.log").read_text()
            assert steps(instance, "both", "STEP_FAILURE") == {"polite": 1, "deaf": 1}
            assert steps(instance, "beside", "STEP_SUCCESS") == dict.fromkeys(OF_BESIDE, 1)
            assert statuses(instance) == {"both": "CANCELED", "beside": "SUCCESS"}
