"""What an owner says of how far something may be trusted, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal


class Scan(StrEnum):
    """What a scan for known weaknesses found, from best to worst; `none`: there was none."""

    CLEAN = "clean"
    WARNINGS = "warnings"
    NONE = "none"
    VULNERABLE = "vulnerable"

    @property
    def rank(self) -> int:
        return tuple(Scan).index(self)


@dataclass(frozen=True, slots=True)
class Attestation:
    """`kind` of a statement (`slsa-provenance`, `sbom`, `evaluation`), which domain makes it, and the digest of it."""

    kind: str
    by: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """`handles`: the highest data class that it may be given. `regions` in which it keeps what it is given (empty: not said).
    `policies` that whoever uses it has to accept."""

    handles: DataClass = DataClass.INTERNAL
    regions: tuple[str, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    scan: Scan = Scan.NONE
    policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustDemand:
    """`data_class` of what it is to be given. `owners` that may be chosen (empty: all but `shunned`), and what each may be given
    at most (`allowed`; not named: anything). `regions` in which the data has to stay. `attestations`: kinds that are needed, from
    `attestors` (empty: anybody). `scan`: the worst verdict that will do. `accepts`: policies that are accepted."""

    data_class: DataClass = DataClass.INTERNAL
    owners: tuple[str, ...] = ()
    shunned: tuple[str, ...] = ()
    allowed: Mapping[str, DataClass] = field(default_factory=dict)
    regions: tuple[str, ...] = ()
    attestations: tuple[str, ...] = ()
    attestors: tuple[str, ...] = ()
    scan: Scan = Scan.VULNERABLE
    accepts: tuple[str, ...] = ()


def distrust(demand: TrustDemand, trust: Trust, owner: str, by: str) -> tuple[Refusal, ...]:
    """Everything of the demand that is not met; `by` is who refuses."""
    return tuple(
        Refusal(code, text, by, remedy) for code, check, remedy in _ROWS if (text := check(demand, trust, owner))
    )


def _owner(demand: TrustDemand, trust: Trust, owner: str) -> str:
    if owner in demand.shunned:
        return f"{owner} is not to be used"
    return f"{owner} is none of {', '.join(demand.owners)}" if demand.owners and owner not in demand.owners else ""


def _handles(demand: TrustDemand, trust: Trust, owner: str) -> str:
    if demand.data_class.within(trust.handles):
        return ""
    return f"it handles {trust.handles} at most, the data is {demand.data_class}"


def _allowed(demand: TrustDemand, trust: Trust, owner: str) -> str:
    limit = demand.allowed.get(owner, DataClass.RESTRICTED)
    return (
        ""
        if demand.data_class.within(limit)
        else f"{owner} may be given {limit} at most, the data is {demand.data_class}"
    )


def _regions(demand: TrustDemand, trust: Trust, owner: str) -> str:
    outside = [region for region in trust.regions if region not in demand.regions]
    if not demand.regions or (trust.regions and not outside):
        return ""
    kept = f"may go to {', '.join(outside)}" if outside else "goes who knows where"
    return f"data has to stay in {', '.join(demand.regions)} and {kept}"


def _attested(demand: TrustDemand, trust: Trust, owner: str) -> str:
    known = {one.kind for one in trust.attestations if not demand.attestors or one.by in demand.attestors}
    missing = [kind for kind in demand.attestations if kind not in known]
    by = f" by {' or '.join(demand.attestors)}" if demand.attestors else ""
    return f"no attestation of {', '.join(missing)}{by}" if missing else ""


def _scanned(demand: TrustDemand, trust: Trust, owner: str) -> str:
    return (
        ""
        if trust.scan.rank <= demand.scan.rank
        else f"its scan says {trust.scan}, and {demand.scan} is the worst that will do"
    )


def _policies(demand: TrustDemand, trust: Trust, owner: str) -> str:
    missing = [policy for policy in trust.policies if policy not in demand.accepts]
    return f"its owner asks that {', '.join(missing)} be accepted" if missing else ""


_ROWS: tuple[tuple[str, Callable[[TrustDemand, Trust, str], str], str], ...] = (
    ("ras.owner", _owner, "allow this owner, or ask others"),
    ("ras.data_class", _handles, "choose another, or give it data of a lower class"),
    ("ras.class_abroad", _allowed, "let this owner have such data, or choose another"),
    ("ras.residency", _regions, "choose one whose owner names these regions alone"),
    ("ras.attestation", _attested, "its owner has it attested"),
    ("ras.scan", _scanned, "its owner has it scanned and mended"),
    ("ras.policies", _policies, "accept them, or choose another"),
)
