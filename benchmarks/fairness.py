"""How near tenants come to weighted fair shares: the live arbiter beside dispatchers of the usual kinds.

`benchmarks/yardstick/fairness.py` says what is measured. Eight tenants, sixteen nodes, three cases; the figures are means over
seeds. Tasks are never stopped here, so nobody can have its share the moment it asks.
"""

from __future__ import annotations

import copy
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean
from typing import Any

from benchmarks.adapters.placement import Dispatcher
from benchmarks.frame import Report, quick
from benchmarks.yardstick import fairness as yardstick

SYSTEMS: dict[str, Any] = {"arbiter": Dispatcher, "fifo": yardstick.Fifo, "drf": yardstick.DrfPack}
FULL = {"seeds": 20, "horizon": 600.0}
QUICK = {"seeds": 1, "horizon": 150.0}
FIRST_SEED = 1_000
SHOWN = {"jain": "jain", "below own %": "below_own_pct", "utilisation": "utilisation", "starved s": "longest_wait_s"}
FLOORS = {"steady": 0.99, "bursty": 0.98, "restricted": 0.98}


def measure(job: tuple[str, str, int, float]) -> dict[str, float]:
    system, case, seed, horizon = job
    cluster, tenants, arrivals = yardstick.make_case(case, seed, horizon)
    dispatcher = SYSTEMS[system](*copy.deepcopy((cluster, tenants)))
    return yardstick.Cluster(cluster, tenants, arrivals, horizon).run(dispatcher)


def main() -> int:
    sizes = QUICK if quick() else FULL
    first = int(sys.argv[sys.argv.index("--first-seed") + 1]) if "--first-seed" in sys.argv else FIRST_SEED
    seeds, horizon = range(first, first + int(sizes["seeds"])), sizes["horizon"]
    jobs = [(system, case, seed, horizon) for case in yardstick.CASES for seed in seeds for system in SYSTEMS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(measure, jobs))
    report, count = Report("fairness"), len(seeds)
    for case in yardstick.CASES:
        for system in SYSTEMS:
            its = [result for job, result in zip(jobs, found, strict=True) if job[:2] == (system, case)]
            figures = report.figures if system == "arbiter" else report.peers
            for name, short in SHOWN.items():
                label = f"{case}_{short}" if system == "arbiter" else f"{system}_{case}_{short}"
                figures[f"{label}@{count}"] = fmean(result[name] for result in its)
    report.floors = {f"{case}_jain@{FULL['seeds']}": (floor, "min") for case, floor in FLOORS.items()}
    report.aims = {f"{case}_jain@{FULL['seeds']}": (0.99, "min") for case in FLOORS}
    report.aims |= {f"{case}_below_own_pct@{FULL['seeds']}": (0.5, "max") for case in FLOORS}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
