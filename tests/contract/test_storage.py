"""The event log by either storage: the same answers to whatever Dagster asks, and each opens what the other wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance, EventRecordsFilter, RunsFilter
from dagster._core.definitions.asset_checks.asset_check_spec import AssetCheckKey

from definitions.conformance.observe import read
from definitions.conformance.ways import INSTANCE, Where, observe
from ioi_dagster.host.entry_text import entry_text
from ioi_dagster.host.event_groups import grouped, told_event
from ioi_dagster.host.private import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    PLAIN,
    SqlEventLogStorage,
    moves_plan,
    serialize_value,
)
from ioi_dagster.host.storage import MAX_SHARDS, GroupCommitEventLogStorage
from ioi_dagster.local.home import PROJECT
from tests.conftest import eventually

pytestmark = pytest.mark.timeout(180)
OURS = "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
CASES = ("assets", "blocking_check_apart", "partitions", "checks_of_several", "part_of_a_multi_asset", "failed_asset")


def instance_in(folder: Path, monkeypatch: pytest.MonkeyPatch, ours: bool) -> DagsterInstance:
    folder.mkdir(exist_ok=True)
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    (folder / "dagster.yaml").write_text(INSTANCE + (OURS if ours else ""))
    return DagsterInstance.get()


def answers(instance: DagsterInstance) -> dict[str, Any]:
    """What the UI, sensors and the catalogue ask of an event log, without ids and times."""
    storage = instance.event_log_storage
    runs = instance.get_runs(filters=RunsFilter())
    kinds = (DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION)
    planned = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    statuses = (DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE)
    keys = sorted(instance.get_asset_keys(), key=str)
    checks = [AssetCheckKey(AssetKey(["watched"]), name) for name in ("watched_blocks", "watched_warns")]
    return {
        "runs": sorted((run.job_name, run.status.value) for run in runs),
        "events": {run.job_name: read(instance, [run.run_id], ()) for run in runs},
        "stats": sorted((s.steps_succeeded, s.steps_failed, s.materializations) for r in runs
                        if (s := instance.get_run_stats(r.run_id))),
        "steps": sorted((r.job_name, s.step_key, str(s.status), s.attempts) for r in runs
                        for s in instance.get_run_step_stats(r.run_id)),
        "assets": [(key.to_user_string(), bool(record and record.asset_entry.last_materialization))
                   for key in keys for record in instance.get_asset_records([key])],
        "by kind": {str(kind): Counter(str(r.event_log_entry.dagster_event.asset_key)  # pyright: ignore
                    for r in storage.get_event_records(EventRecordsFilter(kind), limit=1_000))
                    for kind in (*kinds, planned)},
        "statuses": Counter(str(r.event_log_entry.dagster_event_type) for kind in statuses
                            for r in storage.get_event_records(EventRecordsFilter(kind), limit=1_000)),
        "checks": [(str(key), record and str(record.status)) for key, record in
                   storage.get_latest_asset_check_execution_by_key(checks).items()],
        "history": [len(storage.get_asset_check_execution_history(key, limit=10)) for key in checks],
        "partitions": storage.get_materialized_partitions(AssetKey(["daily"])),
        "tags": [sorted(tag) for key in keys for tag in [dict(t) for t in storage.get_event_tags_for_asset(key)]],
    }  # fmt: skip


def test_both_storages_answer_alike(tmp_path, monkeypatch):
    found = {}
    for ours in (False, True):
        with instance_in(tmp_path / str(ours), monkeypatch, ours) as instance:
            assert isinstance(instance.event_log_storage, GroupCommitEventLogStorage) is ours
            with grouped(instance):
                assert (getattr(instance.event_log_storage, "_groups", None) is not None) is ours
            for case in CASES:
                observe(case, Where("in_process", instance, PROJECT))
            found[ours] = answers(instance)
    assert found[True] == found[False]
    assert found[True]["partitions"] == {"2026-01-02"}


def test_each_opens_what_the_other_wrote(tmp_path, monkeypatch):
    for first, second in ((True, False), (False, True)):
        folder = tmp_path / f"{first}"
        with instance_in(folder, monkeypatch, first) as instance:
            observe("assets", Where("in_process", instance, PROJECT))
            before = answers(instance)
        with instance_in(folder, monkeypatch, second) as instance:
            assert answers(instance) == before
            observe("assets", Where("in_process", instance, PROJECT))


def test_a_group_is_written_in_order_when_it_ends_and_also_after_an_exception(tmp_path, monkeypatch):
    with instance_in(tmp_path / "i", monkeypatch, True) as instance:
        observe("assets", Where("in_process", instance, PROJECT))
        (run,) = instance.get_runs()

        def said() -> list[str]:
            records = instance.get_records_for_run(run.run_id).records
            return [record.event_log_entry.message for record in records][-3:]

        def tell(text: str) -> None:
            instance.report_engine_event(text, run)

        def several() -> None:
            with grouped(instance):
                tell("one")
                tell("two")
                with grouped(instance):
                    tell("three")
                other = threading.Thread(target=tell, args=("from another thread",))
                other.start()
                other.join()
                assert said()[-1] == "from another thread", "another thread's events are not held back"
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            several()
        assert said() == ["one", "two", "three"]


def test_many_runs_keep_few_files_open_and_a_deleted_run_is_no_error(tmp_path, monkeypatch):
    with instance_in(tmp_path / "i", monkeypatch, True) as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, GroupCommitEventLogStorage)
        runs = [instance.create_run_for_job(_job()) for _ in range(MAX_SHARDS + 5)]
        for run in runs:
            instance.report_engine_event("hello", run)
        here = str(tmp_path)
        open_files = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
        assert len({path for path in open_files if path.startswith(here) and path.endswith(".db")}) <= MAX_SHARDS + 4
        os.unlink(storage.path_for_shard(runs[-1].run_id))
        instance.report_engine_event("again", runs[-1])
        assert len(instance.get_records_for_run(runs[-1].run_id).records) == 1


_WRITER = """
import sys
from dagster import DagsterInstance
from ioi_dagster.host.entry_text import entry_text
from ioi_dagster.host.event_groups import grouped, told_event
from ioi_dagster.host.private import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    PLAIN,
    SqlEventLogStorage,
    moves_plan,
    serialize_value,
)
with DagsterInstance.get() as instance:
    (run,) = instance.get_runs()
    number = 0
    while True:
        with grouped(instance):
            for _ in range(10):
                instance.report_engine_event(str(number), run)
                number += 1
        print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_finished(tmp_path, monkeypatch):
    """Whole groups in order, at least as many as the writer had said were written."""
    with instance_in(tmp_path / "i", monkeypatch, True) as instance:
        run = instance.create_run_for_job(_job())
        for _ in range(5):
            process = subprocess.Popen([sys.executable, "-c", _WRITER], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
            assert process.stdout is not None
            lines = [eventually(process.stdout.readline, 60) for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            process.wait()
            rest = process.stdout.read().split("\n")
            said = int([text for text in [*lines, *rest] if text.strip().isdigit()][-1])
            records = instance.get_records_for_run(run.run_id, limit=100_000).records
            found = [record.event_log_entry.message for record in records]
            assert len(found) >= said
            assert len(found) % 10 == 0, "a group is written whole or not at all"
            assert found == [str(number) for number in range(len(found))]
            instance.event_log_storage.delete_events(run.run_id)


def _job() -> Any:
    from dagster import in_process_executor

    from definitions.conformance.cases import build

    return build({"in_process": in_process_executor}).resolve_job_def("long_step_keys__in_process")


def _is_open(name: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{name}")


ALL_SORTS = (*CASES, *("hooks", "events_of_users", "retry_policy", "fan_out_with_a_failure", "config_of_resources"))


def test_an_event_that_leads_to_nothing_is_the_same_row_as_its_text_and_as_its_value(tmp_path, monkeypatch):
    with instance_in(tmp_path / "i", monkeypatch, True) as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, GroupCommitEventLogStorage)
        for case in ALL_SORTS:
            observe(case, Where("in_process", instance, PROJECT))
        entries = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
        told = {}
        for entry in entries:
            text = serialize_value(entry)
            assert entry_text(entry) == text
            row = SqlEventLogStorage._event_to_row(storage, entry)
            assert storage._event_to_row(entry) == row
            as_told = told_event(text)
            assert as_told is None or storage._event_to_row(as_told) == row
            told.setdefault(entry.dagster_event_type if entry.is_dagster_event else None, set()).add(
                as_told is not None
            )
        assert None in told, "a line of a person's code"
        assert {kind for kind, is_told in told.items() if kind is not None and True in is_told} <= {
            DagsterEventType(kind) for kind in PLAIN
        }
        assert all(len(is_told) == 1 for is_told in told.values())
        leading = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
        assert leading.isdisjoint(map(DagsterEventType, PLAIN))
        assert not any(moves_plan(f'"event_type_value": "{kind}"') for kind in PLAIN)
