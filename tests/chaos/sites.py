"""Four domains, each by its owner on a machine of its own, two at each of two sites, with one line between the sites."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dagster import DagsterInstance

from benchmarks.netns import TwoSites, possible
from ioi_dagster.adapters.link.caller import status_of
from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.errors import UnreachableError
from ioi_dagster.local.home import PROJECT
from tests.chaos.lab import DidNotBite, Found, die_with_parent, set_environment, until
from tests.owners import Owner

PORT = 7443
NAMES = ("ash", "birch", "cedar", "date")
"""The first two are at one site, the others at the other. At each site the first has runs, and the second offers the block."""
SITE = {name: frozenset(NAMES[:2] if name in NAMES[:2] else NAMES[2:]) for name in NAMES}
OFFERS = frozenset({"birch", "date"})
TOPOLOGY = "network: book\nhome: ash.example\ndomains:\n" + "".join(
    f"""\
  - name: {name}.example
    authority: {name}
    handles: public
    blocks: [{"loud, spelling" if name in OFFERS else ""}]
    clusters: [{{name: {name}-main, nodes: [{{name: {name}-1, slots: 2}}]}}]
"""
    for name in NAMES
)
GATEWAY = "ioi_dagster.local.gateway_main"
WORDS = 16
JOBS = {"shouting": "shout", "spelling": "spell"}
"""Job → the step that calls a block."""
SEEN_S = 60.0


@dataclass(slots=True)
class Saying:
    """A run of `job` by `owner`, in a process of its own."""

    owner: Owner
    job: str
    process: subprocess.Popen[bytes]
    instance: DagsterInstance
    ledger: Ledger
    before: set[str]
    id: str = ""

    def began(self) -> None:
        """Wait until it has."""

        def look() -> str | None:
            if self.process.poll() is not None:
                raise RuntimeError(f"no run of {self.owner.name}:\n{self.owner.told_run()[-2_000:]}")
            return next((run for run, *_ in self.ledger.runs() if run not in self.before), None)

        self.id = until(look, f"the run of {self.owner.name}")

    def steps(self) -> list[StepRow]:
        return self.ledger.steps(self.id)

    def calls_at(self, cluster: str) -> set[str]:
        """Steps whose call is under way there."""
        if self.process.poll() is not None:
            raise DidNotBite("the run was over before")
        there = {
            entry.step
            for entry in self.ledger.story(self.id)
            if entry.chapter == "award" and f"of {cluster}" in entry.text
        }
        return {row.step for row in self.steps() if row.state != "DONE"} & there

    def done(self, steps: set[str]) -> bool:
        return steps <= {row.step for row in self.steps() if row.state == "DONE"}

    def wrong(self) -> list[str]:
        """Violations, once it should have ended well."""
        found = []
        if self.process.wait(150) != 0:
            found.append(f"lost: the run of {self.owner.name} failed: {self.owner.told_run()[-2_000:]}")
        expected = {"words", "heard", *(f"{JOBS[self.job]}[n{number}]" for number in range(WORDS))}
        rows = {row.step: row for row in self.steps()}
        found += [f"lost: {step} of {self.owner.name}" for step in expected if rows[step].state != "DONE"]
        found += [f"double: {step} was committed {rows[step].commits} times" for step in rows if rows[step].commits > 1]
        told = [
            one.step_key
            for one in self.instance.all_logs(self.id)
            if one.dagster_event and one.dagster_event.is_step_success
        ]
        found += [
            f"double: {step} succeeded {told.count(step)} times in the log" for step in rows if told.count(step) > 1
        ]
        found += [f"lost: the success of {step} is not in the log" for step in expected if step not in told]
        return found


@dataclass(slots=True)
class Sites:
    """`folder` is empty."""

    folder: Path
    net: TwoSites = field(default_factory=TwoSites)
    owners: dict[str, Owner] = field(default_factory=dict)
    split: bool = field(default_factory=possible)
    """May this process make network namespaces?"""
    _stack: ExitStack = field(default_factory=ExitStack)
    _up: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """Who keeps each domain's processes."""
    _kept: dict[str, tuple[DagsterInstance, Ledger]] = field(default_factory=dict)
    """Of owners who had a run."""

    def __enter__(self) -> Sites:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(self.net)
        for name, machine in zip(NAMES, self.net.machines, strict=True):
            blocks = "tests.chaos.site_jobs:BLOCKS"
            owner = Owner(self.folder, name, TOPOLOGY, machine.command, f"{machine.address}:{PORT}", blocks)
            owner.init()
            self.owners[name] = owner
        for name, owner in self.owners.items():
            self._up[name] = self._stack.enter_context(owner.up())
        for owner in self.owners.values():
            until(lambda owner=owner: "is up" in owner.said(), f"domain {owner.name}", 180)
        host, *guests = self.owners.values()
        for guest in guests:
            invitation = self.folder / f"{guest.name}.invitation"
            host.does("domain", "invite", invitation, "--to", guest.name)
            guest.does("domain", "join", invitation)
        self.whole()

    def whole(self) -> None:
        """Wait until everybody sees everybody alive."""
        wrong = [text for name in NAMES for text in self.missees(name, frozenset(NAMES))]
        if wrong:
            raise TimeoutError("; ".join(wrong))

    def missees(self, name: str, alive: frozenset[str]) -> list[str]:
        """What is wrong in how it sees the others, once it has had time to see it right: those of `alive` alone are."""
        states: dict[str, str] = {}

        def right() -> bool:
            rows = json.loads(self.owners[name].does("domain", "show", "--json"))["members"]
            states.update({other: rows[f"{other}.example"]["state"] for other in NAMES if other != name})
            return {other for other, state in states.items() if state == "alive"} == alive - {name}

        try:
            until(right, "", SEEN_S)
        except TimeoutError:
            return [f"members: {name} sees {states}, and should see {sorted(alive - {name})}"]
        return []

    def gateway(self, name: str) -> int:
        """Its process."""

        def found() -> int | None:
            under = psutil.Process(self._up[name].pid).children(recursive=True)
            return next((one.pid for one in under if GATEWAY in one.cmdline()), None)

        return until(found, f"the gateway of {name}", 30.0)

    def leases(self) -> list[dict[str, Any]]:
        found = []
        for name, owner in self.owners.items():
            address = owner.home.config().clusters[0].governor
            try:
                found += (status_of(f"{name}-main", address, owner.home.token(), 2.0) or {})["leases"]
            except UnreachableError as error:
                found.append({"cluster": name, "why": str(error)})
        return found

    def run(self, name: str, job: str = "shouting") -> Saying:
        owner = self.owners[name]
        environment = owner.run_environment()
        if name not in self._kept:
            with set_environment({"DAGSTER_HOME": environment["DAGSTER_HOME"]}):
                instance = self._stack.enter_context(DagsterInstance.get())
            ledger = Ledger(owner.home.ledger)
            self._stack.callback(ledger.close)
            self._kept[name] = instance, ledger
        instance, ledger = self._kept[name]
        before = {run for run, *_ in ledger.runs()}
        with (owner.folder / "run.log").open("ab") as log:
            process = subprocess.Popen(
                owner.command("tests.chaos.site_jobs", json.dumps({"job": job, "words": WORDS})),
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        self._stack.callback(_end, process)
        return Saying(owner, job, process, instance, ledger, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()


# The split ------------------------------------------------------------------------------------------------------------


def split(sites: Sites, rng: random.Random) -> Found:
    """While each site's run has calls under way at the other site. Each goes on with what it reaches."""
    runs = [sites.run("ash"), sites.run("cedar")]
    ash = runs[0]
    for run in runs:
        run.began()
    struck = until(lambda: ash.calls_at("date-main"), "a call across the line", 60.0)
    sites.net.split()
    at, wrong = time.time(), []
    try:
        until(lambda: ash.done(struck), "the end of calls that were cut off")
        recovered = time.time() - at
        again = {row.step for row in ash.steps() if row.step in struck and row.domain != "date.example"}
        for run in runs:
            wrong += run.wrong()
        for name in NAMES:
            wrong += sites.missees(name, SITE[name])
    finally:
        sites.net.heal()
    if not again:
        raise DidNotBite("what was under way across the line had been told before")
    happened = f"{len(struck)} calls were under way across the line, {len(again)} of them run again on the own side"
    return Found(wrong, recovered, happened)


# A gateway -------------------------------------------------------------------------------------------------------------


def others_gateway_killed(sites: Sites, rng: random.Random) -> Found:
    """While calls of a run are under way in its domain, whole ones or streamed."""
    run, other = sites.run("ash", rng.choice(sorted(JOBS))), rng.choice(sorted(OFFERS))
    run.began()
    struck = until(lambda: run.calls_at(f"{other}-main"), f"a call at {other}", 60.0)
    os.kill(sites.gateway(other), signal.SIGKILL)
    at = time.time()
    until(lambda: run.done(struck), "the end of calls that were under way")
    recovered = time.time() - at
    wrong = run.wrong()
    if not any(entry.chapter == "loss" and entry.step in struck for entry in run.ledger.story(run.id)):
        raise DidNotBite("what was under way there had been told before")
    happened = f"{len(struck)} calls were under way at {other}, all of them came to their end; {len(run.steps())} steps"
    return Found(wrong, recovered, happened)
