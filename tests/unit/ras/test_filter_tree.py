"""Filters of AIGr.id's registries: what they keep, why they do not keep the rest, and what is no filter."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.aigrid_search import read_search
from ioi_dagster.ras.filter_tree import compiled, read_filter, variables, why_not

CLUSTER = {
    "id": "cluster-123",
    "regionId": "us-west-2",
    "nodes": {"count": 5, "nodeData": [{"nodeId": "n1", "vcpus": 4}, {"nodeId": "n2", "vcpus": 8}]},
    "tags": ["production", "gpu-cluster"],
    "reputation": 4.5,
    "live": True,
}


def one(variable: str, operator: str, value: object) -> dict:
    return {"variable": variable, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        (one("nodes.count", ">", "1"), True),
        (one("nodes.count", ">", 5), False),
        (one("nodes.count", "==", "5"), True),
        (one("regionId", ">", 1), False),
        (one("live", "==", 1), False),
        (one("live", "==", True), True),
        (one("nowhere", "==", None), True),
        (one("nowhere", "!=", "x"), True),
        (one("nowhere", "<", 3), False),
        (one("tags", "IN", ["ml", "production"]), True),
        (one("tags", "==", "gpu-cluster"), True),
        (one("tags", "!=", "gpu-cluster"), False),
        (one("nodes.nodeData.nodeId", "==", "n2"), True),
        (one("nodes.nodeData.1.vcpus", "==", 4), False),
        (one("nodes.count", "IN", ["5", "6"]), True),
        (one("id", "LIKE", "cluster"), True),
        (one("id", "LIKE", "^uster"), False),
        (one("id", "LIKE", "^cl*er*3$"), True),
        (one("id", "LIKE", "CLUSTER*"), False),
        (one("nodes.count", "LIKE", "5"), False),
        ({"aggOperator": "avg", "target": "nodes.nodeData.vcpus", "operator": "==", "value": 6}, True),
        ({"aggOperator": "count", "target": "nodes.nodeData", "operator": ">=", "value": 3}, False),
        ({"aggOperator": "max", "target": "nowhere", "operator": ">", "value": 0}, False),
        ({"logicalOperator": "NOT", "conditions": [one("reputation", "<", 4), one("live", "==", False)]}, True),
        ({"logicalOperator": "OR", "conditions": [one("reputation", "<", 4), one("live", "==", False)]}, False),
    ],
)
def test_conditions(condition: dict, kept: bool) -> None:
    tree = read_filter(condition)
    assert compiled(tree)(CLUSTER) is kept
    assert (why_not(tree, CLUSTER) == ()) is kept


pieces = st.text("ab.", max_size=4)


@given(pattern=st.lists(pieces, min_size=1, max_size=4).map("*".join), text=st.text("ab.", max_size=10))
def test_a_star_is_any_number_of_characters(pattern: str, text: str) -> None:
    found = compiled(read_filter(one("id", "LIKE", f"^{pattern}$")))({"id": text})
    assert found is fnmatch.fnmatchcase(text, pattern)
    anywhere = compiled(read_filter(one("id", "LIKE", pattern)))({"id": text})
    assert anywhere is fnmatch.fnmatchcase(text, f"*{pattern}*")


def test_a_search_asks_each_document_and_says_what_does_not_hold() -> None:
    queries = {
        "clusterQuery": {
            "logicalOperator": "AND",
            "conditions": [one("nodes.count", ">", "1"), one("reputation", ">", "5")],
        },
        "blockQuery": one("componentURI", "LIKE", "nodes.yolo.*"),
    }
    search = read_search({"body": {"values": {"matchType": "block", "filter": queries}}})
    assert search.why_not({"cluster": CLUSTER, "block": {"componentURI": "nodes.yolo.v5"}}) == (
        "cluster: reputation > '5': it is 4.5",
    )
    assert search.why_not({"block": {"componentURI": "x"}}) == (
        "cluster: nothing is known of it",
        "block: componentURI LIKE 'nodes.yolo.*': it is 'x'",
    )
    assert search.keeps({"cluster": CLUSTER | {"reputation": 6}, "block": {"componentURI": "nodes.yolo.v5"}})


def test_a_search_with_a_ranking_policy_is_read_as_it_stands() -> None:
    rule = {
        "matchType": "cluster",
        "filter": {"clusterMetricsQuery": one("cluster.vcpu.load_5m", ">", 0.3), "clusterQuery": {}},
    }
    ranking = {"policyRuleURI": "dummy:1.0-stable", "parameters": {"filterRule": rule, "return": 5}}
    search = read_search({"matchType": "cluster", "rankingPolicyRule": {"values": ranking}})
    assert (search.kind, search.limit, search.ranking) == ("cluster", 5, ranking)
    assert [*map(variables, search.filters.values())] == [{"cluster.vcpu.load_5m"}]
    assert search.keeps({"clusterMetrics": {"cluster": {"vcpu": {"load_5m": 0.4}}}})


def nested(levels: int) -> dict:
    tree = one("a", "==", 1)
    for _ in range(levels):
        tree = {"logicalOperator": "AND", "conditions": [tree]}
    return tree


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is no condition"),
        ({"logicalOperator": "XOR", "conditions": []}, "XOR"),
        ({"logicalOperator": "AND", "conditions": []}, "no list of conditions"),
        (one("a", "~", 1), "operator is '~'"),
        (one("a..b", "==", 1), "no variable"),
        (one("a", "IN", 1), "needs a list"),
        (one("a", "==", {"$gt": 1}), "no text, number"),
        (one("a", "LIKE", "(a+)+$"), "regular expression"),
        (one("a", "==", 1) | {"or": 1}, "'or' is not known"),
        ({"variable": "a", "operator": "=="}, "value is missing"),
        ({"aggOperator": "avg", "target": "a", "operator": "LIKE", "value": "x"}, "operator is 'LIKE'"),
        (nested(40), "nested deeper"),
        ({"logicalOperator": "OR", "conditions": [one("a", "==", 1)] * 300}, "more than 256"),
        (one("a", "IN", [0] * 20_000), "more than 10000"),
    ],
)
def test_what_is_no_filter_says_where(document: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        read_filter(document)
    assert str(caught.value.where).startswith("filter")


@pytest.mark.parametrize(
    "document",
    [
        "x",
        {"matchType": "planet", "filter": {}},
        {"filter": {"planetQuery": {}}},
        {"rankingPolicyRule": [1]},
        {"filter": []},
    ],
)
def test_what_is_no_search_is_said(document: object) -> None:
    with pytest.raises(BadInputError):
        read_search(document)
