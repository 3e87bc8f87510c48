"""What each executor makes of the conformance jobs, beside Dagster's multiprocess executor as the one that is right.

`python -m benchmarks.conformance [--quick] [--record]`: a table of case by executor, and one JSON line. `--quick` runs the
cases in `QUICK`; `--record` writes what multiprocess did as the expectation of the tests.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from benchmarks.frame import Report, quick
from definitions.conformance.jobs import CASES
from definitions.conformance.observe import INSTANCE, Observed, observe
from ioi_dagster.local.home import PROJECT

QUICK = ("empty_fan_out", "blocking_check_of_the_asset", "skipped_branch", "retry_policy")
EXECUTORS = ("governed", "dask", "in_process")
RECORD = PROJECT / "tests" / "contract" / "executor" / "expected.json"
MODULE = "benchmarks.conformance_defs"


def main() -> int:
    from dagster import DagsterInstance
    from distributed import LocalCluster
    from rich.console import Console
    from rich.table import Table

    warnings.simplefilter("ignore")
    cases = QUICK if quick() else CASES
    home = Path(tempfile.mkdtemp(prefix="ioi-conformance-"))
    (home / "dagster.yaml").write_text(INSTANCE)
    os.environ["DAGSTER_HOME"] = str(home)
    found: dict[str, dict[str, Observed | str]] = {case: {} for case in cases}
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)  # pyright: ignore[reportArgumentType]
    configs = {
        "governed": {"address": cluster.scheduler_address},
        "dask": {"cluster": {"existing": {"address": cluster.scheduler_address}}},
    }
    with cluster, DagsterInstance.get() as instance:
        for case in cases:
            for executor in ("multiprocess", *EXECUTORS):
                try:
                    seen = observe(case, executor, instance, PROJECT, MODULE, **configs.get(executor, {}))
                except Exception as error:  # an executor that raises out of the run has not run it
                    found[case][executor] = f"raises {type(error).__name__}"
                else:
                    found[case][executor] = seen
    if "--record" in sys.argv:
        RECORD.write_text(json.dumps({case: _plain(found[case]["multiprocess"]) for case in cases}, indent=1) + "\n")
    table = Table("case", *EXECUTORS, title="against Dagster's multiprocess executor", show_edge=False)
    same = dict.fromkeys(EXECUTORS, 0)
    for case in cases:
        words = [_compared(found[case][executor], found[case]["multiprocess"]) for executor in EXECUTORS]
        table.add_row(case, *words)
        for executor, word in zip(EXECUTORS, words, strict=True):
            same[executor] += word == "same"
    Console(stderr=True, width=150).print(table)
    report = Report("conformance")
    report.figures = {"cases": len(cases), "governed_same": same["governed"]}
    report.peers = {f"{name}_same": same[name] for name in EXECUTORS if name != "governed"}
    report.ratios = {"governed_conforms": same["governed"] / len(cases)}
    report.floors = {"governed_conforms": (1.0, "min")}
    return report.finish()


def _plain(seen: Observed | str) -> dict[str, object]:
    assert isinstance(seen, Observed), seen
    return {"status": seen.status, "facts": sorted([*key, count] for key, count in seen.facts.items())}


def _compared(seen: Observed | str, right: Observed | str) -> str:
    """`same`, or the first thing that differs."""
    if isinstance(seen, str) or isinstance(right, str):
        return seen if isinstance(seen, str) else "?"
    if seen == right:
        return "same"
    if seen.status != right.status:
        return f"{seen.status}, should be {right.status}"
    lacks = [key for key in right.facts if key not in seen.facts]
    more = [key for key in seen.facts if key not in right.facts]
    for word, keys in (("lacks", lacks), ("adds", more)):
        if keys:
            return f"{word} {keys[0][0]} of {keys[0][1] or 'the run'}"
    return "another number of events"


if __name__ == "__main__":
    sys.exit(main())
