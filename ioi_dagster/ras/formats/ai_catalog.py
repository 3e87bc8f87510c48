"""AI catalogues (https://ai-catalog.io), which Agentic Resource Discovery publishes and searches: the catalogue as one record and
each entry as one more, with what an entry holds of another format read as that."""

from __future__ import annotations

from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats import a2a, mcp
from ioi_dagster.ras.formats.draft import MAX_EXAMPLES, Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full, has, link, whole
from ioi_dagster.ras.urn import Kind

NAME = "ai-catalog"
NESTED = "application/ai-catalog+json"
_KINDS = (
    (("ai-catalog", "ai-registry"), Kind.NETWORK),
    (("a2a", "agent-card"), Kind.AGENT),
    (("mcp", "skill", "plugin"), Kind.TOOL),
    (("model",), Kind.MODEL),
    (("parquet", "csv", "dataset", "arrow"), Kind.ASSET),
)
"""By what stands in the media type; the first that does."""
_MEDIA = {
    Kind.AGENT: "application/a2a-agent-card+json",
    Kind.TOOL: "application/mcp-server-card+json",
    Kind.NETWORK: NESTED,
}
_METADATA = "https://ai-catalog.org/extensions/metadata"


def tells(value: Any) -> str:
    if has(value, "specVersion", "entries") and isinstance(value["entries"], list):
        return "it has specVersion and entries"
    return ""


def read(place: Place) -> list[Draft]:
    place.needed("specVersion")
    entries = place.listed("entries")
    head = {key: value for key, value in place.object().items() if key in ("specVersion", "host")}
    host = place.get("host")
    name = host.get("identifier").text() or host.get("displayName").text() or NAME
    said = full(
        title=host.get("displayName").text() or name,
        owners=list(filter(None, [host.get("displayName").text()])),
        links=link(host.get("documentationUrl").text(), "documentation"),
        entries=[entry.needed("identifier") for entry in entries],
    )
    return [draft(place, NAME, Kind.NETWORK, name, "", said), *(_entry(entry, head, host) for entry in entries)]


def _entry(entry: Place, head: dict[str, Any], host: Place) -> Draft:
    name, its_type = entry.needed("identifier"), entry.get("type", "mediaType").text()
    if not its_type:
        raise entry.get("type").refuse("a text is needed: the media type of what it is")
    data = entry.get("data")
    about = entry.get("description").text() or data.get("description").text()
    title = (
        entry.get("displayName").text()
        or data.get("title", "name").text()
        or name.rpartition(":")[2].rpartition("/")[2]
    )
    tags, kind = entry.get("tags").texts(), _kind(its_type)
    examples = entry.get("representativeQueries").texts()[:MAX_EXAMPLES]
    contracts = _inside(data)
    if not contracts and kind in (Kind.AGENT, Kind.TOOL, Kind.SERVICE, Kind.MODEL):
        contracts = [whole(name, title, about, (*tags, *entry.get("capabilities").texts()), examples=examples)]
    publisher = entry.at("publisher", "displayName").text() or host.get("displayName").text()
    said = full(
        title=title,
        description=about,
        tags=tags,
        owners=list(filter(None, [publisher])),
        licence=entry.get("extensions").at(_METADATA, "license").text(),
        endpoints=[full(url=entry.get("url").text(), media=its_type)] if entry.get("url").text() else [],
        media=its_type,
        capabilities=list(entry.get("capabilities").texts()),
        examples=list(examples),
        attestations=[
            full(type=one.get("type").text(), url=one.get("uri", "url").text())
            for one in entry.at("trustManifest", "attestations").objects()
        ],
    )
    version = entry.get("version").text() or data.get("version").text()
    return draft(entry, NAME, kind, name, version, said, contracts, {**head, "entries": [entry.value]})


def _kind(media: str) -> Kind:
    return next((kind for marks, kind in _KINDS if any(mark in media.lower() for mark in marks)), Kind.SERVICE)


def _inside(data: Place) -> list[Contract]:
    if a2a.tells(data.value):
        return a2a.skills(data)
    return mcp.tools(data) if mcp.tells(data.value) and data.get("tools") else []


def write(facts: Facts) -> dict[str, Any]:
    if "entries" in facts.spec and "media" not in facts.spec:
        host = full(identifier=facts.called, displayName=facts.text("title"))
        return {"specVersion": "1.0", "host": host, "entries": []}
    endpoint = next(iter(facts.objects("endpoints")), {})
    media = facts.text("media") or _MEDIA.get(facts.kind, "application/json")
    whole_ones = [contract for contract in facts.contracts if contract.id == facts.called]
    entry = {"identifier": facts.called, "type": media} | full(
        displayName=facts.text("title"),
        description=facts.text("description"),
        version=facts.released,
        tags=facts.texts("tags"),
        capabilities=facts.texts("capabilities"),
        representativeQueries=facts.texts("examples") or [text for one in whole_ones for text in one.examples],
        url=endpoint.get("url"),
        extensions=full(**{_METADATA: full(license=facts.text("licence"))}),
    )
    owner = next(iter(facts.texts("owners")), "")
    if not endpoint.get("url"):
        # An entry says where it lies, or holds it: what else is known of it.
        entry["data"] = full(name=facts.text("title"), description=facts.text("description"), version=facts.released)
    if owner:
        entry["publisher"] = {"identifier": owner, "displayName": owner}
    return {"specVersion": "1.0", "entries": [entry]}


FORMAT = Format(NAME, "AI catalogue (ARD)", tells, read, write)
