"""What a loss was, from the words of those who told it."""

from __future__ import annotations

import pytest

from ioi_dagster.adapters.dask.client import NEVER_THERE, SCHEDULER_AWAY, SCHEDULER_LOST, WORKER_DIED
from ioi_dagster.adapters.dask.local_cluster import MEMORY
from ioi_dagster.governors.failures import Cause
from ioi_dagster.host.losses import cause_of_loss


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        (WORKER_DIED, Cause.NODE_LOST),
        (SCHEDULER_LOST, Cause.SCHEDULER_LOST),
        (SCHEDULER_AWAY, Cause.SCHEDULER_LOST),
        (f"{WORKER_DIED} {MEMORY}: it held 2 GiB", Cause.MEMORY),
        (f"cloud.example: {SCHEDULER_LOST}", Cause.NODE_LOST),
        ("cloud.example: the scheduler of jobs was started for its memory", Cause.NODE_LOST),
        (f"ValueError: not enough {MEMORY}", Cause.NODE_LOST),
    ],
)
def test_only_words_of_our_own_fleet_name_a_cause(why: str, cause: Cause) -> None:
    assert cause_of_loss(why, ran=True, alone=True, limit_s=0.0, ran_s=0.0) is cause


def test_what_never_ran_is_blamed_for_nothing() -> None:
    assert cause_of_loss(NEVER_THERE, ran=False, alone=True, limit_s=1.0, ran_s=0.0) is Cause.NEIGHBOUR
