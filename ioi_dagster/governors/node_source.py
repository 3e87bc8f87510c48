"""Who starts and ends the nodes that a cluster asks for: the domain's supervisor, Kubernetes, a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class NodeSource(Protocol):
    """Of one group of nodes of one cluster."""

    def want(self, nodes: Sequence[str]) -> None:
        """From now on just the nodes of these names are to run: each a Dask worker that joins the cluster's scheduler under that
        name, and is started again when it ends by itself. Saying the same again changes nothing, so it is said again after
        every restart. Those that run and are not named any more do nothing, and are ended.

        It may block: it is called in a thread of its own, one call at a time. What it raises is logged, and it is called again
        a second later with what is wanted by then."""
        ...
