"""The governed executor does what is right, case by case; `definitions/conformance/cases.py` says what each case covers.

`expected.json` holds what the oracles did, Dagster's multiprocess executor before all; `python -m pytest -m slow
tests/contract/executor` runs them again and compares, and `python -m benchmarks.conformance --record` writes the file anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance
from distributed import LocalCluster

from benchmarks.conformance import RECORD, observed
from definitions.conformance.cases import CASES
from definitions.conformance.observe import Observed
from definitions.conformance.ways import INSTANCE, Where, observe, undisturbed
from ioi_dagster.local.home import PROJECT
from tests.contract.postgres import new_database, server
from tests.crash.loop import postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LONG = ("fan_out_of_1000",)
"""A minute and more on a busy machine, most of it in the stock event log."""

IN_POSTGRES = frozenset(
    {"fan_out", "retry_requested", "skipped_branch", "pools", "interrupt", "resume", "again_from_failure"}
    | {"asset_with_everything", "blocking_check_apart", "data_versions", "partitions"}
)
"""One of each kind that the log has a part in; all of them are run with `-m slow`."""


def expected() -> dict[str, Observed]:
    return {name: observed(row) for name, row in json.loads(RECORD.read_text()).items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A plain Dask cluster, as a project may have one: nothing of ours in it but the package."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
        yield made.scheduler_address


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home whose databases are there; making them takes longer than most cases."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text(INSTANCE)
    with DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
    return home


@pytest.fixture
def instance(tmp_path: Path, made_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with DagsterInstance.get() as instance:
        yield instance


def test_every_case_has_its_expectation():
    assert list(expected()) == list(CASES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]
)
def test_the_governed_executor_does_what_is_right(name: str, cluster: str, instance: DagsterInstance) -> None:
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


@pytest.mark.parametrize(
    "name",
    [name if name in IN_POSTGRES else pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in LONG],
)
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
