"""The documents that policies decide on. Aggregates only: never a thousand-step array, never a config value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_move import DataMove, Place
from ioi_dagster.model.order import Order

SCHEMA_VERSION = 1

REQUIRED: dict[str, tuple[tuple[str, type], ...]] = {
    "launch": (
        ("subject.id", str),
        ("origin.domain", str),
        ("run.id", str),
        ("run.job", str),
        ("run.code", str),
        ("run.tags", dict),
        ("plan.steps", int),
        ("data.highest", str),
        ("approvals", list),
    ),
    "placement": (
        ("origin.domain", str),
        ("origin.authority", str),
        ("step.capability", str),
        ("step.data_class", str),
        ("candidate.domain", str),
        ("candidate.authority", str),
        ("candidate.handles", str),
    ),
    "intervene": (
        ("subject.id", str),
        ("action", str),
        ("target.run", str),
        ("target.job", str),
        ("target.step", str),
        ("target.subject", str),
        ("reason", str),
    ),
    "data_move": (
        ("asset.owner", str),
        ("asset.data_class", str),
        ("asset.regions", list),
        ("source.authority", str),
        ("source.domain", str),
        ("target.domain", str),
        ("target.authority", str),
        ("target.handles", str),
        ("target.region", str),
    ),
    "step": (
        ("step.capability", str),
        ("step.data_class", str),
        ("candidate.domain", str),
        ("permit.highest", str),
        ("permit.domains", list),
    ),
}
"""What each kind of document must hold. A rule over an absent field is undefined in Rego and denies nothing, so a document
that lacks one is never given to a policy."""


def missing_field(kind: str, document: Mapping[str, Any]) -> str | None:
    """The first required field that is absent or of another type."""
    for path, wanted in REQUIRED.get(kind, ()):
        value: Any = document
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if type(value) is not wanted:
            return path
    return None


def _common(decision: str, now: float, domain: str) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "decision": decision, "now": int(now), "domain_path": domain.split("/")}


def launch_document(
    *,
    now: float,
    domain: str,
    subject: str,
    trigger: str,
    run: str,
    job: str,
    code: str,
    tags: Mapping[str, str],
    steps: int,
    config_keys: Sequence[str],
    highest: str,
    approvals: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Who starts what, over which data. Tags that carry permits are left out."""
    return {
        **_common("launch", now, domain),
        "subject": {"id": subject, "kind": "person" if subject else "unknown"},
        "origin": {"path": trigger, "domain": domain},
        "run": {"id": run, "job": job, "code": code, "tags": _short(tags)},
        "plan": {"steps": steps},
        "config": {"keys": sorted(config_keys)[:200]},
        "data": {"highest": highest},
        "approvals": list(approvals),
        "digests": dict(digests or {}),
    }


def placement_document(
    *,
    now: float,
    origin: str,
    origin_authority: str,
    capability: str,
    data_class: DataClass,
    domain: str,
    authority: str,
    handles: DataClass,
    region: str = "",
) -> dict[str, Any]:
    """May a step of this capability and class go to that domain?"""
    return {
        **_common("placement", now, domain),
        "origin": {"domain": origin, "authority": origin_authority},
        "step": {"capability": capability, "data_class": str(data_class)},
        "candidate": {"domain": domain, "authority": authority, "handles": str(handles), "region": region},
    }


def step_document(
    *,
    now: float,
    origin: str,
    capability: str,
    data_class: DataClass,
    domain: str,
    highest: DataClass,
    domains: Sequence[str],
) -> dict[str, Any]:
    """May this step start there under the run's permit?"""
    return {
        **_common("step", now, origin),
        "step": {"capability": capability, "data_class": str(data_class)},
        "candidate": {"domain": domain},
        "permit": {"highest": str(highest), "domains": list(domains)},
    }


def data_move_document(*, now: float, domain: str, move: DataMove) -> dict[str, Any]:
    """May these bytes go there? Asked by `domain`, which is to send or to take them."""
    return {
        **_common("data_move", now, domain),
        "asset": {
            "urn": move.asset,
            "version": move.version,
            "owner": move.owner,
            "data_class": str(move.data_class),
            "regions": list(move.regions),
            "size": move.size,
        },
        "source": _place(move.source),
        "target": _place(move.target),
    }


def _place(place: Place) -> dict[str, Any]:
    return {
        "domain": place.domain,
        "authority": place.authority,
        "handles": str(place.handles),
        "region": place.region,
    }


def intervene_document(
    *,
    now: float,
    domain: str,
    subject: str,
    action: str,
    run: str,
    job: str,
    step: str,
    started_by: str,
    reason: str,
    value: int | None = None,
    away: str = "",
    of: str = "",
) -> dict[str, Any]:
    """May who asks, for whom the domain `of` vouches (default: `domain` itself), do this to a run that is under way? `step` is
    empty for the whole run, `started_by` its subject."""
    return {
        **_common("intervene", now, domain),
        "subject": {"id": subject, "kind": "person" if subject else "unknown", "domain": of or domain},
        "action": action,
        "target": {"kind": "run", "name": run, "run": run, "job": job, "step": step, "subject": started_by},
        "params": {"value": value, "away": away},
        "reason": reason,
    }


def order_document(*, now: float, domain: str, subject: str, of: str, order: Order) -> dict[str, Any]:
    """May who asks, for whom the domain `of` vouches, order this for a block, a tenant or a node of `domain`? The same decision
    as on runs; a target that is no run has no job, no step and nobody who has started it."""
    return {
        **_common("intervene", now, domain),
        "subject": {"id": subject, "kind": "person" if subject else "unknown", "domain": of},
        "action": str(order.verb),
        "target": {
            "kind": str(order.target),
            "name": order.name,
            **dict.fromkeys(("run", "job", "step", "subject"), ""),
        },
        "params": {"value": order.value, "within_s": order.within_s, "away": order.away},
        "reason": order.why,
    }


def _short(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags for people and policies: no permits, no machinery, no text over the engine's limit."""
    shown = {key: value[:500] for key, value in sorted(tags.items()) if key != "ioi/permit" and not key.startswith(".")}
    return dict(list(shown.items())[:200])
