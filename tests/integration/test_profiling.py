"""Nothing of ours is profiled by Dask where that can freeze it."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from ioi_dagster.adapters.dask import local_cluster
from ioi_dagster.adapters.dask.local_cluster import start_local_cluster
from ioi_dagster.adapters.dask.profiling import can_freeze, stop_profile

pytestmark = pytest.mark.integration


def profiled(dask_worker) -> bool:
    callback = dask_worker.periodic_callbacks.get("profile")
    return callback is not None and callback.is_running()


def stop(dask_worker) -> None:
    stop_profile(dask_worker)


def test_the_profile_of_a_worker_that_somebody_else_started_ends():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        assert list(client.run(profiled).values()) == [True]
        client.run(stop)
        assert list(client.run(profiled).values()) == [False]
        assert client.submit(len, "it works on").result() == 11


def test_workers_of_our_own_are_not_profiled(tmp_path: Path):
    cluster = start_local_cluster(1, str(tmp_path))
    try:
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(1)
            assert list(client.run(profiled).values()) == [False]
    finally:
        cluster.close()


def test_a_worker_that_our_preload_makes_a_node_is_not_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_cluster, "QUIET", {})
    cluster = start_local_cluster(1, str(tmp_path))
    try:
        with Client(cluster.address, set_as_default=False) as client:
            client.wait_for_workers(1)
            assert list(client.run(profiled).values()) == [not can_freeze()]
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("version", "freezes"), [((3, 11, 0), True), ((3, 11, 8), True), ((3, 11, 9), False), ((3, 12, 0), False)]
)
def test_which_pythons_can_freeze(version, freezes):
    assert can_freeze(version) is freezes
