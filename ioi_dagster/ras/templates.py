"""Templates: a document with holes, and what may be put into each. Nothing in it is evaluated; a hole is a whole value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.compatibility.document import Budget, Node, SpentError, UnreadableError, read_document
from ioi_dagster.ras.compatibility.validity import Judge
from ioi_dagster.ras.record import MAX_DEPTH, Record, make_record
from ioi_dagster.ras.urn import Kind, Scheme, read_urn
from ioi_dagster.signing import SigningKey, canonical

HOLE = "$parameter"
"""`{"$parameter": "name"}` stands for the value of that parameter, whatever its type."""
LITERAL = "$literal"
"""`{"$literal": …}` stands for what is in it, as it is: so a template can hold what would be a hole."""
MAX_VALUES = 64 * 1024
MAX_MADE = 1024 * 1024
"""Bytes of the values of one use, and of what comes of it, as canonical JSON."""
STEPS = 100_000


class Makes(StrEnum):
    """What comes of it: the `spec` of a record of some kind, a topology file, a graph."""

    RECORD = "record"
    TOPOLOGY = "topology"
    GRAPH = "graph"


@dataclass(frozen=True, slots=True)
class Template:
    """`parameters`: a JSON Schema for an object; a property with a `default` may be left out, any other is required. `kind`: of
    the record, where it makes one."""

    name: str
    makes: Makes
    body: Any
    parameters: Mapping[str, Any]
    kind: Kind | None = None


def template_of(record: Record) -> Template:
    """Raises `BadInputError` where it is none, its schema is none, or its holes and its parameters are not the same."""
    spec, where = record.spec, f"{record.urn} {record.version}"
    makes, kind = spec.get("makes"), spec.get("kind", "")
    parameters = spec.get("parameters", {})
    wrong = (
        (record.kind is not Kind.TEMPLATE, f"it is a {record.kind}"),
        (makes not in tuple(Makes), f"it makes {str(makes)[:40]!r}, and not one of {', '.join(Makes)}"),
        (makes == Makes.RECORD and kind not in tuple(Kind), f"it makes a record of kind {str(kind)[:40]!r}"),
        (not isinstance(parameters, dict), "its parameters are no schema"),
        ("body" not in spec, "it has no body"),
    )
    for is_wrong, what in wrong:
        if is_wrong:
            raise BadInputError(what, where=where, todo=_TODO)
    made = Template(record.urn, Makes(makes), spec["body"], parameters, Kind(kind) if makes == Makes.RECORD else None)
    declared, used = set(_properties(made)), _holes(made.body, where)
    if declared != used:
        odd = ", ".join(sorted(declared ^ used)[:5])
        raise BadInputError(f"parameters that are not used, or not declared: {odd}", where=where, todo=_TODO)
    _schema(made)
    return made


def instantiate(template: Template, values: Mapping[str, Any]) -> Any:
    """The document with each hole filled. Raises `BadInputError` for a value that is missing, that there is no parameter for, or
    that its schema does not plainly take."""
    properties = _properties(template)
    defaults = {name: its["default"] for name, its in properties.items() if isinstance(its, dict) and "default" in its}
    given = {**defaults, **values}
    for odd, what in ((given.keys() - properties, "there is no parameter"), (properties.keys() - given, "not given:")):
        if odd:
            names = ", ".join(sorted(map(str, odd))[:5])
            raise BadInputError(f"{what} {names[:200]}", where=template.name, todo=f"give {', '.join(properties)}")
    _small(given, MAX_VALUES, template.name)
    try:
        found = Judge(Budget(STEPS)).judge(given, _schema(template))
    except SpentError:
        raise BadInputError("its schema takes too long to check", where=template.name, todo=_TODO) from None
    if found.ok is not True:
        unsure = "" if found.ok is False else "whether it fits is not known: "
        raise BadInputError(f"{found.path}: {unsure}{found.reason}", where=template.name, todo="give another value")
    made = _filled(template.body, given)
    _small(made, MAX_MADE, template.name)
    return made


def instantiate_record(
    template: Record,
    values: Mapping[str, Any],
    key: SigningKey,
    name: str,
    version: str,
    scheme: Scheme = Scheme.PEP440,
) -> Record:
    """A record signed by `key`'s domain, which says what it was made of. Raises `BadInputError`."""
    its = template_of(template)
    if its.kind is None:
        raise BadInputError(f"it makes a {its.makes}", where=template.urn, todo="name a template of records")
    spec = instantiate(its, values)
    made_of = {"template": str(read_urn(template.urn)), "version": template.version, "digest": template.digest}
    if not isinstance(spec, dict):
        raise BadInputError("its body makes no object", where=template.urn, todo=_TODO)
    return make_record(
        key, its.kind, name, version, spec, scheme=scheme, provenance=[{**made_of, "values": dict(values)}]
    )


def _properties(template: Template) -> Mapping[str, Any]:
    found = template.parameters.get("properties", {})
    return found if isinstance(found, dict) else {}


def _schema(template: Template) -> Node:
    try:
        document = read_document({"type": "object", **template.parameters})
    except UnreadableError as error:
        raise BadInputError(f"its parameters are no schema: {error}", where=template.name, todo=_TODO) from error
    return Node(document.root, document)


def _holes(body: Any, where: str) -> set[str]:
    if isinstance(body, dict):
        if LITERAL in body and len(body) == 1:
            return set()
        if HOLE in body or LITERAL in body:
            if len(body) > 1 or not isinstance(body.get(HOLE), str):
                what = f"{HOLE} and {LITERAL} stand alone, and a hole names a parameter"
                raise BadInputError(what, where=where, todo=_TODO)
            return {body[HOLE]}
        return {name for value in body.values() for name in _holes(value, where)}
    return {name for value in body for name in _holes(value, where)} if isinstance(body, list) else set()


def _filled(body: Any, values: Mapping[str, Any]) -> Any:
    """What is put into a hole is not looked into again."""
    if isinstance(body, dict):
        if len(body) == 1 and LITERAL in body:
            return body[LITERAL]
        if len(body) == 1 and HOLE in body:
            return values[body[HOLE]]
        return {name: _filled(value, values) for name, value in body.items()}
    return [_filled(value, values) for value in body] if isinstance(body, list) else body


def _small(value: Any, most: int, where: str) -> None:
    """Depth first: what is nested too deep cannot even be written down."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise BadInputError(f"nested deeper than {MAX_DEPTH}", where=where, todo="give flatter values")
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
    try:
        size = len(canonical(value))
    except (ValueError, TypeError) as error:
        raise BadInputError(f"a value that JSON cannot say: {error}", where=where, todo="give JSON") from error
    if size > most:
        raise BadInputError(f"{size} bytes; {most} at most", where=where, todo="give less")


_TODO = "its owner corrects it and signs it anew"
