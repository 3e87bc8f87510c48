"""Decisions a second of the fair arbiter: 10,000 nodes, 1,000 tenants, 100,000 requests that wait.

The nodes are filled, and then a request ends and one is decided on, over and over, so that each decision is made under scarcity.
One thread; no peer runs here: kube-scheduler places 300 to 900 pods a second (its own published density tests).
"""

from __future__ import annotations

import random
import resource
import sys
import time

from benchmarks.frame import Report, quick
from ioi_dagster.governors.fairness import Arbiter, Request

FULL = {"nodes": 10_000, "tenants": 1_000, "pending": 100_000, "decisions": 60_000}
QUICK = {"nodes": 1_000, "tenants": 100, "pending": 10_000, "decisions": 20_000}
BATCH = 20
"""Requests that end between two rounds, as answers that come together do."""


def main() -> int:
    sizes = QUICK if quick() else FULL
    draw = random.Random(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nodes = {
        f"n{i}": {"cpu": draw.choice((8, 16, 32)), "memory": draw.choice((32, 64, 128))} for i in range(sizes["nodes"])
    }
    arbiter = Arbiter(nodes, {f"t{i}": draw.choice((1.0, 1.0, 2.0, 4.0)) for i in range(sizes["tenants"])})
    for number in range(sizes["pending"]):
        amounts = {"cpu": draw.choice((1, 2, 4)), "memory": draw.choice((2, 4, 8))}
        arbiter.on_request(Request(f"r{number}", f"t{number % sizes['tenants']}", amounts, arrived=float(number)))
    began = time.process_time()
    running = [request for request, _ in arbiter.arbitrate(0.0)]
    filling = len(running) / (time.process_time() - began)
    decided, extra, rounds = 0, sizes["pending"], []
    began = time.process_time()
    while decided < sizes["decisions"]:
        for _ in range(BATCH):
            place = draw.randrange(len(running))
            running[place], running[-1] = running[-1], running[place]
            arbiter.on_finished(running.pop())
            amounts = {"cpu": draw.choice((1, 2, 4)), "memory": draw.choice((2, 4, 8))}
            arbiter.on_request(
                Request(f"r{extra}", f"t{draw.randrange(sizes['tenants'])}", amounts, arrived=float(extra))
            )
            extra += 1
        round_began = time.process_time()
        granted = arbiter.arbitrate(float(decided))
        rounds.append(time.process_time() - round_began)
        running += [request for request, _ in granted]
        decided += BATCH
    seconds = time.process_time() - began
    size = sizes["nodes"]
    report = Report("arbitration")
    report.figures = {
        f"decisions_per_s@{size}": decided / seconds,
        f"filling_per_s@{size}": filling,
        f"round_p99_ms@{size}": 1_000 * sorted(rounds)[int(0.99 * len(rounds))],
        f"memory_mb@{size}": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    report.floors = {"decisions_per_s@10000": (20_000, "min"), "filling_per_s@10000": (20_000, "min")}
    report.aims = {
        "decisions_per_s@10000": (60_000, "min"),
        "filling_per_s@10000": (60_000, "min"),
        "memory_mb@10000": (100, "max"),
    }
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
