"""Documents of other registries, as upstream publishes them and as nobody would write them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ioi_dagster.ras.formats.document import MAX_INTEGER, Document, read_documents
from ioi_dagster.ras.formats.draft import Draft
from ioi_dagster.ras.formats.exchange import import_document
from ioi_dagster.ras.record import Record, make_record
from ioi_dagster.signing import SigningKey

FOLDER = Path(__file__).parents[3] / "fixtures" / "foreign"
FILES = sorted(path for folder in ("aigrid", "others") for path in (FOLDER / folder).iterdir())
LAB = SigningKey.generate("lab.example")


def documents(name: str) -> list[Document]:
    path = next(path for path in FILES if path.name.startswith(name))
    return read_documents(path.read_bytes(), path.name)


def drafts(name: str) -> list[Draft]:
    return [draft for document in documents(name) for draft in import_document(document, LAB.domain)]


def drafted(name: str) -> Draft:
    (draft,) = drafts(name)
    return draft


def record_of(draft: Draft, **changed: Any) -> Record:
    """As an import registers it. `changed`: what its spec says otherwise since; None: no more."""
    spec = {key: value for key, value in (draft.spec | changed).items() if value is not None}
    its = {"scheme": draft.scheme, "provenance": draft.provenance}
    return make_record(LAB, draft.kind, draft.name, draft.version, spec, **its)


EVERY = [document for path in FILES for document in read_documents(path.read_bytes(), path.name)]

_LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-MAX_INTEGER, MAX_INTEGER), st.text(max_size=8)),
    st.floats(allow_nan=False, allow_infinity=False),
)
JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def grown(draw: st.DrawFn) -> Any:
    """One of upstream's documents with fields of which nobody knows, anywhere."""
    value = copy.deepcopy(draw(st.sampled_from(EVERY)).value)
    holders = [holder for holder in _holders(value) if isinstance(holder, dict)]
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from(holders))["x-" + draw(st.text(max_size=6))] = draw(JSON)
    return value


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """One of upstream's documents with values that do not belong there."""
    value = copy.deepcopy(draw(st.sampled_from(EVERY)).value)
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from([holder for holder in _holders(value) if holder]))
        place = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[place] = draw(JSON)
    return value


def _holders(value: Any) -> list[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict | list) else []) + [found for item in inside for found in _holders(item)]
