"""What a start that came back without a result was: the cause, from the words of its node or of its fleet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ioi_dagster.adapters.dask.client import SCHEDULER_AWAY, SCHEDULER_LOST, WORKER_DIED
from ioi_dagster.adapters.dask.local_cluster import MEMORY
from ioi_dagster.adapters.dask.running import GRACE_S
from ioi_dagster.governors.failures import Cause
from ioi_dagster.host.fleets import Start

HEARD_S = 0.5
"""What a node says when code begins may be heard so much later than it is said, where it was not heard that its time is up."""


def cause_of_loss(why: str, ran: bool, alone: bool, limit_s: float, ran_s: float, over: bool = False) -> Cause:
    """The cause of a loss that a fleet told: `ran` is whether the step can have been running, `ran_s` for how long its code is
    known to have run (0: it is not), `alone` whether it was the only one there, and `over` whether its node has said that its
    time is up."""
    # Our own fleets' words, whole: what somebody else writes of schedulers or memory names no cause.
    if why in (SCHEDULER_LOST, SCHEDULER_AWAY):
        return Cause.SCHEDULER_LOST
    if limit_s and (over or ran_s >= limit_s + GRACE_S - HEARD_S):
        # Its node ended the process, since the step did not stop by itself.
        return Cause.TIMEOUT
    if not ran:
        return Cause.NEIGHBOUR
    # Which one ran is a guess where there were several, and too weak for an end without another try.
    return Cause.MEMORY if alone and why.startswith(f"{WORKER_DIED} {MEMORY}") else Cause.NODE_LOST


class SendingOrder:
    """Starts in the order in which they are sent to their nodes.

    A step with a process of its own has, among the steps of its run, the node to itself while it is there: what another step
    does to the node costs it nothing, and before it is sent it has certainly not begun. `sent`: node → key → start, kept by
    the caller.
    """

    def __init__(self, sent: dict[str, dict[str, Start]]) -> None:
        self._sent = sent
        self._waiting: dict[str, deque[Start]] = {}

    def add(self, start: Start) -> None:
        self._waiting.setdefault(start.lease.node, deque()).append(start)

    def take(self) -> Iterator[Start]:
        """Those whose turn it is; the caller enters each into `sent` before it asks for the next."""
        for node in list(self._waiting):
            waiting = self._waiting[node]
            while waiting and self._free(node, waiting[0]):
                yield waiting.popleft()
            if not waiting:
                del self._waiting[node]

    def drop(self, node: str = "", cluster: str = "") -> list[Start]:
        """Forget what waits for `node`, or for any node of `cluster`; returns it."""
        dropped = [
            start
            for waiting in self._waiting.values()
            for start in waiting
            if start.lease.node == node or start.lease.cluster == cluster
        ]
        for start in dropped:
            self._waiting[start.lease.node].remove(start)
        return dropped

    def _free(self, node: str, start: Start) -> bool:
        there = self._sent.get(node)
        return not there or not (start.own_process or any(other.own_process for other in there.values()))
