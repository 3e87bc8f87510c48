"""In a scheduler: the nodes of its cluster that their owner drains, and whose time to end what runs there is over."""

from __future__ import annotations

import logging

from ioi_dagster.adapters.files.drains import ALL, Drain, DrainFile
from ioi_dagster.errors import BadInputError

log = logging.getLogger("ioi.cluster")


class Draining:
    """What the drain file says of one cluster. Times are monotonic seconds, passed in."""

    def __init__(self, file: DrainFile, cluster: str) -> None:
        self._file, self._cluster = file, cluster
        self._read_at = -1
        self._drains: dict[str, Drain] = {}
        self._since: dict[str, float] = {}

    def look(self, now: float) -> bool:
        """Has its owner changed anything since the last look? A file that cannot be read changes nothing; it is read at the next
        look, unless it is wrong, until it is another."""
        changed = self._read_at
        try:
            changed = self._file.changed_at()
            if changed == self._read_at:
                return False
            drains = self._file.read().get(self._cluster, {})
        except (BadInputError, OSError) as error:
            log.warning("what is drained stays as it is: %s", error)
            if isinstance(error, BadInputError):
                self._read_at = changed
            return False
        same = {node for node in drains if self._drains.get(node) == drains[node]}
        self._since = {node: self._since[node] if node in same else now for node in drains}
        self._drains, self._read_at = drains, changed
        return True

    def why(self, node: str) -> str:
        """Why the node is drained; empty where it is not."""
        drain = self._drains.get(node) or self._drains.get(ALL)
        return (drain.why or "by its owner") if drain is not None else ""

    def only_paused(self, node: str) -> bool:
        """Is it paused, and not drained?"""
        drain = self._drains.get(node) or self._drains.get(ALL)
        return drain is not None and drain.paused

    def overdue(self, node: str, now: float) -> bool:
        """Is what still runs there to be placed elsewhere?"""
        for name in (node, ALL):
            drain = self._drains.get(name)
            if drain is not None and drain.within_s is not None and now - self._since[name] >= drain.within_s:
                return True
        return False
