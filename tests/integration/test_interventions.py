"""What people say to a run under way, by the command line, in a federation with its policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from typer.testing import CliRunner

from ioi_dagster.adapters.files.orders import OrderFile
from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.adapters.http.protocol import RunOrder
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli import app
from ioi_dagster.errors import GatewayRefusedError
from ioi_dagster.local.home import PROJECT, domains_in
from ioi_dagster.model.intervention import Action
from ioi_dagster.model.order import Order, Target, Verb
from ioi_dagster.model.story import Chapter
from tests.conftest import eventually
from tests.integration.federations import federation_of, topology_of
from tests.integration.steered_defs import COUNT

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(400)]

MODULE = "tests.integration.steered_defs"
TOPOLOGY = topology_of("[{name: library-1}, {name: library-2}]")


class Steered:
    """A run whose steps write down that they began, and end when they are let."""

    def __init__(self, folder: Path, home: Path, ledger: Ledger) -> None:
        self.folder, self.home, self._ledger = folder, home, ledger

    def say(self, *words: str, who: str = "ann", code: int = 0) -> str:
        os.environ["LOGNAME"] = who
        result = CliRunner().invoke(app, [*words, "--home", str(self.home)])
        assert result.exit_code == code, result.output
        return result.output

    def ordered(self, *words: str) -> str:
        """What came of an order; its words end with a name."""
        said = json.loads(self.say(*words, "--json"))
        assert said["decision"], "policy was asked"
        assert said["who"] == "ann"
        return said["answer"]

    def status(self) -> dict[str, Any]:
        return json.loads(self.say("status", "--json"))["library.example"]

    def ordered_at(self, cluster: str) -> list[str]:
        """For what the cluster goes by an order."""
        return self.status()["clusters"][cluster]["ordered"]

    def refused(self, *words: str) -> str:
        return str(CliRunner().invoke(app, [*words, "--home", str(self.home)]).exception)

    def told(self, *words: str) -> str:
        """The answer."""
        said = json.loads(self.say(*words, "--json"))
        assert said["decision"], "policy was asked"
        return said["answer"]

    def began(self) -> set[tuple[int, str]]:
        names = [path.name.removeprefix("began-") for path in self.folder.glob("began-*")]
        return {(int(number), node) for number, _, node in (name.partition("-") for name in names)}

    def let(self, *numbers: int) -> None:
        for number in numbers:
            (self.folder / f"go-{number}").touch()

    def run(self) -> str:
        return self._ledger.runs(limit=1)[0][0]

    def counts(self) -> dict[str, int]:
        return self._ledger.counts(self.run())

    def waits_for(self) -> str:
        last = self._ledger.last_progress(self.run())
        return json.dumps(last.facts) if last else ""

    def until(self, look: Callable[[], object], what: str) -> None:
        eventually(look, 60, what)

    def interventions(self) -> list[str]:
        return [one.text for one in self._ledger.story(self.run()) if one.chapter is Chapter.INTERVENTION]


@pytest.fixture
def steered(tmp_path: Path) -> Iterator[Steered]:
    """In a federation whose owner has reviewed these steps."""
    folder = tmp_path / "steps"
    folder.mkdir()
    with federation_of(tmp_path, MODULE, TOPOLOGY) as federation:
        ledger = Ledger(federation.home_domain.ledger)
        yield Steered(folder, tmp_path / "home", ledger)
        ledger.close()


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that ann has started."""
    settings = json.dumps({"ops": {"work": {"config": {"folder": str(folder)}}}})
    command = [sys.executable, "-m", "tests.integration.governed_run", MODULE, "works", settings]
    process = subprocess.Popen([*command, json.dumps({"ioi/subject": "ann"})], cwd=PROJECT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_is_paused_capped_resumed_rerouted_and_cancelled_in_part(steered: Steered) -> None:
    with started(steered.folder) as process:
        steered.until(lambda: len(steered.began()) == 2, "both nodes work")

        assert steered.told("pause", "last", "--why", "lunch") == "paused; what runs goes on to its end"
        assert steered.told("pause", "last", "work[0]") == "paused; what runs goes on to its end"
        assert "the run has no step 'wrok' — did you mean work?" in steered.refused("pause", "last", "wrok")
        assert steered.told("pause", "last", "numbers") == "gone: nothing to do; numbers is over"
        away = steered.refused("reroute", "last", "work", "--away-from", "library-9", "--why", "it is hot")
        assert "is called 'library-9' — did you mean library-2 or library-1" in away
        first = {number for number, _ in steered.began()}
        steered.let(*first)
        steered.until(lambda: steered.counts().get("DONE") == 3, "what ran is done")
        steered.until(lambda: "paused by ann: lunch" in steered.waits_for(), "why the others wait")
        assert {number for number, _ in steered.began()} == first

        assert steered.told("cap", "last", "1") == "may have 1 step at once"
        assert steered.told("resume", "last") == "goes on"
        steered.until(lambda: len(steered.began()) == 3, "one more begins")
        steered.until(lambda: "the run may have 1 step at once" in steered.waits_for(), "the cap is told")
        ((number, node),) = [one for one in steered.began() if one[0] not in first]

        assert "1 stopped there" in steered.told("reroute", "last", f"work[{number}]", "--away-from", node)
        other = {"library-1": "library-2", "library-2": "library-1"}[node]
        steered.until(lambda: (number, other) in steered.began(), "it begins elsewhere")
        assert steered.counts() == {"DONE": 3, "RUN": 1}

        last = next(one for one in range(COUNT - 1, -1, -1) if one not in (*first, number))
        refused = steered.say("cancel", "last", f"work[{last}]", who="bob", code=1)
        assert "no reason is given" in refused
        assert steered.told("cancel", "last", f"work[{last}]", "--why", "a bad page") == "1 cancelled"
        assert steered.told("cap", "last", "none") == "may have any number of steps at once"
        steered.until(lambda: steered.counts().get("RUN") == 2, "both nodes work")
        ended = steered.ordered("node", "cancel", other, "--why", "a fire")
        assert ended == "what runs of it is cancelled; what waits may start"
        steered.until(lambda: len(steered.began() - {(number, node)}) == 5, "the next begins there")
        steered.let(*range(COUNT))
        assert process.wait(120) != 0, "steps of it were cancelled"
        assert steered.counts() == {"DONE": COUNT - 1, "RUN": 1}, "numbers, and all of work but two"
        assert [text.partition(":")[0] for text in steered.interventions()] == [
            "pause by ann (lunch)", "pause by ann", "pause by ann", "pause by ann", "reroute by ann (it is hot)", "cap by ann",
            "resume by ann", "reroute by ann",
            "cancel by ann (a bad page)", "cap by ann",
        ]  # fmt: skip
        for _ in range(2):
            assert "gone: nothing to do" in steered.told("pause", "last")
            assert "gone: nothing to do" in steered.told("cancel", "last")
    with DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.FAILURE
        log = [entry.dagster_event.message for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        assert any("ann said: pause (lunch) — paused; what runs goes on to its end" in text for text in log)
        failures = [
            str(entry.dagster_event.step_failure_data.error)
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event and entry.dagster_event.is_step_failure
        ]
        why = {
            why
            for why in ("a bad page", "a fire")
            for text in failures
            if f"[flow.cancelled] cancelled by ann: {why}" in text
        }
        assert (why, len(failures)) == ({"a bad page", "a fire"}, 2)


def test_a_whole_run_is_cancelled(steered: Steered) -> None:
    with started(steered.folder) as process:
        steered.until(lambda: len(steered.began()) == 2, "both nodes work")
        assert steered.told("pause", "last") == "paused; what runs goes on to its end"
        assert steered.told("cancel", "last") == "ended"
        assert process.wait(60) != 0
    with DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status is DagsterRunStatus.CANCELED
        log = [entry.dagster_event.message for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        assert [text for text in log if "cancel" in text.lower()][:1] == ["ann said: cancel"]


def test_a_block_a_tenant_and_a_node_are_ordered_by_command_and_at_the_gateway(steered: Steered) -> None:
    """All of it is so within a second or two, for whoever runs what; and each step waits for what it is told."""
    (library,) = domains_in(steered.home)
    gateway = own_gateway(library)
    pause = Order(Target.TENANT, "default", Verb.PAUSE, why="the month's budget is spent")
    with started(steered.folder) as process:
        steered.until(lambda: len(steered.began()) == 2, "both nodes work")
        assert "no reason is given" in steered.say("block", "pause", "dagster.step", code=1)
        assert steered.status()["orders"] == []
        for answer in ("paused; what runs goes on to its end", "paused already"):
            assert steered.ordered("block", "pause", "dagster.step", "--why", "a bad image") == answer
        steered.until(lambda: "a bad image" in steered.say("status"), "it is shown")
        steered.until(lambda: steered.ordered_at("library-main") == ["block dagster.step"], "the cluster goes by it")
        first = {number for number, _ in steered.began()}
        steered.let(*first)
        steered.until(lambda: steered.counts().get("DONE") == 3, "what ran is done")
        steered.until(lambda: "block dagster.step is paused by ann: a bad image" in steered.waits_for(), "why it waits")

        assert gateway.order(pause, "ann").answer == "paused; what runs goes on to its end"
        both = ["block dagster.step", "tenant default"]
        steered.until(lambda: steered.ordered_at("library-main") == both, "the cluster goes by both")
        assert steered.ordered("block", "resume", "dagster.step") == "goes on"
        steered.until(lambda: "tenant default is paused by ann: the month's" in steered.waits_for(), "another reason")
        assert {number for number, _ in steered.began()} == first
        run = steered.run()
        said = gateway.intervene(RunOrder(run, Action.CAP, "ann", value=5))
        assert (said.run, said.who, said.answer, bool(said.decision)) == (run, "ann", "may have 5 steps at once", True)
        with pytest.raises(GatewayRefusedError, match=r"no reason is given.*\[order.not_allowed\]"):
            gateway.intervene(RunOrder(run, Action.CANCEL, "ann", "total"))
        with pytest.raises(GatewayRefusedError, match=r"has no step 'totla' \[order.impossible\] — did you mean total"):
            gateway.intervene(RunOrder(run, Action.PAUSE, "ann", "totla"))
        with pytest.raises(GatewayRefusedError, match=r"ended by Dagster.*\[order.impossible\]"):
            gateway.intervene(RunOrder(run, Action.CANCEL, "ann", why="enough"))

        assert steered.ordered("drain", "library-1", "--why", "a new disk") == "is drained"
        assert gateway.order(Order(Target.TENANT, "default", Verb.CAP, 1), "ann").answer == "may run 1 at once"
        assert steered.ordered("tenant", "resume", "default") == "goes on"
        steered.until(lambda: len(steered.began()) == 3, "one more begins")
        ((_, node),) = [one for one in steered.began() if one[0] not in first]
        assert node == "library-2"
        told = [
            (one["target"], one["name"], one["verb"], one["value"], one["who"]) for one in steered.status()["orders"]
        ]
        assert told == [("tenant", "default", "cap", 1, "ann"), ("node", "library-1", "drain", None, "ann")]

        assert gateway.order(Order(Target.NODE, "library-1", Verb.RESUME), "ann").answer == "takes steps again"
        assert steered.ordered("rejoin", "library-1") == "was not drained"
        assert steered.ordered("tenant", "cap", "default", "none") == "may run any number at once"
        steered.let(*range(COUNT))
        assert process.wait(120) == 0
    assert "knows no tenant 'defualt' — did you mean default?" in steered.refused("tenant", "cap", "defualt", "2")
    with pytest.raises(GatewayRefusedError, match=r"knows no tenant 'visitors'.*\[order.impossible\]"):
        gateway.order(Order(Target.TENANT, "visitors", Verb.CAP, 2), "ann")
    with pytest.raises(GatewayRefusedError, match=r"has no block 'page.orc'.*\[order.impossible\]"):
        gateway.order(Order(Target.BLOCK, "page.orc", Verb.PAUSE, why="a bad model"), "ann")
    with pytest.raises(GatewayRefusedError, match=r"no reason is given.*\[order.not_allowed\]"):
        gateway.order(Order(Target.BLOCK, "page.ocr", Verb.PAUSE), "ann")
    gateway.close()
    record = [
        (one.order.verb, one.order.name, one.order.who, bool(one.decision)) for one in OrderFile(library.root).all()
    ]
    assert record == [
        ("pause", "dagster.step", "ann", True), ("pause", "dagster.step", "ann", True), ("pause", "default", "ann", True),
        ("resume", "dagster.step", "ann", True), ("drain", "library-1", "ann", True), ("cap", "default", "ann", True),
        ("resume", "default", "ann", True), ("resume", "library-1", "ann", True), ("resume", "library-1", "ann", True),
        ("cap", "default", "ann", True),
    ]  # fmt: skip
