"""Simulated scale: seconds of a whole simulation, and what a step costs as the federation grows.

`simulation_s@NODES/STEPS`: process seconds of the simulation of that many nodes, in clusters of a hundred, running layered
workflows of a thousand steps. `growth@A/B`: cost per step with B nodes over that with A, both with as many steps a node; with
the most nodes there are fewer. It is what `ioi simulate --no-checked` does: the governors do all that they do live, but their
invariants are not checked after each event, as the swarm has them.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from statistics import median

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


def seconds(nodes: int, steps: int) -> tuple[float, Told]:
    """Process seconds of the simulation, its scenario's making not among them. Several runs go on at once."""
    its = scenario(nodes, steps)
    gc.collect()
    started = time.process_time()
    told = simulate(its, checked=False)
    took = time.process_time() - started
    if told.done != sum(len(workflow.steps) for workflow in its.workflows) or told.violations:
        raise SystemExit(f"the simulation went wrong: {told.done} done, {told.violations[:3]}")
    return took, told


def main() -> int:
    sizes = QUICK if quick() else FULL
    report = Report("scale")
    (few, few_steps), (many, many_steps) = sizes["small"], sizes["large"]
    costs: dict[int, list[float]] = {few: [], many: []}
    for _ in range(sizes["rounds"]):
        for nodes, steps in ((few, few_steps), (many, many_steps)):
            took, told = seconds(nodes, steps)
            costs[nodes].append(took / told.done)
    for nodes, its in costs.items():
        report.figures[f"us_a_step@{nodes}"] = 1e6 * median(its)
    report.ratios = {f"growth@{few}/{many}": median(costs[many]) / median(costs[few])}
    if sizes["most"]:
        nodes, steps = sizes["most"]
        took, told = seconds(nodes, steps)
        report.figures[f"us_a_step@{nodes}"] = 1e6 * took / told.done
        report.ratios[f"growth@{few}/{nodes}"] = took / told.done / median(costs[few])
    if sizes["whole"]:
        nodes, steps = sizes["whole"]
        took, told = seconds(nodes, steps)
        report.figures[f"simulation_s@{nodes}/{steps}"] = took
        report.figures["messages_a_step"] = sum(told.messages.values()) / told.done
        report.figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    report.floors = {"growth@1000/10000": (1.3, "max"), "simulation_s@10000/1000000": (600.0, "max")}
    report.aims = {"growth@1000/100000": (1.3, "max")}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
