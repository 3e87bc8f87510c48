"""What a crash between a run's file and the index kept from the catalogue is there after the next write to the run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInstance, asset, materialize

OURS = "telemetry: {enabled: false}\nevent_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"


@asset
def kept() -> int:
    return 1


def rows(index: Path) -> int:
    with sqlite3.connect(index) as connection:
        return connection.execute("select count(*) from event_logs").fetchone()[0]


def test_the_next_write_to_a_run_gives_the_index_what_it_lacks(
    tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(OURS)
    with DagsterInstance.get() as instance:
        run = materialize([kept], instance=instance).run_id
    index = tmp_path / "history" / "runs" / "index.db"
    whole = rows(index)
    with sqlite3.connect(index) as connection:
        connection.execute("delete from event_logs")
        connection.execute("delete from asset_keys")
    with DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(AssetKey("kept")) is None
        found = instance.get_run_by_id(run)
        assert found is not None
        for _ in range(2):
            instance.report_engine_event("one more", found)
            assert rows(index) == whole
        event = instance.get_latest_materialization_event(AssetKey("kept"))
        assert event is not None
        assert event.run_id == run
