"""Whether a run goes on after its process is interrupted is for who interrupts it to say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op

from ioi_dagster.host.resume import interruption_ends_run, will_go_on


@op
def nothing() -> None: ...


@job
def small() -> None:
    nothing()


@pytest.fixture
def instance(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """One whose runs are resumed."""
    with DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(instance, "run_will_resume", lambda _run: True)
        yield instance


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [
        (DagsterRunStatus.STARTED, True),
        (DagsterRunStatus.CANCELING, False),
        (DagsterRunStatus.CANCELED, False),
        (DagsterRunStatus.FAILURE, False),
    ],
)
def test_a_run_goes_on_where_nobody_ended_it(
    instance: DagsterInstance, status: DagsterRunStatus, goes_on: bool
) -> None:
    run = instance.create_run_for_job(small, status=status)
    assert will_go_on(instance, run.run_id) is goes_on


def test_a_run_of_a_command_ends_with_the_command(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(small, status=DagsterRunStatus.STARTED)
    with interruption_ends_run():
        assert not will_go_on(instance, run.run_id)
    assert will_go_on(instance, run.run_id)


def test_a_run_that_nobody_resumes_does_not_go_on(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "run_will_resume", lambda _run: False)
    run = instance.create_run_for_job(small, status=DagsterRunStatus.STARTED)
    assert not will_go_on(instance, run.run_id)
