"""Permits: what a run or a step is allowed to do, as claims that a domain signs.

A permit on the wire is a `signing.Signed` whose body is `claims()`; digests are recomputed at every gate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease

STEP_PERMIT_S = 3_600.0


@dataclass(frozen=True, slots=True)
class RunPermit:
    """Gate 1's allowance of one run. Times are Unix seconds; digests are `sha256:<hex>`.

    `plan` is Dagster's execution-plan snapshot id, `config` the digest of run config, `selection` that of the
    asset, check, op and step selection. `highest` bounds the data class of every step; `domains` are the places allowed.
    """

    run: str
    subject: str
    job: str
    job_snapshot: str
    plan: str
    config: str
    selection: str
    code: str
    highest: DataClass
    domains: tuple[str, ...]
    decision_ids: tuple[str, ...]
    revision: str
    not_before: float
    expires: float
    nonce: str
    issuer: str

    def claims(self) -> dict[str, Any]:
        return {"kind": "run-permit/1", **_plain(asdict(self))}


@dataclass(frozen=True, slots=True)
class StepPermit:
    """Gate 3's narrowing of a run permit to one start of one step on one lease, for one audience (domain)."""

    run: str
    step: str
    fence: int
    copy: int
    lease: str
    capability: str
    data_class: DataClass
    audience: str
    cluster: str
    node: str
    payload: str
    not_before: float
    expires: float
    nonce: str
    issuer: str

    @classmethod
    def of(
        cls, lease: Lease, *, issuer: str, data_class: DataClass, payload: str, nonce: str, now: float
    ) -> StepPermit:
        """For one start under `lease` of what has the digest `payload`; good for `STEP_PERMIT_S` from `now` (Unix seconds)."""
        return cls(
            run=lease.run,
            step=lease.step,
            fence=lease.fence,
            copy=lease.copy,
            lease=lease.id,
            capability=lease.capability,
            data_class=data_class,
            audience=lease.domain,
            cluster=lease.cluster,
            node=lease.node,
            payload=payload,
            not_before=float(int(now)),
            expires=float(int(now + STEP_PERMIT_S)),
            nonce=nonce,
            issuer=issuer,
        )

    def claims(self) -> dict[str, Any]:
        return {"kind": "step-permit/1", **_plain(asdict(self))}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, DataClass) else value
        for key, value in values.items()
    }
