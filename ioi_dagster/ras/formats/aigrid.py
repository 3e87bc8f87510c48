"""What all specifications of AIGr.id share: three envelopes, policy rules in two spellings, templates of protocols, hardware
(https://github.com/OpenCyberspace/OpenOS.AI-Documentation, folder `parser`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Place
from ioi_dagster.ras.formats.format import full

_WITHIN: tuple[Path, ...] = (
    (),
    ("body", "spec", "values"),
    ("body", "values"),
    ("spec", "values"),
    ("values",),
    ("body", "spec"),
)
_VALUES = ("values", "value")


def locate(document: Any, fits: Callable[[Any], bool]) -> Path | None:
    """Where in an envelope, or without one, what `fits` stands."""
    for path in _WITHIN:
        value = document
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, dict) and fits(value):
            return path
    return None


def envelope(written: dict[str, Any]) -> dict[str, Any]:
    """As its parser takes it."""
    return {"header": {"templateUri": "Parser/V1", "parameters": {}}, "body": {"spec": {"values": written}}}


def uid(place: Place) -> Place:
    """What an envelope says of the name and version of what is in it."""
    return place.at("body", "header", "uid")


def opened(place: Place) -> Place:
    """What is in `{"@templateType": …, "values": …}`, or the place itself where it is none."""
    inner = place.get(*_VALUES)
    return inner if isinstance(inner.value, dict) else place


def with_release(version: str, release: str) -> str:
    return f"{version}-{release}" if version and release else version


# Policy rules ---------------------------------------------------------------------------------------------------------

_RULE = {"uri": "policyRuleURI", "mode": "executionMode", "parameters": "parameters", "settings": "settings"}


def rules(*places: Place) -> list[dict[str, Any]]:
    """Policy rules from lists of them and from objects by name; a rule may be its URI alone."""
    named = [
        (item.get("name").text() or opened(item).get("name").text(), item) for place in places for item in place.items()
    ]
    named += [entry for place in places for entry in place.entries()]
    found = []
    for name, item in named:
        inner = opened(item)
        if item.text():
            found.append(full(name=name, uri=item.text()))
        elif isinstance(inner.value, dict):
            more = {ours: inner.get(theirs).value for ours, theirs in _RULE.items()}
            found.append(full(name=name, ranking=inner.get("rankingPolicyRule").value, **more) or {"name": ""})
    return [rule for rule in found if rule.get("name") or rule.get("uri")]


def written_rules(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"values": full(name=rule.get("name")) | written_rule(rule)} for rule in found]


def written_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    more = {theirs: rule.get(ours) for ours, theirs in _RULE.items()}
    return full(rankingPolicyRule=rule.get("ranking"), **more) | {"policyRuleURI": rule.get("uri", "")}


# Templates of protocols -----------------------------------------------------------------------------------------------

_TYPES = ("string", "number", "boolean", "array", "object", "integer")
_SAME = (
    ("description", "description"),
    ("pattern", "pattern"),
    ("min", "minimum"),
    ("max", "maximum"),
    ("default", "default"),
)


def schema_of(protocol: Any) -> dict[str, Any]:
    """A JSON Schema of what a template of fields describes; empty where it is none."""
    if not isinstance(protocol, dict) or not protocol:
        return {}
    needed = [name for name, field in protocol.items() if isinstance(field, dict) and field.get("required") is True]
    fields = {name: _field(field) for name, field in protocol.items()}
    return {"type": "object", "properties": fields} | full(required=needed)


def _field(field: Any) -> dict[str, Any]:
    if isinstance(field, str):
        # Older ones name a template instead.
        return {"description": field}
    if not isinstance(field, dict):
        return {}
    its_type = field.get("type")
    schema = {theirs: field[ours] for ours, theirs in _SAME if ours in field}
    if its_type in _TYPES:
        schema = {"type": its_type} | schema
    choices, longest = field.get("choices"), field.get("max_length", field.get("length"))
    if isinstance(longest, int) and not isinstance(longest, bool) and longest >= 0:
        schema["maxItems" if its_type == "array" else "maxLength"] = longest
    if its_type == "array":
        items = _field(field["items"]) if "items" in field else {}
        if isinstance(choices, list):
            items = items | {"enum": choices}
        return schema | full(items=items)
    if isinstance(choices, list):
        schema["enum"] = choices
    if isinstance(field.get("properties"), dict):
        inner = schema_of(field["properties"])
        listed = field.get("required")
        needed = listed if isinstance(listed, list) else inner.get("required")
        schema |= full(properties=inner.get("properties"), required=needed)
    return schema


def protocol_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The template of fields that says what a JSON Schema of an object does, as far as templates can."""
    fields = schema.get("properties")
    needed = schema.get("required", ())
    if not isinstance(fields, dict):
        return {}
    return {
        name: _template(field) | ({"required": True} if isinstance(needed, list) and name in needed else {})
        for name, field in fields.items()
        if isinstance(field, dict)
    }


def _template(schema: Mapping[str, Any]) -> dict[str, Any]:
    its_type = schema.get("type", "any")
    field: dict[str, Any] = {"type": its_type} | {ours: schema[theirs] for ours, theirs in _SAME if theirs in schema}
    if "maxItems" in schema:
        field["max_length"] = schema["maxItems"]
    if "maxLength" in schema:
        field["length"] = schema["maxLength"]
    items = schema.get("items")
    if isinstance(items, dict):
        choices = items.get("enum")
        rest = {key: value for key, value in items.items() if key != "enum"}
        field |= full(items=_template(rest) if rest else {}, choices=choices)
    if "enum" in schema:
        field["choices"] = schema["enum"]
    if isinstance(schema.get("properties"), dict):
        bare = {**schema, "required": []}
        field |= {"properties": protocol_of(bare)} | full(required=schema.get("required"))
    return field


# Hardware -------------------------------------------------------------------------------------------------------------


def hardware(place: Place) -> dict[str, Any]:
    """What a cluster or node offers: CPUs, MiB of memory, swap, disk and accelerators, Mbit/s of network."""
    gpus, network = place.get("gpus"), place.get("network")
    return full(
        cpus=place.at("vcpus", "count").number(),
        memory_mb=place.get("memory").number(),
        swap_mb=place.get("swap").number(),
        disks=place.at("storage", "disks").number(),
        disk_mb=place.at("storage", "size").number(),
        accelerator=full(
            count=gpus.get("count").number(),
            memory_mb=gpus.get("memory").number(),
            models=list(gpus.get("modelNames").texts()),
            features=list(gpus.get("features").texts()),
        ),
        network=full(
            interfaces=network.get("interfaces").number(),
            out_mbit=network.get("txBandwidth").number(),
            in_mbit=network.get("rxBandwidth").number(),
        ),
    )


def written_hardware(told: Any) -> dict[str, Any]:
    offers = _object(told)
    gpus, network = _object(offers.get("accelerator")), _object(offers.get("network"))
    return full(
        vcpus=full(count=offers.get("cpus")),
        memory=offers.get("memory_mb"),
        swap=offers.get("swap_mb"),
        storage=full(disks=offers.get("disks"), size=offers.get("disk_mb")),
        gpus=full(
            count=gpus.get("count"),
            memory=gpus.get("memory_mb"),
            modelNames=gpus.get("models"),
            features=gpus.get("features"),
        ),
        network=full(
            interfaces=network.get("interfaces"),
            txBandwidth=network.get("out_mbit"),
            rxBandwidth=network.get("in_mbit"),
        ),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_NEEDS: tuple[tuple[str, Sequence[str]], ...] = (
    ("cpus", ("cpus", "min_cpus", "minCPUs", "vcpus")),
    ("memory_mb", ("min_memory_mb", "memory_mb", "min_free_memory_mb")),
    ("gpus", ("gpus", "min_gpus", "minGPUs", "max_gpus", "gpu_count")),
    ("gpu_memory_mb", ("min_gpu_memory_mb", "gpu_memory_mb", "min_free_gpu_memory_mb")),
)


def needs(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rule that places a block asks of a machine, as far as its parameters say it by usual names."""
    asked: dict[str, Any] = {}
    for rule in found:
        if rule.get("name") == "resourceAllocator" and isinstance(rule.get("parameters"), dict):
            asked |= rule["parameters"]
    told = {ours: next((asked[name] for name in names if _amount(asked.get(name))), None) for ours, names in _NEEDS}
    accelerator = full(count=told.pop("gpus"), memory_mb=told.pop("gpu_memory_mb"))
    return full(**told, accelerator=accelerator)


def _amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
