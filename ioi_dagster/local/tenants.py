"""Which tenants the clusters of a domain have heard of since their governors began."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.domain import DomainHome

ANSWER_S = 2.0


def tenants_seen(home: DomainHome) -> set[str]:
    """Asks the governors themselves, for the domain's own people. Raises `UnreachableError` where one does not answer,
    `RefusedError` where it says no, and `msgspec.ValidationError` where its answer is none."""
    return asyncio.run(_ask_all(home))


async def _ask_all(home: DomainHome) -> set[str]:
    told = await asyncio.gather(*(_ask(home, cluster.name, cluster.governor) for cluster in home.config().clusters))
    return {name for known in told for name in (*known.tenants, *known.asked)}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is read of a governor's snapshot, by tenant."""

    tenants: dict[str, Any]
    asked: dict[str, Any]


async def _ask(home: DomainHome, cluster: str, address: str) -> _Known:
    line = ClusterLine(cluster, address, home.token())
    try:
        return await line.ask("status", None, _Known, ANSWER_S)
    finally:
        line.close()
