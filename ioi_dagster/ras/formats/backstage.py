"""Entities of Backstage's catalogue (https://backstage.io/docs/features/software-catalog/descriptor-format)."""

from __future__ import annotations

from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import UNKNOWN_EFFECT, Facts, Format, full, has
from ioi_dagster.ras.urn import Kind

NAME = "backstage-entity"
_KINDS = {
    "component": Kind.SERVICE,
    "api": Kind.SERVICE,
    "resource": Kind.ASSET,
    "system": Kind.GRAPH,
    "domain": Kind.GRAPH,
    "location": Kind.NETWORK,
    "template": Kind.TEMPLATE,
}
_ENTITIES = {Kind.ASSET: "Resource", Kind.GRAPH: "System", Kind.NETWORK: "Location", Kind.TEMPLATE: "Template"}
_TYPES = {
    ("component", "library"): Kind.ASSET,
    ("component", "model"): Kind.MODEL,
    ("resource", "ai-model"): Kind.MODEL,
}
_MEDIA = {
    "openapi": "application/vnd.oai.openapi",
    "asyncapi": "application/vnd.aai.asyncapi",
    "graphql": "application/graphql",
    "grpc": "application/grpc",
}
_RELATIONS = ("dependsOn", "consumesApis", "providesApis", "subcomponentOf", "memberOf", "children", "targets")
_SINGLE = ("lifecycle", "system", "domain", "parent", "target")


def tells(value: Any) -> str:
    if has(value, "apiVersion", "kind", "metadata") and "backstage.io/" in str(value["apiVersion"]):
        return "its apiVersion is Backstage's"
    return ""


def read(place: Place) -> list[Draft]:
    entity = place.needed("kind")
    meta, spec = place.get("metadata"), place.get("spec")
    name = meta.needed("name")
    namespace = meta.get("namespace").text() or "default"
    its_type = spec.get("type").text()
    kind = _TYPES.get((entity.lower(), its_type)) or _KINDS.get(entity.lower(), Kind.ASSET)
    about, tags = meta.get("description").text(), meta.get("tags").texts()
    said = full(
        title=meta.get("title").text() or name,
        description=about,
        tags=tags,
        owners=list(filter(None, [spec.get("owner").text()])),
        links=[
            full(url=item.get("url").text(), title=item.get("title").text()) for item in meta.get("links").objects()
        ],
        entity=full(
            api=place.get("apiVersion").text(),
            kind=entity,
            type=its_type,
            name=name,
            namespace=namespace,
            labels=meta.get("labels").object(),
            **{field: spec.get(field).text() for field in _SINGLE},
        ),
        relations=full(**{field: list(spec.get(field).texts()) for field in _RELATIONS}),
    )
    contracts = []
    if entity.lower() in ("component", "api") and kind is not Kind.ASSET:
        takes = tuple(filter(None, [_MEDIA.get(its_type, "")]))
        title = meta.get("title").text() or name
        contracts = [
            Contract(f"{entity.lower()}:{namespace}/{name}", title, about, tags, effect=UNKNOWN_EFFECT, takes=takes)
        ]
    return [draft(place, NAME, kind, f"{entity.lower()}:{namespace}/{name}", "", said, contracts)]


def write(facts: Facts) -> dict[str, Any]:
    entity = facts.object("entity")
    name = entity.get("name") or facts.called.rpartition("/")[2].replace(":", "-")[:63]
    title = facts.text("title")
    namespace = entity.get("namespace", "")
    meta = {"name": name} | full(
        namespace="" if namespace == "default" else namespace,
        title="" if title == name else title,
        description=facts.text("description"),
        tags=facts.texts("tags"),
        links=[full(url=one.get("url"), title=one.get("title")) for one in facts.objects("links")],
        labels=entity.get("labels"),
    )
    its_type = entity.get("type") or (str(facts.kind) if not entity else "")
    spec = full(
        type=its_type,
        owner=next(iter(facts.texts("owners")), ""),
        **{field: entity.get(field) for field in _SINGLE},
    )
    spec = {**facts.object("relations"), **spec}
    return {
        "apiVersion": entity.get("api") or "backstage.io/v1alpha1",
        "kind": entity.get("kind") or _ENTITIES.get(facts.kind, "Component"),
        "metadata": meta,
    } | full(spec=spec)


FORMAT = Format(NAME, "Backstage entity", tells, read, write)
