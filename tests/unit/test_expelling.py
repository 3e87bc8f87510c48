"""An owner puts a domain out: who that is, what its own runs are told, and that it may be said again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql import sqlite
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError, IoiError, SignatureError
from ioi_dagster.local import member_book
from ioi_dagster.local.expelling import expel
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import open_federation
from ioi_dagster.local.member_book import FolderBook
from ioi_dagster.local.quota import apply_quotas
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.intervention import Action
from tests.members import author
from tests.realms import introduce, owned, realm


@pytest.fixture
def lab(tmp_path: Path) -> DomainHome:
    """It knows the domain cloud, whose cluster is cloud-c."""
    home, cloud = owned(tmp_path / "lab", "lab").home, owned(tmp_path / "cloud", "cloud").home
    member_book.take_in(home, FolderBook(cloud).records()["cloud"], member_book.own_record(cloud))
    return home


def test_a_member_is_put_out_and_again_is_no_error(lab: DomainHome) -> None:
    assert expel(lab, "cloud", "it lies", "ann", 5.0) == "is expelled; what its runs do here is stopped"
    assert expel(lab, "cloud", "", "ann", 6.0) == "was expelled already; what its runs do here is stopped"
    assert (set(lab.members()), lab.config().expelled, lab.config().peers) == ({"lab"}, {"cloud": "it lies"}, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clod", "lab knows no domain 'clod' — did you mean cloud?"),
        ("lab", "lab is this domain itself — `ioi domain leave`"),
        ("../cloud", "lab knows no domain '../cloud'"),
    ],
)
def test_nobody_else_is(lab: DomainHome, name: str, text: str) -> None:
    with pytest.raises(BadInputError) as raised:
        expel(lab, name, "", "ann", 5.0)
    assert str(raised.value).startswith(text)
    assert (set(lab.members()), lab.config().expelled) == ({"lab", "cloud"}, {})


def test_who_has_the_same_authority_opens_dask_clusters_still_and_that_is_told(tmp_path: Path) -> None:
    one = realm(tmp_path, "lab")
    other = realm(tmp_path, "cloud", one.authority)
    introduce(one, other)
    one.home.save_config(DomainConfig("n", "lab", one.spec, "", (), {}, "", (), {}, {}))
    assert "it has our certificate authority" in expel(one.home, "cloud", "", "ann", 5.0)


def test_own_runs_that_have_not_ended_stay_away_from_its_clusters(lab: DomainHome) -> None:
    ledger = Ledger(lab.ledger)
    ledger.take_over("open", "books", 1.0)
    ledger.end("over", ledger.take_over("over", "books", 1.0), 2.0)
    told = "is expelled; what its runs do here is stopped; 1 of ours stay away from it"
    assert expel(lab, "cloud", "it lies", "ann", 5.0) == told
    (said,) = ledger.interventions("open")
    assert (said.action, said.step, said.away, said.why, said.who, said.at) == (
        Action.REROUTE, "", "cloud-c", "cloud is expelled: it lies", "ann", 5.0,
    )  # fmt: skip
    assert ledger.interventions("over") == []
    ledger.close()


def test_a_ledger_that_is_busy_keeps_nobody_in_and_what_is_left_to_do_is_told(
    lab: DomainHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WAIT_S", 0.0)
    ledger = Ledger(lab.ledger)
    ledger.take_over("open", "books", 1.0)
    ledger.close()
    other = sqlite3.connect(lab.ledger, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(IoiError) as raised:
        expel(lab, "cloud", "it lies", "ann", 5.0)
    other.close()
    told = str(raised.value)
    assert told.startswith(
        "cloud is expelled; what its runs do here is stopped; our own runs are not told to stay away"
    )
    assert "database is locked" in told
    assert "`ioi reroute RUN --away-from cloud-c`" in told
    assert (set(lab.members()), lab.config().expelled) == ({"lab"}, {"cloud": "it lies"})


def test_a_domain_without_a_record_of_itself_puts_others_out(lab: DomainHome) -> None:
    (lab.trust / "lab.json").unlink()
    assert expel(lab, "cloud", "it lies", "ann", 5.0) == "is expelled; what its runs do here is stopped"
    assert (lab.members(), lab.config().expelled) == ({}, {"cloud": "it lies"})


NETWORK = """
network: book
home: lab
domains:
  - {name: lab, authority: ours, clusters: [{name: lab-c, nodes: [{name: lab-1}]}]}
  - {name: cloud, authority: theirs, clusters: [{name: cloud-c, nodes: [{name: cloud-1}]}]}
  - {name: edge, authority: edges, clusters: [{name: edge-c, nodes: [{name: edge-1}]}]}
"""


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    (tmp_path / "topology.yaml").write_text(NETWORK)
    return open_federation(tmp_path / "home", tmp_path / "topology.yaml", ())


def prepared(federation: Federation) -> DomainHome:
    federation.prepare()
    federation.stop()
    return federation.home_domain


def test_a_federation_that_is_started_again_takes_nobody_in_whom_an_owner_has_put_out(federation: Federation) -> None:
    lab = prepared(federation)
    member_book.put_out(lab, "cloud", "it lies")
    member_book.introduce(lab, False)
    prepared(federation)
    config = lab.config()
    assert (config.expelled, config.introductions) == ({"cloud": "it lies"}, False)
    assert [set(one) for one in (config.peers, config.limits, config.authorities)] == [
        {"edge"}, {"lab", "edge"}, {"lab", "edge"},
    ]  # fmt: skip
    assert set(lab.members()) == {"lab", "edge"}
    with pytest.raises(SignatureError):
        lab.trusted().verify(federation.domain("cloud").signing_key().sign({"a": 1}))
    cloud = federation.domain("cloud")
    assert (set(cloud.members()), cloud.config().expelled, cloud.config().introductions) == (
        {"lab", "cloud", "edge"}, {}, True,
    )  # fmt: skip


def test_where_it_cannot_be_told_whom_an_owner_has_put_out_nobody_is_taken_in(federation: Federation) -> None:
    lab = prepared(federation)
    member_book.put_out(lab, "cloud", "it lies")
    (lab.root / "domain.json").write_text("{")
    with pytest.raises(BadInputError, match=r"whom lab has expelled cannot be read: .*ioi domain expel"):
        federation.prepare()
    federation.stop()
    assert set(lab.members()) == {"lab", "edge"}


class Interrupted(DomainHome):
    """Its owner puts cloud out just after the configuration was read for the first time."""

    def config(self) -> DomainConfig:
        found = super().config()
        if not found.expelled:
            member_book.put_out(DomainHome(self.root), "cloud", "it lies")
        return found


def test_new_quotas_leave_what_an_owner_has_said_meanwhile(federation: Federation, tmp_path: Path) -> None:
    lab = prepared(federation)
    (tmp_path / "topology.yaml").write_text(NETWORK.replace("name: lab-c,", "name: lab-c, tenants: [{name: ann}],"))
    asked = load_topology(tmp_path / "topology.yaml")
    homes = [Interrupted(lab.root), federation.domain("cloud"), federation.domain("edge")]
    (change,) = apply_quotas(asked, homes)
    assert (change.cluster, change.tenant) == ("lab-c", "ann")
    config = lab.config()
    assert (config.expelled, set(config.peers)) == ({"cloud": "it lies"}, {"edge"})
    assert config.spec == asked.domains[0]


@pytest.fixture
def crowded(lab: DomainHome) -> DomainHome:
    """Cloud has told of edge, which has told of far; shop was invited."""
    for name, by in (("edge", "cloud"), ("far", "edge"), ("shop", "")):
        member_book.take_in(lab, author(name).signed(), author(name).record(), vouched=by)
    return lab


def test_those_that_came_by_the_word_of_who_is_put_out_are_named_and_put_out_on_demand_also_later(crowded):
    told = expel(crowded, "cloud", "it lies", "ann", 5.0)
    assert told.endswith(
        "; members by its word alone, and still: edge, far (`ioi domain expel cloud --with-introduced`)"
    )
    assert set(crowded.members()) == {"lab", "edge", "far", "shop"}
    told = expel(crowded, "cloud", "it lies", "ann", 6.0, introduced=True)
    assert told.endswith("; expelled too, since they came by its word: edge, far")
    why = "it came by the word of cloud"
    assert (set(crowded.members()), crowded.config().expelled) == (
        {"lab", "shop"}, {"cloud": "it lies", "edge": why, "far": why},
    )  # fmt: skip
    assert crowded.config().vouched == {}
    assert expel(crowded, "cloud", "", "ann", 7.0, introduced=True).endswith("is stopped")


def test_a_ledger_that_is_busy_keeps_nobody_in_who_was_introduced_either(crowded, monkeypatch):
    monkeypatch.setattr(sqlite, "WAIT_S", 0.0)
    ledger = Ledger(crowded.ledger)
    ledger.take_over("open", "books", 1.0)
    ledger.close()
    other = sqlite3.connect(crowded.ledger, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(IoiError, match=r"^cloud is expelled; .* are not told to stay away"):
        expel(crowded, "cloud", "it lies", "ann", 5.0, introduced=True)
    other.close()
    assert set(crowded.members()) == {"lab", "shop"}
