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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LONG = ("fan_out_of_1000",)
"""A minute and more on a busy machine, most of it in the stock event log."""


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
