"""Agent cards of the Agent2Agent protocol, 0.2 to 1.0 (https://a2a-protocol.org)."""

from __future__ import annotations

from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats.draft import MAX_EXAMPLES, Draft, Place, draft
from ioi_dagster.ras.formats.format import UNKNOWN_EFFECT, Facts, Format, full, has, link, whole
from ioi_dagster.ras.urn import Kind

NAME = "a2a-agent-card"


def tells(value: Any) -> str:
    if not has(value, "name", "skills") or "schema_version" in value:
        return ""
    marks = [name for name in ("capabilities", "defaultInputModes", "supportedInterfaces", "url") if name in value]
    return f"it has skills and {marks[0]}" if marks else ""


def read(place: Place) -> list[Draft]:
    name, about = place.needed("name"), place.get("description").text()
    contracts = skills(place) or [whole(name, name, about, **_modes(place))]
    said = full(
        title=name,
        description=about,
        owners=list(filter(None, [place.at("provider", "organization").text()])),
        links=link(place.at("provider", "url").text(), "provider")
        + link(place.get("documentationUrl").text(), "documentation"),
        endpoints=_endpoints(place),
        security=[key for key, _ in place.get("securitySchemes").entries()],
        protocol=place.get("protocolVersion").text(),
    )
    return [draft(place, NAME, Kind.AGENT, name, place.get("version").text(), said, contracts)]


def skills(place: Place) -> list[Contract]:
    """A contract for each skill of a card. Raises `BadInputError`."""
    streams = place.at("capabilities", "streaming").value is True
    default = _modes(place)
    return [
        Contract(
            id=skill.needed("id"),
            name=skill.get("name").text() or skill.needed("id"),
            description=skill.get("description").text(),
            tags=skill.get("tags").texts(),
            examples=skill.get("examples").texts()[:MAX_EXAMPLES],
            effect=UNKNOWN_EFFECT,
            takes=skill.get("inputModes").texts() or default["takes"],
            gives=skill.get("outputModes").texts() or default["gives"],
            streams=streams,
        )
        for skill in place.listed("skills")
    ]


def _modes(place: Place) -> dict[str, Any]:
    return {"takes": place.get("defaultInputModes").texts(), "gives": place.get("defaultOutputModes").texts()}


def _endpoints(place: Place) -> list[dict[str, Any]]:
    first = full(url=place.get("url").text(), protocol=place.get("preferredTransport").text())
    others = place.get("supportedInterfaces").objects() + place.get("additionalInterfaces").objects()
    found = [full(url=one.get("url").text(), protocol=one.get("protocolBinding", "transport").text()) for one in others]
    return [endpoint for endpoint in (first, *found) if "url" in endpoint]


def write(facts: Facts) -> dict[str, Any]:
    contracts = facts.parts
    modes = (contracts or facts.contracts)[:1]
    links = facts.links
    provider = full(organization=next(iter(facts.texts("owners")), ""), url=links.get("provider"))
    interfaces = [
        full(url=one.get("url"), protocolBinding=one.get("protocol"))
        for one in facts.objects("endpoints")
        if "url" in one
    ]
    written = {
        "protocolVersion": facts.text("protocol") or "1.0",
        "name": facts.text("title") or facts.called,
        "description": facts.text("description"),
        "version": facts.released or "0",
        "supportedInterfaces": interfaces,
        "capabilities": {"streaming": any(contract.streams for contract in facts.contracts)},
        "defaultInputModes": [mode for contract in modes for mode in contract.takes],
        "defaultOutputModes": [mode for contract in modes for mode in contract.gives],
        "skills": [_skill(contract) for contract in contracts],
    }
    return written | full(provider=provider, documentationUrl=links.get("documentation"))


def _skill(contract: Contract) -> dict[str, Any]:
    needed = {
        "id": contract.id,
        "name": contract.name,
        "description": contract.description,
        "tags": list(contract.tags),
    }
    more = full(examples=list(contract.examples), inputModes=list(contract.takes), outputModes=list(contract.gives))
    return needed | more


FORMAT = Format(NAME, "A2A agent card", tells, read, write)
