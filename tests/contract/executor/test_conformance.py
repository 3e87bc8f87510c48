"""The governed executor does what Dagster's multiprocess executor does, case by case.

`expected.json` holds what multiprocess did; `python -m pytest -m slow tests/contract/executor` runs it again and compares,
and `python -m benchmarks.conformance --record` writes the file anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from distributed import LocalCluster

from definitions.conformance.jobs import CASES
from definitions.conformance.observe import INSTANCE, Observed, observe
from ioi_dagster.local.home import PROJECT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
EXPECTED = Path(__file__).parent / "expected.json"


def expected() -> dict[str, Observed]:
    table = json.loads(EXPECTED.read_text())
    return {
        case: Observed(row["status"], {(kind, step, about): count for kind, step, about, count in row["facts"]})
        for case, row in table.items()
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A plain Dask cluster, as a project may have one: nothing of ours in it but the package."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made:
        yield made.scheduler_address


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    with DagsterInstance.get() as instance:
        yield instance


def test_every_case_has_its_expectation():
    assert set(expected()) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_governed_executor_does_what_multiprocess_does(case: str, cluster: str, instance: DagsterInstance) -> None:
    assert observe(case, "governed", instance, PROJECT, address=cluster) == expected()[case]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_multiprocess_still_does_what_is_expected(case: str, instance: DagsterInstance) -> None:
    assert os.environ["DAGSTER_HOME"]
    assert observe(case, "multiprocess", instance, PROJECT) == expected()[case]
