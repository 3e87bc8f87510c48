"""What discovery looks at: columns of each capability as an index keeps them, and the record itself where those do not do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.runtime import Offer, Requirement, read_offer, read_requirement
from ioi_dagster.model.trust import Trust
from ioi_dagster.ras.contracts import handled, offers_of, said_of_trust
from ioi_dagster.ras.record import PUBLIC, Record
from ioi_dagster.ras.urn import Kind, Scheme


class Status(StrEnum):
    """What its owner says of a version since it was registered."""

    ACTIVE = "active"
    DEPRECATED = "deprecated"
    YANKED = "yanked"
    DELETED = "deleted"


class Liveness(StrEnum):
    """`unknown`: nothing was heard of it, which says nothing of it (its home may be out of reach)."""

    ALIVE = "alive"
    UNKNOWN = "unknown"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Summary:
    """One capability of one version of a record. Columns of an index: nothing of it is parsed."""

    urn: str
    kind: Kind
    version: str
    digest: str
    domain: str
    capability: str = ""
    scheme: Scheme = Scheme.PEP440
    audience: str = PUBLIC
    handles: DataClass = DataClass.INTERNAL
    valid_until: float = 0.0
    status: Status = Status.ACTIVE
    successor: str = ""

    @property
    def entry(self) -> str:
        """Its id in the index of words."""
        return f"{self.urn}@{self.version}#{self.capability}"


@dataclass(frozen=True, slots=True)
class Living:
    """Run-time state of a record, as far as it is known. `load` and `reputation` are shares in 0..1, `locality` is 1 where it
    runs beside who asks and 0 as far away as can be; `latency_ms` and `quality` are what was observed."""

    liveness: Liveness = Liveness.ALIVE
    load: float | None = None
    latency_ms: float | None = None
    quality: float | None = None
    locality: float | None = None
    reputation: float | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What is read of a record for those that are left. `documents`: what filter trees are asked of, by kind of document."""

    contract: Contract | None = None
    trust: Trust = field(default_factory=Trust)
    requires: Requirement = field(default_factory=Requirement)
    offers: Offer = field(default_factory=Offer)
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Source(Protocol):
    """Gives the details of a summary; asked only for those that cheap filters have left. Raises `BadInputError` where its record
    makes no sense, and `KeyError` where it has gone meanwhile."""

    def details(self, summary: Summary) -> Details: ...


def summaries_of(record: Record, status: Status = Status.ACTIVE, successor: str = "") -> tuple[Summary, ...]:
    """One for each contract of a record, or one without a capability. Raises `BadInputError` for contracts that are none."""
    offers = [(offer.capability, offer.handles) for offer in offers_of(record)] or [("", handled(record))]
    return tuple(
        Summary(
            record.urn,
            record.kind,
            record.version,
            record.digest,
            record.domain,
            capability,
            record.scheme,
            record.audience,
            handles,
            record.valid_until,
            status,
            successor,
        )
        for capability, handles in offers
    )


def details_of(record: Record, capability: str) -> Details:
    """Of `spec`: the contract (`offers_of`), `trust` (or `handles` alone), `runtime` (what it needs) and `offers`. Raises
    `BadInputError`."""
    spec = record.spec
    offer = next((one for one in offers_of(record) if one.capability == capability), None)
    named = {
        "id": record.urn,
        "urn": record.urn,
        "kind": str(record.kind),
        "name": record.name,
        "version": record.version,
    }
    try:
        trust = converted(said_of_trust(record), Trust)
    except msgspec.ValidationError as error:
        raise BadInputError(str(error), where=record.urn, todo="its owner corrects the record") from error
    return Details(
        None if offer is None else offer.contract,
        trust,
        read_requirement(spec.get("runtime") or {}, record.urn),
        read_offer(spec.get("offers") or {}, record.urn),
        {str(record.kind): {**named, "domain": record.domain, **spec}},
    )
