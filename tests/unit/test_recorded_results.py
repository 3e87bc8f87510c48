"""What benchmarks measured is kept as it was measured, and the page says what the files do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frame import LOAD_BEFORE, Report, machine
from benchmarks.record import PAGE, RESULTS, benchmarks, options, page, record

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
MACHINE = {
    "cores": 2,
    "load_before": [0.1, 0.1, 0.1],
    "load": [1.9, 1.0, 0.5],
    "python": "3.12.1",
    "versions": {"dagster": "1.2"},
    "calibration": {"loop_s": 0.05, "fsync_ms": 1.5},
}


def line(value: float, holds: bool = True) -> dict[str, Any]:
    limit = {"floor": 1.3, "value": value, "holds": holds}
    return {
        "benchmark": "scale",
        "figures": {"us_a_step@1000": 400.5},
        "peers": {"other": 3.0},
        "ratios": {"growth": value},
        "floors": {"growth": limit},
        "aims": {},
        "machine": MACHINE,
    }


def kept(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scale.json").read_text())["runs"]


def test_the_page_is_that_of_the_files() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m benchmarks.record"


def test_every_kept_result_is_of_a_benchmark_that_is_there_and_judged_by_its_own_figures() -> None:
    for file in RESULTS.glob("*.json"):
        its = json.loads(file.read_text())
        assert its["benchmark"] == file.stem
        assert file.stem.partition(".")[0] in benchmarks()
        for run in its["runs"].values():
            values = {**run["figures"], **run["ratios"]}
            assert all(floor["value"] == values[name] for name, floor in run["floors"].items())
            assert run["passed"] == all(floor["holds"] for floor in run["floors"].values())


def test_a_result_is_kept_whole_with_its_date_and_whether_it_passed(tmp_path: Path) -> None:
    assert record(line(1.2), ["--record"], tmp_path, NOON)
    assert record(line(1.5, False), ["--record", "--traces", "/some/where", "--seed", "8"], tmp_path, NOON)
    found = kept(tmp_path)
    assert found.keys() == {"", "--traces --seed 8"}
    assert (found[""]["passed"], found["--traces --seed 8"]["passed"]) == (True, False)
    commit = found[""].pop("commit")
    told = {name: value for name, value in line(1.2).items() if name != "benchmark"}
    assert found[""] == {"quick": False, "date": "2026-11-27 12:00 UTC", "passed": True, **told}
    assert commit
    assert "/some/where" not in (tmp_path / "scale.json").read_text()


@pytest.mark.parametrize(
    ("runs", "left"),
    [
        (["--quick", ""], 1.1),
        (["", "--quick"], 1.0),
        (["", ""], 1.1),
        (["--quick", "--quick"], 1.1),
    ],
)
def test_a_quick_result_never_takes_the_place_of_a_full_one(tmp_path: Path, runs: list[str], left: float) -> None:
    for number, argument in enumerate(runs):
        took = record(line(1.0 + number / 10), ["--record", *argument.split()], tmp_path, NOON)
        assert took == (runs[: number + 1] != ["", "--quick"])
    assert kept(tmp_path)[""]["ratios"]["growth"] == left


def test_the_page_tells_figures_limits_and_the_machine(tmp_path: Path) -> None:
    record(line(1.5, False), ["--record", "--quick"], tmp_path, NOON)
    text = page(tmp_path)
    assert "`python -m benchmarks.scale`, *quick*: **a floor does not hold**." in text
    assert "2 cores, load 0.1 and 1.9, loop 0.05 s, fsync 1.5 ms, Python 3.12.1, dagster 1.2." in text
    assert "| `growth` | 1.5 | 1.3, **missed** |  |\n" in text
    assert "| `other`, peer | 3 |  |  |\n" in text
    assert "Not recorded yet" in text
    assert "`fairness`" in text.partition("Not recorded yet")[2]
    assert "`scale`" not in text.partition("Not recorded yet")[2]


def test_options_tell_runs_apart_but_not_by_folders() -> None:
    assert options(["--record", "--quick"]) == ""
    assert options(["--static", "--traces", "/a/b", "--seed", "7", "--record"]) == "--static --traces --seed 7"


def test_a_report_is_kept_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[dict[str, Any], list[str]]] = []
    monkeypatch.setattr("benchmarks.record.record", lambda line, argv: bool(seen.append((line, argv))))
    for argv in (["x"], ["x", "--record", "--quick"]):
        monkeypatch.setattr("sys.argv", argv)
        assert Report("scale", {"a": 2.0}, floors={"a": (1.0, "max")}).finish() == 1
    ((told, argv),) = seen
    assert (told["figures"], told["floors"]) == ({"a": 2.0}, {"a": {"floor": 1.0, "value": 2.0, "holds": False}})
    assert argv == ["--record", "--quick"]
    assert "not kept" in capsys.readouterr().err


def test_the_machine_tells_its_load_before_and_after() -> None:
    its = machine()
    assert (its["load_before"], len(its["load"])) == (LOAD_BEFORE, 3)
