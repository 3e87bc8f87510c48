"""What an owner has ordered before a scheduler begins, or before a node joins it, holds at once: a real scheduler."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, Worker

from ioi_dagster.adapters.dask import node, scheduler_preload
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.scheduler_preload import ClusterPlugin
from ioi_dagster.adapters.files.drains import Drain, DrainFile
from ioi_dagster.adapters.files.orders import OrderFile
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.cluster import NodeJoined
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.local.member_book import put_out
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Announce, AskGroup, Award, LeaseRequest
from ioi_dagster.model.order import Order, Target, Verb
from ioi_dagster.model.quota import CohortQuota, QuotaTree, TenantQuota
from tests.integration.test_crowded_machine import until, with_one_node

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


class Noting(ClusterPlugin):
    """What is free, and for what something is ordered, when a node has just joined."""

    noted: list[tuple[dict[str, int], tuple[str, ...]]]

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        super().add_worker(scheduler, worker)
        self.noted.append(now_of(self))


def now_of(plugin: ClusterPlugin) -> tuple[dict[str, int], tuple[str, ...]]:
    snapshot = plugin.governor.snapshot()
    return {name: node["free"] for name, node in snapshot.nodes.items()}, snapshot.ordered


def test_it_holds_when_the_door_opens_and_when_a_drained_node_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = with_one_node(tmp_path)
    drains = DrainFile(home.root)
    drains.drain("lab-c", "lab-1", Drain("a new disk", 0.0))
    OrderFile(home.root).give(Order(Target.TENANT, "t", Verb.PAUSE, who="ann", why="spent"), "decision")
    opened, really = [], scheduler_preload.open_door

    async def open_door(plugin: Any, *rest: Any) -> Any:
        opened.append(now_of(plugin))
        return await really(plugin, *rest)

    monkeypatch.setattr(scheduler_preload, "open_door", open_door)

    async def played() -> list[tuple[dict[str, int], tuple[str, ...]]]:
        async with Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler:
            plugin = Noting(scheduler, home, "lab-c")
            plugin.noted = []
            scheduler.add_plugin(plugin)
            await plugin.start(scheduler)
            for _ in range(2):
                async with Worker(scheduler.address, name="lab-1", nthreads=4, dashboard=False):
                    pass
            return plugin.noted

    ordered = ("tenant t",)
    assert asyncio.run(played()) == [({"lab-1": 0}, ordered), ({"lab-1": 0}, ordered)]
    assert opened == [({}, ordered)]


def test_each_process_that_comes_under_the_name_of_a_drained_node_is_told_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would start what was on its way to the one before it."""
    home = with_one_node(tmp_path)
    DrainFile(home.root).drain("lab-c", "lab-1", Drain("a new disk", 0.0))

    async def played() -> None:
        async with Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler:
            plugin = ClusterPlugin(scheduler, home, "lab-c")
            scheduler.add_plugin(plugin)
            await plugin.start(scheduler)
            for _ in range(2):
                clock = SystemClock()
                governor = NodeGovernor("lab-1", "lab-c", frozenset(), governed=False)
                host = NodeHost("lab-1", governor, ReplicaHost([], "lab-1", clock), lambda _: None, clock)
                monkeypatch.setattr(node, "_host", host)
                async with Worker(scheduler.address, name="lab-1", nthreads=4, dashboard=False):
                    await until(lambda governor=governor: governor.draining == "a new disk")

    asyncio.run(played())


def test_a_node_offers_no_more_slots_than_its_owner_lets_it_from_the_first(tmp_path: Path) -> None:
    home = with_one_node(tmp_path)
    file = OrderFile(home.root)

    def cap(name: str, slots: int | None) -> None:
        file.give(Order(Target.NODE, name, Verb.CAP, slots, who="ann"), "decision")

    def slots(plugin: ClusterPlugin) -> dict[str, int]:
        return {name: node["slots"] for name, node in plugin.governor.snapshot().nodes.items()}

    async def played() -> list[tuple[dict[str, int], tuple[str, ...]]]:
        async with Scheduler(dashboard=False, dashboard_address=None, port=0) as scheduler:
            plugin = Noting(scheduler, home, "lab-c")
            plugin.noted = []
            scheduler.add_plugin(plugin)
            cap("lab-c/lab-1", 3)
            await plugin.start(scheduler)
            async with Worker(scheduler.address, name="lab-1", nthreads=4, dashboard=False):
                cap("lab-c/*", 2)
                await until(lambda: slots(plugin) == {"lab-1": 2})
                cap("lab-c/*", None)
                await until(lambda: slots(plugin) == {"lab-1": 3})
                cap("lab-c/lab-1", None)
                await until(lambda: slots(plugin) == {"lab-1": 4})
            return plugin.noted

    assert asyncio.run(played()) == [({"lab-1": 3}, ("node lab-c/lab-1",))]


class Unreadable(DomainHome):
    """While it `fails` its process may open no more files."""

    fails = False

    def config(self) -> DomainConfig:
        if self.fails:
            error = OSError(errno.EMFILE, "Too many open files")
            raise BadInputError("cannot read the domain's configuration") from error
        return super().config()


def test_quotas_that_could_not_be_read_are_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = with_one_node(tmp_path)

    async def played() -> list[tuple[str, ...]]:
        plugin = ClusterPlugin(Scheduler(dashboard=False, dashboard_address=None), home, "lab-c")
        config = home.config()
        (cluster,) = config.spec.clusters
        limited = replace(cluster, quotas=QuotaTree((CohortQuota("all", (TenantQuota("t"),)),)))
        home.save_config(replace(config, spec=replace(config.spec, clusters=(limited,))))
        plugin._home = Unreadable(home.root)
        plugin.request(NodeJoined("lab-1", 4, frozenset({OWN_STEP})))
        found = []
        for fails in (True, False):
            monkeypatch.setattr(Unreadable, "fails", fails)
            plugin._look_for_quotas(0.0)
            groups = (AskGroup(OWN_STEP, DataClass.PUBLIC, 1, "stranger"),)
            bid = plugin.request(Announce("run", 1, "lab", groups))
            found.append(tuple(one.code for one in bid.refusals))
        return found

    assert asyncio.run(played()) == [(), ("cluster.never",)]


def test_what_runs_for_who_was_put_out_ends_at_the_next_look(tmp_path: Path) -> None:
    home = with_one_node(tmp_path)

    async def played() -> list[list[str]]:
        plugin = ClusterPlugin(Scheduler(dashboard=False, dashboard_address=None), home, "lab-c")
        plugin.request(NodeJoined("lab-1", 4, frozenset({OWN_STEP})))
        for origin in ("cloud", "library"):
            plugin.request(Award("lab-c", "run", 1, origin, (LeaseRequest("run", "s", 1, OWN_STEP, DataClass.PUBLIC),)))
        found = []
        for look in range(2):
            plugin._look_for_quotas(float(look))
            found.append([lease["origin"] for lease in plugin.governor.snapshot().leases])
            put_out(home, "cloud", "it lies")
        return found

    assert asyncio.run(played()) == [["cloud", "library"], ["library"]]
