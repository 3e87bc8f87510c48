"""The instance that a step sees on a node is that of the run's owner, wherever and however its worker was started."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import AssetMaterialization, DagsterInstance

from ioi_dagster.errors import BadInputError
from ioi_dagster.host.node_instance import node_instance
from ioi_dagster.host.private import serialize_value
from ioi_dagster.host.storage import GroupCommitEventLogStorage

OURS = """
telemetry: {enabled: false}
event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}
"""


@pytest.mark.parametrize("workers_home", [None, "another"])
@pytest.mark.parametrize("settings", [OURS, "telemetry: {enabled: false}\n"], ids=["ours", "stock"])
def test_a_step_sees_what_the_owner_of_the_run_has(tmp_path: Path, monkeypatch, settings, workers_home):
    owners, workers = tmp_path / "owners", tmp_path / "workers"
    owners.mkdir()
    workers.mkdir()
    (owners / "dagster.yaml").write_text(settings)
    monkeypatch.setenv("DAGSTER_HOME", str(owners))
    with DagsterInstance.get() as instance:
        instance.report_runless_asset_event(AssetMaterialization("before"))
        ref = serialize_value(instance.get_ref())
    monkeypatch.delenv("DAGSTER_HOME")
    if workers_home:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / workers_home))
    monkeypatch.chdir(workers)
    seen = node_instance(ref).dagster
    assert [key.to_user_string() for key in seen.all_asset_keys()] == ["before"]
    assert list(workers.iterdir()) == []


def test_storage_without_a_folder_says_so(monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(BadInputError, match="neither base_dir nor"):
        GroupCommitEventLogStorage.from_config_value(None, {})
