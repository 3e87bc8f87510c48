"""Asks cluster governors as their gateways do."""

from __future__ import annotations

from typing import Any

from ioi_dagster.adapters.link import caller
from ioi_dagster.domain import DomainHome


def status_of(home: DomainHome, cluster: int = 0) -> dict[str, Any]:
    """What the governor of one of a domain's clusters tells of itself."""
    its = home.config().clusters[cluster]
    return caller.status_of(its.name, its.governor, home.token(), 10.0)
