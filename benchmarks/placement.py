"""How near to the best possible the placer comes, at one desk and through bids: graphs, graphs in trouble, streams of graphs.

`static`: a plan's length over a lower bound that holds for every plan. `online`: the same graphs with run times that are not what
was expected and nodes that fail, slow down or vanish together, over a planner that knows all of that beforehand. `stream`: graphs
that come one after the other, by the slowdown of each, over the best of three such planners; `waste_pct` is what copies cost of
all core seconds there. All are geometric means, over families first. `benchmarks/yardstick/placement/` says what is simulated.

`ours` is the placer at one desk that sees all. `bids` is what a federation does: a flow governor for each graph, a cluster
governor for each domain, bids between them; it is what a user gets, and both are held to the same limits. `bidding_price` is
what that costs: how long the same graphs take that way, over how long they take from one desk; `bidding_price_stream` in
streams. Those governors are told what the placer at one desk is told, so that the price is that of bidding alone. A live run
knows less at its start (`host/foresight.py`): how long steps of an op took in its last runs instead of what is expected of
each, how much they made instead of the bytes of every edge, nothing of files from outside (`bids`: their bytes, and in which
domain they lie), and of links those of its own domain that the topology tells (`bids`: all of them). Its values lie with its
own process instead of at the node that made them, and its messages take time. What all that costs is not measured here.

The graphs are drawn (`benchmarks/workflows.py`, figures end in `@drawn`), or read from a folder of traces in the WfFormat of
WfCommons (`--traces DIR`, figures end in `@traces`): `python -m benchmarks.placement [--quick] [--static] [--online] [--stream]
[--seed 7]`. Without one of the three it is all of them.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from benchmarks.adapters.bidding import Bidding
from benchmarks.adapters.placement import Online, place
from benchmarks.frame import Report, quick
from benchmarks.workflows import SHAPES, draw
from benchmarks.yardstick.placement import baselines, online_baselines, run_online, run_static, run_stream
from benchmarks.yardstick.placement.bounds import lower_bound
from benchmarks.yardstick.placement.model import SCENARIOS, family_of, load_trace, make_instance

STATIC: dict[str, Callable[..., Any]] = {"ours": place} | {
    name: getattr(baselines, name) for name in ("heft", "peft", "random_place")
}
BIDS = {"ours": Online, "bids": Bidding}
ONLINE: dict[str, Any] = BIDS | {name: online_baselines.ALL[name] for name in ("dask", "replan", "clone")}
STREAM: dict[str, Any] = BIDS | {name: online_baselines.STREAM[name] for name in ("dask", "jit_fifo", "clone_srpt")}
FULL = {"sizes": (30, 90, 250, 600), "online": 250, "stream": 130, "graphs": 24, "streams": 3}
QUICK = {"sizes": (30,), "online": 40, "stream": 60, "graphs": 8, "streams": 1}
LIMITS = {
    "static": (1.15, 1.115),
    "online": (1.15, 1.06),
    "stream": (1.25, 1.10),
    "waste_pct": (15.0, 8.0),
    "bids_online": (1.15, 1.06),
    "bids_stream": (1.25, 1.10),
    "bids_waste_pct": (15.0, 8.0),
    "bidding_price": (1.10, 1.03),
    "bidding_price_stream": (1.10, 1.03),
}
"""Floor and aim of each, whichever graphs it is measured with."""
FLOORS, AIMS = (
    {f"{name}@{graphs}": (limits[which], "max") for graphs in ("traces", "drawn") for name, limits in LIMITS.items()}
    for which in (0, 1)
)
Job = tuple[str, str, list[str], Any, int]
"""What is measured, the folder of the graphs, those of it, the kind or scenario, the seed."""


def main() -> int:
    sizes, seed = QUICK if quick() else FULL, int(_option("--seed") or 7)
    chosen = [name for name in ("static", "online", "stream") if f"--{name}" in sys.argv] or [
        "static",
        "online",
        "stream",
    ]
    report = Report("placement", floors=FLOORS, aims=AIMS)
    with tempfile.TemporaryDirectory(prefix="ioi-workflows-") as folder:
        traces, suffix = _option("--traces"), "traces"
        if traces is None:
            traces, suffix = _drawn(Path(folder), sizes["sizes"], seed), "drawn"
        listing = _listing(Path(traces))
        jobs = [job for name in chosen for job in JOBS[name](traces, listing, sizes, seed)]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            rows = [row for its in pool.map(measure, jobs) for row in its]
    for name in chosen:
        for system in SYSTEMS[name]:
            its = [row for row in rows if row["what"] == name and row["system"] == system]
            figures = report.figures if system in BIDS else report.peers
            label = name if system == "ours" else f"{system}_{name}"
            figures[f"{label}@{suffix}"] = _mean(its)
            if system == "ours":
                figures[f"{name}_worst@{suffix}"] = max(row["ratio"] for row in its)
                figures[f"{name}_broken@{suffix}"] = sum(row["broken"] for row in its)
            if name == "stream":
                waste = "waste_pct" if system == "ours" else f"{system}_waste_pct"
                figures[f"{waste}@{suffix}"] = fmean(row["waste"] for row in its)
    for name, label in (("online", "bidding_price"), ("stream", "bidding_price_stream")):
        if name in chosen:
            figures = report.figures
            figures[f"{label}@{suffix}"] = figures[f"bids_{name}@{suffix}"] / figures[f"{name}@{suffix}"]
    return report.finish()


def measure(job: Job) -> list[dict[str, Any]]:
    what, folder, paths, detail, seed = job
    return list({"static": _static, "online": _online, "stream": _stream}[what](folder, paths, detail, seed))


def _static(folder: str, paths: list[str], scenario: str, seed: int) -> Iterable[dict[str, Any]]:
    graph, network = make_instance(load_trace(folder, paths[0]), scenario, seed)
    bound = lower_bound(graph, network)
    for system, function in STATIC.items():
        length, _, error = run_static.run_one(function, graph, network, 600.0)
        ratio = length / bound if length else run_static.PENALTY
        yield _row("static", system, family_of(paths[0]), ratio, error)


def _online(folder: str, paths: list[str], kind: str, seed: int) -> Iterable[dict[str, Any]]:
    graph, network = make_instance(load_trace(folder, paths[0]), "policy", seed)
    view = baselines.View(graph, network)
    length = max(end for _, _, end in baselines.decode(view, view.upward())[1].values())
    work = run_online.true_work(graph, seed)
    events = run_online.make_disturbances(graph, network, kind, length, seed)

    def span(system: Any) -> float:
        return run_online.execute(system, graph, network, work, events, length)[0]

    reference = min(
        span(run_online.Avoid(graph, network, work, events, length)),
        span(run_online.Oracle(graph, network, work, events)),
    )
    for system, factory in ONLINE.items():
        try:
            ratio, error = span(factory(*run_static.anonymous(graph, network))) / reference, ""
        except Exception as failed:
            ratio, error = run_online.PENALTY, repr(failed)
        yield _row("online", system, family_of(paths[0]), ratio, error)


def _stream(folder: str, paths: list[str], detail: tuple[str, int, int], seed: int) -> Iterable[dict[str, Any]]:
    kind, graphs, most = detail
    network, arrivals, whole, events, horizon = run_stream.make_stream(
        folder, paths, kind, seed, graphs, 0.6, most, "policy"
    )
    bounds = [lower_bound(graph, network) for _, graph in arrivals]
    work = run_online.true_work(whole, seed)

    def run(system: Any) -> dict[str, float]:
        return run_stream.execute(system, network, arrivals, work, events, horizon, bounds)

    ideal = min(
        run(run_stream.Clairvoyant(network, work, events, order))["slowdown"] for order in ("rank", "fifo", "srpt")
    )
    for system, factory in STREAM.items():
        try:
            told = run(factory(*run_static.anonymous(run_stream.EMPTY, network)))
            yield _row("stream", system, kind, told["slowdown"] / ideal, "") | {"waste": told["wasted %"]}
        except Exception as failed:
            yield _row("stream", system, kind, run_stream.PENALTY, repr(failed)) | {"waste": 100.0}


def _row(what: str, system: str, family: str, ratio: float, error: str) -> dict[str, Any]:
    if error:
        print(f"{what}: {system} on {family}: {error}", file=sys.stderr)
    return {"what": what, "system": system, "family": family, "ratio": ratio, "broken": bool(error)}


SYSTEMS: dict[str, dict[str, Any]] = {"static": STATIC, "online": ONLINE, "stream": STREAM}
JOBS: dict[str, Callable[..., list[Job]]] = {
    "static": lambda folder, listing, sizes, seed: [
        ("static", folder, [path], scenario, seed) for path, _ in listing for scenario in SCENARIOS
    ],
    "online": lambda folder, listing, sizes, seed: [
        ("online", folder, [path], kind, seed)
        for path, size in listing
        if size <= sizes["online"]
        for kind in run_online.KINDS
    ],
    "stream": lambda folder, listing, sizes, seed: [
        ("stream", folder, [path for path, _ in listing], (kind, sizes["graphs"], sizes["stream"]), seed + number)
        for kind in run_stream.KINDS
        for number in range(sizes["streams"])
    ],
}


def _mean(rows: list[dict[str, Any]]) -> float:
    families: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row["ratio"])
    return geometric_mean(geometric_mean(its) for its in families.values())


def _drawn(folder: Path, sizes: Iterable[int], seed: int) -> str:
    for shape in SHAPES:
        for size in sizes:
            trace = draw(shape, size, seed)
            file = folder / f"{trace['name']}.json.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(json.dumps(trace | {"name": f"{trace['name']}.json"}).encode()))
    return str(folder)


def _listing(folder: Path) -> list[tuple[str, int]]:
    """The traces of a folder by their path in it, and how many steps each has; those with most steps first."""
    paths = {str(file.relative_to(folder)).removesuffix(".gz") for file in folder.rglob("*.json*") if file.is_file()}
    found = [(path, len(load_trace(folder, path)["tasks"])) for path in sorted(paths)]
    if not found:
        sys.exit(f"no trace (*.json, *.json.gz) lies below {folder}")
    return sorted(found, key=lambda one: -one[1])


def _option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


if __name__ == "__main__":
    sys.exit(main())
