"""Records of the Open Agentic Schema Framework, 0.3 to 1.0 (https://schema.oasf.outshift.com)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats import a2a, mcp
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import UNKNOWN_EFFECT, Facts, Format, full, has, whole
from ioi_dagster.ras.urn import Kind

NAME = "oasf-record"
SCHEMA = "1.0.0"


def tells(value: Any) -> str:
    if has(value, "name", "schema_version"):
        marks = [name for name in ("skills", "locators", "modules", "extensions", "domains") if name in value]
        return f"it has schema_version and {marks[0]}" if marks else ""
    return ""


def read(place: Place) -> list[Draft]:
    name, about = place.needed("name"), place.get("description").text()
    skills = [_skill(skill, about) for skill in place.listed("skills")]
    within = [contract for module in _modules(place) for contract in _of_module(module)]
    ids = tuple(skill for contract in skills for skill in contract.skills)
    # What a module says of one tool is more than what its class says of them all.
    contracts = [replace(contract, skills=ids) for contract in within] or skills or [whole(name, name, about)]
    said = full(
        title=name,
        description=about,
        owners=list(place.get("authors").texts()),
        skills=[full(name=contract.id, id=next(iter(contract.skills))) for contract in skills],
        domains=[_class(domain)[0] for domain in place.get("domains").objects()],
        locators=_locators(place),
        requires=full(image=_image(place)),
        annotations=place.get("annotations").object(),
    )
    return [draft(place, NAME, Kind.AGENT, name, place.get("version").text(), said, contracts)]


def _class(place: Place) -> tuple[str, str]:
    """(its name, its number as text, or the name where it has none)."""
    number = place.get("id", "class_uid").number()
    name = place.get("name", "class_name").text() or (str(number) if number is not None else "")
    if not name:
        raise place.refuse("it has neither name nor id")
    return name, str(number) if number is not None else name


def _skill(place: Place, about: str) -> Contract:
    name, number = _class(place)
    title = name.rpartition("/")[2].replace("_", " ")
    return Contract(name, title, about, effect=UNKNOWN_EFFECT, skills=(number,))


def _modules(place: Place) -> list[Place]:
    return [item.get("data") for field in ("modules", "extensions") for item in place.get(field).objects()]


def _of_module(data: Place) -> list[Contract]:
    """What an A2A card or an MCP server inside a module can do."""
    for card in (data.get("card_data"), data):
        if a2a.tells(card.value):
            return a2a.skills(card)
    for server in (data.get("mcp_data"), data):
        found = server.get("tools").objects()
        if found and all(tool.get("name").text() for tool in found):
            return mcp.tools(server)
    return []


def _locators(place: Place) -> list[dict[str, Any]]:
    return [
        full(
            type=one.get("type").text(),
            urls=list(one.get("urls").texts()) or list(filter(None, [one.get("url").text()])),
        )
        for one in place.get("locators").objects()
    ]


def _image(place: Place) -> str:
    images = [one for one in _locators(place) if one.get("type") in ("container_image", "docker_image", "docker-image")]
    return images[0]["urls"][0] if images and images[0].get("urls") else ""


def write(facts: Facts) -> dict[str, Any]:
    skills = [full(name=one.get("name"), id=_number(one.get("id"))) for one in facts.objects("skills")]
    from_contracts = [full(name=skill) for contract in facts.contracts for skill in contract.skills]
    locators = facts.objects("locators") or [
        {"type": "container_image", "urls": [image]} for image in [facts.text("requires", "image")] if image
    ]
    needed = {
        "schema_version": SCHEMA,
        "name": facts.called,
        "version": facts.released or "0",
        "description": facts.text("description"),
        "authors": facts.texts("owners"),
        "skills": skills or from_contracts,
        "locators": [full(type=one.get("type"), urls=one.get("urls")) for one in locators],
    }
    domains = [{"name": name} for name in facts.texts("domains")]
    return needed | full(domains=domains, annotations=facts.object("annotations"))


def _number(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 16 else None


FORMAT = Format(NAME, "OASF record", tells, read, write)
