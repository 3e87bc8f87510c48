"""Score online placement systems: makespan / clairvoyant HEFT under noise and disturbances.

  python run_online.py --instances DIR --set dev --system mypkg.placer:Online
  python run_online.py --instances DIR --set dev --baselines static,replan
"""
import argparse
import csv
import pathlib

from benchmarks.yardstick.placement import online_baselines
from benchmarks.yardstick.placement.baselines import Timeline, View, decode
from benchmarks.yardstick.placement.model import load_trace, make_instance, family_of, stable_random
from benchmarks.yardstick.placement.online_sim import Engine
from benchmarks.yardstick.placement.run_static import SEEDS, anonymous, geomean, load_system

KINDS = ("noise", "failures", "slowdown", "outage")
PENALTY = 10.0


def true_work(graph, seed):
    """(task, node) -> work: lognormal per task (sigma 0.3, mean 1) and 3 % stragglers per placement."""
    memo = {}

    def work(t, n):
        if (t, n) not in memo:
            task, pair = stable_random(seed, "noise", graph["name"], t), stable_random(seed, "pair", graph["name"], t, n)
            slow = pair.uniform(3.0, 8.0) if pair.random() < 0.03 else 1.0
            memo[t, n] = graph["tasks"][t]["work"] * task.lognormvariate(-0.045, 0.3) * slow
        return memo[t, n]
    return work


def make_disturbances(graph, network, kind, length, seed):
    """Events [(time, kind, node, factor)]; permanent failures always leave every task a live node."""
    rng, events, nodes = stable_random(seed, kind, graph["name"]), [], sorted(network["nodes"])
    view = View(graph, network)
    if kind == "failures":
        dead = set()
        for n in rng.sample(nodes, max(1, round(0.15 * len(nodes)))):
            if all(set(e) - dead - {n} for e in view.eligible.values()):
                dead.add(n)
                events.append((rng.uniform(0.1, 0.7) * length, "down", n, None))
        back = [n for n in nodes if n not in dead]
        for n in rng.sample(back, max(1, round(0.15 * len(nodes)))):
            at = rng.uniform(0.1, 0.7) * length
            events += [(at, "down", n, None), (at + rng.uniform(0.1, 0.3) * length, "up", n, None)]
    elif kind == "slowdown":
        for n in rng.sample(nodes, max(1, round(0.25 * len(nodes)))):
            at = rng.uniform(0.05, 0.6) * length
            events += [(at, "speed", n, rng.uniform(0.15, 0.5)),
                       (at + rng.uniform(0.3, 1.0) * length, "speed", n, 1.0)]
    elif kind == "outage":
        domain = rng.choice(sorted(network["links"]))
        for n in nodes:
            if network["nodes"][n]["domain"] == domain:
                events += [(0.3 * length, "down", n, None), (0.9 * length, "up", n, None)]
    return events


class Oracle(online_baselines.Replan):
    """Replanning HEFT that knows the true work of every task and when nodes will be down."""

    def __init__(self, graph, network, work, events):
        super().__init__(graph, network)
        self.work, self.windows, since = work, [], {}
        for at, kind, n, _ in sorted(events, key=lambda e: e[0]):
            if kind == "down":
                since[n] = at
            elif kind == "up":
                self.windows.append((n, since.pop(n), at))
        self.windows += [(n, at, 1e15) for n, at in since.items()]

    def duration(self, t, n, state):
        return self.work(t, n) / state["nodes"][n]["speed"]

    def lines(self, state):
        line = super().lines(state)
        for n, at, back in self.windows:
            if n in line and at > state["time"]:
                v = self.view.nodes[n]
                line[n].reserve(at, back - at, (v["cores"], v["memory"], v["gpus"]))
        return line


class Avoid(online_baselines.Static):
    """HEFT that knows the true work and uses a failing node only after its last recovery."""

    def __init__(self, graph, network, work, events, length):
        view = self.view = View(graph, network)
        lines, usable, average = {n: Timeline(v) for n, v in view.nodes.items()}, set(view.nodes), {}
        for at, kind, n, factor in sorted(events, key=lambda e: e[0]):
            v = view.nodes[n]
            if kind == "down":
                usable.discard(n)
            elif kind == "up":
                usable.add(n)
                lines[n] = Timeline(v)
                lines[n].reserve(0.0, at, (v["cores"], v["memory"], v["gpus"]))
            elif factor < 1.0:
                average[n] = (at + (length - at) * factor) / length if at < length else 1.0
        choices = {t: [n for n in e if n in usable] for t, e in view.eligible.items()}
        self.plan = decode(view, view.upward(), choices=choices, lines=lines, duration=lambda t, n:
                           work(t, n) / (view.nodes[n]["speed"] * average.get(n, 1.0)))[0]


def execute(system, graph, network, work, events, length):
    engine = Engine(graph, network, work, events, tick=length / 40.0)
    return engine.run(system, limit=50.0 * length), engine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", required=True)
    parser.add_argument("--set", default="dev", choices=("dev",))
    parser.add_argument("--system", action="append", default=[], help="module:class")
    parser.add_argument("--baselines", default="")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--scenario", default="policy")
    parser.add_argument("--max-tasks", type=int, default=400)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", help="CSV file for the raw ratios")
    args = parser.parse_args()
    seed = SEEDS[args.set] if args.seed is None else args.seed
    systems = {s: load_system(s) for s in args.system}
    systems.update({b: online_baselines.ALL[b] for b in
                    (online_baselines.ALL if args.baselines == "all" else args.baselines.split(",")) if b})
    if not systems:
        parser.error("nothing to score: give --system or --baselines")
    raw = csv.writer(open(args.out, "w", newline="", buffering=1)) if args.out else None
    if raw:
        raw.writerow(["set", "seed", "kind", "instance", "tasks", "reference s"] + list(systems))
    listing = (pathlib.Path(__file__).parent / f"{args.set}.txt").read_text().split()
    rows, broken = [], []
    cost = {s: [0.0, 0, 0] for s in systems}
    for path in listing:
        trace = load_trace(args.instances, path)
        if len(trace["tasks"]) > args.max_tasks:
            continue
        graph, network = make_instance(trace, args.scenario, seed)
        view = View(graph, network)
        length = max(f for _, _, f in decode(view, view.upward())[1].values())
        work = true_work(graph, seed)
        for kind in args.kinds.split(","):
            events = make_disturbances(graph, network, kind, length, seed)
            run = lambda system: execute(system, graph, network, work, events, length)
            reference = min(run(Avoid(graph, network, work, events, length))[0],
                            run(Oracle(graph, network, work, events))[0])
            row = {}
            for name, system in systems.items():
                try:
                    span, engine = run(system(*anonymous(graph, network)))
                    row[name] = span / reference
                    for i, v in enumerate((engine.thinking, engine.placements, engine.events)):
                        cost[name][i] += v
                except Exception as error:      # a broken system must not stop the scoring
                    row[name] = PENALTY
                    broken.append(f"{name} on {path} [{kind}]: {type(error).__name__}: {error}")
            rows.append((family_of(path), kind, row))
            if raw:
                raw.writerow([args.set, seed, kind, path, len(graph["tasks"]), f"{reference:.6g}"]
                             + [f"{row[n]:.4f}" for n in systems])

    print(f"\nmakespan / clairvoyant HEFT, {args.set}, scenario {args.scenario}, seed {seed}")
    print("family/kind".ljust(16) + "n".rjust(4) + "".join(n[:11].rjust(12) for n in systems))
    families = sorted({r[0] for r in rows})
    for label, mine in [(f, [r for r in rows if r[0] == f]) for f in families]:
        print(label.ljust(16) + str(len(mine)).rjust(4)
              + "".join(f"{geomean(r[2][n] for r in mine):12.3f}" for n in systems))
    score = lambda rows, n: geomean(geomean(r[2][n] for r in rows if r[0] == f) for f in families)
    for kind in args.kinds.split(","):
        mine = [r for r in rows if r[1] == kind]
        print(("= " + kind).ljust(16) + str(len(mine)).rjust(4)
              + "".join(f"{score(mine, n):12.3f}" for n in systems))
    print("= SCORE".ljust(16) + str(len(rows)).rjust(4) + "".join(f"{score(rows, n):12.3f}" for n in systems))
    print("worst case".ljust(20) + "".join(f"{max(r[2][n] for r in rows):12.3f}" for n in systems))
    print("us/event".ljust(20) + "".join(f"{1e6 * cost[n][0] / max(1, cost[n][2]):12.0f}" for n in systems))
    print("assignments/s".ljust(20) + "".join(f"{cost[n][1] / max(1e-9, cost[n][0]):12.0f}" for n in systems))
    print(f"broken runs: {len(broken)}")
    for text in broken[:20]:
        print("  " + text[:200])


if __name__ == "__main__":
    main()
