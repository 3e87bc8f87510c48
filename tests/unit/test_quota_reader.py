"""Quotas of a cluster, out of its topology file: any tree is read as it was written, and what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.amounts import shown
from ioi_dagster.model.quota import ANY, ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota
from ioi_dagster.model.topology import ClusterSpec

FILE = """\
network: n
home: a
domains:
  - name: a
    authority: x
    clusters:
      - name: c1
        nodes: [{name: n1, slots: 8, memory: 16GiB, resources: {gpu: 2}}, {name: n2, slots: 8, memory: 16GiB}]
"""
CAPACITY = {"slots": 16, "memory": 32 * 2**30, "gpu": 2}


def cluster_of(folder: Path, text: str) -> ClusterSpec:
    path = folder / "topology.yaml"
    path.write_text(FILE + "\n".join(f"        {line}" for line in text.splitlines()) + "\n")
    return load_topology(path).domain("a").clusters[0]


def errors_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        cluster_of(folder, text)
    told = str(caught.value).removesuffix(" — see deployments/local/topology.yaml for a file that works")
    return [line.removeprefix(f"{folder / 'topology.yaml'}:") for line in told.splitlines()]


def test_a_tree_of_cohorts_tenants_and_classes(tmp_path):
    text = """\
quotas:
  - name: partners
    weight: 3
    guarantee: {slots: 12, memory: 20GiB, gpu: 2}
    tenants:
      - name: library
        weight: 2
        guarantee: {slots: 8, gpu: 1}
        lends: {slots: 4}
        classes:
          - {name: page-ocr, weight: 5, guarantee: 2, borrows: {slots: 6, gpu: 0}}
  - name: pilot
    parent: partners
    tenants:
      - {name: lab, guarantee: 4, lends: 0}
  - name: guests
    tenants:
      - {name: "*", borrows: {slots: 2, memory: 500 MB}}
"""
    classes = (ClassQuota("page-ocr", 5.0, Quota({"slots": 2.0}, {}, {"slots": 6.0, "gpu": 0.0})),)
    library = TenantQuota("library", 2.0, Quota({"slots": 8.0, "gpu": 1.0}, {"slots": 4.0}), classes)
    promised = Quota({"slots": 12.0, "memory": 20.0 * 2**30, "gpu": 2.0})
    anybody = TenantQuota(ANY, quota=Quota(borrows={"slots": 2.0, "memory": 5e8}))
    assert cluster_of(tmp_path, text).quotas == QuotaTree(
        (
            CohortQuota("partners", (library,), 3.0, promised),
            CohortQuota("pilot", (TenantQuota("lab", quota=Quota({"slots": 4.0}, {"slots": 0.0})),), parent="partners"),
            CohortQuota("guests", (anybody,)),
        )
    )


def test_the_short_form_is_one_cohort_with_a_place_for_everybody(tmp_path):
    text = "tenants: [{name: t, weight: 2.5}, {name: u}, {name: v, guarantee: 1, lends: 0, borrows: {gpu: 1}}]"
    v = TenantQuota("v", 1.0, Quota({"slots": 1.0}, {"slots": 0.0}, {"gpu": 1.0}))
    assert cluster_of(tmp_path, text).quotas == QuotaTree.flat([TenantQuota("t", 2.5), TenantQuota("u"), v])


def test_without_any_all_tenants_are_equal(tmp_path):
    assert cluster_of(tmp_path, "price: 1").quotas == QuotaTree.flat()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("tenants: [{name: t}]\nquotas: [{name: c}]", ["9: a cluster has `quotas`, or their short form `tenants`, not both"]),
        ("tenants: [{name: t, guarantee: 99}]", ["9: the cohorts are guaranteed 99 slots, but the cluster has 16"]),
        ("tenants: [{name: t, guarantee: 0.5}]", ["9: guarantee must be a whole number of slots"]),
        ("tenants: [{name: t, borrows: -1}]", ["9: borrows must be from 0 to 1e+18"]),
        ("tenants: [{name: t, borrows: .inf}]", ["9: borrows must be from 0 to 1e+18"]),
        ("tenants: [{name: t, borrows: lots}]", ["9: borrows says 'lots' is no amount — write it as 2, 0.5 or 4GiB"]),
        ("tenants:\n- {name: t}\n- {name: t}", ["11: tenant 't' is given twice in cohort 'all'"]),
        (
            "tenants:\n- name: t\n  lends: 2",
            ["11: tenant 't' lends 2 slots, more than its guarantee of 0: give it one, or take `lends` away"],
        ),
        ("tenants:\n- name: t\n  guarantee: 1\n  lends: 2", ["12: tenant 't' lends 2 slots, more than its guarantee of 1"]),
        ("quotas: []", ["9: quotas may not be empty"]),
        ("quotas: {cohorts: []}", ["9: quotas must be a list"]),
        ("quotas:\n- tenants: []", ["10: a cohort lacks 'name'"]),
        (
            "quotas:\n- name: c\n  limit: 3",
            ["11: unknown key 'limit' in a cohort; known are borrows, guarantee, lends, name, parent, tenants, weight"],
        ),
        ("quotas:\n- {name: c}\n- {name: c}", ["11: cohort 'c' is given twice"]),
        (
            "quotas:\n- {name: c, tenants: [{name: t}]}\n- {name: d, tenants: [{name: t}]}",
            ["11: tenant 't' is in two cohorts, 'c' and 'd'; it must be in one"],
        ),
        (
            "quotas:\n- name: c\n  parent: d\n- name: d\n  parent: c\n- name: e\n  parent: f",
            ["11: the cohorts' parents form a cycle: c → d → c", "15: parent 'f' of cohort 'e' is not one of the cohorts"],
        ),
        (
            "tenants: [{name: t, guarantee: {memory: 1TiB}}]",
            ["9: the cohorts are guaranteed 1 TiB memory, but the cluster has 32 GiB"],
        ),
        (
            "quotas:\n- name: c\n  guarantee:\n    slots: 1\n    tpu: 1",
            ["13: guarantee of cohort 'c' names 'tpu', which no node offers; known are gpu, memory, slots"],
        ),
        (
            "quotas:\n- name: c\n  guarantee: 1\n  tenants:\n  - name: t\n    guarantee: 2",
            ["11: the members of cohort 'c' are guaranteed 2 slots, more than the 1 above them"],
        ),
        (
            "quotas:\n- name: c\n  tenants:\n  - name: t\n    classes:\n    - name: k\n    - {name: k, weight: 0}",
            ["15: weight must be from 0.01 to 1000"],
        ),
        (
            "quotas:\n- name: c\n  tenants:\n  - name: t\n    classes:\n    - name: k\n    - {name: k}",
            ["15: class 'k' is given twice for tenant 't'"],
        ),
        (
            'quotas:\n- name: c\n  tenants:\n  - name: "*"\n    guarantee: 1',
            ["13: tenant '*' is any number of tenants, so that it can be guaranteed nothing; guarantee it to their cohort"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, wrong):
    assert errors_of(tmp_path, text) == wrong


def test_a_star_without_quotes_is_named(tmp_path):
    (told,) = errors_of(tmp_path, "tenants: [{name: *}]")
    assert told.startswith("9: not YAML: ")
    assert told.endswith('write "*" in quotes')


NAMES = st.integers(0, 10**6).map("t{}".format)
WEIGHTS = st.floats(0.01, 1000.0)


@st.composite
def quotas(draw, most: dict[str, float]) -> Quota:
    """Guaranteed at most `most`, which is what is left of it afterwards."""
    guarantee: dict[str, float] = {}
    for name in draw(st.sets(st.sampled_from(sorted(most)))):
        guarantee[name] = float(draw(st.integers(0, int(most[name]))))
        most[name] -= guarantee[name]
    lends = {
        name: float(draw(st.integers(0, int(amount)))) for name, amount in guarantee.items() if draw(st.booleans())
    }
    borrowed = st.dictionaries(st.sampled_from(sorted(most)), st.integers(0, 2**40).map(float))
    return Quota(guarantee, lends, draw(borrowed))


@st.composite
def trees(draw) -> QuotaTree:
    left = {name: float(amount) for name, amount in CAPACITY.items()}
    names = draw(st.lists(NAMES, min_size=1, max_size=12, unique=True))
    count = draw(st.integers(1, len(names)))
    cohorts: list[CohortQuota] = []
    for number in range(count):
        tenants = []
        for name in names[number::count]:
            quota = draw(quotas(left))
            below = dict(quota.guarantee)
            classes = draw(st.lists(NAMES, max_size=2, unique=True))
            parts = tuple(ClassQuota(one, draw(WEIGHTS), draw(quotas(below)) if below else Quota()) for one in classes)
            tenants.append(TenantQuota(name, draw(WEIGHTS), quota, parts))
        parent = draw(st.sampled_from(["", *(one.name for one in cohorts)]))
        cohorts.append(CohortQuota(f"c{number}", tuple(tenants), draw(WEIGHTS), parent=parent))
    return QuotaTree(tuple(draw(st.permutations(cohorts))))


def written(holder: CohortQuota | TenantQuota | ClassQuota) -> dict[str, Any]:
    found: dict[str, Any] = {"name": holder.name, "weight": holder.weight}
    found |= {
        key: dict(getattr(holder.quota, key)) for key in ("guarantee", "lends", "borrows") if getattr(holder.quota, key)
    }
    match holder:
        case CohortQuota(tenants=tenants, parent=parent):
            found |= {"tenants": list(map(written, tenants))} | ({"parent": parent} if parent else {})
        case TenantQuota(classes=classes) if classes:
            found["classes"] = list(map(written, classes))
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=trees())
def test_every_tree_that_adds_up_is_read_as_it_was_written(tmp_path, tree):
    text = yaml.safe_dump({"quotas": list(map(written, tree.cohorts))}, sort_keys=False)
    assert cluster_of(tmp_path, text).quotas == tree


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=trees(), over=st.sampled_from(sorted(CAPACITY)), data=st.data())
def test_a_promise_beyond_the_cluster_is_refused_wherever_in_the_tree_it_stands(tmp_path, tree, over, data):
    cohort = data.draw(st.sampled_from(tree.cohorts))
    more = TenantQuota("more", quota=Quota({over: CAPACITY[over] * 2.0}))
    cohorts = tuple(
        CohortQuota(one.name, (*one.tenants, more) if one is cohort else one.tenants, one.weight, parent=one.parent)
        for one in tree.cohorts
    )
    text = yaml.safe_dump({"quotas": list(map(written, cohorts))}, sort_keys=False)
    assert any(
        f"{over}, but the cluster has {shown(over, CAPACITY[over])}" in line for line in errors_of(tmp_path, text)
    )
