"""Milliseconds to create a run of N assets with a check each, as the web server or the daemon does before it is queued.

Peer: the same with stock SQLite storage. Rounds are interleaved, each in an instance of its own that has made one such run
before; medians. What is timed is `create_run_for_job`, with the planned events and what the catalogue says of them. Before
the clock starts, both are asked what they hold of a run like this: a variant that wrote less would be refused.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetKey,
    DagsterInstance,
    Definitions,
    asset,
    asset_check,
    define_asset_job,
)

from benchmarks.frame import Report, quick

FULL = {"sizes": (20, 100), "rounds": 7}
QUICK = {"sizes": (20, 100), "rounds": 3}
FLOORS = {"x_stock@100": (3.0, "min")}
AIMS = {"x_stock@100": (10.0, "min")}
STOCK = "telemetry: {enabled: false}\n"
OURS = STOCK + "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"


def job_with(count: int) -> Any:
    """`count` assets in a row, each with a check."""

    def one(number: int) -> tuple[Any, Any]:
        name = f"asset_{number}"

        @asset(name=name, deps=[f"asset_{number - 1}"] if number else [])
        def its_asset() -> int:
            return number

        @asset_check(asset=AssetKey(name), name="is_a_number")
        def its_check() -> AssetCheckResult:
            return AssetCheckResult(passed=True)

        return its_asset, its_check

    made = [one(number) for number in range(count)]
    definitions = Definitions(
        assets=[its for its, _ in made], asset_checks=[its for _, its in made], jobs=[define_asset_job("all_of_them")]
    )
    return definitions.resolve_job_def("all_of_them")


def _held(instance: Any, run_id: str) -> dict[str, Any]:
    """What the log and the catalogue hold of a run that was just created."""
    events = [record.event_log_entry.get_dagster_event() for record in instance.get_records_for_run(run_id).records]
    records = instance.get_asset_records()
    return {
        "events": Counter(event.event_type_value for event in events),
        "assets": sorted((str(r.asset_entry.asset_key), r.asset_entry.last_run_id == run_id) for r in records),
        "checks": sum(
            len(instance.event_log_storage.get_asset_check_execution_history(key, limit=10))
            for key in (event.asset_check_planned_data.asset_check_key for event in events if event.asset_key is None)
        ),
    }


def _measure(report: Report, count: int, rounds: int, folder: Path) -> None:
    job = job_with(count)
    taken: dict[str, list[float]] = {"stock": [], "ours": []}
    with ExitStack() as stack:
        instances = {}
        for name, settings in (("stock", STOCK), ("ours", OURS)):
            home = folder / f"{name}{count}"
            home.mkdir()
            (home / "dagster.yaml").write_text(settings)
            os.environ["DAGSTER_HOME"] = str(home)
            instances[name] = stack.enter_context(DagsterInstance.get())
        held = {name: _held(instance, instance.create_run_for_job(job).run_id) for name, instance in instances.items()}
        if held["stock"] != held["ours"]:
            raise SystemExit(f"the two do not hold the same: {held}")
        for number in range(rounds):
            for name in ("stock", "ours") if number % 2 else ("ours", "stock"):
                started = time.perf_counter()
                instances[name].create_run_for_job(job)
                taken[name].append(1000 * (time.perf_counter() - started))
    report.figures[f"ms@{count}"] = median(taken["ours"])
    report.peers[f"stock_ms@{count}"] = median(taken["stock"])
    report.ratios[f"x_stock@{count}"] = median(taken["stock"]) / median(taken["ours"])


def main() -> int:
    warnings.simplefilter("ignore")
    table: dict[str, Any] = QUICK if quick() else FULL
    report = Report("run_creation", floors=dict(FLOORS), aims=dict(AIMS))
    with tempfile.TemporaryDirectory() as folder:
        for count in table["sizes"]:
            _measure(report, count, table["rounds"], Path(folder))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
