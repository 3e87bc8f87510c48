"""Import and export: which format a document is of, drafts of records from it, and documents from records again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.formats import (
    a2a,
    ai_catalog,
    aigrid_block,
    aigrid_cluster,
    aigrid_component,
    aigrid_query,
    aigrid_vdag,
    backstage,
    mcp,
    mlflow,
    oasf,
)
from ioi_dagster.ras.formats.document import Document, Path, checked, shown_path
from ioi_dagster.ras.formats.draft import Draft, Place, derived, is_numbered
from ioi_dagster.ras.formats.format import Facts, Format
from ioi_dagster.ras.record import PUBLIC, Record
from ioi_dagster.signing import digest

FORMATS: dict[str, Format] = {
    its.name: its
    for its in (
        ai_catalog.FORMAT,
        a2a.FORMAT,
        mcp.FORMAT,
        oasf.FORMAT,
        backstage.FORMAT,
        mlflow.FORMAT,
        aigrid_component.FORMAT,
        aigrid_block.FORMAT,
        aigrid_vdag.FORMAT,
        aigrid_cluster.CLUSTER_FORMAT,
        aigrid_cluster.NODE_FORMAT,
        aigrid_query.FORMAT,
    )
}
"""By name."""


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """What a document may be of, and why; empty where it is of no format that is known."""

    reasons: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if not self.reasons:
            return "of no format that is known"
        return "it may be " + ", or ".join(f"{name} ({why})" for name, why in self.reasons)


@dataclass(frozen=True, slots=True)
class Exported:
    """`document` in a format, and what the format cannot say of the record: paths in it."""

    document: Any
    lost: tuple[str, ...] = ()


def detect(value: Any) -> Format | Ambiguity:
    """The one format that plain JSON is of."""
    found = [(name, why) for name, its in FORMATS.items() if (why := its.tells(value))]
    return FORMATS[found[0][0]] if len(found) == 1 else Ambiguity(tuple(found))


def format_named(name: str) -> Format:
    """Raises `BadInputError` where there is none of that name."""
    if name not in FORMATS:
        raise BadInputError(f"{name[:60]!r} is no format", todo=f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def import_document(document: Document | Any, domain: str, name: str = "") -> tuple[Draft, ...]:
    """Drafts of all that a document describes, the document kept in each. `name`: its format, where it is not to be found out.
    Raises `BadInputError` that names file, line and path."""
    read = document if isinstance(document, Document) else checked(document)
    if not isinstance(read.value, dict):
        raise read.refuse((), "an object is needed", "see which formats are known: `ioi import --help`")
    its = format_named(name) if name else detect(read.value)
    if isinstance(its, Ambiguity):
        raise read.refuse(
            (), str(its), f"say which: --format {its.reasons[0][0] if its.reasons else next(iter(FORMATS))}"
        )
    if name and not its.tells(read.value):
        raise read.refuse((), f"it has nothing of {its.title}", f"leave --format {name} out")
    drafts = tuple(its.read(Place(read, (), read.value)))
    twice = [
        draft
        for number, draft in enumerate(drafts)
        if (draft.urn(domain), draft.version) in _seen(drafts[:number], domain)
    ]
    if twice:
        raise read.refuse((), f"{twice[0].name} {twice[0].version} stands in it twice", "keep one of them")
    return drafts


def _seen(drafts: Sequence[Draft], domain: str) -> set[tuple[str, str]]:
    return {(draft.urn(domain), draft.version) for draft in drafts}


def source_format(record: Record) -> str:
    """The format that a record was imported from; empty where it was not."""
    source = record.spec.get("source")
    name = source.get("format") if isinstance(source, dict) and "document" in source else None
    return name if name in FORMATS else ""


def export(record: Record, name: str = "") -> Exported:
    """A record as a document of a format, that which it was imported from where none is named. One that was not changed since is
    that very document; of one that was, what has changed is changed in it; and any other record is written as far as the format
    can say it. Raises `BadInputError` for a record that was not imported, where no format is named."""
    own = source_format(record)
    if not (name or own):
        raise BadInputError(f"{record.urn} was not imported", todo=f"say which format: --format {', '.join(FORMATS)}")
    its = format_named(name or own)
    facts = Facts(record.kind, record.name, record.version, record.spec)
    if its.name != own:
        document = its.wrap(its.write(facts))
        return Exported(document, _lost(record, its, document, same=False))
    source = record.spec["source"]["document"]
    before = _read_again(its, source, record)
    if _unchanged(record, before):
        return Exported(source)
    if before is None:
        document = its.wrap(its.write(facts))
    else:
        base = its.write(Facts(before.kind, before.name, before.version, before.spec))
        document = _changed(copy.deepcopy(source), its.within(source), base, its.write(facts))
    return Exported(document, _lost(record, its, document, same=True))


def _unchanged(record: Record, before: Draft | None) -> bool:
    """By what was noted when it was imported: a later importer may read more of the same document."""
    for noted in record.provenance:
        if noted.get("spec") == digest(derived(record.spec)) and noted.get("document") == digest(
            record.spec["source"]["document"]
        ):
            return True
    same_version = before is not None and (before.version == record.version or is_numbered(record.version))
    return before is not None and same_version and derived(before.spec) == derived(record.spec)


def _read_again(its: Format, document: Any, record: Record) -> Draft | None:
    """What a document says of the record; None where it says nothing that could be read."""
    try:
        drafts = its.read(Place(checked(document), (), document))
    except BadInputError:
        return None
    return next((draft for draft in drafts if draft.name == record.name), drafts[-1] if drafts else None)


def _changed(document: Any, within: Path, base: Any, now: Any) -> Any:
    """`document` with what differs between `base` and `now` changed at `within`."""
    if not within:
        return _merged(document, base, now)
    document[within[0]] = _changed(document[within[0]], within[1:], base, now)
    return document


def _merged(document: Any, base: Any, now: Any) -> Any:
    if base == now:
        return document
    if isinstance(document, dict) and isinstance(base, dict) and isinstance(now, dict):
        for key in [key for key in base if key not in now]:
            document.pop(key, None)
        for key, value in now.items():
            if key not in base or base[key] != value:
                document[key] = _merged(document.get(key), base.get(key), value)
        return document
    lists = isinstance(document, list) and isinstance(base, list) and isinstance(now, list)
    if lists and len(document) == len(base) == len(now):
        return [_merged(*three) for three in zip(document, base, now, strict=True)]
    return copy.deepcopy(now)


def _lost(record: Record, its: Format, document: Any, same: bool) -> tuple[str, ...]:
    """What reading the document again does not give back."""
    again = _read_again(its, document, record)
    spec = derived(again.spec) if again else {}
    gone = _differences(derived(record.spec), spec, ())
    # Where it stood before, what the record no longer says may still be there.
    gone += [(key,) for key in spec if same and key not in record.spec]
    lost = [shown_path(path) for path in gone if path != ("original",)]
    kept_version = again is not None and (again.version == record.version or is_numbered(record.version))
    beside = (
        ("name", same and (again is None or again.name != record.name)),
        ("kind", again is None or again.kind != record.kind),
        ("version", not kept_version),
        ("audience", record.audience != PUBLIC),
        ("valid_until", record.valid_until != 0.0),
        ("supersedes", record.supersedes != ""),
    )
    return (*(name for name, gone in beside if gone), *lost)


def _differences(had: Any, has: Any, path: Path) -> list[Path]:
    """Paths in `had` that `has` has otherwise or not at all."""
    if had == has:
        return []
    if isinstance(had, dict) and isinstance(has, dict):
        missing = [(*path, key) for key in had if key not in has]
        return missing + [item for key in had if key in has for item in _differences(had[key], has[key], (*path, key))]
    if isinstance(had, list) and isinstance(has, list) and len(had) == len(has):
        return [item for number in range(len(had)) for item in _differences(had[number], has[number], (*path, number))]
    return [path]
