"""Blocks of AIGr.id: as they are submitted (also those that ask for an allocation), and as its registry lists them."""

from __future__ import annotations

from typing import Any

from ioi_dagster.ras.formats.aigrid import envelope, locate, needs, rules, schema_of, uid, written_rules
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full, whole
from ioi_dagster.ras.urn import Kind

NAME = "aigrid-block"
_LISTED = ("componentUri", "blockUri", "blockMetadata", "blockInitData", "inputProtocols", "inputProtocol")
_SETTINGS = (("init_data", "blockInitData"), ("settings", "initSettings"), ("parameters", "parameters"))
_COUNTS = (("least", "minInstances"), ("most", "maxInstances"))


def fits(value: Any) -> bool:
    return "blockId" in value or ("id" in value and "regionId" not in value and any(name in value for name in _LISTED))


def tells(value: Any) -> str:
    path = locate(value, fits)
    if path is not None:
        return (
            "it has blockId" if path or "blockId" in value else "it has id and what AIGr.id's registry keeps of a block"
        )
    return "it is a list of blocks" if _answer(value) else ""


def _answer(value: Any) -> bool:
    """Is it what a search for blocks answers?"""
    data = value.get("data") if isinstance(value, dict) else None
    return isinstance(data, list) and bool(data) and all(isinstance(item, dict) and fits(item) for item in data)


def within(document: Any) -> Path:
    return locate(document, fits) or ()


def read(outer: Place) -> list[Draft]:
    if locate(outer.value, fits) is None:
        return [_block(item, item) for item in outer.listed("data")]
    return [_block(outer, outer.at(*map(str, within(outer.value))) if within(outer.value) else outer)]


def _block(outer: Place, place: Place) -> Draft:
    name = place.needed("blockId" if "blockId" in place.object() else "id")
    component, meta = place.get("component"), place.get("blockMetadata")
    made_of = component.get("componentMetadata") if component else meta
    about = meta.get("description").text() or made_of.get("description").text()
    tags = place.get("tags").texts() or component.get("tags").texts() or made_of.get("tags").texts()
    uri = place.get("blockComponentURI", "componentUri").text()
    found = rules(place.get("policyRulesSpec"), place.get("policies"))
    image = component.at("containerRegistryInfo", "containerImage").text() or component.get("containerImage").text()
    its = uid(outer)
    said = full(
        title=name,
        description=about,
        tags=tags,
        uses=list(filter(None, [uri])),
        instances=full(**{ours: place.get(theirs).number() for ours, theirs in _COUNTS}),
        api=place.get("apiMode").text(),
        metrics=list(place.get("enabledCustomMetrics", "customMetrics").texts()),
        cluster=place.at("cluster", "id").text(),
        policies=found,
        requires=needs(found) | full(image=image),
        specification=full(
            name=its.get("id").text(), version=its.get("version").text(), release=its.get("releaseTag").text()
        ),
        **{ours: place.get(theirs).object() for ours, theirs in _SETTINGS},
    )
    inputs = schema_of(place.get("inputProtocol").value or component.get("componentInputProtocol").value)
    outputs = schema_of(place.get("outputProtocol").value or component.get("componentOutputProtocol").value)
    contract = whole(name, name, about or uri, tags, inputs=inputs, outputs=outputs)
    return draft(outer, NAME, Kind.BLOCK, name, "", said, [contract])


def write(facts: Facts) -> dict[str, Any]:
    return {"blockId": facts.called} | full(
        blockComponentURI=next(iter(facts.texts("uses")), ""),
        apiMode=facts.text("api"),
        enabledCustomMetrics=facts.texts("metrics"),
        policyRulesSpec=written_rules(facts.objects("policies")),
        tags=facts.texts("tags"),
        **{theirs: facts.get("instances", ours) for ours, theirs in _COUNTS},
        **{theirs: facts.object(ours) for ours, theirs in _SETTINGS},
    )


FORMAT = Format(NAME, "AIGr.id block or allocation", tells, read, write, within, envelope)
