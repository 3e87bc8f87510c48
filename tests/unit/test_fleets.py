"""Fleets that keep count of a cluster by themselves."""

from __future__ import annotations

import threading

from ioi_dagster.clock import ManualClock
from ioi_dagster.governors.cluster import ClusterGovernor
from ioi_dagster.host.fleets import LOOK_EVERY_S, AddressFleet
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Award, LeaseRequest, RenewRequest


class Answers:
    """A scheduler that says which workers it has, or does not answer (None)."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def nodes(self):
        return self._answers.pop(0)


def fleet(*answers) -> tuple[AddressFleet, ManualClock]:
    made, clock = AddressFleet.__new__(AddressFleet), ManualClock()
    made._governor = ClusterGovernor("alone", "alone", 1, 0.0)
    made._clock, made._lock, made._dask = clock, threading.Lock(), Answers(*answers)  # pyright: ignore
    made._known, made._looked, made._queues = {}, float("-inf"), {}
    made._queueing = threading.Lock()
    return made, clock


def test_a_scheduler_that_does_not_answer_costs_nobody_the_lease():
    alone, clock = fleet({"a": 1}, None, {})
    award = Award("alone", "r", 1, "alone", (LeaseRequest("r", "s", 1, "dagster.step", DataClass.PUBLIC),))
    (lease,) = alone.award(award).leases
    assert alone.at_once("a") == 1
    assert alone._governor.snapshot().nodes["a"]["slots"] == 1
    clock.advance(2 * LOOK_EVERY_S)
    assert alone.renew(RenewRequest("r", (lease.id,))).held == (lease.id,)
    clock.advance(2 * LOOK_EVERY_S)
    assert alone.renew(RenewRequest("r", (lease.id,))).lost == (lease.id,)
