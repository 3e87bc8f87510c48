"""Servers of the Model Context Protocol as its registry describes them (`server.json`), alone or as the registry hands them out,
with tools where a card lists them (https://modelcontextprotocol.io)."""

from __future__ import annotations

from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import UNKNOWN_EFFECT, Facts, Format, full, has, link, whole
from ioi_dagster.ras.urn import Kind

NAME = "mcp-server"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"


def tells(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    server = value["server"] if isinstance(value.get("server"), dict) else value
    if "modelcontextprotocol" in str(server.get("$schema", "")):
        return "its $schema is that of MCP servers"
    if has(server, "name") and "skills" not in server:
        for mark in ("packages", "remotes", "tools"):
            held = server.get(mark)
            if (
                isinstance(held, list)
                and held
                and all(isinstance(item, dict) and _MARKS[mark] & item.keys() for item in held)
            ):
                return f"it has {mark} of an MCP server"
    if isinstance(value.get("servers"), list) and value["servers"] and all(tells(item) for item in value["servers"]):
        return "it is a list of MCP servers"
    return ""


_MARKS = {
    "packages": {"registryType", "registry_type", "registry_name"},
    "remotes": {"url"},
    "tools": {"inputSchema"},
}


def within(document: Any) -> Path:
    return ("server",) if isinstance(document, dict) and isinstance(document.get("server"), dict) else ()


def read(place: Place) -> list[Draft]:
    if isinstance(place.get("servers").value, list) and "name" not in place.object():
        return [draft for server in place.listed("servers") for draft in _one(server)]
    return _one(place)


def _one(outer: Place) -> list[Draft]:
    place = outer.get("server") if within(outer.value) else outer
    name, about = place.needed("name"), place.get("description").text()
    title = place.get("title").text()
    packages = [_package(package) for package in place.get("packages").objects()]
    variables = [
        variable.get("name").text()
        for package in place.get("packages").objects()
        for variable in package.get("environmentVariables", "environment_variables").objects()
        if variable.get("isRequired", "is_required").value is True
    ]
    said = full(
        title=title or name,
        description=about,
        links=link(place.get("websiteUrl").text(), "website")
        + link(place.at("repository", "url").text(), "repository"),
        endpoints=[
            full(url=remote.get("url").text(), protocol=remote.get("type", "transport_type").text())
            for remote in place.get("remotes").objects()
        ],
        packages=packages,
        requires=full(environment=sorted(set(filter(None, variables)))),
    )
    contracts = tools(place) or [whole(name, title, about)]
    version = place.get("version").text() or place.at("version_detail", "version").text()
    return [draft(place, NAME, Kind.TOOL, name, version, said, contracts, outer.value)]


def _package(package: Place) -> dict[str, Any]:
    return full(
        registry=package.get("registryType", "registry_type", "registry_name").text(),
        name=package.get("identifier", "name").text(),
        version=package.get("version").text(),
        transport=package.at("transport", "type").text(),
        digest=package.get("fileSha256").text(),
        runtime=package.get("runtimeHint", "runtime_hint").text(),
    )


def tools(place: Place) -> list[Contract]:
    """A contract for each tool. Raises `BadInputError`."""
    return [_tool(tool) for tool in place.listed("tools")]


def _tool(tool: Place) -> Contract:
    hints = tool.get("annotations")
    reads = hints.get("readOnlyHint").value is True
    again = hints.get("idempotentHint").value is True
    return Contract(
        id=tool.needed("name"),
        name=tool.get("title").text() or hints.get("title").text() or tool.needed("name"),
        description=tool.get("description").text(),
        inputs=tool.get("inputSchema").object(),
        outputs=tool.get("outputSchema").object(),
        effect=Effect.PURE.value if reads else Effect.IDEMPOTENT.value if again else UNKNOWN_EFFECT,
        external=hints.get("openWorldHint").value is True and not reads,
        irreversible=hints.get("destructiveHint").value is True and not reads,
    )


def write(facts: Facts) -> dict[str, Any]:
    links = facts.links
    packages = [
        full(
            registryType=one.get("registry"),
            identifier=one.get("name"),
            version=one.get("version"),
            fileSha256=one.get("digest"),
            runtimeHint=one.get("runtime"),
            transport=full(type=one.get("transport")),
        )
        for one in facts.objects("packages")
    ]
    remotes = [full(type=one.get("protocol"), url=one.get("url")) for one in facts.objects("endpoints")]
    needed = {
        "$schema": SCHEMA,
        "name": facts.called,
        "description": facts.text("description"),
        "version": facts.released or "0",
    }
    title = facts.text("title")
    return needed | full(
        title="" if title == facts.called else title,
        websiteUrl=links.get("website"),
        repository=full(url=links.get("repository")),
        packages=packages,
        remotes=remotes,
        tools=[_written(contract) for contract in facts.parts],
    )


def _written(contract: Contract) -> dict[str, Any]:
    hints = full(
        readOnlyHint=contract.effect == Effect.PURE or None,
        idempotentHint=contract.effect == Effect.IDEMPOTENT or None,
        openWorldHint=contract.external or None,
        destructiveHint=contract.irreversible or None,
    )
    tool = {"name": contract.id, "inputSchema": contract.inputs or {"type": "object"}}
    title = "" if contract.name == contract.id else contract.name
    return tool | full(title=title, description=contract.description, outputSchema=contract.outputs, annotations=hints)


FORMAT = Format(NAME, "MCP server.json", tells, read, write, within)
