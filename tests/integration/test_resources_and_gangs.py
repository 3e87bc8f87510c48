"""A real cluster of which one node has a GPU: who asks for it runs there, one at a time; steps of a gang are there together;
what no node has is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from ioi_dagster.host import tags
from ioi_dagster.local.home import PROJECT
from tests.integration.federations import federation_of, topology_of

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

MODULE = "tests.integration.together_defs"
TOPOLOGY = topology_of("[{name: library-1}, {name: library-2, slots: 2, resources: {gpu: 1}}, {name: library-3}]")
TENANT = "scans"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with federation_of(tmp_path, MODULE, TOPOLOGY):
        yield tmp_path


def ran(job: str, folder: Path, ops: list[str]) -> tuple[int, list]:
    """The exit code of a run of `job`, and the events of its steps."""
    config = {"ops": {one: {"config": {"folder": str(folder)}} for one in ops}}
    command = [sys.executable, "-m", "tests.integration.governed_run", MODULE, job, json.dumps(config)]
    with (folder / f"{job}.log").open("wb") as log:
        code = subprocess.run(
            [*command, json.dumps({tags.TENANT: TENANT})], cwd=PROJECT, stdout=log, stderr=log, timeout=120, check=False
        ).returncode
    with DagsterInstance.get() as instance:
        (run,) = [run for run in instance.get_runs() if run.job_name == job]
        assert run.status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)
        entries = instance.all_logs(run.run_id)
    return code, [entry.dagster_event for entry in entries if entry.dagster_event and entry.dagster_event.step_key]


def placed(events: list) -> dict[str, dict[str, str]]:
    """Of each step, what the run page says of its place."""
    found = {}
    for event in events:
        if event.event_type is DagsterEventType.ENGINE_EVENT and "ioi/node" in event.engine_event_data.metadata:
            found[event.step_key] = {key: its.value for key, its in event.engine_event_data.metadata.items()}
    return found


def test_resources_and_gangs_of_a_federation(home: Path) -> None:
    steps = [f"gpu_{number}" for number in range(3)]
    code, events = ran("three_on_gpu", home, steps)
    assert code == 0, (home / "three_on_gpu.log").read_text()
    places = placed(events)
    assert {step: facts["ioi/node"] for step, facts in places.items()} == dict.fromkeys(steps, "library-2")
    assert {facts["ioi/resources"] for facts in places.values()} == {"gpu 1, memory 64 MiB"}
    assert {facts["ioi/tenant"] for facts in places.values()} == {TENANT}

    code, events = ran("pair", home, ["one", "other"])
    assert code == 0, (home / "pair.log").read_text()
    assert {facts["ioi/gang"] for facts in placed(events).values()} == {"pair"}

    code, events = ran("impossible", home, [])
    assert code == 1
    failures = {event.step_key: event.step_failure_data.error for event in events if event.is_step_failure}
    assert {step: error.cls_name for step, error in failures.items()} == dict.fromkeys(("on_tpu", "vast"), "flow.never")
    assert "no node has tpu; nodes have gpu, memory, slots" in failures["on_tpu"].message
