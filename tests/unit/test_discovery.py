"""What a run finds at the registries of all domains: whose word counts for which cluster, and who is waited for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ioi_dagster.adapters.dask import client as dask_client
from ioi_dagster.adapters.http import client as client_module
from ioi_dagster.adapters.http.registries import SILENT_S, FederatedRegistry
from ioi_dagster.clock import Clock, ManualClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.host import network as network_module
from ioi_dagster.host.federated_fleets import DaskFleet
from ioi_dagster.host.network import FOUND_FOR_S, FederatedNetwork
from ioi_dagster.host.work import Found
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import ClusterSpec, NodeSpec
from ioi_dagster.ras.selection import Discovery, Query
from tests.conftest import eventually
from tests.members import author
from tests.realms import owned
from tests.registries import HOME, Registry, library, permitted

AUTHORITIES = {HOME: "partners", "lab": "partners", "cloud": "clouds"}
LIMITS = {HOME: DataClass.RESTRICTED, "lab": DataClass.INTERNAL, "cloud": DataClass.PUBLIC}
NOBODYS = "tcp://127.0.0.1:1"
Opened = Callable[..., FederatedNetwork]
T = TypeVar("T")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def peer(stack: ExitStack) -> Callable[..., Registry]:
    def opened(domain: str, *clusters: str, scheduler: str = "") -> Registry:
        its = Registry(domain, *clusters, scheduler=scheduler)
        stack.callback(its.close)
        return its

    return opened


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., DomainHome]:
    """The library's home, with the records of its peers as they have signed them."""

    def made(*peers: Registry) -> DomainHome:
        home = library(tmp_path, *peers, authorities=AUTHORITIES, limits=LIMITS)
        for one in peers:
            record(home, one.domain)
        return home

    return made


@pytest.fixture
def run(stack: ExitStack, known: Callable[..., DomainHome], monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A run of the library's."""
    monkeypatch.setattr(dask_client, "CONNECT_S", 0.1)
    monkeypatch.setattr(client_module, "DISCOVER_S", 20.0)

    def opened(*peers: Registry, clock: Clock | None = None) -> FederatedNetwork:
        home = known(*peers)
        network = FederatedNetwork(home, permitted(home, DataClass.INTERNAL), clock)
        stack.callback(network.close)
        return network

    return opened


def record(home: DomainHome, domain: str, serial: int = 1, *clusters: str) -> None:
    home.put_member(author(domain).signed(serial, clusters=clusters or (f"{domain}-c",)))


def find(network: FederatedNetwork, data_class: DataClass) -> Found:
    return network.find("echo", data_class, (), True)


def clusters(found: Found) -> set[tuple[str, str]]:
    return {(place.domain, place.cluster) for place in found.places}


def offered(found: Discovery) -> set[str]:
    return {candidate.cluster for candidate in found.candidates}


def within(ask: Callable[..., T], *arguments: Any) -> T:
    """The answer of one who is not to wait; it has far longer than that takes."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(ask, *arguments).result(20)
    finally:
        pool.shutdown(wait=False)


def codes(found: Found) -> dict[str, str]:
    return {who: refusal.code for who, refusal in found.rejected if who != HOME}


def test_a_member_that_calls_its_cluster_as_another_ones_is_sent_nothing_of_that_one(peer, run):
    """A step with public data finds the liar, a later one with internal data whom it has named itself after."""
    network = run(peer("cloud", "lab-c"), peer("lab", "lab-c", scheduler=NOBODYS))
    public = find(network, DataClass.PUBLIC)
    assert clusters(public) == {("lab", "lab-c")}
    assert codes(public) == {"cloud": "ras.not_its_cluster"}
    internal = find(network, DataClass.INTERNAL)
    assert clusters(internal) == {("lab", "lab-c")}
    assert (network.fleet("lab-c").domain, network.fleet("lab-c").accepts) == ("lab", "step")


def test_a_name_that_another_domain_had_when_the_run_found_it_stays_that_ones(peer, run, tmp_path):
    cloud, lab = peer("cloud", "shared"), peer("lab", "shared", scheduler=NOBODYS)
    network = run(cloud, lab)
    home = DomainHome(tmp_path / "domains" / HOME)
    record(home, "cloud", 2, "shared")
    assert clusters(find(network, DataClass.PUBLIC)) == {("cloud", "shared")}
    record(home, "cloud", 3, "another")
    record(home, "lab", 2, "shared")
    internal = find(network, DataClass.INTERNAL)
    assert clusters(internal) == set()
    assert codes(internal)["shared"] == "ras.name_taken"
    assert [fleet.domain for fleet in network.fleets()] == ["cloud"]


def test_a_member_that_is_frozen_is_waited_for_once_and_counts_again_when_it_answers(peer, known, monkeypatch):
    frozen, there = peer("cloud", "cloud-c"), peer("lab", "lab-c", scheduler=NOBODYS)
    home = known(frozen, there)
    registry = FederatedRegistry(home, home.config(), home.signing_key(), None)
    query = Query("echo", DataClass.PUBLIC, HOME, AUTHORITIES[HOME])
    eventually(lambda: offered(registry.discover(query)) == {"lab-c", "cloud-c"}, 20, "everybody's cluster")
    frozen.freeze()
    monkeypatch.setattr(client_module, "DISCOVER_S", 0.5)
    eventually(lambda: offered(registry.discover(query)) == {"lab-c"}, 20, "the cluster of who is there")
    monkeypatch.setattr(client_module, "DISCOVER_S", 600.0)
    asked = frozen.asked
    found = within(registry.discover, query)
    assert offered(found) == {"lab-c"}
    (why,) = (item.refusal for item in found.rejected if item.who == "cloud")
    assert (why.code, "did not answer the last time" in why.text) == ("domain.unreachable", True)
    eventually(lambda: frozen.asked > asked, 20, "the question of one who does not wait for its answer")
    assert offered(within(registry.discover, query)) == {"lab-c"}
    assert frozen.asked == asked + 1, "what is under way is not asked again"
    frozen.thaw()
    eventually(lambda: offered(registry.discover(query)) == {"lab-c", "cloud-c"}, 20, "the cluster of who is back")
    registry.close()


def test_a_member_that_the_own_gateway_does_not_hear_holds_up_no_run_and_counts_as_soon_as_it_answers(
    peer, known, monkeypatch
):
    """Its word is a hint: who answers is there, and what the run itself has heard is worth more."""
    own, away, there = peer(HOME), peer("cloud", "cloud-c"), peer("lab", "lab-c", scheduler=NOBODYS)
    home = known(own, away, there)
    monkeypatch.setattr(client_module, "DISCOVER_S", 600.0)
    own.view = {
        "cloud": {"state": "gone", "why": "no answer within 1 s"},
        "lab": {"state": "suspect"},
        "nobody": {"state": "gone"},
    }
    query = Query("echo", DataClass.PUBLIC, HOME, AUTHORITIES[HOME])
    away.freeze()
    registry = FederatedRegistry(home, home.config(), home.signing_key(), None)
    found = within(registry.discover, query)
    assert offered(found) <= {"lab-c"}
    (why,) = (item.refusal for item in found.rejected if item.who == "cloud")
    assert why == Refusal(
        "domain.unreachable",
        f"gateway of cloud is unreachable: the gateway of {HOME} says it is gone: no answer within 1 s, "
        "nor within 0.1 s now: it has stopped, or is cut off",
        "registry",
    )
    eventually(lambda: offered(within(registry.discover, query)) == {"lab-c"}, 20, "the other one that is doubted")
    away.thaw()
    eventually(lambda: offered(registry.discover(query)) == {"lab-c", "cloud-c"}, 20, "the cluster of who is there")
    away.freeze()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(registry.discover, query)
        assert wait([asked], 1.0).not_done, "who has answered a moment ago is waited for"
        away.thaw()
        assert offered(asked.result(20)) == {"lab-c", "cloud-c"}
    registry.close()


@pytest.mark.parametrize("view", [{}, {"cloud": {}}, {"cloud": {"state": "unknown"}}, {"cloud": {"state": "alive"}}])
def test_a_member_that_nobody_doubts_is_waited_for(view, peer, known, monkeypatch):
    own, slow = peer(HOME), peer("cloud", "cloud-c")
    home, own.view = known(own, slow), view
    monkeypatch.setattr(client_module, "DISCOVER_S", 600.0)
    registry = FederatedRegistry(home, home.config(), home.signing_key(), None)
    slow.freeze()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(registry.discover, Query("echo", DataClass.PUBLIC, HOME, AUTHORITIES[HOME]))
        eventually(lambda: slow.asked, 20, "the question")
        assert wait([asked], 5 * SILENT_S).not_done
        slow.thaw()
        assert offered(asked.result(20)) == {"cloud-c"}
    registry.close()


def test_what_took_long_to_find_is_known_for_as_long_as_what_did_not(peer, run):
    clock = ManualClock()
    slow = peer("cloud", "cloud-c")
    slow.meanwhile = lambda: clock.advance(5.0)
    network = run(slow, clock=clock)
    for _ in range(3):
        assert clusters(find(network, DataClass.PUBLIC)) == {("cloud", "cloud-c")}
    assert slow.asked == 1
    clock.advance(FOUND_FOR_S)
    find(network, DataClass.PUBLIC)
    assert slow.asked == 2


def test_equal_questions_at_the_same_time_are_one(peer, run):
    slow = peer("cloud", "cloud-c")
    network = run(slow)
    slow.freeze()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(find, network, DataClass.PUBLIC) for _ in range(8)]
        eventually(lambda: slow.asked == 1, 20, "the question")
        slow.thaw()
        assert [clusters(one.result(20)) for one in found] == [{("cloud", "cloud-c")}] * 8
    assert slow.asked == 1


def test_a_scheduler_that_does_not_answer_holds_up_nobody_who_does_not_want_it(peer, run, monkeypatch):
    connecting, go = threading.Event(), threading.Event()

    class Slow(DaskFleet):
        def __init__(self, *arguments: Any) -> None:
            connecting.set()
            go.wait(20)
            super().__init__(*arguments)

    monkeypatch.setattr(network_module, "DaskFleet", Slow)
    network = run(peer("cloud", "cloud-c"), peer("lab", "lab-c", scheduler=NOBODYS))
    with ThreadPoolExecutor(1) as pool:
        every = pool.submit(find, network, DataClass.PUBLIC)
        assert connecting.wait(20)
        one = within(network.find, "echo", DataClass.PUBLIC, ("cloud",), True)
        assert (clusters(one), every.done()) == ({("cloud", "cloud-c")}, False)
        go.set()
        assert clusters(every.result(20)) == {("cloud", "cloud-c"), ("lab", "lab-c")}
    assert [fleet.cluster for fleet in network.fleets()] == ["cloud-c", "lab-c"]


def test_a_domain_beside_it_that_cannot_be_read_ends_no_run(run, tmp_path, monkeypatch):
    """Which nodes there are to stay away from is asked of all of the same home."""
    network = run()
    lab, cloud, edge = (owned(tmp_path, name).home for name in ("lab", "cloud", "edge"))
    (tmp_path / "domains" / "notes").touch()
    assert network.names() == {"lab-c", "lab-1", "cloud-c", "cloud-1", "edge-c", "edge-1"}
    (cloud.root / "domain.json").write_text("{")
    of_another_user(monkeypatch, lab.root)
    assert network.names() == {"edge-c", "edge-1"}
    (edge.root / "domain.json").unlink()
    assert network.names() == set()


def test_a_run_knows_the_nodes_of_its_own_domain_whatever_has_become_of_its_configuration(known, stack):
    home = known()
    spec = replace(home.config().spec, clusters=(ClusterSpec("library-c", (NodeSpec("library-1"),)),))
    home.save_config(replace(home.config(), spec=spec))
    network = FederatedNetwork(home, permitted(home, DataClass.INTERNAL))
    stack.callback(network.close)
    (home.root / "domain.json").write_text("{")
    assert network.names() == {"library-c", "library-1"}


def of_another_user(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As whoever is not root finds it."""
    for name in ("stat", "read_bytes"):
        plain = getattr(Path, name)

        def refusing(path: Path, _plain: Callable[..., Any] = plain, **options: Any) -> Any:
            if path.parent == folder:
                raise PermissionError(13, os.strerror(13))
            return _plain(path, **options)

        monkeypatch.setattr(Path, name, refusing)
