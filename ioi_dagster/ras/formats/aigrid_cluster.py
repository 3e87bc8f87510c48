"""Clusters and nodes of AIGr.id: what hardware they offer, where, under whose rules."""

from __future__ import annotations

from typing import Any

from ioi_dagster.ras.formats.aigrid import envelope, hardware, locate, rules, written_hardware, written_rule
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full
from ioi_dagster.ras.urn import Kind

CLUSTER, NODE = "aigrid-cluster", "aigrid-node"


def cluster_fits(value: Any) -> bool:
    nodes = value.get("nodes")
    listed = isinstance(nodes, dict) and any(name in nodes for name in ("count", "nodeData", "nodesData"))
    return "id" in value and ("regionId" in value or "clusterMetadata" in value or listed)


def node_fits(value: Any) -> bool:
    if isinstance(value.get("nodeData"), dict):
        return True
    bare = ("id" in value or "nodeId" in value) and ("vcpus" in value or "gpus" in value)
    return bare and not cluster_fits(value)


def cluster_tells(value: Any) -> str:
    return "it has id and region or nodes of a cluster" if locate(value, cluster_fits) is not None else ""


def node_tells(value: Any) -> str:
    return "it has id and hardware of a node" if locate(value, node_fits) is not None else ""


def cluster_within(document: Any) -> Path:
    return locate(document, cluster_fits) or ()


def node_within(document: Any) -> Path:
    path = locate(document, node_fits) or ()
    for step in path:
        document = document[step]
    return (*path, "nodeData") if isinstance(document, dict) and isinstance(document.get("nodeData"), dict) else path


def read_cluster(outer: Place) -> list[Draft]:
    path = cluster_within(outer.value)
    place = outer.at(*map(str, path)) if path else outer
    name = place.needed("id")
    meta, config = place.get("clusterMetadata"), place.get("config")
    host = config.get("publicHostname").text()
    policies = rules(config.get("actionsPolicyMap"))
    checker = config.get("stabilityChecker")
    nodes = place.get("nodes")
    said = full(
        title=meta.get("name").text() or name,
        description=meta.get("description").text(),
        tags=place.get("tags").texts(),
        owners=list(filter(None, [meta.get("owner").text()])),
        region=place.get("regionId").text(),
        countries=list(meta.get("countries").texts()),
        status=place.get("status").text(),
        reputation=place.get("reputation").number(),
        offers=hardware(place),
        nodes=[
            full(name=node.get("id", "nodeId").text(), status=node.get("status").text(), offers=hardware(node))
            for node in nodes.get("nodeData", "nodesData").objects()
        ],
        node_count=nodes.get("count").number(),
        endpoints=[full(url=host, protocol="host")] * bool(host)
        + [{"url": url.text(), "protocol": key} for key, url in config.get("urlMap").entries() if url.text()],
        policies=policies + [rule | {"name": "stabilityChecker"} for rule in [_rule(checker)] if rule],
        engine=full(id=config.get("policyExecutorId").text(), mode=config.get("policyExecutionMode").text()),
    )
    return [draft(outer, CLUSTER, Kind.CLUSTER, name, "", said)]


def _rule(place: Place) -> dict[str, Any]:
    return next(iter(rules(Place(place.document, place.path, [place.value]))), {})


def write_cluster(facts: Facts) -> dict[str, Any]:
    title = facts.text("title")
    endpoints = facts.objects("endpoints")
    policies = {str(rule.get("name", "")): rule for rule in facts.objects("policies")}
    checker = policies.pop("stabilityChecker", None)
    nodes = [
        full(id=node.get("name"), status=node.get("status")) | written_hardware(node.get("offers"))
        for node in facts.objects("nodes")
    ]
    count = facts.get("node_count")
    return {"id": facts.called} | full(
        regionId=facts.text("region"),
        status=facts.text("status"),
        tags=facts.texts("tags"),
        reputation=facts.get("reputation"),
        nodes=full(count=len(nodes) if count is None else count, nodeData=nodes),
        clusterMetadata=full(
            name="" if title == facts.called else title,
            description=facts.text("description"),
            owner=next(iter(facts.texts("owners")), ""),
            countries=facts.texts("countries"),
        ),
        config=full(
            policyExecutorId=facts.text("engine", "id"),
            policyExecutionMode=facts.text("engine", "mode"),
            publicHostname=next((one.get("url") for one in endpoints if one.get("protocol") == "host"), ""),
            urlMap={str(one.get("protocol", "")): one.get("url") for one in endpoints if one.get("protocol") != "host"},
            actionsPolicyMap={
                name: rule.get("uri", "") if rule.keys() <= {"name", "uri"} else written_rule(rule)
                for name, rule in policies.items()
            },
            stabilityChecker=written_rule(checker) if checker else {},
        ),
        **written_hardware(facts.object("offers")),
    )


def read_node(outer: Place) -> list[Draft]:
    path = node_within(outer.value)
    place = outer.at(*map(str, path)) if path else outer
    name = place.needed("id" if "id" in place.object() else "nodeId")
    meta = place.get("nodeMetadata")
    said = full(
        title=meta.get("name").text() or name,
        description=meta.get("description").text(),
        tags=place.get("tags").texts(),
        cluster=place.get("clusterId").text(),
        status=place.get("status").text(),
        offers=hardware(place),
    )
    return [draft(outer, NODE, Kind.NODE, name, "", said)]


def write_node(facts: Facts) -> dict[str, Any]:
    title = facts.text("title")
    return {"id": facts.called} | full(
        clusterId=facts.text("cluster"),
        status=facts.text("status"),
        tags=facts.texts("tags"),
        nodeMetadata=full(name="" if title == facts.called else title, description=facts.text("description")),
        **written_hardware(facts.object("offers")),
    )


CLUSTER_FORMAT = Format(
    CLUSTER, "AIGr.id cluster", cluster_tells, read_cluster, write_cluster, cluster_within, envelope
)
NODE_FORMAT = Format(NODE, "AIGr.id node", node_tells, read_node, write_node, node_within, envelope)
