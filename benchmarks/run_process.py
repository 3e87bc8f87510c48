"""What a run of 100 to 10,000 steps costs its process: megabytes at most, and milliseconds of CPU for each step more.

The process is the one that a launcher starts for a run (`dagster api execute_run`), on a Dask cluster of two workers that is up;
the job is a fan-out of steps that do nothing and a collector, every event in the log. CPU time is that of the process alone, so
it is little moved by what else the machine does. `growth`: what a step more costs at the largest size by what it costs at the
middle one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.executor import MODULE, OURS, _cluster
from benchmarks.frame import Report, quick
from ioi_dagster.local.home import PROJECT

FULL = (100, 1_000, 10_000)
QUICK = (50, 200, 600)
FLOORS = {"peak_mb@10000": (600.0, "max"), "growth@10000": (1.3, "max")}


def cost_of(instance: Any, count: int, address: str) -> tuple[float, float]:
    """CPU seconds and peak megabytes of the process of a run of `count` steps."""
    from ioi_dagster.host.launcher import _command
    from ioi_dagster.host.private import ExecuteRunArgs
    from ioi_dagster.host.runs import job_of

    job = job_of(MODULE, "fan_out__governed", PROJECT)
    config: dict[str, Any] = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {"some": {"config": {"count": count}}},
        "execution": {"config": {"address": address}},
    }
    origin = job.get_python_origin()
    run = instance.create_run_for_job(job.get_definition(), run_config=config, job_code_origin=origin)
    command = _command(ExecuteRunArgs(origin, run.run_id, instance.get_ref()))
    environment, nothing = {**os.environ, "PYTHONPATH": str(PROJECT)}, subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=nothing, stderr=nothing)
    _, _, used = os.wait4(process.pid, 0)
    run = instance.get_run_by_id(run.run_id)
    if run.status.value != "SUCCESS":
        raise SystemExit(f"the run of {count} steps ended {run.status.value}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> int:
    from dagster import DagsterInstance

    warnings.simplefilter("ignore")
    few, some, many = QUICK if quick() else FULL
    report = Report("run_process", floors=dict(FLOORS))
    with tempfile.TemporaryDirectory(prefix="ioi-run-process-") as folder:
        os.environ["DAGSTER_HOME"] = folder
        (Path(folder) / "dagster.yaml").write_text(OURS)
        with _cluster(Path(folder)) as address, DagsterInstance.get() as instance:
            cpu: dict[int, float] = {}
            for count in (few, some, many):
                cpu[count], report.figures[f"peak_mb@{count}"] = cost_of(instance, count, address)
    middle, last = (cpu[some] - cpu[few]) / (some - few), (cpu[many] - cpu[some]) / (many - some)
    report.figures |= {f"cpu_ms_a_step@{some}": 1_000 * middle, f"cpu_ms_a_step@{many}": 1_000 * last}
    report.ratios = {f"growth@{many}": last / middle}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
