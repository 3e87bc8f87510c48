"""Score online systems on a stream of graphs: arrivals, estimates that are wrong, failing nodes.

  python run_stream.py --instances DIR --set dev --system mypkg.placer:Online
  python run_stream.py --instances DIR --set dev --seed 4711 --baselines all

The same protocol as run_online.py, but the system starts with an empty graph and learns of each one
by an `arrive` event; a complete graph leaves the state. Slowdown of a graph = response time / its
lower bound alone on the idle network. The clairvoyant reference knows true work and outages (not
future arrivals) and is the best of three re-planners (no order between graphs, fifo, srpt).
"""
import argparse
import csv
import math
import pathlib

from benchmarks.yardstick.placement import online_baselines
from benchmarks.yardstick.placement.bounds import lower_bound
from benchmarks.yardstick.placement.model import load_trace, make_instance, merge_traces, stable_random
from benchmarks.yardstick.placement.online_sim import Engine
from benchmarks.yardstick.placement.run_online import Oracle, true_work
from benchmarks.yardstick.placement.run_static import SEEDS, anonymous, geomean, load_system

KINDS = ("noise", "failures", "burst")
EMPTY = {"name": "", "tasks": {}, "edges": []}
PENALTY = 10.0


def make_stream(instances, listing, kind, seed, count, load, max_tasks, scenario):
    """(network, [(time, graph)], whole graph, disturbances, horizon)"""
    rng = stable_random("stream", kind, seed)
    pool = [t for t in (load_trace(instances, p) for p in listing) if len(t["tasks"]) <= max_tasks]
    size = lambda t: sum(v["work"] for v in t["tasks"].values())
    middle = sorted(map(size, pool))[len(pool) // 2]
    pool = [t for t in pool if middle / 10 <= size(t) <= middle * 10]
    whole, network = make_instance(merge_traces([rng.choice(pool) for _ in range(count)], f"stream-{kind}"),
                                   scenario, seed, nodes_per_domain=4)
    capacity = sum(v["cores"] * v["speed"] for v in network["nodes"].values())
    work = sum(v["work"] * v["cores"] for v in whole["tasks"].values())
    horizon = work / (load * capacity)
    times, at = [], 0.0
    while len(times) < count:
        times += [at] * (4 if kind == "burst" else 1)
        at += rng.expovariate(count / horizon / (4 if kind == "burst" else 1))
    jobs = {}
    for t, v in whole["tasks"].items():
        jobs.setdefault(t.partition("/")[0], {"name": "graph", "tasks": {}, "edges": []})["tasks"][t] = v
    for e in whole["edges"]:
        jobs[e[0].partition("/")[0]]["edges"].append(e)
    arrivals = list(zip(times, jobs.values()))
    events = []
    if kind == "failures":                       # each node is lost about once and slow about once
        for n in sorted(network["nodes"]):
            for what, mean, share in (("down", 1.0, (0.02, 0.10)), ("speed", 1.0, (0.1, 0.3))):
                at = rng.expovariate(mean / horizon)
                while at < 1.5 * horizon:
                    back = at + rng.uniform(*share) * horizon
                    events += [(at, what, n, rng.uniform(0.15, 0.5)), (back, "up" if what == "down" else "speed", n, 1.0)]
                    at = back + rng.expovariate(mean / horizon)
    return network, arrivals, whole, events, horizon


class Clairvoyant(Oracle):
    def __init__(self, network, work, events, jobs):
        self.jobs = jobs
        super().__init__(EMPTY, network, work, events)


def execute(system, network, arrivals, work, events, horizon, bounds):
    engine = Engine(EMPTY, network, work, events, tick=horizon / 100.0, arrivals=arrivals)
    engine.run(system, limit=20.0 * horizon)
    slow = sorted((j["done"] - j["arrived"]) / b for j, b in zip(engine.jobs, bounds))
    return {"slowdown": geomean(slow), "mean": sum(slow) / len(slow),
            "p95": slow[min(len(slow) - 1, math.ceil(0.95 * len(slow)) - 1)],
            "wasted %": 100.0 * (1.0 - engine.useful / engine.occupied),
            "us/event": 1e6 * engine.thinking / engine.events,
            "placed/s": engine.placements / max(1e-9, engine.thinking)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", required=True)
    parser.add_argument("--set", default="dev", choices=("dev",))
    parser.add_argument("--system", action="append", default=[], help="module:class")
    parser.add_argument("--baselines", default="")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--streams", type=int, default=3, help="streams of each kind")
    parser.add_argument("--graphs", type=int, default=24)
    parser.add_argument("--load", type=float, default=0.6, help="offered core-seconds / capacity")
    parser.add_argument("--max-tasks", type=int, default=130)
    parser.add_argument("--scenario", default="policy")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", help="CSV file for the raw figures")
    args = parser.parse_args()
    first = SEEDS[args.set] if args.seed is None else args.seed
    listing = (pathlib.Path(__file__).parent / f"{args.set}.txt").read_text().split()
    systems = {s: load_system(s) for s in args.system}
    wanted = online_baselines.STREAM if args.baselines == "all" else [b for b in args.baselines.split(",") if b]
    systems.update({b: online_baselines.STREAM[b] for b in wanted})
    if not systems:
        parser.error("nothing to score: give --system or --baselines")
    raw = csv.writer(open(args.out, "w", newline="", buffering=1)) if args.out else None
    table, broken = {}, []
    for kind in args.kinds.split(","):
        for seed in range(first, first + args.streams):
            network, arrivals, whole, events, horizon = make_stream(
                args.instances, listing, kind, seed, args.graphs, args.load, args.max_tasks, args.scenario)
            bounds = [lower_bound(g, network) for _, g in arrivals]
            work = true_work(whole, seed)
            run = lambda s: execute(s, network, arrivals, work, events, horizon, bounds)
            ideal = min((run(Clairvoyant(network, work, events, j)) for j in ("rank", "fifo", "srpt")),
                        key=lambda r: r["slowdown"])
            rows = {"(clairvoyant)": ideal}
            for name, system in systems.items():
                try:
                    rows[name] = run(system(*anonymous(EMPTY, network)))
                except Exception as error:      # a broken system must not stop the scoring
                    broken.append(f"{name} on {kind} {seed}: {type(error).__name__}: {error}")
                    rows[name] = {**dict.fromkeys(ideal, float("nan")), "slowdown": PENALTY * ideal["slowdown"]}
            for name, row in rows.items():
                row = {"x ideal": row["slowdown"] / ideal["slowdown"], **row}
                table.setdefault(kind, {}).setdefault(name, []).append(row)
                if raw:
                    if name == "(clairvoyant)" and len(table) == 1 and seed == first:
                        raw.writerow(["set", "kind", "seed", "system"] + list(row))
                    raw.writerow([args.set, kind, seed, name] + [f"{v:.5g}" for v in row.values()])
    print(f"stream of {args.graphs} graphs, load {args.load}, {args.set}, scenario {args.scenario}, "
          f"seeds {first}..{first + args.streams - 1} (geometric means)")
    columns = ["x ideal", "slowdown", "mean", "p95", "wasted %", "us/event", "placed/s"]
    table["ALL"] = {n: sum((t[n] for t in table.values()), []) for n in next(iter(table.values()))}
    for kind, rows in table.items():
        print("\n" + kind.ljust(16) + "".join(c.rjust(10) for c in columns))
        for name, values in rows.items():
            means = [sum(v[c] for v in values) / len(values) if c in columns[4:] else geomean(v[c] for v in values)
                     for c in columns]
            print(name[:15].ljust(16) + "".join(f"{m:10.0f}" if c in columns[5:] else f"{m:10.3f}"
                                                for c, m in zip(columns, means)))
    print(f"broken runs: {len(broken)}")
    for text in broken[:20]:
        print("  " + text[:200])


if __name__ == "__main__":
    main()
