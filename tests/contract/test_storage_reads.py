"""Whatever Dagster reads of an event log, it reads the same from each of four storages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from tests.contract.postgres import new_database, server
from tests.contract.storage_scenario import CHECKS, history

pytestmark = pytest.mark.timeout(180)
BASE = "telemetry: {enabled: false}\n"
SQLITE = "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
STORAGES = {
    "sqlite": BASE,
    "our sqlite": BASE + SQLITE,
    "postgres": BASE + "event_log_storage: {module: dagster_postgres, class: PostgresEventLogStorage, config: %s}\n",
    "our postgres": BASE + "event_log_storage: {module: ioi_dagster.host.storage_postgres,"
    " class: GroupCommitPostgresEventLogStorage, config: %s}\n",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


def open_instance(name: str, folder: Path, postgres: Path, monkeypatch: pytest.MonkeyPatch) -> DagsterInstance:
    for variable in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    text = STORAGES[name]
    if "%s" in text:
        url = new_database(postgres, f"{name} {folder.parent.name}".replace(" ", "_"))
        text = text % f"{{postgres_url: '{url}'}}"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(text)
    return DagsterInstance.get()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, postgres: Path) -> dict[str, list[dict[str, Any]]]:
    """What is read from each storage."""
    found = {}
    for name in STORAGES:
        with (
            pytest.MonkeyPatch.context() as patch,
            open_instance(name, tmp_path_factory.mktemp("storage") / "home", postgres, patch) as instance,
        ):
            found[name] = history(instance)
    return found


@pytest.mark.parametrize("of", ["sqlite", "postgres"])
def test_the_same_is_read(of: str, told: dict[str, list[dict[str, Any]]]):
    """As from stock storage on the same database: after an asset is wiped, SQLite's and PostgreSQL's differ from each other."""
    assert len(told[of]) == 3
    for ours, theirs in zip(told[f"our {of}"], told[of], strict=True):
        assert ours.keys() == theirs.keys()
        assert {what: (ours[what], theirs[what]) for what in ours if ours[what] != theirs[what]} == {}


def test_the_history_says_something(told: dict[str, list[dict[str, Any]]]):
    """The comparison is worth something: what is compared is there."""
    runs, planned, wiped = told["our sqlite"]
    assert runs["partitions"] == [set(), set(), {"2026-01-02", "2026-01-03"}, set()]
    assert runs["sensor on_failure"] == [{"of": "failing"}]
    assert runs["sensor on_refined"] == [{"of": "refined"}]
    assert runs["sensor on_both"] == [{"of": "raw refined"}]
    assert planned["freshness"] == {"AssetKey(['raw'])": "FreshnessState.PASS"}
    assert planned["attempts"] == {"2026-01-05": "of_a_day 5"}
    assert len(planned["checks"][str(CHECKS[0])]) == 2
    by_day = {day: (status, current) for key, day, status, *_, current in planned["checked partitions"] if day}
    assert by_day == {
        "2026-01-02": ("SUCCEEDED", True),
        "2026-01-03": ("FAILED", True),
        "2026-01-05": ("PLANNED", True),
    }
    assert [day for _, day, *_ in runs["checked on 2026-01-03"]] == ["2026-01-03"]
    assert wiped["fetched AssetKey(['refined'])"] != runs["fetched AssetKey(['refined'])"]
