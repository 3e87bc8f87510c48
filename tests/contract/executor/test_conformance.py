"""The governed executor does what is right, case by case; `definitions/conformance/cases.py` says what each case covers.

`expected.json` holds what the oracles did, Dagster's multiprocess executor before all; `python -m pytest -m slow
tests/contract/executor` runs them again and compares, and `python -m benchmarks.conformance --expect` writes the file anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dask import config as dask_config
from distributed import LocalCluster

from benchmarks.conformance import RECORD, observed
from definitions.conformance.cases import CASES
from definitions.conformance.observe import Observed
from definitions.conformance.ways import INSTANCE, Where, observe, undisturbed
from ioi_dagster.host.storage import GroupCommitEventLogStorage
from ioi_dagster.local.home import PROJECT
from tests.contract.postgres import new_database, server
from tests.crash.loop import postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LONG = ("fan_out_of_1000",)
"""A minute and more on a busy machine, most of it in the stock event log."""

OURS = "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
IN_STOCK = frozenset(
    {"fan_out", "retry_policy", "skipped_branch", "hooks", "events_of_users"}
    | {"checks_of_several", "partitioned_check", "part_of_a_multi_asset"}
)
"""One of each kind of events, since the stock event log is not written in groups; all of them are run with `-m slow`."""

IN_POSTGRES = frozenset(
    {"fan_out", "retry_requested", "skipped_branch", "pools", "interrupt", "resume", "again_from_failure"}
    | {"asset_with_everything", "blocking_check_apart", "data_versions", "partitions"}
)
"""One of each kind that the log has a part in; all of them are run with `-m slow`."""


def _mostly_slow(quick: frozenset[str]) -> list[Any]:
    assert quick <= CASES.keys()
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in LONG]


def expected() -> dict[str, Observed]:
    return {name: observed(row) for name, row in json.loads(RECORD.read_text()).items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A plain Dask cluster, as a project may have one: nothing of ours in it but the package. Where a worker takes longer than
    15 s to start again, the stock timeout would leave none to the cases after those that crash them."""
    with (
        dask_config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made,
    ):
        yield made.scheduler_address


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home whose databases are there; making them takes longer than most cases. Ours and stock have the same."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(INSTANCE)
    with DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
    return home


@pytest.fixture
def home(tmp_path: Path, made_home: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    """All in stock storage."""
    with DagsterInstance.get() as instance:
        assert not isinstance(instance.event_log_storage, GroupCommitEventLogStorage)
        yield instance


@pytest.fixture
def instance_of_ours(home: Path) -> Iterator[DagsterInstance]:
    """Events lie in our SQLite event log, as the guide says."""
    (home / "dagster.yaml").write_text(INSTANCE + OURS)
    with DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, GroupCommitEventLogStorage)
        yield instance


def test_every_case_has_its_expectation():
    assert list(expected()) == list(CASES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]
)
def test_the_governed_executor_does_what_is_right(name: str, cluster: str, instance_of_ours: DagsterInstance) -> None:
    where = Where("governed", instance_of_ours, PROJECT, settings={"address": cluster})
    assert observe(name, where) == expected()[name]


@pytest.mark.parametrize("name", _mostly_slow(IN_STOCK))
def test_it_does_the_same_with_stock_storage(name: str, cluster: str, instance: DagsterInstance) -> None:
    where = Where("governed", instance, PROJECT, settings={"address": cluster})
    assert observe(name, where) == expected()[name]


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture
def instance_in_postgres(
    tmp_path: Path, database: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """Runs and events lie in PostgreSQL."""
    (tmp_path / "dagster.yaml").write_text(INSTANCE + postgres(new_database(database, tmp_path.name)))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with DagsterInstance.get() as instance:
        yield instance


@pytest.mark.parametrize("name", _mostly_slow(IN_POSTGRES))
def test_it_does_the_same_with_postgresql(name: str, cluster: str, instance_in_postgres: DagsterInstance) -> None:
    where = Where("governed", instance_in_postgres, PROJECT, settings={"address": cluster})
    assert observe(name, where) == expected()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_oracles_still_do_what_is_expected(name: str, instance: DagsterInstance) -> None:
    assert os.environ["DAGSTER_HOME"]
    oracle = CASES[name].oracle
    where = Where("multiprocess" if oracle == "undisturbed" else oracle, instance, PROJECT)
    run = undisturbed if oracle == "undisturbed" else observe
    if oracle == "in_process":
        where = replace(where, instance=DagsterInstance.ephemeral())
    assert run(name, where) == expected()[name]
