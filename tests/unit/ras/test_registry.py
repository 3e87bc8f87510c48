"""Records, leased state and selection; the store is the real one."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definitions.documents.catalogue import READ
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.errors import FinalError, SignatureError
from ioi_dagster.local.gateway_main import register, withdraw_others
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.quota import CohortQuota, QuotaTree, TenantQuota
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.ras.selection import MAY_CHANGE, Query, discover
from ioi_dagster.ras.store import version_key
from ioi_dagster.signing import SigningKey, TrustedKeys
from tests.realms import owned

LAB, CLOUD = SigningKey.generate("lab.example"), SigningKey.generate("cloud.example")
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, CLOUD)})
DOMAIN = DomainSpec("lab.example", "partners", (ClusterSpec("lab-main", (NodeSpec("lab-1"),)),), DataClass.INTERNAL)
BLOCK = make_record(LAB, Kind.BLOCK, "page-ocr", "1.0.0", replace(READ, handles=DataClass.INTERNAL))
ALIVE = {"cluster/lab-main": {"nodes": 1, "scheduler": "tcp://x"}}


@pytest.fixture
def store(tmp_path: Path) -> SqlRecordStore:
    return SqlRecordStore(tmp_path / "registry.sqlite", TRUSTED)


def test_what_was_put_is_found_and_putting_it_again_changes_nothing(store):
    assert store.put(BLOCK.signed) == BLOCK
    store.put(BLOCK.signed)
    assert store.records() == [BLOCK]
    assert store.get(BLOCK.urn) == BLOCK


def test_other_content_needs_another_version(store):
    store.put(BLOCK.signed)
    with pytest.raises(FinalError, match="new version"):
        store.put(make_record(LAB, Kind.BLOCK, "page-ocr", "1.0.0", replace(READ, model="other")).signed)


def test_the_newest_version_counts_by_number_not_by_letter(store):
    for version in ("1.9.0", "1.10.0", "1.10.0-rc1"):
        store.put(make_record(LAB, Kind.BLOCK, "page-ocr", version, READ).signed)
    assert [record.version for record in store.records()] == ["1.10.0"]
    assert version_key("1.10.0") > version_key("1.9.9")


def test_nobody_writes_under_anothers_prefix(store):
    forged = CLOUD.sign(BLOCK.signed.body)
    with pytest.raises(FinalError, match="may not write under the prefix"):
        store.put(forged)
    with pytest.raises(SignatureError):
        store.put(replace(BLOCK.signed, body={**BLOCK.signed.body, "version": "2.0.0"}))


def test_a_record_altered_in_the_file_is_no_record(store, tmp_path):
    store.put(BLOCK.signed)
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute("UPDATE record SET body = replace(body, 'page.ocr', 'page.all')")
    assert store.records() == []


def query(capability: str = "page.ocr", data_class: str = "internal", authority: str = "partners") -> Query:
    return Query(capability, DataClass(data_class), "library.example", authority)


@pytest.mark.parametrize(
    ("asked", "state", "code"),
    [
        (query("page.fly"), ALIVE, "ras.no_capability"),
        (query(data_class="restricted"), ALIVE, "ras.domain_class"),
        (query(OWN_STEP, authority="other"), ALIVE, "ras.own_code_abroad"),
        (query(), {}, "ras.cluster_away"),
        (query(), {"cluster/lab-main": {"nodes": 0}}, "ras.no_living_node"),
    ],
)
def test_every_rejection_has_its_reason(asked, state, code):
    found = discover(asked, DOMAIN, [BLOCK], state)
    assert found.candidates == ()
    assert [item.refusal.code for item in found.rejected] == [code]


def test_a_cluster_without_a_node_is_a_place_where_nodes_may_come():
    state = {"cluster/lab-main": {"nodes": 0, "may_come": 2}}
    (found,) = discover(query(), DOMAIN, [BLOCK], state).candidates
    assert (found.domain, found.cluster) == ("lab.example", "lab-main")


@pytest.mark.parametrize(
    ("nodes", "living", "expected"),
    [
        ((), {}, 0),
        ((), {"slots": 3}, 0),
        ((NodeSpec("one", 2),), {}, 2),
        ((NodeSpec("one", 2),), {"slots": 1}, 2),
        ((NodeSpec("one", 2),), {"slots": 2}, 2),
        ((NodeSpec("one", 2),), {"slots": 5}, 0),
    ],
)
def test_a_cluster_has_what_is_registered_unless_others_join_it_and_then_nobody_knows(nodes, living, expected):
    domain = replace(DOMAIN, clusters=(ClusterSpec("lab-main", nodes),))
    state = {"cluster/lab-main": {"nodes": 1, "scheduler": "tcp://x", **living}}
    (found,) = discover(query(), domain, [BLOCK], state).candidates
    assert found.slots == expected


def test_a_partner_gets_the_scheduler_a_stranger_only_the_gateway():
    (near,) = discover(query(), DOMAIN, [BLOCK], ALIVE).candidates
    (far,) = discover(query(authority="other"), DOMAIN, [BLOCK], ALIVE).candidates
    assert (near.accepts, near.scheduler) == ("step", "tcp://x")
    assert (far.accepts, far.scheduler) == ("block", "")


def test_only_what_time_can_heal_makes_a_step_wait():
    away = {"ras.no_living_node", "ras.cluster_away", "domain.unreachable", "ras.unreachable"}
    assert {*away, "ras.not_its_cluster"} == MAY_CHANGE
    (gone,) = discover(query(), DOMAIN, [BLOCK], {}).rejected
    assert (gone.who, gone.refusal.code) == ("lab-main", "ras.cluster_away")
    assert [gone.may_change(where) for where in ((), (DOMAIN.name,), ("another.example",))] == [True, True, False]
    (unable,) = discover(query(), DOMAIN, [], ALIVE).rejected
    assert not unable.may_change(())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 5), st.floats(0, 3)), max_size=40))
def test_no_entry_outlives_its_lease_and_none_is_lost_before(events):
    state, now, until = LeasedState(), 0.0, {}
    for key, ttl, later in events:
        state.put(key, ttl, ttl, now)
        until[key] = now + ttl
        now += later
        assert set(state.items(now)) == {name for name, end in until.items() if end > now}


def test_an_older_version_is_still_found_by_its_number(store):
    newer = make_record(LAB, Kind.BLOCK, "page-ocr", "2.0.0", {**BLOCK.spec, "summary": "newer"})
    store.put(BLOCK.signed)
    store.put(newer.signed)
    assert store.get(BLOCK.urn, "1.0.0") == BLOCK
    assert store.get(BLOCK.urn) == newer
    assert store.get(BLOCK.urn, "3.0.0") is None


def test_what_the_owner_no_longer_states_is_gone(store):
    store.put(BLOCK.signed)
    tightened = make_record(LAB, Kind.BLOCK, "page-ocr", "1.0.0+b", {**BLOCK.spec, "handles": "public"})
    store.put(tightened.signed)
    assert store.keep_only([tightened]) == 1
    assert store.records() == [tightened]


def test_a_row_that_is_no_json_hides_nobody_else(store, tmp_path):
    other = make_record(LAB, Kind.NODE, "lab-main:lab-1", "0", {"slots": 1})
    store.put(BLOCK.signed)
    store.put(other.signed)
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute("update record set body = 'rubbish' where kind = 'block'")
    assert store.records() == [other]


def test_a_gateway_withdraws_what_gateways_stated_and_nothing_that_was_registered_otherwise(store, tmp_path):
    note = tmp_path / "stated.json"
    older = make_record(LAB, Kind.BLOCK, "page-ocr", "0.9.0", BLOCK.spec)
    imported = make_record(LAB, Kind.AGENT, "reader", "1.0", {"title": "Reader"}, provenance=[{"format": "x"}])
    by_hand = make_record(LAB, Kind.TOOL, "shelf", "1.0", {"title": "Shelf"})
    node = make_record(LAB, Kind.NODE, "lab-main:lab-1", "0", {"slots": 1})
    for record in (older, imported, node):
        store.put(record.signed)
    # What an owner has registered before the first start stays.
    withdraw_others(note, store, [node])
    assert _urns(store) == sorted(r.urn for r in (older, imported, node))
    store.put(by_hand.signed)
    store.put(BLOCK.signed)
    withdraw_others(note, store, [BLOCK])
    assert _urns(store) == sorted(r.urn for r in (BLOCK, imported, by_hand))
    note.write_bytes(b"rubbish")
    withdraw_others(note, store, [])
    assert len(store.records()) == 3


def _urns(store) -> list[str]:
    return sorted(record.urn for record in store.records())


def test_what_a_domain_tells_of_itself_names_no_tenant(tmp_path):
    lab = owned(tmp_path, "lab.example").home
    tree = QuotaTree((CohortQuota("house", (TenantQuota("secret-team"),)),))
    spec = replace(lab.config().spec, clusters=(ClusterSpec("lab-main", (NodeSpec("lab-1"),), quotas=tree),))
    lab.save_config(replace(lab.config(), spec=spec))
    store = SqlRecordStore(lab.registry, lab.trusted())
    register(lab, lab.config(), store, "r1")
    told = {record.name: json.dumps(record.spec) for record in store.records()}
    assert {"lab.example", "bundle", "lab-main", "lab-main:lab-1"} <= told.keys()
    assert [name for name, spec in told.items() if "secret-team" in spec] == []
