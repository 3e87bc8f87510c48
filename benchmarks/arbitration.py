"""Decisions a second of the fair arbiter: 10,000 nodes, 1,000 tenants, 100,000 requests that wait.

The nodes are filled, and then requests end and others come, over and over, so that each decision is made under scarcity: who gets
which node counts as one, in the time of all that is told to the arbiter.
One thread; no peer runs here: kube-scheduler places 300 to 900 pods a second (its own published density tests).

`leased_per_s@TENANTSxNODES`: leases a second of a cluster governor that is full, while a run of each tenant waits there: a step
ends, who is next is offered its slot, takes it, and waits again. That is three messages a lease, without wire and journal.
"""

from __future__ import annotations

import random
import resource
import sys
import time

from benchmarks.frame import Report, quick
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply
from ioi_dagster.governors.fairness import Arbiter, Request
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
)

FULL = {"nodes": 10_000, "tenants": 1_000, "pending": 100_000, "decisions": 60_000, "leases": 20_000}
QUICK = {"nodes": 1_000, "tenants": 100, "pending": 10_000, "decisions": 20_000, "leases": 5_000}
WAITING = ((5, 100), (1_000, 1_000))
"""Tenants, and nodes of four slots."""
BATCH = 20
"""Requests that end between two rounds, as answers that come together do."""


def leased_per_second(tenants: int, nodes: int, leases: int) -> float:
    draw, serves = random.Random(1), frozenset({"ocr"})
    governor = ClusterGovernor("d", "c", 1, 1.0, ttl_s=1e6)
    for node in range(nodes):
        governor.handle(NodeJoined(f"n{node}", 4, serves), 0.0)
    steps = iter(range(1 << 40))

    def award(run: str, count: int) -> tuple[Lease, ...]:
        requests = [LeaseRequest(run, f"s{next(steps)}", 1, "ocr", DataClass.PUBLIC, tenant=run) for _ in range(count)]
        for one in governor.handle(Award("c", run, 1, "h", tuple(requests)), 0.0):
            if isinstance(one, Reply) and isinstance(one.answer, Awarded):
                return one.answer.leases
        raise AssertionError("an award without an answer")

    def wait(run: str) -> None:
        group = AskGroup("ocr", DataClass.PUBLIC, 10, run)
        governor.handle(Announce(run, 1, "h", (group,), wait_s=60.0), 0.0)

    held = [lease for number in range(4 * nodes) for lease in award(f"t{number % tenants}", 1)]
    for tenant in range(tenants):
        wait(f"t{tenant}")
    began, done = time.process_time(), 0
    while done < leases:
        place = draw.randrange(len(held))
        held[place], held[-1] = held[-1], held[place]
        ended = held.pop()
        for one in governor.handle(ReleaseRequest(ended.run, (ended.id,)), 0.0):
            if isinstance(one, Reply) and one.waited is not None and isinstance(one.answer, Bid):
                granted = award(one.answer.run, sum(point.slots for point in one.answer.points))
                wait(one.answer.run)
                held += granted
                done += len(granted)
    return done / (time.process_time() - began)


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
        decided += len(granted)
    seconds = time.process_time() - began
    size = sizes["nodes"]
    report = Report("arbitration")
    report.figures = {
        f"decisions_per_s@{size}": decided / seconds,
        f"filling_per_s@{size}": filling,
        f"round_p99_ms@{size}": 1_000 * sorted(rounds)[int(0.99 * len(rounds))],
        f"memory_mb@{size}": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    for tenants, waited_at in WAITING:
        report.figures[f"leased_per_s@{tenants}x{waited_at}"] = leased_per_second(tenants, waited_at, sizes["leases"])
    report.floors = {"decisions_per_s@10000": (20_000, "min"), "filling_per_s@10000": (20_000, "min")}
    report.aims = {
        "decisions_per_s@10000": (60_000, "min"),
        "filling_per_s@10000": (60_000, "min"),
        "memory_mb@10000": (100, "max"),
        **{f"leased_per_s@{tenants}x{waited_at}": (20_000, "min") for tenants, waited_at in WAITING},
    }
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
