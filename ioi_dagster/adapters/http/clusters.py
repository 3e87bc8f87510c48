"""The governors of a domain's clusters, as its gateway asks them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ioi_dagster.adapters.http.context import GatewayContext
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.adapters.link.caller import RefusedError
from ioi_dagster.errors import UnreachableError

T = TypeVar("T")


class Clusters:
    """Raises `ProblemError` where one is not there or does not answer as it should."""

    def __init__(self, context: GatewayContext) -> None:
        self._c = context

    async def ask(self, cluster: str, door: str, message: Any, kind: type[T], timeout_s: float = 1.0) -> T:
        line = self._c.clusters.get(cluster)
        if line is None:
            raise ProblemError(404, "gateway.no_cluster", f"{self._c.config.spec.name} has no cluster {cluster!r}")
        try:
            return await line.ask(door, message, kind, timeout_s)
        except UnreachableError as error:
            raise ProblemError(503, "cluster.unreachable", f"{cluster} does not answer: {error}") from error
        except RefusedError as error:
            raise ProblemError(502, "cluster.error", f"{cluster} answered: {error}"[:300]) from error
        except msgspec.MsgspecError as error:
            raise ProblemError(502, "cluster.error", f"{cluster} answered with something else: {error}") from error
