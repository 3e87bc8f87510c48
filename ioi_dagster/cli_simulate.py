"""`ioi simulate`: scenarios from files and numbers, saved ones again, and the report as tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.topology import Topology
from ioi_dagster.simulate import shapes
from ioi_dagster.simulate.scenario import Scenario, Workflow, decode, draw_faults, grid, read_workflows
from ioi_dagster.simulate.world import Report

MAX_STEPS = 10_000_000


def topology_of(text: str) -> Topology:
    """A topology file, or `100x20`: so many clusters of so many nodes. Raises `BadInputError`."""
    clusters, by, nodes = text.partition("x")
    if by and clusters.isdigit() and nodes.isdigit():
        if not 0 < int(clusters) * int(nodes) <= 1_000_000:
            raise BadInputError(f"{text} is no number of nodes to simulate", todo="take 1 to 1,000,000 nodes in all")
        return grid(int(clusters), int(nodes))
    return load_topology(Path(text))


def workflows_of(text: str, seed: int) -> tuple[Workflow, ...]:
    """A file or folder of workflows, or `layers:20x500`: so many of a shape, each of so many steps, one a second. Raises
    `BadInputError`."""
    shape, _, size = text.partition(":")
    if shape not in shapes.SHAPES:
        if size and not Path(text).exists():
            raise BadInputError(
                f"there is no shape {shape!r} and no file {text!r}",
                todo=f"shapes are {', '.join(sorted(shapes.SHAPES))}",
            )
        return read_workflows(Path(text))
    count, _, steps = size.partition("x")
    if not (count.isdigit() and steps.isdigit() and 0 < int(count) * int(steps) <= MAX_STEPS):
        raise BadInputError(
            f"{text!r} is no number of workflows and steps",
            todo=f"give one as in '{shape}:20x500', {MAX_STEPS:,} steps at most",
        )
    return tuple(
        shapes.draw(shape, int(steps), seed * 1_000_003 + number, name=f"{shape}-{number}", arrives=float(number))
        for number in range(int(count))
    )


def scenario_of(topology: str, workflows: str, seed: int, noise: float, faults: float) -> Scenario:
    """`faults`: how many a minute, as long as the work would take on all slots. Raises `BadInputError`."""
    its = workflows_of(workflows, seed)
    capabilities = tuple(sorted({step.capability for workflow in its for step in workflow.steps.values()}))
    scenario = Scenario(topology_of(topology), its, seed=seed, noise=noise, capabilities=capabilities)
    if not faults:
        return scenario
    slots = sum(n.slots for d in scenario.topology.domains for c in d.clusters for n in c.nodes)
    work = sum(step.seconds for workflow in its for step in workflow.steps.values())
    last = max(workflow.arrives for workflow in its)
    return replace(scenario, faults=draw_faults(scenario, faults, last + work / slots))


def read_scenario(path: Path) -> Scenario:
    """One that `save` wrote. Raises `BadInputError`."""
    return decode(path, Scenario)


def save(scenario: Scenario, report: Report, path: Path) -> None:
    """With the digest of its events, so that whoever plays it again can see that the same happened."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(replace(scenario, digest=report.digest)), indent=1))


def render(report: Report) -> RenderableType:
    whole = Table(show_header=False, show_edge=False)
    messages = sum(report.messages.values())
    rows = {
        "makespan": f"{report.makespan_s:,.1f} s",
        "steps": f"{report.done:,} done" + (f", {report.failed:,} failed" if report.failed else ""),
        "starts": f"{report.starts:,}" + (f", {report.discarded:,} answers discarded" if report.discarded else ""),
        "slots in use": f"{report.utilisation:.0%} of the time",
        "wait for a slot": f"mean {report.mean_wait_s:.2f} s, 99 % within {report.p99_wait_s:.2f} s",
        "messages": f"{messages:,}, {messages / max(1, report.done):.1f} a step"
        + (f"; {report.messages_lost:,} lost" if report.messages_lost else ""),
        "digest": report.digest[:16],
    }
    for name, text in rows.items():
        whole.add_row(name, text)
    for code, count in report.failures.items():
        whole.add_row("[yellow]failed[/]", f"{count:,} × {escape(code)}")
    for text in report.violations:
        whole.add_row("[bold red]violated[/]", escape(text))
    tenants = Table("tenant", "workflows", "steps", "slot-seconds", "mean wait", "99 %", show_edge=False)
    for name, its in report.tenants.items():
        tenants.add_row(
            escape(name),
            f"{its.workflows:,}",
            f"{its.steps:,}",
            f"{its.slot_s:,.0f}",
            f"{its.mean_wait_s:.2f} s",
            f"{its.p99_wait_s:.2f} s",
        )
    return Group(whole, "", tenants)
