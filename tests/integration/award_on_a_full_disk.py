"""`python -m tests.integration.award_on_a_full_disk FOLDER`: awards of a cluster governor whose journal may not grow for a while.

In a process of its own, since a limit of files' size holds for the whole process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
import time
from pathlib import Path

from distributed import Scheduler

from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.governors.cluster import NodeJoined
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Award, LeaseRequest
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

TOPOLOGY = Topology(
    "book", "one.example", (DomainSpec("one.example", "own", (ClusterSpec("main", (NodeSpec("n", slots=4),)),)),)
)


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def awards(plugin: ClusterPlugin, journal: Path) -> list[dict]:
    """What came of two awards of two steps each: while the journal cannot grow, and after that."""
    plugin.perform(plugin.governor.handle(NodeJoined("n", 4, frozenset({OWN_STEP})), time.monotonic()))
    found = []
    for fence, most in ((1, journal.stat().st_size + 100), (2, resource.RLIM_INFINITY)):
        limit(most)
        requests = tuple(LeaseRequest("run", f"s{one}", fence, OWN_STEP, DataClass.INTERNAL) for one in range(2))
        answer = plugin.request(Award("main", "run", fence, "one.example", requests))
        limit(resource.RLIM_INFINITY)
        found.append(
            {
                "leased": len(answer.leases),
                "refused": [one.refusal.code for one in answer.rejected],
                "why": [one.refusal.text for one in answer.rejected][:1],
                "held": len(plugin.governor.snapshot().leases),
                "lines": journal.read_bytes().count(b"granted"),
            }
        )
        plugin.governor.validate()
    return found


async def main(folder: Path) -> None:
    federation = Federation(TOPOLOGY, folder, POLICIES, ())
    federation.prepare()
    plugin = ClusterPlugin(Scheduler(dashboard=False, dashboard_address=None), federation.home_domain, "main")
    print(json.dumps(await awards(plugin, federation.home_domain.root / "leases-main.jsonl")))


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(main(Path(sys.argv[1])))
