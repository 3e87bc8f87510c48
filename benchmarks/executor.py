"""Steps a second of the governed executor beside dagster-dask, Dagster's own executors and raw Dask.

`--shape fan_out` (default): a generator, N mapped steps, a collector. `--shape chain`: N steps one after the other. Every
event is in a SQLite event log when the clock stops: ours for the governed executor, stock for the others. Governed, dagster-dask
and raw Dask share one cluster of two workers that is up and has run a small job. Slow peers run fewer steps and are compared
by rate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.frame import Report, quick
from ioi_dagster.local.home import PROJECT

MODULE = "benchmarks.executor_defs"
STOCK = "telemetry: {enabled: false}\n"
OURS = STOCK + "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
"""Peers write to stock storage, as their users do."""

FULL = {
    "fan_out": {"governed": 1_000, "in_process": 1_000, "dask": 100, "multiprocess": 10, "raw": 1_000, "rounds": 5},
    "chain": {"governed": 200, "in_process": 200, "dask": 60, "multiprocess": 6, "raw": 200, "rounds": 5},
}
QUICK = {
    "fan_out": {"governed": 150, "in_process": 150, "dask": 30, "multiprocess": 3, "raw": 150, "rounds": 1},
    "chain": {"governed": 50, "in_process": 50, "dask": 20, "multiprocess": 2, "raw": 50, "rounds": 1},
}
FLOORS = {
    "fan_out": {
        "x_dask@1000": (12.0, "min"),
        "x_in_process@1000": (3.0, "min"),
        "x_multiprocess@1000": (100.0, "min"),
        "overhead_ms@1000": (6.0, "max"),
    },
    "chain": {"x_dask@200": (15.0, "min")},
}
AIMS = {
    "fan_out": {
        "x_dask@1000": (25.0, "min"),
        "x_in_process@1000": (5.0, "min"),
        "x_multiprocess@1000": (250.0, "min"),
        "x_raw@1000": (0.5, "min"),
        "overhead_ms@1000": (2.0, "max"),
    },
    "chain": {"x_dask@200": (40.0, "min")},
}


def seconds_of(executor: str, shape: str, count: int, address: str) -> float:
    """Wall seconds of one run of `count` steps, its creation not among them. Every executor's run is executed as the process of
    a launched run does it."""
    from dagster import DagsterInstance

    from ioi_dagster.host.private import execute_as_launched
    from ioi_dagster.host.runs import job_of

    settings: dict[str, Any] = {
        "governed": {"address": address},
        "dask": {"cluster": {"existing": {"address": address}}},
        "multiprocess": {"max_concurrent": os.cpu_count()},
    }.get(executor, {})
    # dagster-dask ends a dynamic job with the generator alone, so it gets as many steps that are there from the start.
    shape = "static" if executor == "dask" and shape == "fan_out" else shape
    job = job_of(MODULE, f"{shape}__{executor}", PROJECT)
    (Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").write_text(OURS if executor == "governed" else STOCK)
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    config |= {"ops": {"some": {"config": {"count": count}}}} if shape == "fan_out" else {}
    config |= {"execution": {"config": settings}} if settings else {}
    with DagsterInstance.get() as instance:
        selection = None if shape == "fan_out" else [f"link_{number}" for number in range(count)]
        definition = job.get_definition()
        if selection:
            definition = job.get_subset(op_selection=set(selection)).get_definition()
        run = instance.create_run_for_job(
            definition, run_config=config, job_code_origin=job.get_python_origin(), op_selection=selection
        )
        started = time.perf_counter()
        execute_as_launched(run.run_id, instance)
        seconds = time.perf_counter() - started
        events = [entry.get_dagster_event() for entry in instance.all_logs(run.run_id) if entry.is_dagster_event]
        done = sum(event.is_step_success for event in events)
        ended = instance.get_run_by_id(run.run_id)
        if done < count or ended is None or not ended.is_success:
            failures = [event.message for event in events if event.is_failure]
            raise SystemExit(f"{executor}: {done} of {count} steps; failed: {failures}")
    return seconds


def raw_dask(shape: str, count: int, address: str) -> float:
    """The same number of tasks, one future each, results gathered."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        started = time.perf_counter()
        if shape == "fan_out":
            client.gather([client.submit(_nothing, number, pure=False) for number in range(count)])
        else:
            future = client.submit(_nothing, 0, pure=False)
            for _ in range(count - 1):
                future = client.submit(_nothing, future, pure=False)
            future.result()
        return time.perf_counter() - started


def _nothing(number: int) -> int:
    return number


@contextmanager
def _cluster(home: Path) -> Iterator[str]:
    """A scheduler and two workers as users have them: processes of their own, started by Dask's command."""
    file = home / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": PROJECT}
    commands = [
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            file,
        ],
        *[
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                "--scheduler-file",
                file,
                "--nthreads",
                "1",
                "--no-dashboard",
            ]
            for _ in range(2)
        ],
    ]
    started = [subprocess.Popen(list(map(str, command)), **quiet) for command in commands]
    try:
        until = time.monotonic() + 60
        while not file.exists():
            if time.monotonic() > until:
                raise SystemExit("the Dask scheduler did not start")
            time.sleep(0.1)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = str(client.scheduler.address)  # pyright: ignore[reportOptionalMemberAccess]
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


PARTS = {
    "work: what is sent with a step": ("ioi_dagster.host.executor", "_Flow._work"),
    "placement: asks, bids, awards": ("ioi_dagster.host.flow_driver", "FlowDriver._take"),
    "submit: requests to Dask": ("ioi_dagster.host.alone_fleets", "submit"),
    "events read: of the answers": ("ioi_dagster.host.executor", "deserialize_value"),
    "event log: written in groups": ("ioi_dagster.host.storage", "GroupCommitEventLogStorage.store_event_batch"),
    "commit: starts and commits in the ledger, one transaction a turn": (
        "ioi_dagster.adapters.sql.ledger",
        "Ledger.write",
    ),
}
"""What the run process does for a step → the function in whose calls it does it. None of them calls another one here."""


def breakdown(address: str, count: int) -> int:
    """A table of milliseconds a step: the time at its node, and the parts of the run process beside its whole. Nodes run steps
    while the run process works, and two at once, so that `run` is no part of the whole."""
    from importlib import import_module

    from rich.console import Console
    from rich.table import Table

    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - started

        return call

    seconds_of("governed", "fan_out", 3, address)
    for part, (module, path) in PARTS.items():
        *owners, name = path.split(".")
        owner: Any = import_module(module)
        for one in owners:
            owner = getattr(owner, one)
        setattr(owner, name, timed(part, getattr(owner, name)))
    whole = seconds_of("governed", "fan_out", count, address)
    at_nodes = _at_nodes()
    table = Table("part", "ms a step", title=f"the run process, fan-out of {count}", show_edge=False)
    for part, seconds in spent.items():
        table.add_row(part, f"{1_000 * seconds / count:.2f}")
        if part.startswith("submit"):
            table.add_row("run: at its node, while the run process works", f"{1_000 * at_nodes / count:.2f}")
    table.add_row(
        "rest: waiting for nodes, start and end of the run", f"{1_000 * (whole - sum(spent.values())) / count:.2f}"
    )
    table.add_row("whole", f"{1_000 * whole / count:.2f}")
    Console(stderr=True, width=100).print(table)
    report = Report("executor.breakdown")
    report.figures = {part.partition(":")[0] + "_ms": 1_000 * seconds / count for part, seconds in spent.items()}
    report.figures["run_ms"] = 1_000 * at_nodes / count
    report.figures["whole_ms"] = 1_000 * whole / count
    return report.finish()


def _at_nodes() -> float:
    """Seconds from start to end of every step of the newest run, as the ledger has them."""
    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.host.io_manager import ledger_path

    ledger = Ledger(ledger_path())
    try:
        run, *_ = ledger.runs()[0]
        return sum(row.ended - row.started for row in ledger.steps(run) if row.ended and row.started)
    finally:
        ledger.close()


def main() -> int:
    warnings.simplefilter("ignore")
    shape = sys.argv[sys.argv.index("--shape") + 1] if "--shape" in sys.argv else "fan_out"
    sizes = (QUICK if quick() else FULL)[shape]
    if "--steps" in sys.argv:
        sizes = {**sizes, "governed": int(sys.argv[sys.argv.index("--steps") + 1])}
    only = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else None
    home = Path(tempfile.mkdtemp(prefix="ioi-executor-"))
    os.environ["DAGSTER_HOME"] = str(home)
    found: dict[str, list[float]] = {}
    with _cluster(home) as address:
        if "--breakdown" in sys.argv:
            return breakdown(address, sizes["governed"])
        names = [name for name in ("governed", "in_process", "dask", "multiprocess") if only is None or name in only]
        for name in names:
            if name != "multiprocess":
                seconds_of(name, shape, 3, address)
        for _ in range(sizes["rounds"]):
            for name in names:
                found.setdefault(name, []).append(seconds_of(name, shape, sizes[name], address))
            if only is None or "raw" in only:
                found.setdefault("raw", []).append(raw_dask(shape, sizes["raw"], address))
    rate = {name: sizes[name] / median(seconds) for name, seconds in found.items()}
    count = sizes["governed"]
    report = Report(f"executor.{shape}")
    report.figures = {f"steps_per_s@{count}": rate["governed"], f"overhead_ms@{count}": 1_000 / rate["governed"]}
    report.peers = {f"{name}_steps_per_s@{sizes[name]}": rate[name] for name in rate if name != "governed"}
    report.ratios = {f"x_{name}@{count}": rate["governed"] / rate[name] for name in rate if name != "governed"}
    report.floors, report.aims = FLOORS[shape], AIMS[shape]
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
