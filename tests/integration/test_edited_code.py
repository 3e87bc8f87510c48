"""Code of the project that is edited between runs, on workers that outlive them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from distributed import Client, LocalCluster

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.story import Chapter
from tests.conftest import Child, dagster_home, eventually
from tests.integration.federations import federation_of, topology_of

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(180)]

TOPOLOGY = topology_of("[{name: library-1}]")
DEFS = """
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from dagster import Config, Definitions, ResourceParam, job, op, resource
from ioi_dagster import ExchangeIOManager, flow, governed_executor, run_scoped
from edited_project.words import WORD

OPS = "a"

class Where(Config):
    folder: str = {folder!r}
    waits_for: str = ""
    maps: int = 0

def note(text):
    with (Path({folder!r}) / "notes").open("a") as notes:
        notes.write(text + "\\n")

@resource
def shared(context):
    path = Path({folder!r}) / f"shared {{context.run.run_id}}"
    path.write_text("open")
    yield 1
    path.write_text(path.read_text() + " closed")

def until(name):
    import time
    while name and not (Path({folder!r}) / name).exists():
        time.sleep(0.01)

def item(number):
    note(f"item {{number}}")
    until("go" if number == 0 else "")
    return number

@op
def first(config: Where) -> int:
    note(f"first {{OPS}} {{WORD}} {{os.getpid()}}")
    ThreadPoolExecutor(1).submit(threading.Event().wait)  # as libraries leave one: the process cannot end by itself
    until(config.waits_for)
    flow.map(item, range(min(config.maps, 1)), chunk=1)
    return sum(flow.map(item, range(1, config.maps), chunk=1))

@op
def second(number: int, shared: ResourceParam[int]) -> int:
    note(f"second {{OPS}} {{WORD}} {{os.getpid()}}")
    return number

@job(executor_def=governed_executor, resource_defs={{"io_manager": ExchangeIOManager(), "shared": run_scoped(shared)}})
def edited():
    second(first())

defs = Definitions(jobs=[edited])
"""


class Project:
    """A code location under `folder`, and how it has been run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "edited_project"
        self.package.mkdir()
        (self.package / "__init__.py").touch()
        (self.package / "words.py").write_text("WORD = 'one'\n")
        (self.package / "jobs.py").write_text(DEFS.format(folder=str(folder)))

    def edit(self, file: str, before: str, after: str) -> None:
        path = self.package / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def notes(self, beginning: str = "") -> list[str]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(beginning)]

    def start(self, config: dict, ops: dict | None = None) -> Child:
        run_config = {"execution": {"config": config}, "ops": {"first": {"config": ops or {}}}}
        arguments = ("edited_project.jobs", "edited", json.dumps(run_config), "{}")
        path = os.pathsep.join((str(self.folder), str(PROJECT)))
        log = (self.folder / "runs.log").open("ab")
        return Child(
            [sys.executable, "-m", "tests.integration.governed_run", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def run(self, config: dict, ops: dict | None = None) -> int:
        with self.start(config, ops) as process:
            return process.wait()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    # Workers that nannies start find it as this process does.
    monkeypatch.syspath_prepend(tmp_path)
    dagster_home(tmp_path, monkeypatch)
    return project


@pytest.fixture
def instance(project: Project) -> Iterator[DagsterInstance]:
    with DagsterInstance.get() as instance:
        yield instance


def cluster(threads: int = 1) -> LocalCluster:
    return LocalCluster(n_workers=1, threads_per_worker=threads, processes=True, dashboard_address=None)  # pyright: ignore


def messages(instance: DagsterInstance, run: str) -> list[str]:
    return [entry.message for entry in instance.all_logs(run)]


def newest(instance: DagsterInstance) -> str:
    return instance.get_run_records(limit=1)[0].dagster_run.run_id


def ran_once_and_lost_nothing(instance: DagsterInstance, run: str) -> bool:
    kinds = [(e.step_key, e.dagster_event.event_type_value) for e in instance.all_logs(run) if e.dagster_event]
    ledger = Ledger(ledger_path())
    try:
        losses = [entry for entry in ledger.story(run) if entry.chapter is Chapter.LOSS]
        commits = [row.commits for row in ledger.steps(run) if "#" not in row.step]
    finally:
        ledger.close()
    once = all(kinds.count((step, "STEP_START")) == 1 for step in ("first", "second"))
    return once and not losses and commits == [1, 1] and "STEP_UP_FOR_RETRY" not in {kind for _, kind in kinds}


def test_a_run_after_an_edit_runs_the_new_code(project, instance):
    """Edited is first a module that the op's module imports, then the op's own. Nothing is restarted where nothing changed."""
    edits: list[Callable[[], None]] = [
        lambda: None,
        lambda: project.edit("words.py", "'one'", "'another'"),
        lambda: project.edit("jobs.py", 'OPS = "a"', 'OPS = "bb"'),
        lambda: None,
    ]
    with cluster() as its:
        seen = []
        for edit in edits:
            edit()
            assert project.run({"address": its.scheduler_address}) == 0
            assert ran_once_and_lost_nothing(instance, newest(instance))
            seen.append([text for text in messages(instance, newest(instance)) if "the worker is restarted" in text])
    ran = [note.split() for note in project.notes()]
    assert [tuple(words[:3]) for words in ran] == [
        (step, *version)
        for version in (("a", "one"), ("a", "another"), ("bb", "another"), ("bb", "another"))
        for step in ("first", "second")
    ]
    assert [len(texts) for texts in seen] == [0, 1, 1, 0]
    assert str(project.package / "words.py") in seen[1][0]
    assert str(project.package / "jobs.py") in seen[2][0]
    assert [len({words[3] for words in ran[:count]}) for count in (2, 4, 6, 8)] == [1, 2, 3, 3]


@pytest.mark.slow
def test_a_run_that_goes_on_and_one_after_an_edit_both_end(project, instance):
    with cluster(threads=2) as its:
        config = {"address": its.scheduler_address}
        old = project.start(config, {"waits_for": "go"})
        eventually(lambda: project.notes("first"), what="the first step")
        project.edit("words.py", "'one'", "'another'")
        old_run = newest(instance)
        new = project.start(config)
        eventually(lambda: newest(instance) != old_run, what="the second run")
        new_run = newest(instance)
        eventually(lambda: [text for text in messages(instance, new_run) if "the worker is restarted" in text])
        assert len(project.notes("first")) == 1, "nothing new is begun by a process that is to be replaced"
        (project.folder / "go").touch()
        assert (old.wait(), new.wait()) == (0, 0)
    assert ran_once_and_lost_nothing(instance, old_run)
    assert ran_once_and_lost_nothing(instance, new_run)
    assert [note.split()[2] for note in project.notes("first")] == ["one", "another"]


@pytest.mark.slow
def test_a_map_goes_on_where_its_step_waits(project, instance):
    """The items of its second map can run on that one worker alone, which takes nothing else by then."""
    with cluster(threads=2) as its:
        config = {"address": its.scheduler_address}
        old = project.start(config, {"maps": 6})
        eventually(lambda: project.notes("item"), what="the first item")
        old_run = newest(instance)
        project.edit("words.py", "'one'", "'another'")
        new = project.start(config)
        eventually(lambda: newest(instance) != old_run, what="the second run")
        new_run = newest(instance)
        eventually(lambda: [text for text in messages(instance, new_run) if "the worker is restarted" in text])
        (project.folder / "go").touch()
        assert (old.wait(), new.wait()) == (0, 0)
    assert ran_once_and_lost_nothing(instance, old_run)
    assert ran_once_and_lost_nothing(instance, new_run)
    assert sorted(project.notes("item")) == [f"item {number}" for number in range(6)]
    assert project.notes("first")[-1].split()[2] == "another"


def test_where_nobody_restarts_the_worker_the_run_says_what_to_do(project, instance):
    with LocalCluster(n_workers=0, dashboard_address=None) as its:  # pyright: ignore
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            its.scheduler_address,
            "--no-nanny",
            "--no-dashboard",
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(project.folder), str(PROJECT)))}
        worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with Client(its.scheduler_address) as client:
                client.wait_for_workers(1)
            config = {"address": its.scheduler_address}
            assert project.run(config) == 0
            project.edit("words.py", "'one'", "'another'")
            assert project.run(config) == 1
        finally:
            worker.kill()  # what its step has left keeps it from ending by itself
            worker.wait()
    assert instance.get_run_by_id(newest(instance)).status is DagsterRunStatus.FAILURE
    (failed,) = [
        e.dagster_event
        for e in instance.all_logs(newest(instance))
        if e.dagster_event and e.dagster_event.is_step_failure
    ]
    said = failed.step_failure_data.error.message
    assert "words.py has changed" in said
    assert "restart the workers of the cluster" in said
    assert len(project.notes("first")) == 1


def test_a_node_of_a_federation_is_started_again_under_its_name(project, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(project.folder), str(PROJECT))))
    with federation_of(tmp_path, "edited_project.jobs", TOPOLOGY, []), DagsterInstance.get() as instance:
        assert project.run({}) == 0
        project.edit("words.py", "'one'", "'another'")
        assert project.run({}) == 0
        assert ran_once_and_lost_nothing(instance, newest(instance))
        (told,) = [text for text in messages(instance, newest(instance)) if "the worker is restarted" in text]
        runs = [record.dagster_run.run_id for record in instance.get_run_records()]
        # Also where nodes are not the run process's own.
        assert [(tmp_path / f"shared {run}").read_text() for run in runs] == ["open closed"] * 2
    assert "library-1 of library-main" in told
    assert "words.py has changed" in told
    assert [note.split()[2] for note in project.notes("first")] == ["one", "another"]
