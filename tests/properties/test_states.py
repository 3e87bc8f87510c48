"""The tables of states say what the governors do: nothing else was ever seen of them, and all of it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.governors.states import ANY, MACHINES, NOTHING, Change, Machine, page_with
from ioi_dagster.simulate.world import simulate
from tests.properties.walks import BlockWalk, ClusterWalk, FlowWalk, walk_liveness, walk_network, walk_node
from tests.properties.watched import Watch, unknown, unseen
from tests.scenario.swarm import scenario

SIMULATIONS, WALKS = 20, 40
PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "concepts" / "governors.md"


@pytest.fixture(scope="module")
def watch() -> Watch:
    seen = Watch()
    with pytest.MonkeyPatch.context() as patch:
        seen.on(patch)
        for seed in range(SIMULATIONS):
            simulate(scenario(seed))
        for seed in range(WALKS):
            walk_network(seed)
            walk_node(seed)
            walk_liveness(seed)
            ClusterWalk(seed).run()
            BlockWalk(seed).run()
            FlowWalk(seed).run()
    return seen


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_what_a_governor_does_is_what_its_table_says(watch: Watch, machine: Machine) -> None:
    seen = watch.changes[machine.name]
    assert unknown(machine, seen) == set()
    assert unseen(machine, seen) == []
    assert watch.firsts.get(machine.name, {NOTHING}) == {machine.first}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_table_that_lacks_a_change_or_has_one_too_many_is_found_out(watch: Watch, machine: Machine) -> None:
    seen = watch.changes[machine.name]
    of_any = {(change.was, change.becomes, change.told) for change in machine.changes if change.on == ANY}
    for change in machine.changes:
        if change.on == ANY or (change.was, change.becomes, change.told) not in of_any:
            lacking = replace(machine, changes=tuple(one for one in machine.changes if one != change))
            assert unknown(lacking, seen), f"without {change}"
    last = machine.changes[-1]
    for more in (Change(last.becomes, last.was, "Nothing"), replace(last, on="Nothing"), replace(last, told="never")):
        assert unseen(replace(machine, changes=(*machine.changes, more)), seen) == [more]


def test_the_page_shows_the_tables_as_they_are() -> None:
    page = PAGE.read_text()
    assert page_with(page) == page, f"draw it anew: ioi states --page {PAGE.relative_to(PROJECT)}"


def test_a_page_without_a_marker_is_named_and_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("states: lease", "states: lost"))
    before = page.read_text()
    result = CliRunner().invoke(app, ["states", "--page", str(page)])
    assert "no marker '<!-- states: lease -->'" in str(result.exception)
    assert page.read_text() == before


def test_the_command_draws_a_page_and_prints_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text().replace("half_open", "stale"))
    assert CliRunner().invoke(app, ["states", "--page", str(page)]).exit_code == 0
    assert page.read_text() == PAGE.read_text()
    assert "node.old_epoch" in CliRunner().invoke(app, ["states"], env={"COLUMNS": "200"}).stdout
