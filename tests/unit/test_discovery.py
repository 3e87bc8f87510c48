"""What a run finds at the registries of all domains: whose word counts for which cluster, and who is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ioi_dagster.adapters.dask import client as dask_client
from ioi_dagster.domain import DomainHome
from ioi_dagster.host.network import FederatedNetwork
from ioi_dagster.host.work import Found
from ioi_dagster.model.data_class import DataClass
from tests.members import author
from tests.registries import HOME, Registry, library, permitted

AUTHORITIES = {HOME: "partners", "lab": "partners", "cloud": "clouds"}
LIMITS = {HOME: DataClass.RESTRICTED, "lab": DataClass.INTERNAL, "cloud": DataClass.PUBLIC}
NOBODYS = "tcp://127.0.0.1:1"
Opened = Callable[..., FederatedNetwork]


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
def run(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Of the library, with the records of its peers as they have signed them."""
    monkeypatch.setattr(dask_client, "CONNECT_S", 0.1)

    def opened(*peers: Registry) -> FederatedNetwork:
        home = library(tmp_path, *peers, authorities=AUTHORITIES, limits=LIMITS)
        for one in peers:
            record(home, one.domain)
        network = FederatedNetwork(home, permitted(home, DataClass.INTERNAL))
        stack.callback(network.close)
        return network

    return opened


def record(home: DomainHome, domain: str, serial: int = 1, *clusters: str) -> None:
    home.put_member(author(domain).signed(serial, clusters=clusters or (f"{domain}-c",)))


def find(network: FederatedNetwork, data_class: DataClass) -> Found:
    return network.find("echo", data_class, (), True)


def clusters(found: Found) -> set[tuple[str, str]]:
    return {(place.domain, place.cluster) for place in found.places}


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
