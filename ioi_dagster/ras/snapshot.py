"""What a registry held at one moment, as a plain document: for who may not ask it when he is loaded.

Lineage is read from what records say: URNs anywhere in them, digests in provenance and `supersedes`, and plain names of models,
blocks, assets and clusters of the same domain under that word. Only what is in the snapshot too is an edge, and none closes a
circle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.contracts import offers_of
from ioi_dagster.ras.pointers import Stand
from ioi_dagster.ras.record import Record
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import canonical, digest

SCHEMA = "ioi.registry-snapshot/1"
MAX_SNAPSHOT = 64 * 2**20
"""Bytes of one."""
SHOWN = (Kind.ASSET, Kind.MODEL, Kind.BLOCK, Kind.CLUSTER, Kind.GRAPH, Kind.SERVICE)
_NAMED = (Kind.MODEL, Kind.BLOCK, Kind.ASSET, Kind.CLUSTER)
_URN = re.compile(r"urn:ioi:[a-z0-9.-]+:[a-z-]+:[A-Za-z0-9._:/@+~-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record that is offered. `uses`: URNs of entries that it was made of or works with."""

    urn: str
    kind: Kind
    name: str
    version: str
    digest: str
    owner: str
    stand: Stand
    description: str = ""
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    handles: str = ""
    audience: str = ""
    valid_until: float = 0.0
    uses: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """Short values of its spec, by name: what a table shows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`entries` in order of URN. `at`: seconds of the epoch."""

    domain: str
    at: float
    entries: tuple[Entry, ...]

    @property
    def digest(self) -> str:
        """Of what it holds, whenever it was taken."""
        return digest(msgspec.to_builtins(self.entries))

    def written(self) -> bytes:
        return canonical({"schema": SCHEMA, **msgspec.to_builtins(self)})


def read_snapshot(data: bytes) -> Snapshot:
    """Raises `BadInputError` for what is none, or is of another version."""
    todo = "take it anew: `dg utils refresh-defs-state`, or a start of `dagster dev`"
    try:
        if len(data) > MAX_SNAPSHOT:
            raise BadInputError(f"{len(data)} bytes", where="snapshot of a registry", todo="show fewer kinds")
        held = from_json(data, dict[str, Any])
        if held.get("schema") != SCHEMA:
            raise BadInputError(f"it is not of {SCHEMA}", where="snapshot of a registry", todo=todo)
        return from_json(data, Snapshot)
    except msgspec.MsgspecError as error:
        raise BadInputError(str(error), where="snapshot of a registry", todo=todo) from error


def snapshot(domain: str, at: float, offered: Iterable[tuple[Record, str, Stand]]) -> Snapshot:
    """`offered`: each record with its owner and how it stands."""
    rows = sorted(offered, key=lambda row: row[0].urn)
    by_digest = {record.digest: record.urn for record, _, _ in rows}
    urns = {record.urn for record, _, _ in rows}
    uses = _without_circles({record.urn: _uses(record, urns, by_digest) for record, _, _ in rows})
    return Snapshot(domain, at, tuple(_entry(record, owner, stand, uses[record.urn]) for record, owner, stand in rows))


def _entry(record: Record, owner: str, stand: Stand, uses: tuple[str, ...]) -> Entry:
    contracts = [offer.contract for offer in offers_of(record)]
    said = record.spec.get("description")
    told = [said if isinstance(said, str) else "", *(its.description or its.name for its in contracts)]
    trust = record.spec.get("trust")
    handles = record.spec.get("handles") or (trust.get("handles") if isinstance(trust, dict) else "")
    facts = [(name, str(value)) for name, value in sorted(record.spec.items()) if isinstance(value, str | int | float)]
    return Entry(
        record.urn,
        record.kind,
        record.name,
        record.version,
        record.digest,
        owner,
        stand,
        next(filter(None, told), "")[:2_000],
        tuple(offer.capability for offer in offers_of(record)),
        tuple(dict.fromkeys(tag for its in contracts for tag in its.tags)),
        handles if isinstance(handles, str) else "",
        record.audience,
        record.valid_until,
        uses,
        tuple(dict.fromkeys(_links(record.spec))),
        tuple((name, value[:200]) for name, value in facts if name not in ("description", "handles")),
    )


def _texts(value: Any, word: str = "") -> Iterator[tuple[str, str]]:
    """(the word that it stands under, text) of all texts in a plain value."""
    if isinstance(value, str):
        yield word, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, word)


def _uses(record: Record, urns: set[str], by_digest: dict[str, str]) -> list[str]:
    found: dict[str, None] = {}
    if record.supersedes in by_digest:
        found[by_digest[record.supersedes]] = None
    for word, text in _texts([record.spec, list(record.provenance)]):
        names = [text] if _URN.fullmatch(text) else []
        names += [by_digest[text]] if text in by_digest else []
        names += [f"urn:ioi:{record.domain}:{kind}:{text}" for kind in _NAMED if word == kind]
        found |= {name: None for name in names if name in urns and name != record.urn}
    return list(found)


def _without_circles(uses: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Edges in order; one that would close a circle with those before it is left out."""
    kept: dict[str, tuple[str, ...]] = dict.fromkeys(uses, ())
    for urn, wanted in uses.items():
        for other in wanted:
            if not _leads(kept, other, urn):
                kept[urn] = (*kept[urn], other)
    return kept


def _leads(uses: dict[str, tuple[str, ...]], start: str, end: str) -> bool:
    seen, waiting = {start}, [start]
    while waiting:
        at = waiting.pop()
        if at == end:
            return True
        waiting += [other for other in uses[at] if other not in seen]
        seen.update(uses[at])
    return False


def _links(spec: Any) -> Sequence[str]:
    return [text for _, text in _texts(spec) if text.startswith(("https://", "http://")) and len(text) < 2_000][:20]
