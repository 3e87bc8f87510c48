"""Which tenants the clusters of a domain have heard of since their governors began."""

from __future__ import annotations

import asyncio

from ioi_dagster.adapters.link.caller import ask_status
from ioi_dagster.domain import DomainHome

ANSWER_S = 2.0


def tenants_seen(home: DomainHome) -> set[str]:
    """Asks the governors themselves, for the domain's own people. Raises `UnreachableError` where one does not answer."""
    return asyncio.run(_ask_all(home))


async def _ask_all(home: DomainHome) -> set[str]:
    told = await asyncio.gather(
        *(ask_status(one.name, one.governor, home.token(), ANSWER_S) for one in home.config().clusters)
    )
    return {name for snapshot in told for key in ("tenants", "asked") for name in snapshot[key]}
