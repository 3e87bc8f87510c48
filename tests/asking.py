"""Asks gateways and cluster governors as their callers do, over sockets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from ioi_dagster.adapters.http.server import Server, Site
from ioi_dagster.adapters.http.transport import Pool
from ioi_dagster.adapters.link import caller
from ioi_dagster.domain import DomainHome


@dataclass(frozen=True, slots=True)
class Reply:
    status_code: int
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()


async def ask(site: Site, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    """One request to a server that is there for it alone."""
    server = Server(site)
    pool = Pool(f"http://127.0.0.1:{await server.listen('127.0.0.1', 0)}")
    try:
        async with asyncio.timeout(20):
            return Reply(*await pool.exchange(method, path, body, headers))
    finally:
        pool.close()
        await server.close()


def status_of(home: DomainHome, cluster: int = 0) -> dict[str, Any]:
    """What the governor of one of a domain's clusters tells of itself."""
    its = home.config().clusters[cluster]
    return caller.status_of(its.name, its.governor, home.token(), 10.0)
