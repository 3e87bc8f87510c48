"""Versions of models as MLflow's registry hands them out (`GET /api/2.0/mlflow/model-versions/get`), and `MLmodel` files
(https://mlflow.org/docs/latest/ml/model/)."""

from __future__ import annotations

import json
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats.document import Path, checked, read_documents
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full, has, link
from ioi_dagster.ras.urn import Kind

NAME = "mlflow-model-version"
_SCALARS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer"},
    "float": {"type": "number"},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string", "format": "date-time"},
    "any": {},
}


def tells(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("model_version"), dict):
        return "it has model_version"
    if has(value, "name", "version") and any(
        name in value for name in ("run_id", "creation_timestamp", "current_stage")
    ):
        return "it has name, version and what MLflow keeps of one"
    if has(value, "flavors") and any(
        name in value for name in ("model_uuid", "mlflow_version", "artifact_path", "run_id")
    ):
        return "it has flavors of an MLmodel"
    return ""


def within(document: Any) -> Path:
    return ("model_version",) if isinstance(document, dict) and isinstance(document.get("model_version"), dict) else ()


def read(outer: Place) -> list[Draft]:
    place = outer.get("model_version") if within(outer.value) else outer
    from_file = "flavors" in place.object()
    name = (place.get("name").text() or place.get("artifact_path").text()) if from_file else ""
    name = name or place.needed("model_uuid" if from_file else "name")
    about = place.get("description").text()
    tags = _tags(place)
    labels = [f"{key}={value}" if value else key for key, value in tags.items() if not key.startswith("mlflow.")]
    inputs, outputs = (_signature(place, side) for side in ("inputs", "outputs"))
    said = full(
        title=name,
        description=about,
        tags=labels,
        licence=tags.get("license", tags.get("licence", "")),
        owners=list(filter(None, [place.get("user_id").text()])),
        links=link(place.get("run_link").text(), "run"),
        model=full(
            source=place.get("source").text(),
            run=place.get("run_id").text(),
            stage=place.get("current_stage").text(),
            status=place.get("status").text(),
            aliases=list(place.get("aliases").texts()),
            flavors=sorted(place.get("flavors").object()),
        ),
        requires=full(python=place.at("flavors", "python_function", "python_version").text()),
    )
    # To infer changes nothing.
    contracts = [Contract(name, name, about, tuple(labels), inputs=inputs, outputs=outputs)]
    return [draft(outer, NAME, Kind.MODEL, name, _version(place), said, contracts)]


def _version(place: Place) -> str:
    version = place.get("version")
    return version.text() or (str(version.value) if isinstance(version.value, int) else "")


def _tags(place: Place) -> dict[str, str]:
    """A list of key and value, or an object."""
    if place.get("tags").object():
        return {key: item.text() for key, item in place.get("tags").entries()}
    return {
        one.get("key").text(): one.get("value").text() for one in place.get("tags").objects() if one.get("key").text()
    }


def _signature(place: Place, side: str) -> dict[str, Any]:
    """A JSON Schema of a model's inputs or outputs; they stand as a text of JSON in the signature."""
    held = place.at("signature", side)
    try:
        columns = read_documents(held.text().encode(), "signature.json") if held.text() else []
        value = json.loads(held.text()) if columns else held.value
        checked(value)
    except (BadInputError, ValueError, RecursionError):
        raise held.refuse("no signature: a list of columns is needed, as a text of JSON") from None
    if not isinstance(value, list):
        return {}
    if value and all(isinstance(item, dict) and item.get("name") for item in value):
        needed = [
            item["name"] for item in value if item.get("required", True) is True and isinstance(item["name"], str)
        ]
        return {"type": "object", "properties": {str(item["name"]): _type(item) for item in value}} | full(
            required=needed
        )
    return _type(value[0]) if len(value) == 1 else {"type": "array", "prefixItems": [_type(item) for item in value]}


def _type(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return {}
    its_type = item.get("type")
    if its_type == "tensor":
        return _tensor(item.get("tensor-spec"))
    if its_type == "array":
        return {"type": "array", "items": _type(item.get("items"))}
    if its_type == "object" and isinstance(item.get("properties"), dict):
        fields = item["properties"]
        needed = [key for key, one in fields.items() if isinstance(one, dict) and one.get("required", True) is True]
        return {"type": "object", "properties": {key: _type(one) for key, one in fields.items()}} | full(
            required=needed
        )
    if its_type == "map":
        return {"type": "object", "additionalProperties": _type(item.get("values"))}
    return dict(_SCALARS.get(its_type, {})) if isinstance(its_type, str) else {}


def _tensor(spec: Any) -> dict[str, Any]:
    """Nested lists, one for each axis."""
    shape = spec.get("shape") if isinstance(spec, dict) else None
    kind = str(spec.get("dtype", "")) if isinstance(spec, dict) else ""
    schema: dict[str, Any] = {"type": "integer"} if "int" in kind else {"type": "number"} if "float" in kind else {}
    for size in reversed(shape[:16] if isinstance(shape, list) else []):
        bounds = {"minItems": size, "maxItems": size} if isinstance(size, int) and size >= 0 else {}
        schema = {"type": "array", "items": schema, **bounds}
    return schema


def write(facts: Facts) -> dict[str, Any]:
    model = facts.object("model")
    links = facts.links
    pairs = [label.partition("=") for label in facts.texts("tags")]
    licence = [("license", "=", facts.text("licence"))] if facts.text("licence") else []
    if any(key in ("license", "licence") for key, _, _ in pairs):
        licence = []
    needed = {"name": facts.called, "version": facts.released or "1"}
    return needed | full(
        description=facts.text("description"),
        user_id=next(iter(facts.texts("owners")), ""),
        run_link=links.get("run"),
        source=model.get("source"),
        run_id=model.get("run"),
        current_stage=model.get("stage"),
        status=model.get("status"),
        aliases=model.get("aliases"),
        tags=[full(key=key, value=value) for key, _, value in [*pairs, *licence]],
    )


FORMAT = Format(NAME, "MLflow model version", tells, read, write, within, lambda written: {"model_version": written})
