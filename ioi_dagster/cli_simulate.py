"""`ioi simulate`: scenarios from files and numbers, saved ones again, and the report as tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count as count_from
from pathlib import Path

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ioi_dagster.cli_progress import ProgressDisplay
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.quota import ANY
from ioi_dagster.model.topology import MAX_SPEED, MIN_SPEED, ClusterSpec, Topology
from ioi_dagster.simulate import families, shapes
from ioi_dagster.simulate.faults import draw_faults
from ioi_dagster.simulate.knowledge import Known
from ioi_dagster.simulate.scenario import Scenario, Workflow, decode, grid, read_workflows
from ioi_dagster.simulate.traces import read_traces
from ioi_dagster.simulate.world import Report, simulate

KEEP = "It breaks each time that it is played. As a line of tests/scenario/seeds.txt it is a test:\n"
MAX_STEPS = 10_000_000
MAX_NODES = 1_000_000
LITTLE_TRUST, MAX_TOLD = 0.8, 8
"""Who keeps less of his bids is told of; of more than so many how many there are. In good faith some are broken too."""


def topology_of(text: str) -> Topology:
    """A topology file, or `100x20`: so many clusters of so many nodes. Raises `BadInputError`."""
    clusters, by, nodes = text.partition("x")
    if by and clusters.isdigit() and nodes.isdigit():
        if not 0 < int(clusters) * int(nodes) <= MAX_NODES:
            raise BadInputError(
                f"{text} is no number of nodes to simulate", todo=f"take 1 to {MAX_NODES:,} nodes in all"
            )
        return grid(int(clusters), int(nodes))
    return load_topology(Path(text))


@dataclass(frozen=True, slots=True)
class Load:
    """What is to run: `graphs` as `ioi simulate` takes them, or the folder `traces`; one arrives every `every_s` seconds. The
    others as in `Scenario`."""

    graphs: str = ""
    traces: Path | None = None
    every_s: float = 1.0
    bandwidth: float = 0.0
    inside: float = 0.0
    store: str = ""
    known: Known = Known.DECLARED


def known_of(text: str) -> Known:
    """Raises `BadInputError`."""
    if text not in set(Known):
        raise BadInputError(f"--known says {text[:80]!r}", todo=f"give one of {', '.join(Known)}")
    return Known(text)


DRAWN: dict[str, Callable[..., Workflow]] = dict.fromkeys(shapes.SHAPES, shapes.draw)
DRAWN |= dict.fromkeys(families.FAMILIES, families.draw)


def workflows_of(load: Load, seed: int, tenants: Sequence[str] = ()) -> tuple[Workflow, ...]:
    """Of each of `tenants` in turn, where they are drawn or traced. Raises `BadInputError`."""
    of = tuple(tenants) or ("default",)
    if load.traces is not None:
        return read_traces(load.traces, load.every_s, of)
    text = load.graphs
    shape, _, size = text.partition(":")
    if shape not in DRAWN:
        if size and not Path(text).exists():
            raise BadInputError(
                f"there is no shape {shape!r} and no file {text!r}",
                todo=f"shapes are {', '.join(DRAWN)}",
            )
        return read_workflows(Path(text))
    count, _, steps = size.partition("x")
    if not (count.isdigit() and steps.isdigit() and 0 < int(count) * int(steps) <= MAX_STEPS):
        raise BadInputError(
            f"{text!r} is no number of workflows and steps",
            todo=f"give one as in '{shape}:20x500', {MAX_STEPS:,} steps at most",
        )
    return tuple(
        DRAWN[shape](
            shape,
            int(steps),
            seed * 1_000_003 + number,
            name=f"{shape}-{number}",
            arrives=number * load.every_s,
            tenant=of[number % len(of)],
        )
        for number in range(int(count))
    )


def topologies_of(topology: str, changes: Sequence[str], against: str) -> dict[str, Topology]:
    """One without a name, or those to be compared. Raises `BadInputError`."""
    its = topology_of(topology)
    if not changes and not against:
        return {"": its}
    other = with_nodes(topology_of(against) if against else its, changes)
    name = ", ".join(filter(None, (against, *changes)))
    return {topology: its, name if name != topology else f"{name} again": other}


def arguments_of(
    topology: str, load: Load, nodes: Sequence[str], against: str, seed: int, noise: float, faults: float
) -> list[str]:
    """Of `ioi simulate`, for the same once more."""
    return [
        topology,
        *([load.graphs] if load.graphs else []),
        *(["--traces", str(load.traces)] if load.traces else []),
        *(["--every", f"{load.every_s:g}"] if load.every_s != 1.0 else []),
        *(["--bandwidth", f"{load.bandwidth:f}"] if load.bandwidth else []),
        *(["--inside", f"{load.inside:f}"] if load.inside else []),
        *(["--store", load.store] if load.store else []),
        *(["--known", str(load.known)] if load.known is not Known.DECLARED else []),
        *(part for change in nodes for part in ("--nodes", change)),
        *(["--against", against] if against else []),
        *("--seed", str(seed), "--noise", f"{noise:g}", "--faults", f"{faults:g}"),
    ]


def play(scenarios: Mapping[str, Scenario], checked: bool, console: Console, quiet: bool) -> dict[str, Report]:
    """Simulate each to its end, and show on `console` how far it is."""
    reports: dict[str, Report] = {}
    with ProgressDisplay(console, quiet=quiet) as show:
        for name, scenario in scenarios.items():
            what = f"steps on {name}" if name else "steps"

            def tell(at: float, done: int, of: int, what: str = what) -> None:
                show(what, done, of, f"{at:,.0f} s of theirs")

            reports[name] = simulate(scenario, checked=checked, tell=tell)
    return reports


def scenario_of(topology: Topology, load: Load, seed: int, noise: float, faults: float) -> Scenario:
    """`faults`: how many a minute, as long as the work would take on all slots. Raises `BadInputError`."""
    clusters = [cluster for domain in topology.domains for cluster in domain.clusters]
    tenants = {tenant.name for cluster in clusters for _, tenant in cluster.quotas.tenants()} - {ANY}
    its = workflows_of(load, seed, sorted(tenants))
    capabilities = tuple(sorted({step.capability for workflow in its for step in workflow.steps.values()}))
    scenario = Scenario(
        topology,
        its,
        seed=seed,
        noise=noise,
        capabilities=capabilities,
        bandwidth=load.bandwidth,
        inside=load.inside,
        store=load.store,
        known=load.known,
    )
    if not faults:
        return scenario
    slots = slots_of(topology)
    work = sum(step.seconds for workflow in its for step in workflow.steps.values())
    last = max(workflow.arrives for workflow in its)
    return replace(scenario, faults=draw_faults(scenario, faults, last + work / slots))


WITH_REPLAY = frozenset({"replay", "checked", "as_json", "save"})
"""What may be said of a scenario that is there already."""


def refuse_with_replay(context: typer.Context, replay: Path | None) -> None:
    """Raises `BadInputError` for what is said besides a saved scenario and would change nothing of it."""
    if replay is None:
        return
    given = [
        f"--{name.replace('_', '-')}" if name not in ("topology", "graphs") else name.upper()
        for name in sorted(context.params)
        if name not in WITH_REPLAY and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        what = f"{', '.join(given)} {'says' if len(given) == 1 else 'say'} nothing of a scenario that was saved"
        raise BadInputError(
            what, todo="leave it out: --replay plays what is in the file, or simulate anew without --replay"
        )


def read_scenario(path: Path) -> Scenario:
    """One that `save` wrote. Raises `BadInputError`."""
    return decode(path, Scenario)


def save(scenario: Scenario, report: Report, path: Path) -> None:
    """With the digest of its events, so that whoever plays it again can see that the same happened."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(replace(scenario, digest=report.digest)), indent=1))


def with_nodes(topology: Topology, changes: Sequence[str]) -> Topology:
    """The topology after changes like `c0=+4`, `c0=-1` or `c0=6`, or of all its clusters, as in `all=+1`. New nodes are as the
    last one of their cluster, but for their speed where that is given, as in `c0=+4@2`; `c0=@2` is that of all nodes that it has.
    Raises `BadInputError`."""
    names = [cluster.name for domain in topology.domains for cluster in domain.clusters]
    for change in changes:
        found = re.fullmatch(r"(.+)=(?!$)(?:([+-]?)(\d{1,7}))?(?:@(\d{1,4}(?:\.\d{1,6})?))?", change)
        if found is None or (found[1] not in names and found[1] != "all"):
            raise BadInputError(
                f"{change!r} is no change of a cluster's nodes",
                todo=f"give one as in '{names[0]}=+4' or '{names[0]}=+4@2'; clusters are all, {', '.join(names[:10])}",
            )
        speed = float(found[4]) if found[4] else None
        if speed is not None and not MIN_SPEED <= speed <= MAX_SPEED:
            raise BadInputError(
                f"{change!r} is no speed of a node", todo=f"give one from {MIN_SPEED:g} to {MAX_SPEED:g}"
            )
        topology = replace(
            topology,
            domains=tuple(
                replace(
                    domain,
                    clusters=tuple(
                        _changed(cluster, found[2], found[3], speed) if found[1] in (cluster.name, "all") else cluster
                        for cluster in domain.clusters
                    ),
                )
                for domain in topology.domains
            ),
        )
    return topology


def _changed(cluster: ClusterSpec, sign: str | None, by: str | None, speed: float | None) -> ClusterSpec:
    if by is not None:
        return _resized(cluster, sign or "", int(by), speed)
    return replace(cluster, nodes=tuple(replace(node, speed=speed or 1.0) for node in cluster.nodes))


def _resized(cluster: ClusterSpec, sign: str, by: int, speed: float | None) -> ClusterSpec:
    count = {"+": len(cluster.nodes) + by, "-": len(cluster.nodes) - by}.get(sign, by)
    if not 0 < count <= MAX_NODES:
        raise BadInputError(
            f"{cluster.name} would have {count:,} nodes", todo=f"it has {len(cluster.nodes):,}; keep 1 to {MAX_NODES:,}"
        )
    more = range(1, count - len(cluster.nodes) + 1)
    like = replace(cluster.nodes[-1], autoscale=None)
    like = like if speed is None else replace(like, speed=speed)
    taken = {node.name for node in cluster.nodes}
    names = (f"{cluster.name}.added-{number}" for number in count_from(1))
    added = tuple(replace(like, name=name) for name, _ in zip((n for n in names if n not in taken), more, strict=False))
    return replace(cluster, nodes=(*cluster.nodes[:count], *added))


def slots_of(topology: Topology) -> int:
    return sum(int(cluster.capacity[SLOTS]) for domain in topology.domains for cluster in domain.clusters)


def render(report: Report) -> RenderableType:
    return Group(_table({"": report}), "", _tenants(report))


def compare(reports: Mapping[str, Report], scenarios: Mapping[str, Scenario]) -> RenderableType:
    """Side by side, what ran the same workflows on other machines; each with its name."""
    return _table(reports, {name: slots_of(scenario.topology) for name, scenario in scenarios.items()})


def as_json(reports: Mapping[str, Report]) -> str:
    """The report; of a comparison an object with those of both, by name."""
    return msgspec.json.encode(reports[""] if "" in reports else dict(reports)).decode()


def _tenants(report: Report) -> Table:
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
    return tenants


def _table(reports: Mapping[str, Report], slots: Mapping[str, int] | None = None) -> Table:
    """A row for each thing to tell, a column for each report; without slots there is one report, and it needs no name."""
    many = slots is not None
    whole = Table("", *[escape(name) for name in reports], show_header=many, show_edge=False)
    if slots is not None:
        whole.add_row("slots", *[f"{slots[name]:,}" for name in reports])
    for what, tell in _ROWS.items():
        cells = [tell(report) for report in reports.values()]
        if any(cells):
            whole.add_row(what, *cells)
    for code in dict.fromkeys(code for report in reports.values() for code in report.failures):
        whole.add_row("[yellow]failed[/]", *[_failed(report, code) for report in reports.values()])
    for number in range(max(len(report.violations) for report in reports.values())):
        texts = [
            escape(report.violations[number]) if number < len(report.violations) else "" for report in reports.values()
        ]
        whole.add_row("[bold red]violated[/]", *texts)
    return whole


def _distrust(report: Report) -> str:
    """Whom who expects to break his bids."""
    found = [
        f"{escape(cluster)} by {escape(domain)}: {trust:.0%}"
        for domain, clusters in report.trust.items()
        for cluster, trust in clusters.items()
        if trust < LITTLE_TRUST
    ]
    return _few(found)


def _few(found: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    known = list(found)
    return "; ".join(known[:MAX_TOLD]) + (f"; {len(known) - MAX_TOLD:,} more" if known[MAX_TOLD:] else "")


def _failed(report: Report, code: str) -> str:
    """So many of that code, and of one of them why, and what would help."""
    count = report.failures.get(code, 0)
    return f"{count:,} × {escape(code)}" + (f", as {escape(report.reasons[code])}" if count else "")


def _messages(report: Report) -> str:
    count = sum(report.messages.values())
    lost = f"; {report.messages_lost:,} lost" if report.messages_lost else ""
    return f"{count:,}, {count / max(1, report.done):.1f} a step{lost}"


def _moved(report: Report) -> str:
    if not report.bytes_between and not report.bytes_inside:
        return "nothing"
    return f"{_size(report.bytes_between)} between domains, {_size(report.bytes_inside)} inside"


def _size(size: float) -> str:
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size:.0f} B"


_ROWS: dict[str, Callable[[Report], str]] = {
    "makespan": lambda its: f"{its.makespan_s:,.1f} s",
    "steps": lambda its: f"{its.done:,} done" + (f", {its.failed:,} failed" if its.failed else ""),
    "starts": lambda its: f"{its.starts:,}" + (f", {its.discarded:,} answers discarded" if its.discarded else ""),
    "leases given back": lambda its: f"{its.given_back:,}, that nobody had asked for" if its.given_back else "",
    "slots in use": lambda its: f"{its.utilisation:.0%} of the time",
    "nodes that came": lambda its: ", ".join(
        f"{group}: {hours:.3g} node hours"
        + (f", {its.node_credits[group]:.3g} credits" if its.node_credits[group] else "")
        for group, hours in its.node_hours.items()
    ),
    "too late": lambda its: _few(f"{escape(name)} by {late:,.1f} s" for name, late in its.late.items()),
    "spent": lambda its: _few(f"{escape(name)}: {spent:,.4g} credits" for name, spent in its.spent.items()),
    "wait for a slot": lambda its: f"mean {its.mean_wait_s:.2f} s, 99 % within {its.p99_wait_s:.2f} s",
    "fairness": lambda its: "no two tenants waited at once" if its.fairness is None else f"{its.fairness:.3f}",
    "moved": _moved,
    "messages": _messages,
    "faults": lambda its: ", ".join(f"{number} × {kind.replace('_', ' ')}" for kind, number in its.faults.items()),
    "again after": lambda its: "; ".join(
        f"row {number}: {one.p50_s:.1f} s, {one.worst_s:.1f} s at most" for number, one in its.recoveries.items()
    ),
    "trusted little": _distrust,
    "digest": lambda its: its.digest[:16],
}
