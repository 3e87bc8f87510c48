"""What a record can do: the capability contracts in its `spec`, each a row by which it is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.matching.entry import Entry, entry_of
from ioi_dagster.ras.record import Record

MAX_CONTRACTS = 1000
MAX_LABELS = 100
"""Tags and skills of one contract."""
MAX_LABEL = 200
"""Characters of a capability's id, of a tag, of a skill."""


_CLASSES = frozenset(DataClass)


@dataclass(frozen=True, slots=True)
class Offer:
    """`capability`: by what it is asked for; `handles`: the highest data class that it may be given."""

    capability: str
    contract: Contract
    handles: DataClass

    @property
    def entry(self) -> Entry:
        """For the index of words."""
        return entry_of(self.contract)


def offers_of(record: Record) -> tuple[Offer, ...]:
    """The contracts of `record`: those of `spec.contracts`, or the one of `spec.contract`, whose block may be asked for by the
    name in `spec.capability`; a block without either offers what that names, and nothing is known of it. Raises `BadInputError`
    for what is no contract."""
    spec = record.spec
    named = spec.get("capability")
    named = named if isinstance(named, str) else ""
    stated = spec.get("contracts")
    if stated is None:
        stated = [spec["contract"]] if "contract" in spec else []
    if not isinstance(stated, list) or len(stated) > MAX_CONTRACTS:
        raise _bad(record, f"contracts is no list of {MAX_CONTRACTS} at most")
    contracts = [_contract(record, its) for its in stated]
    if not contracts and named:
        contracts = [Contract(named, named)]
    if not contracts:
        return ()
    handles = handled(record)
    return tuple(
        Offer(_bounded(record, named if named and len(contracts) == 1 else its.id), its, handles) for its in contracts
    )


def _contract(record: Record, value: Any) -> Contract:
    try:
        contract = converted(value, Contract)
    except msgspec.ValidationError as error:
        raise _bad(record, f"a contract that is none: {error}") from error
    labels = (*contract.tags, *contract.skills)
    if len(labels) > MAX_LABELS:
        raise _bad(record, f"{contract.id[:60]!r} has {len(labels)} tags and skills; {MAX_LABELS} at most")
    for label in labels:
        _bounded(record, label)
    return contract


def said_of_trust(record: Record) -> dict[str, Any]:
    """What `spec.trust` says, with `spec.handles` where that alone stands."""
    said = record.spec.get("trust", {})
    said = said if isinstance(said, dict) else {}
    return {"handles": record.spec["handles"], **said} if "handles" in record.spec else said


def handled(record: Record) -> DataClass:
    """The highest data class that it may be given; internal, where it says nothing. Raises `BadInputError`."""
    stated = said_of_trust(record).get("handles", DataClass.INTERNAL)
    if not isinstance(stated, str) or stated not in _CLASSES:
        raise _bad(record, f"handles is {str(stated)[:60]!r}, and no data class")
    return DataClass(stated)


def _bounded(record: Record, label: str) -> str:
    if not 0 < len(label) <= MAX_LABEL or "\0" in label:
        raise _bad(record, f"{label[:60]!r} is no name of a capability, tag or skill: 1 to {MAX_LABEL} characters")
    return label


def _bad(record: Record, what: str) -> BadInputError:
    return BadInputError(what, where=f"{record.urn} {record.version}", todo="its owner corrects it and signs it anew")
