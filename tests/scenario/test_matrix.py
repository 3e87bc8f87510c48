"""Each row of the failure matrix, one fault at a time where there is room: what it hit runs again within the row's bound."""

from __future__ import annotations

from collections import Counter

import pytest

from ioi_dagster.simulate.faults import FaultKind, draw_fault
from ioi_dagster.simulate.matrix import BESIDES, MATRIX, Row
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, grid
from ioi_dagster.simulate.world import simulate
from tests.scenario import matrix_page

SEEDS = range(6)
LOST = [row for row in MATRIX if row.bound_s is not None]


def roomy(kind: FaultKind, seed: int) -> Scenario:
    """Four domains that have twice as many slots as their runs have steps under way; one fault."""
    runs = tuple(
        Workflow(
            f"w{number}",
            {f"s{n}": WorkflowStep(3.0, (f"s{n - 1}",) if n else ()) for n in range(8)},
            domain=f"d{number}",
        )
        for number in range(4)
    )
    wide = Workflow("wide", {f"s{n}": WorkflowStep(3.0) for n in range(12)}, arrives=5.0)
    bare = Scenario(grid(4, 4, 2), (*runs, wide), seed=seed, noise=0.3)
    fault = draw_fault(bare, kind, 6.0)
    return Scenario(bare.topology, bare.workflows, (fault,), seed, bare.noise)


def test_every_kind_of_fault_is_of_one_row_or_of_none_by_name() -> None:
    kinds = Counter([*BESIDES, *(kind for row in MATRIX for kind in row.kinds)])
    assert kinds == Counter(FaultKind)
    assert [row.number for row in MATRIX] == list(range(1, 18))


@pytest.mark.parametrize("row", LOST, ids=lambda row: f"{row.number} {row.fault}")
def test_what_a_fault_hits_runs_again_within_the_bound_of_its_row(row: Row) -> None:
    reports = [simulate(roomy(kind, seed)) for kind in row.kinds for seed in SEEDS]
    assert [text for report in reports for text in report.violations] == []
    assert {(report.done, report.failed) for report in reports} == {(44, 0)}
    judged = sum(its.judged for report in reports for its in report.recoveries.values())
    assert judged > 0, "nothing was hit: the bound was held against nothing"
    assert {number for report in reports for number in report.recoveries} == {str(row.number)}


def test_what_takes_longer_than_its_bound_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ioi_dagster.simulate.striking.PROBE_S", 8.0)
    late = [report for seed in SEEDS for report in [simulate(roomy(FaultKind.LINK_CUT, seed))] if report.violations]
    assert late
    assert all("row 12: " in text and "ran again after" in text for report in late for text in report.violations)


def test_the_page_has_the_table() -> None:
    assert matrix_page.written() == matrix_page.PAGE.read_text()
