"""The launcher and runs whose processes are not on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op

from ioi_dagster.host import tags
from ioi_dagster.host.launcher import GovernedRunLauncher
from ioi_dagster.host.run_process import RunProcess


@op
def nothing() -> None: ...


@job
def small() -> None:
    nothing()


@pytest.fixture
def launcher(clean_environment: None) -> Iterator[GovernedRunLauncher]:
    with DagsterInstance.ephemeral() as instance:
        launcher = GovernedRunLauncher(warm=False)
        launcher.register_instance(instance)
        yield launcher


def test_a_run_whose_process_is_on_another_machine_is_not_told_to_be_over(launcher: GovernedRunLauncher) -> None:
    instance = launcher._instance
    elsewhere = replace(RunProcess.of(os.getpid()), host="another machine")
    run = instance.create_run_for_job(small, status=DagsterRunStatus.STARTED, tags={tags.RUN_PROCESS: elsewhere.text()})
    assert launcher.terminate(run.run_id) is False
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status is DagsterRunStatus.CANCELING, "it goes on there"
    assert any("another machine" in entry.message for entry in instance.all_logs(run.run_id))


def test_a_run_whose_process_is_gone_is_over(launcher: GovernedRunLauncher) -> None:
    instance = launcher._instance
    gone = replace(RunProcess.of(os.getpid()), started=1)
    run = instance.create_run_for_job(small, status=DagsterRunStatus.STARTED, tags={tags.RUN_PROCESS: gone.text()})
    assert launcher.terminate(run.run_id) is True
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status is DagsterRunStatus.CANCELED
