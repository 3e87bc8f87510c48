"""Runs whose process is killed at moments drawn from a seed, and resumed until they are done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance, DagsterRun

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.private import DagsterRunStatus
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from tests.crash import judge
from tests.crash.hatchery import MODULE, Hatchery
from tests.crash.jobs import JOBS
from tests.crash.phases import PHASES, new_page, read_page

ENDS_WITHIN_S = 90.0
LOOK_S = 0.03


@dataclass(slots=True)
class Tally:
    """The result of a loop."""

    seed: int
    kills: int = 0
    runs: int = 0
    processes: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    by_job: Counter[str] = field(default_factory=Counter)
    most: int = 0
    """Kills within one run at most."""
    looks: int = 0
    """Successes whose outputs were read the moment they were seen in the log."""
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Oracle:
    """An undisturbed run: what it left, how long its process took and how many ticks it had."""

    whole: judge.Whole
    seconds: float
    ticks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run process ends: at a tick of its own (in a phase), after so many seconds from outside, or (both 0) by itself."""

    tick: int = 0
    phase: str = ""
    seconds: float = 0.0


class Loop:
    """On the instance of `DAGSTER_HOME` and a Dask cluster at `address`."""

    def __init__(self, home: Path, address: str, instance: DagsterInstance, hatchery: Hatchery, seed: int) -> None:
        self._home, self._address, self._instance, self._hatchery = home, address, instance, hatchery
        self._random = random.Random(seed)
        self._ledger = Ledger(ledger_path())
        self._page = home / "page"
        self._oracles: dict[str, Oracle] = {}
        self.tally = Tally(seed)

    def run(self, kills: int, each: int = 6, told: Callable[[Tally], None] = lambda _: None) -> Tally:
        """Go on until `kills` run processes were killed, `each` in one run at most: then it is let through."""
        number = 0
        while self.tally.kills < kills:
            job = JOBS[number % len(JOBS)]
            number += 1

            def plan(its_kills: int, oracle: Oracle) -> Plan:
                return self._plan(oracle) if its_kills < each and self.tally.kills < kills else Plan()

            # Some with a cluster of the run's own, which dies with its process.
            self.one(job, plan, self._random.random() < 0.1, told)
        return self.tally

    def close(self) -> None:
        self._ledger.close()

    # Runs -------------------------------------------------------------------------------------------------------

    def _undisturbed(self, job: str) -> Oracle:
        run = self._create(job, alone=False)
        begun = time.monotonic()
        self._process(job, run, Plan(), None)
        seconds, (_, ticks) = time.monotonic() - begun, read_page(self._page)
        oracle = Oracle(judge.whole(self._instance, self._ledger, job, run.run_id), seconds, ticks)
        assert oracle.whole.status == ("FAILURE" if job == "odd" else "SUCCESS"), self._said(run)
        assert not any(isinstance(value, Exception) for value in oracle.whole.values.values()), oracle.whole.values
        return oracle

    def one(
        self,
        job: str,
        plan: Callable[[int, Oracle], Plan],
        alone: bool = False,
        told: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        """One run, whose process is killed as `plan` says, given how often it was killed by then."""
        if job not in self._oracles:
            self._oracles[job] = self._undisturbed(job)
        tally, oracle = self.tally, self._oracles[job]
        run = self._create(job, alone)
        seen, its_kills, wrong = judge.Seen(), 0, list[str]()
        tally.runs += 1
        tally.by_job[job] += 1
        while not self._now(run).is_finished:
            killed, missed = self._process(job, run, plan(its_kills, oracle), oracle)
            wrong += missed
            if killed:
                its_kills += 1
                tally.kills += 1
                tally.most = max(tally.most, its_kills)
                tally.by_phase[read_page(self._page)[0]] += 1
                seen, missed = judge.at_the_kill(self._instance, self._ledger, job, run.run_id, oracle.whole, seen)
                wrong += missed
            elif not self._now(run).is_finished:
                wrong.append(f"its process ended by itself before the run did:\n{self._said(run)}")
                break
            told(tally)
        rows = {row.step: row for row in self._ledger.steps(run.run_id) if row.state == "DONE"}
        found = judge.whole(self._instance, self._ledger, job, run.run_id)
        wrong += judge.at_the_end(oracle.whole, found, seen, rows, self._home / "starts" / run.run_id)
        if (self._home / "history" / "runs" / f"{run.run_id}.db").exists():
            wrong += judge.mirrored(self._home, run.run_id)
        tally.violations += [f"{job} {run.run_id} after {its_kills} kills: {text}" for text in wrong]

    def _plan(self, oracle: Oracle) -> Plan:
        early = self._random.choice((1.0, 0.5))
        kind = self._random.random()
        if kind < 0.4:
            return Plan(tick=self._random.randint(1, int(oracle.ticks * early)))
        if kind < 0.7:
            return Plan(seconds=self._random.uniform(0.0, oracle.seconds * early))
        # Short phases are rarely met by chance.
        return Plan(tick=self._random.randint(1, 4), phase=self._random.choice(PHASES))

    def _create(self, job: str, alone: bool) -> DagsterRun:
        found = job_of(MODULE, job, PROJECT)
        config = {"workers": 1} if alone else {"address": self._address}
        return self._instance.create_run_for_job(
            found.get_definition(),
            run_config={"execution": {"config": config}, "loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            job_code_origin=found.get_python_origin(),
        )

    def _now(self, run: DagsterRun) -> DagsterRun:
        now = self._instance.get_run_by_id(run.run_id)
        assert now is not None
        return now

    def _process(self, job: str, run: DagsterRun, plan: Plan, oracle: Oracle | None) -> tuple[bool, list[str]]:
        """One run process, from its start to its end. Returns whether it was killed, and what was wrong meanwhile."""
        self.tally.processes += 1
        # As Dagster's daemon has it: what has not begun is started, what has is resumed.
        resume = self._now(run).status is DagsterRunStatus.STARTED
        log = self._home / f"{run.run_id}.out"
        pid = self._hatchery.start(run.run_id, job, resume, new_page(self._page), (plan.tick, plan.phase), log)
        begun, cursor, wrong = time.monotonic(), None, list[str]()
        code = None
        while code is None:
            left = begun + plan.seconds - time.monotonic() if plan.seconds else LOOK_S
            code = self._hatchery.ended(pid, max(0.0, min(LOOK_S, left)))
            if code is None and plan.seconds and left <= 0:
                os.kill(pid, signal.SIGKILL)
                code = self._hatchery.ended(pid, 60.0)
            elif code is None and oracle is not None:
                cursor, missed = self._look(job, run, oracle, cursor)
                wrong += missed
            if time.monotonic() > begun + ENDS_WITHIN_S:
                os.kill(pid, signal.SIGABRT)
                wrong.append(f"its process did not end within {ENDS_WITHIN_S:g} s:\n{self._said(run)}")
                plan = Plan(seconds=0.001)
        if code not in (0, -signal.SIGKILL):
            wrong.append(f"its process ended with {code}:\n{self._said(run)}")
        return code == -signal.SIGKILL, wrong

    def _look(self, job: str, run: DagsterRun, oracle: Oracle, cursor: str | None) -> tuple[str | None, list[str]]:
        """Read the outputs of each success that is new in the log, at once."""
        page = self._instance.get_records_for_run(run.run_id, cursor=cursor)
        entries = [record.event_log_entry for record in page.records]
        self.tally.looks += sum(bool(entry.dagster_event and entry.dagster_event.is_step_success) for entry in entries)
        # The outputs are written before the success, and may have been in an earlier look.
        wrong = judge.missing_outputs(self._instance, job, run.run_id, entries, oracle.whole) if entries else []
        return page.cursor or cursor, wrong

    def _said(self, run: DagsterRun) -> str:
        path = self._home / f"{run.run_id}.out"
        return path.read_text(errors="replace")[-3_000:] if path.exists() else ""


@contextmanager
def crash_loop(home: Path, storage: str, seed: int) -> Iterator[Loop]:
    """A loop in the empty folder `home`, on `storage` (the lines of a `dagster.yaml`), with all that it needs."""
    from distributed import LocalCluster

    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{storage}")
    environment = {"DAGSTER_HOME": str(home), "IOI_CRASH_FOLDER": str(home / "starts")}
    with ExitStack() as stack:
        before = {name: os.environ.get(name) for name in environment}
        os.environ |= environment
        stack.callback(_restore, before)
        hatchery = Hatchery(environment)
        stack.callback(hatchery.close)
        with _output_into(home / "workers.out"):
            cluster = stack.enter_context(
                LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)  # pyright: ignore
            )
        instance = stack.enter_context(DagsterInstance.get())
        loop = Loop(home, cluster.scheduler_address, instance, hatchery, seed)
        stack.callback(loop.close)
        yield loop


@contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """What processes that are started within it print goes to a file."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


SQLITE = "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"


def postgres(url: str) -> str:
    """Runs and events in the database at `url`."""
    return (
        f"event_log_storage: {{module: ioi_dagster.host.storage_postgres, class: GroupCommitPostgresEventLogStorage, config: "
        f'{{postgres_url: "{url}"}}}}\n'
        f'run_storage: {{module: dagster_postgres.run_storage, class: PostgresRunStorage, config: {{postgres_url: "{url}"}}}}\n'
    )
