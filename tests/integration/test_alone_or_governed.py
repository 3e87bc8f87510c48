"""Where a policy root is configured, a run without a good permit gets no process, no network and no step; elsewhere it runs alone
and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from ioi_dagster.domain import home_domain
from ioi_dagster.host import tags
from ioi_dagster.host.governance import permit_for
from ioi_dagster.host.launcher import GovernedRunLauncher, process_of
from ioi_dagster.host.private import LaunchRunContext, ResumeRunContext, execute_run_iterator
from ioi_dagster.host.runs import job_of, why_failed
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES, PROJECT, TOPOLOGY
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.policy.permits import encode
from tests.conftest import dagster_home

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

YAML = """
telemetry: {enabled: false}
run_launcher: {module: ioi_dagster.host.launcher, class: GovernedRunLauncher}
event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """In a home with the folders and keys of three domains, of which none is running."""
    blocks = __import__("definitions.documents.catalogue", fromlist=["BLOCKS"]).BLOCKS
    federation = Federation(load_topology(TOPOLOGY), tmp_path / "home", POLICIES, blocks)
    federation.prepare()
    for name, value in federation.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("IOI_DOMAIN_HOME", raising=False)
    dagster_home(tmp_path, monkeypatch)
    (tmp_path / "dagster.yaml").write_text(YAML)
    with DagsterInstance.get() as instance:
        yield instance
    federation.stop()


def create(
    instance: DagsterInstance, name: str, folder: Path, run_tags: dict[str, str], started: bool = False
) -> tuple[Any, DagsterRun]:
    """A run that did not pass gate 1."""
    job = job_of("tests.integration.governed_defs", name, PROJECT)
    config = {"ops": {"first": {"config": {"folder": str(folder)}}}}
    run = instance.create_run_for_job(
        job.get_definition(),
        run_config=config,
        job_code_origin=job.get_python_origin(),
        tags=run_tags,
        status=DagsterRunStatus.STARTED if started else None,
    )
    return job, run


def permit_of_another(instance: DagsterInstance, folder: Path) -> str:
    home, decision = home_domain(), Decision("d1", Verdict.ALLOW)
    assert home is not None
    return encode(permit_for(home, create(instance, "governed", folder, {})[1], decision))


def permits(kind: str, instance: DagsterInstance, folder: Path) -> dict[str, str]:
    match kind:
        case "none":
            return {}
        case "rubbish":
            return {tags.PERMIT: "rubbish"}
        case _:
            return {tags.PERMIT: permit_of_another(instance, folder)}


KINDS = {"none": "permit.missing", "rubbish": "permit.malformed", "another run's": "permit.run_mismatch"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["governed", "stock"])
def test_the_launcher_starts_and_resumes_nothing_without_its_permit(
    kind: str, resume: bool, name: str, instance: DagsterInstance, tmp_path: Path
) -> None:
    _, run = create(instance, name, tmp_path, permits(kind, instance, tmp_path))
    launcher = instance.run_launcher
    assert isinstance(launcher, GovernedRunLauncher)
    if resume:
        launcher.resume_run(ResumeRunContext(run, None))
    else:
        launcher.launch_run(LaunchRunContext(run, None))
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert (ended.status.value, process_of(ended)) == ("FAILURE", None)
    assert KINDS[kind] in "; ".join(entry.message for entry in instance.all_logs(run.run_id))
    assert not (tmp_path / "run_processes").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resume", [False, True])
def test_who_goes_around_the_launcher_gets_no_step_done(
    kind: str, resume: bool, instance: DagsterInstance, tmp_path: Path
) -> None:
    job, run = create(instance, "governed", tmp_path, permits(kind, instance, tmp_path), resume)
    events = list(execute_run_iterator(job, run, instance, resume_from_failure=resume))
    assert [event for event in events if event.step_key is not None] == []
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status.value == "FAILURE"
    assert KINDS[kind] in "; ".join(why_failed(instance, run.run_id))
    assert not (tmp_path / "first").exists()


def test_without_a_policy_root_it_runs_alone_and_says_so_once(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IOI_HOME", "IOI_DOMAIN"):
        monkeypatch.delenv(name)
    job, run = create(instance, "governed", tmp_path, {})
    events = list(execute_run_iterator(job, run, instance))
    said = [event.message for event in events if "no permits are asked for" in (event.message or "")]
    assert len(said) == 1
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status.value == "SUCCESS"
    assert (tmp_path / "first").exists()
