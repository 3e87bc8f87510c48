"""`python -m tests.integration.flooded_door ADDRESS`: a governor of one node behind its real door, until its input ends."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from ioi_dagster.adapters.link.door import Waiting, open_door
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply, Tick


class Plugin:
    """As a scheduler has it."""

    def __init__(self) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.governor.handle(NodeJoined("one", 1, frozenset({"echo"})), time.monotonic())
        self.waiting = Waiting()

    def request(self, message: Any) -> Any:
        answer = None
        for one in self.governor.handle(message, time.monotonic()):
            if isinstance(one, Reply) and one.waited is not None:
                self.waiting.answer(one.waited, one.answer)
            elif isinstance(one, Reply):
                answer = one.answer
        return answer

    def status(self) -> Any:
        return self.governor.snapshot()


async def main(address: str) -> None:
    plugin = Plugin()
    await open_door(plugin, "own", address)
    print("open", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ended.done():
        await asyncio.wait({ended}, timeout=1.0)
        plugin.request(Tick())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
