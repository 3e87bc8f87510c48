"""Ten domains, each a gateway process of its own, at two sites: killed, cut off, healed, away for a month, they agree again.

A month passes by what it comes to: the owner's tombstones have given way to a snapshot, as they do by themselves then."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from benchmarks.gateways import Gateway, Gateways, wait_for
from benchmarks.netns import TwoSites, possible
from ioi_dagster.adapters.sql.feed_records import FeedRecords
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import feeds as tables
from ioi_dagster.ras.feeds.entry import Op
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.pointers import Status, set_status
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import SigningKey

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not possible(), reason="network namespaces need root and ip(8)"),
]
PATIENCE_S = 150


def urn_of(one: Gateway, name: str) -> str:
    return f"urn:ioi:{one.home.name}:tool:{name}"


def registers(one: Gateway, *names: str) -> None:
    """As its owner's command does: into the registry, beside the gateway."""
    key, store = one.home.signing_key(), SqlRecordStore(one.home.registry, one.home.trusted())
    store.put_many([make_record(key, Kind.TOOL, name, "1", {"dpi": 300}).signed for name in names])
    store.close()


def says(one: Gateway, name: str, number: int, status: Status) -> None:
    store = SqlRecordStore(one.home.registry, one.home.trusted())
    store.point(set_status(one.home.signing_key(), urn_of(one, name), number, time.time(), status, "1").signed)
    store.close()


def withdraws(one: Gateway, name: str) -> None:
    """As a start of its gateway does with what its files do not have any more."""
    store = SqlRecordStore(one.home.registry, one.home.trusted())
    assert store.keep_only([], {(urn_of(one, name), "1")}) == 1
    store.close()


def known(one: Gateway) -> dict[str, str]:
    """Tools, and how they stand."""
    return dict(one.query("select urn, status from record where kind = 'tool'"))


def all_know(among: Sequence[Gateway], truth: dict[str, str], but: Collection[str] = ()) -> bool:
    """Has each of them that, and nothing else? `but`: the beginnings of names that are left out."""
    wanted = {urn: status for urn, status in truth.items() if not urn.startswith(tuple(but) or ("?",))}
    return all(
        {urn: status for urn, status in known(one).items() if not urn.startswith(tuple(but) or ("?",))} == wanted
        for one in among
    )


def a_month_passes(one: Gateway) -> None:
    """For what its feed says, as its gateway would write it: it must not run meanwhile."""
    store = SqlRecordStore(one.home.registry, one.home.trusted())
    kept = SqlFeeds(store.engine, tables, FeedRecords(store, one.home.name))
    root = SigningKey.load(one.home.name, one.home.root / "keys" / "feeds.root")
    Owner(one.home.signing_key(), kept, root).snapshot(Feed(one.home.name), time.time())
    assert kept.oldest_tombstone(Feed(one.home.name)) is None
    store.close()


@pytest.mark.parametrize("count", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_domains_agree_after_all_that_may_happen_to_them(tmp_path: Path, count: int) -> None:
    with TwoSites(machines=1) as net, Gateways(tmp_path, count, net.machines) as gateways:
        first, killed, away, *_ = gateways.all
        names = ("a", "b", "c")
        for one in gateways.all:
            registers(one, *names)
        truth = {urn_of(one, name): "active" for one in gateways.all for name in names}
        wait_for("all to know all", lambda: all_know(gateways.all, truth), PATIENCE_S)

        # The line between the sites is cut, one is killed; owners at both sides go on.
        net.split()
        killed.stop(signal.SIGKILL)
        other = next(one for one in gateways.all if one.machine is not first.machine and one is not killed)
        registers(first, "new")
        says(first, "a", 1, Status.DEPRECATED)
        registers(other, "new")
        truth |= {urn_of(first, "new"): "active", urn_of(first, "a"): "deprecated"}
        here = [one for one in gateways.all if one.machine is first.machine and one is not killed]
        wait_for("the one site to know", lambda: all_know(here, truth), PATIENCE_S)
        truth[urn_of(other, "new")] = "active"
        there = [one for one in gateways.all if one.machine is other.machine and one is not killed]
        theirs = f"urn:ioi:{first.home.name}:"
        wait_for("the other site to know", lambda: all_know(there, truth, but=[theirs]), PATIENCE_S)
        assert urn_of(first, "new") not in {urn for one in there for urn in known(one)}
        net.heal()
        killed.start()
        wait_for("all to know it", lambda: all_know(gateways.all, truth), PATIENCE_S)

        # One is away for a month, in which another takes something back for good.
        away.stop(signal.SIGKILL)
        says(first, "b", 1, Status.DELETED)
        withdraws(first, "c")
        truth[urn_of(first, "b")] = "deleted"
        del truth[urn_of(first, "c")]
        staying = [one for one in gateways.all if one is not away]
        wait_for("those that stay to know it", lambda: all_know(staying, truth), PATIENCE_S)
        sql = "select 1 from feed_entry where origin = ? and op = ?"
        wait_for("tombstones", lambda: len(first.query(sql, first.home.name, Op.TOMBSTONE.value)) == 2, PATIENCE_S)
        first.stop(signal.SIGKILL)
        a_month_passes(first)
        first.start()
        away.start()
        wait_for("who was away to know it", lambda: all_know(gateways.all, truth), PATIENCE_S)
        wait_for("all feeds to be at one place", gateways.agreed, PATIENCE_S)
