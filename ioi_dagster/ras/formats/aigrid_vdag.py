"""vDAGs of AIGr.id: graphs of blocks and other vDAGs, with their controller."""

from __future__ import annotations

from typing import Any

from ioi_dagster.ras.formats.aigrid import envelope, locate, opened, rules, uid, with_release, written_rules
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full, whole
from ioi_dagster.ras.urn import Kind

NAME = "aigrid-vdag"
_RULES = ("preprocessingPolicyRule", "postprocessingPolicyRule")
_NODE = (("label", "nodeLabel"), ("type", "nodeType"), ("block", "manualBlockId"), ("graph", "vdagURI"))


def fits(value: Any) -> bool:
    its = isinstance(value.get("graph"), dict) and isinstance(value.get("nodes"), list)
    return its or any(name in value for name in ("vdagName", "vdag_name"))


def tells(value: Any) -> str:
    path = locate(value, fits)
    if path is None:
        return ""
    for step in path:
        value = value[step]
    return "it has vdagName" if "vdagName" in value else "it has nodes and a graph of AIGr.id"


def within(document: Any) -> Path:
    return locate(document, fits) or ()


def read(outer: Place) -> list[Draft]:
    place = outer.at(*map(str, within(outer.value))) if within(outer.value) else outer
    its = uid(outer)
    named = place.get("vdagName", "vdag_name")
    # A specification without a name of its own goes by that of its envelope.
    name = named.text() or its.get("id").text() or place.needed("vdagName")
    version = place.get("vdagVersion")
    number = version.text() or version.get("version").text() or its.get("version").text()
    release = version.get("release-tag", "releaseTag").text() or (its.get("releaseTag").text() if not version else "")
    tags, about = place.get("discoveryTags").texts(), place.at("metadata", "description").text()
    controller = place.get("controller")
    nodes = [_node(node) for node in place.listed("nodes")]
    said = full(
        title=name,
        description=about,
        tags=tags,
        mode=place.get("mode").text(),
        uses=sorted({node[key] for node in nodes for key in ("block", "graph") if key in node}),
        graph=full(nodes=nodes, edges=_edges(place), inputs=_ends(place, "input"), outputs=_ends(place, "output")),
        policies=rules(controller.get("policies")),
        sources=[
            full(
                type=one.get("sourceType").text(),
                enabled=one.get("enabled").value,
                protocols=list(one.at("sourceConfig", "protocols").texts()),
            )
            for one in controller.get("inputSources").objects()
        ],
        settings=controller.get("initSettings").object(),
        parameters=controller.get("initParameters").object(),
    )
    contract = whole(name, name, about, tags)
    return [draft(outer, NAME, Kind.GRAPH, name, with_release(number, release), said, [contract])]


def _node(outer: Place) -> dict[str, Any]:
    node = opened(outer.get("spec")) if outer.get("spec") else opened(outer)
    return full(
        **{ours: node.get(theirs).text() for ours, theirs in _NODE},
        parameters=node.get("modelParameters").object(),
        takes=node.get("inputProtocol").object(),
        gives=node.get("outputProtocol").object(),
        policies=[
            rule | {"name": name}
            for name in _RULES
            for rule in [full(uri=opened(node.get(name)).get("policyRuleURI").text())]
            if rule
        ],
        assigned=node.at("assignmentPolicyRule", "assignmentType").text(),
    )


def _edges(place: Place) -> list[dict[str, Any]]:
    return [
        full(
            source=source.get("nodeLabel").text(),
            target=target.get("nodeLabel").text(),
            outputs=list(source.get("outputNames").texts()),
        )
        for target in place.at("graph", "connections").objects()
        for source in target.get("inputs").objects()
    ]


def _ends(place: Place, side: str) -> list[dict[str, Any]]:
    """`input` and `output` are lists of nodes with names of theirs."""
    return [
        full(node=one.get("nodeLabel").text(), names=list(one.get(f"{side}Names").texts()))
        for one in place.at("graph", side).objects()
    ]


def write(facts: Facts) -> dict[str, Any]:
    version, _, release = facts.released.rpartition("-") if "-" in facts.released else (facts.released or "0", "", "")
    edges = facts.objects("graph", "edges")
    targets = dict.fromkeys(str(edge.get("target", "")) for edge in edges)
    connections = [
        {
            "nodeLabel": target,
            "inputs": [
                full(nodeLabel=edge.get("source"), outputNames=edge.get("outputs"))
                for edge in edges
                if edge.get("target", "") == target
            ],
        }
        for target in targets
    ]
    return {
        "vdagName": facts.called,
        "vdagVersion": full(**{"version": version, "release-tag": release}),
        "nodes": [{"spec": {"values": _written(node)}} for node in facts.objects("graph", "nodes")],
        "graph": {
            "input": [
                full(nodeLabel=one.get("node"), inputNames=one.get("names")) for one in facts.objects("graph", "inputs")
            ],
            "output": [
                full(nodeLabel=one.get("node"), outputNames=one.get("names"))
                for one in facts.objects("graph", "outputs")
            ],
            "connections": connections,
        },
    } | full(
        mode=facts.text("mode"),
        metadata=full(description=facts.text("description")),
        discoveryTags=facts.texts("tags"),
        controller=full(
            policies=written_rules(facts.objects("policies")),
            initSettings=facts.object("settings"),
            initParameters=facts.object("parameters"),
            inputSources=[
                full(
                    sourceType=one.get("type"),
                    enabled=one.get("enabled"),
                    sourceConfig=full(protocols=one.get("protocols")),
                )
                for one in facts.objects("sources")
            ],
        ),
    )


def _written(node: dict[str, Any]) -> dict[str, Any]:
    return full(
        **{theirs: node.get(ours) for ours, theirs in _NODE},
        modelParameters=node.get("parameters"),
        inputProtocol=node.get("takes"),
        outputProtocol=node.get("gives"),
        assignmentPolicyRule=full(assignmentType=node.get("assigned")),
        **{
            rule.get("name", ""): {"values": {"policyRuleURI": rule.get("uri", "")}}
            for rule in Facts(Kind.GRAPH, "", "", node).objects("policies")
            if rule.get("name") in _RULES
        },
    )


FORMAT = Format(NAME, "AIGr.id vDAG", tells, read, write, within, envelope)
