"""JSON Schemas (draft 2020-12) of what registries exchange, made from the types and limits that read it.

`python -m ioi_dagster.ras.schemas FOLDER` writes them; they are published in docs/reference/schemas.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.model.capability import Contract
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.ras import pointers, record, urn

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_DOMAIN = "[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
_NAME = urn._NAME.pattern
_JSON = {str: "string", int: "integer", (int, float): "number", dict: "object", list: "array"}


def documents() -> dict[str, dict[str, Any]]:
    """Schema by the name of its file. A document that a schema takes may still be refused, where two of its fields have to agree:
    the kind of a record is that of its URN."""
    made = {
        "record.v1.json": _schema(
            record.SCHEMA,
            "Record",
            "What is signed: an immutable fact about something that its owner has. Canonical by RFC 8785, "
            f"{record.MAX_RECORD} bytes and {record.MAX_DEPTH} levels at most.",
            _object(record.TYPES, _RECORD),
        ),
        "pointer.v1.json": _schema(
            pointers.SCHEMA,
            "Pointer event",
            "What is signed: what an owner says of its records after they were made. Canonical by RFC 8785, "
            f"{pointers.MAX_EVENT} bytes at most.",
            {"oneOf": [_pointer(op) for op in pointers.Op]},
        ),
        "contract.v1.json": _contract(),
    }
    return json.loads(json.dumps(made))  # Defaults of the types may be tuples.


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


_DIGEST = {"pattern": "^(sha256:[0-9a-f]{64})?$"}
_TIME = {"minimum": 0, "exclusiveMaximum": 1e11}
_VERSION = {"pattern": f"^{urn._VERSION.pattern}$", "maxLength": urn.MAX_VERSION}
_MAYBE_VERSION = {"pattern": f"^({urn._VERSION.pattern})?$", "maxLength": urn.MAX_VERSION}
_URN = {"pattern": f"^urn:ioi:{_DOMAIN}:({'|'.join(urn.Kind)}):{_NAME}$"}
_RECORD: dict[str, Any] = {
    "schema": {"const": record.SCHEMA},
    "urn": _URN,
    "kind": {"enum": [*map(str, urn.Kind)]},
    "version": _VERSION,
    "scheme": {"enum": [*map(str, urn.Scheme)], "description": "How versions of this name are ordered."},
    "spec": {
        "description": "Of the kind; its capabilities in `contracts`, or the one in `contract`, as contract.v1.json."
    },
    "audience": {"pattern": f"^({record.PUBLIC}|{record.LOCAL}|{record.PARTNER}{_DOMAIN})$"},
    "valid_until": {**_TIME, "description": "Seconds of the epoch; 0: no end."},
    "supersedes": {**_DIGEST, "description": "Of the record in whose place it comes, or empty."},
    "provenance": {"items": {"type": "object"}, "maxItems": record.MAX_PROVENANCE},
}
_POINTER: dict[str, Any] = {
    "schema": {"const": pointers.SCHEMA},
    "urn": _URN,
    "sequence": {
        "minimum": 1,
        "maximum": pointers.MAX_SEQUENCE,
        "description": "Orders the events of one name; rises, and may have gaps.",
    },
    "at": {**_TIME, "description": "Seconds of the epoch by the owner's clock."},
    "alias": {"pattern": f"^{pointers.ALIAS}$"},
    "version": {**_MAYBE_VERSION, "description": "Empty: the alias names nothing any more; the status is that of all."},
    "status": {"enum": [*map(str, pointers.Status)]},
    "successor": {"pattern": f"^({_URN['pattern'][1:-1]})?$"},
    "successor_version": _MAYBE_VERSION,
    "reason": {"maxLength": pointers.MAX_REASON},
    "to": {"pattern": f"^{_DOMAIN}$", "maxLength": 253, "description": "The domain that owns the name from here on."},
    "accepted": {
        "description": "The new owner's signature of this body without this field.",
        "properties": {"key_id": {"type": "string"}, "signature": {"type": "string", "contentEncoding": "base64"}},
        "required": ["key_id", "signature"],
        "additionalProperties": False,
    },
}


def _pointer(op: pointers.Op) -> dict[str, Any]:
    return _object(pointers.COMMON | pointers.FIELDS[op], {**_POINTER, "op": {"const": str(op)}})


def _contract() -> dict[str, Any]:
    (_, found), parts = msgspec.json.schema_components([Contract, Contract], ref_template="#/$defs/{name}")
    own = parts.pop(found["$ref"].rpartition("/")[2])
    own["properties"]["effect"]["enum"] = [effect.value for effect in Effect]
    return _schema(
        "ioi.contract/1",
        "Capability contract",
        "What something can do, as its owner states it and others match on it. Further fields are let through.",
        {**{name: value for name, value in own.items() if name not in ("title", "description")}, "$defs": parts},
    )


def _schema(id: str, title: str, description: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": DRAFT, "$id": f"urn:ioi:schema:{id}", "title": title, "description": description, **body}


def _object(types: Any, told: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": _JSON[its], **told[name]} for name, its in types.items()},
        "required": list(types),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
