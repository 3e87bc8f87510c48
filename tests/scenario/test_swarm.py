"""Whatever happens to a federation, each step is committed once, under its newest fence, and nothing is held for ever."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.governors.cluster import ClusterGovernor
from tests.scenario import seeds
from tests.scenario.seeds import Recorded
from tests.scenario.swarm import WITH_BLOCKS, wrong_with

SEEDS = 60
"""So many are tried each time; the rest of ten thousand by name (`make swarm`)."""


def try_seeds(which: Iterable[int]) -> None:
    wrong = [text for seed in which if (text := wrong_with(seed))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_invariant_breaks_in_random_federations_under_random_faults(first: int) -> None:
    try_seeds(range(first, first + 20))


def test_none_breaks_where_steps_call_blocks_that_load_and_are_full() -> None:
    try_seeds(range(WITH_BLOCKS, WITH_BLOCKS + SEEDS // 6))


@pytest.mark.parametrize("its", seeds.recorded(), ids=lambda its: its.command)
def test_what_broke_once_does_not_break_again(its: Recorded) -> None:
    assert seeds.wrong_again(its) == "", its.why


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(SEEDS, 10_000, 1_400))
def test_nor_in_ten_thousand_of_them(first: int) -> None:
    try_seeds(range(first, first + 1_400))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_nor_in_a_thousand_of_those_with_blocks() -> None:
    try_seeds(range(WITH_BLOCKS + SEEDS // 6, WITH_BLOCKS + 1_000))


def test_a_seed_that_fails_says_how_it_is_kept_and_is_tried_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "seeds.txt"
    table.write_text("# a table\n")
    arguments = ["2x2", "bag:1x3", "--seed", "3", "--faults", "0.5"]
    with monkeypatch.context() as broken:
        broken.setattr(ClusterGovernor, "validate", _broken)
        swarm = wrong_with(1)
        told = CliRunner().invoke(app, ["simulate", *arguments])
        assert told.exit_code == 1
        (simulate,) = [line for line in told.output.splitlines() if line.startswith("simulate ")]
        assert simulate.split()[:5] == ["simulate", *arguments[:4]]
        assert "python -m tests.scenario.seeds 'swarm 1' " in swarm
        for command in ("swarm 1", simulate):
            seeds.keep(Recorded(command, "it was broken"), table)
        assert [its.command for its in seeds.recorded(table)] == ["swarm 1", simulate]
        told_again = [seeds.wrong_again(its) for its in seeds.recorded(table)]
        assert told_again[0] == swarm
        assert "violated" in told_again[1]
    assert [seeds.wrong_again(its) for its in seeds.recorded(table)] == ["", ""]


def _broken(_: ClusterGovernor) -> None:
    raise AssertionError("it is broken")


@pytest.mark.parametrize(
    ("command", "why"), [("swarm 89", "again"), ("swarm 1", " "), ("fly 1", "why"), ("swarm 1\nswarm 2", "why")]
)
def test_what_is_no_new_line_of_the_table_is_refused(tmp_path: Path, command: str, why: str) -> None:
    table = tmp_path / "seeds.txt"
    table.write_text(seeds.TABLE.read_text())
    with pytest.raises(ValueError, match=r"is no line|already"):
        seeds.keep(Recorded(command, why), table)
    assert table.read_text() == seeds.TABLE.read_text()
