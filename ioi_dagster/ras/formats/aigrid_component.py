"""Components of AIGr.id: what blocks are made of."""

from __future__ import annotations

import re
from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.ras.formats.aigrid import envelope, locate, protocol_of, schema_of, with_release
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import UNKNOWN_EFFECT, Facts, Format, full
from ioi_dagster.ras.urn import Kind

NAME = "aigrid-component"
_KINDS = (("model", Kind.MODEL), ("node.algorithm", Kind.MODEL), ("agent", Kind.AGENT), ("tool", Kind.TOOL))
_SETTINGS = (
    ("init_data", "componentInitData"),
    ("settings", "componentInitSettings"),
    ("parameters", "componentParameters"),
    ("config", "componentConfig"),
    ("metadata", "componentMetadata"),
    ("commands", "componentManagementCommandsTemplate"),
    ("policies", "policies"),
)
"""Objects that both sides keep as they are."""
_MEMORY = re.compile(r"([0-9]{1,9})\s*(MB|MiB|GB|GiB)")


def fits(value: Any) -> bool:
    return isinstance(value, dict) and "componentId" in value


def tells(value: Any) -> str:
    return "it has componentId" if locate(value, fits) is not None else ""


def within(document: Any) -> Path:
    return locate(document, fits) or ()


def read(outer: Place) -> list[Draft]:
    place = outer.at(*map(str, within(outer.value))) if within(outer.value) else outer
    of = place.get("componentId")
    short = of.needed("name")
    its_type = place.get("componentType").text()
    meta, container = place.get("componentMetadata"), place.get("containerRegistryInfo")
    image = container.get("containerImage").text() or place.get("containerImage").text()
    name = f"{its_type}.{short}" if its_type else short
    about = meta.get("description").text() or container.at("containerImageMetadata", "description").text()
    about = about or meta.get("usecase").text()
    tags = place.get("tags").texts() or meta.get("tags").texts()
    author = meta.get("author").text() or meta.at("author", "authorName").text()
    author = author or container.at("containerImageMetadata", "author").text()
    kind = next((kind for start, kind in _KINDS if its_type.startswith(start)), Kind.SERVICE)
    inputs, outputs = (schema_of(place.get(f"component{side}Protocol").value) for side in ("Input", "Output"))
    effect = Effect.PURE.value if kind is Kind.MODEL else UNKNOWN_EFFECT
    said = full(
        title=short,
        description=about,
        tags=tags,
        owners=list(filter(None, [author])),
        licence=meta.get("license").text(),
        type=its_type,
        uri=place.get("componentURI").text(),
        requires=full(
            image=image, framework=meta.get("framework").text(), accelerator=_accelerator(place), **_memory(place)
        ),
        container=full(
            registry=container.get("containerRegistryId").text(), mode=container.get("componentMode").text()
        ),
        protocols=full(
            settings=schema_of(place.get("componentInitSettingsProtocol").value),
            parameters=schema_of(place.get("componentInitParametersProtocol").value),
        ),
        **{ours: place.get(theirs).object() for ours, theirs in _SETTINGS},
    )
    contract = Contract(name, short, about, tags, inputs=inputs, outputs=outputs, effect=effect)
    version = with_release(of.get("version").text(), of.get("releaseTag", "release", "release-tag").text())
    return [draft(outer, NAME, kind, name, version, said, [contract])]


def _accelerator(place: Place) -> dict[str, Any]:
    asked = (
        place.get("requiresGPU").value is True
        or place.at("componentMetadata", "hardware").text().upper() == "GPU"
        or place.at("policies", "resource_affinity", "nodeType").text() == "gpu"
    )
    return {"count": 1} if asked else {}


def _memory(place: Place) -> dict[str, int]:
    found = _MEMORY.fullmatch(place.at("policies", "resource_affinity", "minMemory").text())
    return {"memory_mb": int(found[1]) * (1024 if found[2][0] == "G" else 1)} if found else {}


def write(facts: Facts) -> dict[str, Any]:
    its_type = facts.text("type") or str(facts.kind)
    version, _, release = facts.released.rpartition("-") if "-" in facts.released else (facts.released or "0", "", "")
    contract = next(iter(facts.contracts), None)
    about, author = facts.text("description"), next(iter(facts.texts("owners")), "")
    container = full(
        containerImage=facts.text("requires", "image"),
        containerRegistryId=facts.text("container", "registry"),
        componentMode=facts.text("container", "mode"),
        containerImageMetadata=full(author=author, description=about),
    )
    metadata = full(license=facts.text("licence"), framework=facts.text("requires", "framework"))
    written = {
        "componentId": {"name": facts.called.removeprefix(f"{its_type}.")} | full(version=version, releaseTag=release),
        "componentType": its_type,
    }
    return written | full(
        componentURI=facts.text("uri"),
        containerRegistryInfo=container,
        componentInputProtocol=protocol_of(contract.inputs) if contract else {},
        componentOutputProtocol=protocol_of(contract.outputs) if contract else {},
        componentInitSettingsProtocol=protocol_of(facts.object("protocols", "settings")),
        componentInitParametersProtocol=protocol_of(facts.object("protocols", "parameters")),
        tags=facts.texts("tags"),
        **{theirs: facts.object(ours) for ours, theirs in _SETTINGS if theirs != "componentMetadata"},
        componentMetadata=metadata | facts.object("metadata"),
    )


FORMAT = Format(NAME, "AIGr.id component", tells, read, write, within, envelope)
