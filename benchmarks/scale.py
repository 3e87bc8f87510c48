"""Simulated scale: seconds of a whole simulation, and what a step costs as the federation grows.

`simulation_s@NODES/STEPS`: process seconds of the simulation of that many nodes, in clusters of a hundred, running layered
workflows of a thousand steps. `growth@A/B`: cost per step with B nodes over that with A, both with as many steps a node; with
the most nodes there are fewer. It is what `ioi simulate --no-checked` does: the governors do all that they do live, but their
invariants are not checked after each event, as the swarm has them. `whole` is given `--limit SECONDS` (of the process, 3,600
without it): what is not over by then is told as `steps_done@NODES/STEPS`, and `simulation_s` as if the rest went as quickly.

`python -m benchmarks.scale [--quick] [--growth] [--whole] [--rounds 3] [--limit SECONDS]`: without one of the two it is both.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import sys
import time
from statistics import median
from typing import Any

from benchmarks.frame import Report, quick
from ioi_dagster.simulate.scenario import Scenario, grid
from ioi_dagster.simulate.shapes import draw
from ioi_dagster.simulate.world import Report as Told
from ioi_dagster.simulate.world import simulate

FULL = {
    "small": (1_000, 20_000),
    "large": (10_000, 200_000),
    "most": (100_000, 200_000),
    "whole": (10_000, 1_000_000),
    "rounds": 3,
}
QUICK = {"small": (200, 2_000), "large": (2_000, 20_000), "most": None, "whole": None, "rounds": 1}
SIZE = 1_000
"""Steps of a workflow."""


def scenario(nodes: int, steps: int) -> Scenario:
    count = max(1, steps // SIZE)
    workflows = tuple(
        draw(
            "layers",
            min(SIZE, steps),
            number,
            name=f"w{number}",
            arrives=number * 0.2,
            domain=f"d{number % max(1, nodes // 100)}",
        )
        for number in range(count)
    )
    return Scenario(grid(max(1, nodes // 100), 100), workflows, noise=0.2)


class OutOfTimeError(Exception):
    """`done` steps are, after so many process seconds."""

    def __init__(self, done: int, seconds: float) -> None:
        self.done, self.seconds = done, seconds
        super().__init__(f"{done} steps in {seconds:.0f} s")


def simulated(nodes: int, steps: int, limit_s: float = math.inf) -> tuple[float, Told]:
    """Process seconds of the simulation, its scenario's making not among them. Several runs go on at once. Raises
    `OutOfTimeError`."""
    its = scenario(nodes, steps)
    gc.collect()
    started = time.process_time()

    def tell(_: float, done: int, of: int) -> None:
        took = time.process_time() - started
        if took > limit_s:
            raise OutOfTimeError(done, took)

    told = simulate(its, checked=False, tell=tell)
    took = time.process_time() - started
    if told.done != sum(len(workflow.steps) for workflow in its.workflows) or told.violations:
        raise SystemExit(f"the simulation went wrong: {told.done} done, {told.violations[:3]}")
    return took, told


def measure_growth(report: Report, sizes: dict[str, Any], rounds: int) -> None:
    (few, few_steps), (many, many_steps) = sizes["small"], sizes["large"]
    costs: dict[int, list[float]] = {few: [], many: []}
    for _ in range(rounds):
        for nodes, steps in ((few, few_steps), (many, many_steps)):
            took, told = simulated(nodes, steps)
            costs[nodes].append(took / told.done)
    for nodes, its in costs.items():
        report.figures[f"us_a_step@{nodes}"] = 1e6 * median(its)
    report.ratios[f"growth@{few}/{many}"] = median(costs[many]) / median(costs[few])
    if sizes["most"]:
        nodes, steps = sizes["most"]
        took, told = simulated(nodes, steps)
        report.figures[f"us_a_step@{nodes}"] = 1e6 * took / told.done
        report.ratios[f"growth@{few}/{nodes}"] = took / told.done / median(costs[few])


def measure_whole(report: Report, nodes: int, steps: int, limit_s: float) -> None:
    try:
        took, told = simulated(nodes, steps, limit_s)
    except OutOfTimeError as end:
        # At least so long: what is missed is told as missed.
        took, done = end.seconds * steps / max(1, end.done), end.done
        report.figures[f"steps_done@{nodes}/{steps}"] = done
        report.figures[f"limit_s@{nodes}/{steps}"] = end.seconds
    else:
        report.figures["messages_a_step"] = sum(told.messages.values()) / told.done
    report.figures[f"simulation_s@{nodes}/{steps}"] = took
    report.figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def main() -> int:
    parser = argparse.ArgumentParser(description="what the simulation of a federation costs, as that grows")
    for name in ("quick", "growth", "whole", "record"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--limit", type=float, default=3_600.0)
    asked = parser.parse_args()
    sizes, report = QUICK if quick() else FULL, Report("scale")
    both = not (asked.growth or asked.whole)
    if asked.growth or both:
        measure_growth(report, sizes, asked.rounds or sizes["rounds"])
    if sizes["whole"] and (asked.whole or both):
        nodes, steps = sizes["whole"]
        measure_whole(report, nodes, steps, asked.limit)
    report.floors = {"growth@1000/10000": (1.3, "max"), "simulation_s@10000/1000000": (600.0, "max")}
    report.aims = {"growth@1000/100000": (1.3, "max")}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
