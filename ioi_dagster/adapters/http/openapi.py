"""The OpenAPI document of a gateway, made from the table of its doors."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from ioi_dagster.adapters.http.doors import Door, For
from ioi_dagster.adapters.http.protocol import (
    CLOCK_HEADER,
    DOORS,
    PERMIT_HEADER,
    PREFIX,
    PROOF_HEADER,
    VERSION,
    ProblemAnswer,
)

OCTETS = "application/octet-stream"
_PROOF, _PERMIT, _TOKEN, _OWN, _TLS = "proof", "permit", "token", "own", "certificate"
_SCHEMES: dict[str, dict[str, Any]] = {
    _PROOF: {
        "type": "apiKey",
        "in": "header",
        "name": PROOF_HEADER,
        "description": "A known domain's signature over method, path, audience, time and the digest of the body.",
    },
    _PERMIT: {
        "type": "apiKey",
        "in": "header",
        "name": PERMIT_HEADER,
        "description": "A run's permit, signed by its own domain.",
    },
    _TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ioi_<id>_<secret>",
        "description": "A token of the domain's owner: `ioi ras token new`.",
    },
    _OWN: {"type": "http", "scheme": "bearer", "description": "The token of the domain's own processes."},
    _TLS: {"type": "mutualTLS", "description": "The certificate with which the connection is opened."},
}
_SHOWS: dict[For, tuple[tuple[str, ...], ...]] = {
    For.ANYONE: ((),),
    For.DOMAIN: ((_PROOF,),),
    For.RUN: ((_PROOF, _PERMIT),),
    For.OWN: ((_OWN,),),
    For.HOME: ((_PROOF,),),
    For.INVITED: ((_TLS,),),
    For.SCOPED: ((_PROOF,), (_TOKEN,), (_OWN,)),
    For.SHOWN: ((_TOKEN,), (_OWN,)),
}
"""Who may use a door → what one of these shows together."""


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1, whose schemas are JSON Schema 2020-12. All of what has to be shown is shown over TLS with a certificate, but
    tokens, for which there may be a listener without."""
    kinds = [kind for door in DOORS for kind in (door.asks, door.answers) if kind is not None]
    template = "#/components/schemas/{name}"
    of, components = msgspec.json.schema_components([*kinds, ProblemAnswer], ref_template=template)
    its = iter(of)
    paths: dict[str, dict[str, Any]] = {}
    for door in DOORS:
        asks = None if door.asks is None else next(its)
        paths.setdefault(f"/{door.path}", {})[door.method.lower()] = _operation(door, asks, next(its))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gateway of a domain",
            "version": str(VERSION),
            "description": "What a domain answers to other domains, to its own processes, and to people and tools with tokens.",
        },
        "servers": [{"url": PREFIX.rstrip("/")}],
        "paths": paths,
        "components": {
            "securitySchemes": _SCHEMES,
            "schemas": {name: components[name] for name in sorted(components)},
            "responses": {
                "Problem": {
                    "description": "Why it was not done, with a code that stays and what would help.",
                    "content": {"application/json": {"schema": next(its)}},
                }
            },
        },
    }


def _operation(door: Door, asks: Any, answers: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation_id(door),
        "summary": door.text,
        "description": f"For {door.who}.",
        "tags": [door.path.partition("/")[0]],
        "security": [{name: _scopes(door, name) for name in shown} for shown in _SHOWS[door.who]],
    }
    if door.query:
        told["parameters"] = [
            {
                "name": one.name,
                "in": "query",
                "required": one.required,
                "description": one.text,
                "schema": {"type": one.kind},
            }
            for one in door.query
        ]
    if asks is not None:
        body = f"At most {door.limit} bytes{', framed around this document' if door.framed else ''}."
        told["requestBody"] = {"required": True, "description": body, "content": _content(door, asks, _asked_as(door))}
    told["responses"] = {
        "200": {
            "description": "The answer" + (", in frames." if door.framed else "."),
            "headers": {CLOCK_HEADER: {"description": "Unix seconds by its clock.", "schema": {"type": "number"}}},
            "content": _content(door, answers, OCTETS if door.framed else door.media),
        },
        "default": {"$ref": "#/components/responses/Problem"},
    }
    if door.rate is not None:
        told["x-rate"] = {"per_s": door.rate.per_s, "burst": door.rate.burst}
        told["responses"]["429"] = {
            "description": "More than one who asks may, by `x-rate`.",
            "headers": {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}},
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
        }
    return told


def operation_id(door: Door) -> str:
    """Its name in a client."""
    return re.sub(r"\W", "_", door.path)


def _asked_as(door: Door) -> str:
    return OCTETS if door.framed else "application/json"


def _scopes(door: Door, scheme: str) -> list[str]:
    return [str(door.scope)] if scheme == _TOKEN and door.scope is not None else []


def _content(door: Door, schema: Any, media: str) -> dict[str, Any]:
    """A frame around a document, or lines of JSON, cannot be said in a schema; what is in them is."""
    return {media.partition(";")[0]: {"x-document" if media == OCTETS else "schema": schema}}
