"""What a run is bound to, and the gates that check it: G1 (launch), G2 (launcher) and G3 (executor start)."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.demand import check_run_tags
from ioi_dagster.host.private import DagsterRun
from ioi_dagster.local.gate import me
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter, Entry
from ioi_dagster.policy.documents import launch_document
from ioi_dagster.policy.gate import Gate
from ioi_dagster.policy.permits import check_run_permit, decode, encode, issue
from ioi_dagster.signing import Signed, SigningKey, digest

log = logging.getLogger("ioi.gate")
PERMIT_S = 24 * 3600.0


def binding(run: DagsterRun) -> dict[str, str]:
    """What a permit is for. Recomputed at each gate, so an edited config or selection does not pass."""
    selection = {
        "assets": sorted(key.to_user_string() for key in run.asset_selection or ()),
        "checks": sorted(str(key) for key in run.asset_check_selection or ()),
        "ops": sorted(run.resolved_op_selection or ()),
        "steps": sorted(run.step_keys_to_execute or ()),
        "partition": run.tags.get("dagster/partition", ""),
    }
    return {
        "run": run.run_id,
        "job": run.job_name,
        "job_snapshot": run.job_snapshot_id or "",
        "plan": run.execution_plan_snapshot_id or "",
        "config": digest(_json(run.run_config)),
        "selection": digest(selection),
        "code": code_of(run),
    }


def code_of(run: DagsterRun) -> str:
    """The module (or file) that the job comes from."""
    origin = run.job_code_origin
    if origin is not None:
        pointer = origin.repository_origin.code_pointer
    elif run.remote_job_origin is not None:
        location = run.remote_job_origin.repository_origin.code_location_origin
        target = getattr(location, "loadable_target_origin", None)
        return str(getattr(target, "module_name", None) or location.location_name)
    else:
        return "unknown"
    return str(getattr(pointer, "module", None) or getattr(pointer, "python_file", None) or "unknown")


def decide_launch(home: DomainHome, gate: Gate, run: DagsterRun, steps: int) -> Decision:
    """Gate 1's question, over aggregates of the run. One whose tags make no sense could never begin, so policy is not asked."""
    try:
        check_run_tags(run.tags)
    except BadInputError as error:
        refusal = Refusal("launch.unfit_tags", error.what, "gate 1", error.todo or "")
        return Decision(str(uuid.uuid4()), Verdict.DENY, (refusal,))
    document = launch_document(
        now=SystemClock().wall(),
        domain=home.name,
        subject=run.tags.get(tags.SUBJECT) or me(),
        trigger=trigger_of(run.tags),
        run=run.run_id,
        job=run.job_name,
        code=code_of(run),
        tags=run.tags,
        steps=steps,
        config_keys=_keys(run.run_config),
        highest=run.tags.get(tags.HIGHEST, str(DataClass.RESTRICTED)),
        approvals=[run.tags["ioi/approved_by"]] if "ioi/approved_by" in run.tags else [],
        digests=binding(run),
    )
    return gate.decide("launch", document)


def permit_for(home: DomainHome, run: DagsterRun, decision: Decision) -> Signed:
    """The signed permit of an allowed run."""
    now = SystemClock().wall()
    authorities = home.config().authorities
    permit = RunPermit(
        **binding(run),
        subject=run.tags.get(tags.SUBJECT) or me(),
        highest=DataClass(run.tags.get(tags.HIGHEST, str(DataClass.RESTRICTED))),
        domains=tuple(sorted(authorities)),
        decision_ids=(decision.id,),
        revision=decision.revision,
        not_before=float(int(now)),
        expires=float(int(now + PERMIT_S)),
        nonce=uuid.uuid4().hex,
        issuer=home.name,
    )
    return issue(home.signing_key(), permit)


@dataclass(frozen=True, slots=True)
class Checked:
    """A run's permit as a gate found it."""

    permit: RunPermit
    signed: Signed
    anew: str = ""
    """In words, that it was issued anew; empty where it was found as it is."""


class Credentials:
    """What the process of a run shows for it: the domain's key as it is now, and under that the permit that gate 3 found good.
    When the domain has another key, the permit is issued anew, word for word: nothing is decided again, and it ends when it
    would have. Thread-safe."""

    def __init__(self, key: Callable[[], SigningKey], checked: Checked) -> None:
        self._key, self._permit, self._signed = key, checked.permit, checked.signed
        self._lock = threading.Lock()
        self._told: list[str] = []

    def key(self) -> SigningKey:
        with self._lock:
            return self._key()

    def permit(self) -> Signed:
        with self._lock:
            key = self._key()
            if key.key_id != self._signed.key_id:
                self._told.append(_anew(self._permit, self._signed.key_id, key.key_id))
                self._signed = issue(key, self._permit)
            return self._signed

    def issued_anew(self) -> list[str]:
        """What is to be told of it, since the last call."""
        if not self._told:
            return []
        with self._lock:
            told, self._told = self._told, []
        return told


def _anew(permit: RunPermit, before: str, now: str) -> str:
    decisions = ", ".join(permit.decision_ids)
    return f"the permit of decision {decisions} is issued anew under {now}: the domain has another key than {before}"


def check_permit(home: DomainHome, run: DagsterRun) -> Checked | Refusal:
    """Gates 2 and 3: the permit in the run's tags, against the run as it is now.

    One that was signed by a key which counts no more says nothing by itself: whoever has that key could have made it. It is
    issued anew where the ledger, which is the domain's own as its keys are, says that gate 1 gave just this to this run."""
    text = run.tags.get(tags.PERMIT)
    if not text:
        return Refusal(
            "permit.missing",
            "the run has no permit: it did not pass gate 1",
            home.name,
            "start it by the Dagster UI, a schedule, a sensor or `ioi run`",
        )
    signed = decode(text)
    if isinstance(signed, Refusal):
        return signed
    expected = binding(run)
    # The code pointer is known by different names on the two sides of the code server; the snapshots bind it.
    expected.pop("code")
    trusted, now, anew = home.trusted(), SystemClock().wall(), ""
    before = signed.key_id
    if before not in trusted.keys and before.startswith(f"{home.name}#") and _given(home, run.run_id, signed):
        signed = home.signing_key().sign(signed.body)
    permit = check_run_permit(signed, trusted, issuer=home.name, expected=expected, now=now)
    if isinstance(permit, Refusal):
        return permit
    if signed.key_id != before:
        anew = _anew(permit, before, signed.key_id)
    return Checked(permit, signed, anew)


def _given(home: DomainHome, run: str, signed: Signed) -> bool:
    """Did gate 1 give this permit to the run, word for word?"""
    ledger = Ledger(home.ledger)
    try:
        given = {entry.facts.get("permit") for entry in ledger.story(run, "") if entry.chapter is Chapter.POLICY}
    finally:
        ledger.close()
    try:
        return digest(signed.body) in given
    except Exception:  # what cannot be signed was never given
        return False


def gate_one(home: DomainHome, gate: Gate, run: DagsterRun, steps: int) -> tuple[Decision, str]:
    """Decide, tell the story, and give the permit as tag text (empty when not allowed)."""
    decision = decide_launch(home, gate, run, steps)
    reasons = "; ".join(str(refusal) for refusal in decision.refusals)
    text = f"gate 1: launch {decision.verdict}" + (f": {reasons}" if reasons else "")
    facts: dict[str, Any] = {
        "decision": decision.id,
        "verdict": str(decision.verdict),
        "evaluated": list(decision.evaluated),
        "revision": decision.revision,
        "job": run.job_name,
    }
    signed = permit_for(home, run, decision) if decision.verdict is Verdict.ALLOW else None
    if signed is not None:
        # By this its own is known once the key that has signed it counts no more.
        facts["permit"] = digest(signed.body)
    ledger = Ledger(home.ledger)
    try:
        now = SystemClock().wall()
        trigger = Entry(run.run_id, "", Chapter.TRIGGER, started_by(run), now)
        ledger.tell([trigger, Entry(run.run_id, "", Chapter.POLICY, text, now, facts)])
    finally:
        ledger.close()
    return decision, encode(signed) if signed is not None else ""


def started_by(run: DagsterRun) -> str:
    """Trigger and subject, in words."""
    return f"started by {trigger_of(run.tags)}, subject {run.tags.get(tags.SUBJECT) or me()}"


def trigger_of(run_tags: Mapping[str, str]) -> str:
    """How the run came to be, from Dagster's own tags; first match wins."""
    for tag, name in (
        ("dagster/sensor_name", "sensor"),
        ("dagster/schedule_name", "schedule"),
        ("dagster/backfill", "backfill"),
        ("dagster/parent_run_id", "re-execution of"),
        ("ioi/trigger", ""),
    ):
        if tag in run_tags:
            return f"{name} {run_tags[tag]}".strip()
    return "the Dagster UI or API"


def _keys(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, Mapping):
        return [prefix] if prefix else []
    return [key for name, value in config.items() for key in _keys(value, f"{prefix}.{name}" if prefix else str(name))]


def _json(value: Any) -> Any:
    """Run config as JSON can say it: large numbers as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return str(value)
    return value
