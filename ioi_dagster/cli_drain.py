"""`ioi drain` and `ioi rejoin`: which node or cluster of a home is meant, and what still runs there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ioi_dagster.adapters.files.drains import ALL
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import domains_in
from ioi_dagster.local.targets import Target, find

LOOK_S = 0.5


def home_target(home: Path, name: str) -> Target:
    """Of the domains in `home`. Raises `BadInputError`."""
    domains = domains_in(home)
    if not domains:
        raise BadInputError("no federation was ever started here", where=str(home), todo="run `ioi up`")
    return find(domains, name)


def wait(home: Path, target: Target, told: Callable[[list[str]], None]) -> None:
    """Until nothing runs there, whether the node is there or gone. `told` is called with what still runs, when that changes."""
    from ioi_dagster.cli_status import collect

    before: list[str] | None = None
    while (running := _running(collect(home).get(target.domain.name, {}), target)) is None or running:
        if running is not None and running != before:
            told(running)
        before = running
        time.sleep(LOOK_S)


def _running(status: dict[str, Any], target: Target) -> list[str] | None:
    """Steps there; None where the cluster does not answer, or has not heard of the drain yet."""
    snapshot = status.get("clusters", {}).get(target.cluster, {})
    if "leases" not in snapshot:
        return None
    mine = {name: node for name, node in snapshot["nodes"].items() if target.node in (ALL, name)}
    if not all(node.get("draining") for node in mine.values()):
        return None
    running = (*snapshot["leases"], *snapshot["abandoned"])
    return [f"{lease['step']} of run {lease['run'][:8]}" for lease in running if lease["node"] in mine]
