"""A node is drained while it works, and rejoins: real processes, a real run."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from ioi_dagster import cli_drain, cli_status
from ioi_dagster.adapters.files.drains import Drain
from tests.chaos import judge
from tests.chaos.lab import STEPS, Lab, until

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(400)]

NODE = "near-1"


def told_of(lab: Lab) -> dict:
    return (lab.status("near") or {"nodes": {}})["nodes"].get(NODE, {})


def shown(lab: Lab) -> str:
    """What `ioi status` shows."""
    console = Console(width=250, file=io.StringIO())
    with console.capture() as shown:
        console.print(cli_status.render(cli_status.collect(lab.home)))
    return shown.get()


def test_a_node_that_is_drained_ends_or_gives_up_what_it_runs_and_takes_nothing_until_it_rejoins(
    tmp_path: Path,
) -> None:
    with Lab(tmp_path / "home") as lab:
        run = lab.run(seconds=3.0)
        victim = run.working(lambda one: one.node == NODE)
        target = cli_drain.home_target(lab.home, NODE)
        assert (target.name, target.drain(Drain("a new disk", time.time(), 0.5, "ann"))) == ("near-1 of near", True)
        until(lambda: run.lost_at(NODE), "a step that is placed elsewhere")
        cli_drain.wait(lab.home, target, lambda _: None)
        there = [one for one in run.began() if one.node == NODE]
        run.end()
        assert judge.whole(run, STEPS) == []
        assert [one for one in run.began() if one.node == NODE] == there, "it was given nothing any more"
        assert any("its node is drained: a new disk" in entry.text for entry in run.story("loss"))
        assert told_of(lab)["draining"] == "a new disk"
        assert "drained: a new disk" in shown(lab)
        # Another process under its name is drained too.
        again = lab.run(seconds=3.0)
        again.working()
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: lab.pid(NODE) != victim.pid and told_of(lab).get("draining"), "another process, drained")
        assert not again.over, "it would have taken what the new process lets it"
        again.end()
        assert judge.whole(again, STEPS) == []
        assert NODE not in {one.node for one in again.began()}
        assert target.rejoin()
        lab.whole()
        last = lab.run()
        last.working(lambda one: one.node == NODE)
        last.end()
        assert judge.whole(last, STEPS) == []
        assert judge.leases_are_back(lab) == []
