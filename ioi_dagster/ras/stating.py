"""Records that an owner writes by hand: a document of this registry's own schema, made a record under its prefix."""

from __future__ import annotations

from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.contracts import offers_of
from ioi_dagster.ras.formats.document import Document
from ioi_dagster.ras.record import PUBLIC, SCHEMA, TYPES, Record, make_record
from ioi_dagster.ras.urn import Kind, Scheme, Urn, read_urn
from ioi_dagster.signing import SigningKey

BY_COMMAND = {"registered": "by its owner"}
"""In the provenance of what an owner has registered himself. What a gateway states of its domain has none, and no other is
withdrawn by one."""

FIELDS = {**TYPES, "name": str}
_TODO = "see docs/reference/schemas/record.v1.json: kind and name (or urn), version and spec; all else may be left out"


def stated(document: Document, key: SigningKey) -> Record:
    """The record that `document` describes, signed. `kind` and `name` may stand for the URN; what is left out is as `make_record`
    has it. The same document gives the same record. Raises `BadInputError`, which names the line, for what cannot be one."""
    body = _body(document)
    urn = _urn(document, body, key.domain)
    provenance = list(body.get("provenance", ()))
    if not all(isinstance(source, dict) for source in provenance):
        raise document.refuse(("provenance",), "is no list of objects", _TODO)
    if BY_COMMAND not in provenance:
        provenance.append(BY_COMMAND)
    try:
        record = make_record(
            *(key, urn.kind, urn.name, body["version"], body["spec"]),
            scheme=Scheme(body.get("scheme", Scheme.PEP440)),
            audience=body.get("audience", PUBLIC),
            valid_until=body.get("valid_until", 0),
            supersedes=body.get("supersedes", ""),
            provenance=provenance,
        )
        offers_of(record)
    except BadInputError as error:
        raise document.refuse((), error.what, error.todo or _TODO) from error
    return record


def _body(document: Document) -> dict[str, Any]:
    body = document.value
    if not isinstance(body, dict):
        raise document.refuse((), "no object, so no record", _TODO)
    for name, value in body.items():
        if name not in FIELDS:
            raise document.refuse((name,), "a record has no such field", _TODO)
        if not isinstance(value, FIELDS[name]) or isinstance(value, bool):
            raise document.refuse((name,), f"of the wrong type: {type(value).__name__}", _TODO)
    for name in ("version", "spec"):
        if name not in body:
            raise document.refuse((), f"{name} is missing", _TODO)
    if body.get("schema", SCHEMA) != SCHEMA:
        raise document.refuse(("schema",), f"this registry writes {SCHEMA}", "write it so, or leave it out")
    if body.get("scheme", Scheme.PEP440) not in tuple(Scheme):
        raise document.refuse(("scheme",), "no scheme of versions", f"one of {', '.join(Scheme)}")
    return body


def _urn(document: Document, body: dict[str, Any], domain: str) -> Urn:
    named = "urn" in body
    if not named and not {"kind", "name"} <= body.keys():
        raise document.refuse((), "it has neither a urn nor kind and name", _TODO)
    if not named and body["kind"] not in tuple(Kind):
        raise document.refuse(("kind",), f"{body['kind'][:60]!r} is no kind", f"one of {', '.join(Kind)}")
    try:
        urn = read_urn(body["urn"] if named else f"urn:ioi:{domain}:{body['kind']}:{body['name']}")
    except BadInputError as error:
        raise document.refuse(("urn" if named else "name",), error.what, error.todo) from error
    if urn.domain != domain:
        raise document.refuse(("urn",), f"it is a name of {urn.domain}, and this is {domain}", "register it there")
    if body.get("kind", urn.kind) != urn.kind or body.get("name", urn.name) != urn.name:
        raise document.refuse((), "kind and name are not those of its urn", "leave them out")
    return urn
