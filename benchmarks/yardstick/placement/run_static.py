"""Score static placement systems: makespan / lower bound on workflow traces.

  python run_static.py --instances DIR --set dev --system mypkg.placer:place
  python run_static.py --instances DIR --set dev --baselines heft,peft,random
  python run_static.py --instances DIR --scale 200 --baselines mct,heft

--out FILE keeps the raw figures of every case (CSV); tables.py merges such files.
"""
import argparse
import copy
import csv
import importlib
import math
import pathlib
import signal
import sys
import time

from benchmarks.yardstick.placement import baselines
from benchmarks.yardstick.placement.bounds import lower_bound
from benchmarks.yardstick.placement.model import SCENARIOS, family_of, load_trace, make_instance, merge_traces
from benchmarks.yardstick.placement.simulate import Infeasible, makespan, simulate, verify

SEEDS = {"dev": 7}
PENALTY = 100.0                     # ratio counted for an infeasible or crashed placement


def load_system(spec):
    sys.path.insert(0, ".")
    module, _, attribute = spec.partition(":")
    return getattr(importlib.import_module(module), attribute)


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def cases(instances, listing, scenarios, seed, max_tasks, families=None):
    for path in listing:
        if families and family_of(path) not in families:
            continue
        trace = load_trace(instances, path)
        if len(trace["tasks"]) > max_tasks:
            continue
        for scenario in scenarios:
            graph, network = make_instance(trace, scenario, seed)
            yield family_of(path), scenario, graph, network


class TooSlow(BaseException):
    """Not an Exception, so that a scored system does not swallow it."""


def guarded(limit, function, *args):
    """Call the function; TooSlow after `limit` CPU seconds, or five times as long on the wall."""
    def stop(*_):
        raise TooSlow(f"more than {limit:g} s")
    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, 5 * limit)
    try:
        return function(*args)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def anonymous(graph, network):
    """What a scored system is given: a private copy that does not say which trace it is."""
    graph, network = copy.deepcopy((graph, network))
    graph["name"] = "graph"
    return graph, network


def run_one(place, graph, network, limit=60.0):
    """(makespan or None, CPU seconds, error text)"""
    given = anonymous(graph, network)
    begin = time.process_time()
    try:
        plan = guarded(limit, place, *given)
        seconds = time.process_time() - begin
        schedule = simulate(graph, network, plan)
        verify(graph, network, schedule)
        return makespan(schedule), seconds, ""
    except (Exception, TooSlow) as error:       # a broken system must not stop the scoring
        kind = "infeasible" if isinstance(error, Infeasible) else type(error).__name__
        return None, time.process_time() - begin, f"{kind}: {error}"


def report(title, rows, names):
    """rows: (family, scenario, {system: (ratio, seconds, tasks)})"""
    print(f"\n{title}")
    families = sorted({r[0] for r in rows})
    scenarios = [s for s in SCENARIOS if any(r[1] == s for r in rows)]
    head = "family/scenario".ljust(16) + "n".rjust(4) + "".join(n[:11].rjust(12) for n in names)
    print(head)

    def line(label, count, values):
        print(label.ljust(16) + str(count).rjust(4) + "".join(f"{v:12.3f}" for v in values))

    per_family = {n: {} for n in names}
    for f in families:
        mine = [r for r in rows if r[0] == f]
        for n in names:
            per_family[n][f] = geomean(r[2][n][0] for r in mine)
        line(f, len(mine), [per_family[n][f] for n in names])
    for s in scenarios:
        mine = [r for r in rows if r[1] == s]
        line("= " + s, len(mine), [geomean(geomean(r[2][n][0] for r in mine if r[0] == f)
                                            for f in families if any(r[0] == f for r in mine))
                                   for n in names])
    line("= SCORE", len(rows), [geomean(per_family[n].values()) for n in names])
    line("worst ratio", len(rows), [max(r[2][n][0] for r in rows) for n in names])
    rates, slow = [], []
    for n in names:
        tasks, seconds = sum(r[2][n][2] for r in rows), sum(r[2][n][1] for r in rows)
        rates.append(tasks / max(seconds, 1e-9))
        slow.append(max(1e6 * r[2][n][1] / r[2][n][2] for r in rows))
    print("placements/s".ljust(20) + "".join(f"{v:12.0f}" for v in rates))
    print("worst us/placement".ljust(20) + "".join(f"{v:12.0f}" for v in slow))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", required=True, help="extracted WfInstances directory")
    parser.add_argument("--set", default="dev", choices=("dev",))
    parser.add_argument("--system", action="append", default=[], help="module:function")
    parser.add_argument("--baselines", default="", help="comma separated; 'all' for every fast one")
    parser.add_argument("--saga", default="", help="comma separated SAGA scheduler classes")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--families", default="")
    parser.add_argument("--max-tasks", type=int, default=10 ** 9)
    parser.add_argument("--seed", type=int, help="default: one fixed seed per list")
    parser.add_argument("--limit", type=float, default=60.0, help="CPU seconds per placement of one graph")
    parser.add_argument("--out", help="CSV file for the raw figures")
    parser.add_argument("--scale", type=int, metavar="NODES",
                        help="one run on the union of the list over about NODES nodes")
    args = parser.parse_args()
    here = pathlib.Path(__file__).parent
    listing = (here / f"{args.set}.txt").read_text().split()
    seed = SEEDS[args.set] if args.seed is None else args.seed

    systems = {s: load_system(s) for s in args.system}
    wanted = list(baselines.FAST) if args.baselines == "all" else [b for b in args.baselines.split(",") if b]
    systems.update({b: baselines.FAST.get(b) or getattr(baselines, b) for b in wanted})
    if args.saga:
        import saga_adapter
        systems.update({s: saga_adapter.system(s) for s in args.saga.split(",")})
    if args.scale:
        trace = merge_traces([load_trace(args.instances, p) for p in listing], f"all of {args.set}")
        pool = [("union", "policy", *make_instance(trace, "policy", seed, max(1, args.scale // 4)))]
    else:
        pool = cases(args.instances, listing, args.scenarios.split(","), seed, args.max_tasks,
                     [f for f in args.families.split(",") if f])
    if not systems:
        parser.error("nothing to score: give --system, --baselines or --saga")
    rows, broken = [], []
    raw = open(args.out, "w", newline="") if args.out else None
    writer = csv.writer(raw) if raw else None
    if raw:
        writer.writerow(["set", "seed", "scenario", "family", "instance", "tasks", "nodes", "bound"]
                        + [f"{n}{suffix}" for n in systems for suffix in ("", " ms")])
    for family, scenario, graph, network in pool:
        bound, result, figures = lower_bound(graph, network), {}, []
        for name, place in systems.items():
            length, seconds, error = run_one(place, graph, network, args.limit)
            figures += [f"{length:.6g}" if length else "", f"{1e3 * seconds:.4g}"]
            if error:
                broken.append(f"{name} on {graph['name']} [{scenario}]: {error}")
            result[name] = (length / bound if length else PENALTY, seconds, len(graph["tasks"]))
        rows.append((family, scenario, result))
        if raw:
            writer.writerow([args.set, seed, scenario, family, graph["name"], len(graph["tasks"]),
                             len(network["nodes"]), f"{bound:.6g}"] + figures)
            raw.flush()
    report(f"makespan / lower bound, {args.set}, seed {seed} (geometric means; 1.0 is unbeatable)",
           rows, list(systems))
    print(f"broken placements: {len(broken)}")
    for text in broken[:20]:
        print("  " + text[:200])


if __name__ == "__main__":
    main()
