"""What people say to a run that is under way: pause, resume, cancel, reroute, prioritise, cap.

It is asked of the policy first, then left in the ledger, where the run's process finds it, this one or the one that goes on
with the run. A run as a whole is cancelled by Dagster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from dagster import DagsterInstance

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.host.governance import me, open_gate
from ioi_dagster.host.tags import SUBJECT
from ioi_dagster.local.run_orders import under_way
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.policy.documents import intervene_document
from ioi_dagster.policy.gate import allowed

ANSWER_S, LOOK_S = 15.0, 0.1
ENDED_S = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """What was said, with its answer; empty where no process of the run has seen it yet."""

    intervention: Intervention
    decision: str
    """The id of the policy's decision; empty where there is no policy."""


def intervene(where: Path, domain: DomainHome | None, said: Intervention) -> Said:
    """Have `said` done, whose run is a prefix of its id, or `last`; wait for the answer. `where`: the ledger; `domain`: whose
    runs these are, None where there is no policy. Dagster's instance is that of `$DAGSTER_HOME`.

    Raises `BadInputError` for what makes no sense or a run that is not under way, and `NotAllowedError`."""
    who = said.who or me()
    whole = said.action is Action.CANCEL and not said.step
    if not whole:
        said.check()
    ledger = Ledger(where)
    try:
        run, job = under_way(ledger, said.run)
        said = replace(said, run=run, who=who, at=time.time())
        decision = _decide(domain, said, job) if domain is not None else ""
        if whole:
            return Said(replace(said, answer=_end(said)), decision)
        number = ledger.intervene(said)
        until = time.monotonic() + ANSWER_S
        while True:
            answered = ledger.interventions(run, number - 1)[0]
            if answered.answer or time.monotonic() > until:
                return Said(answered, decision)
            time.sleep(LOOK_S)
    finally:
        ledger.close()


def _decide(domain: DomainHome, said: Intervention, job: str) -> str:
    """The decision's id. Raises `NotAllowedError`."""
    document = intervene_document(
        now=time.time(),
        domain=domain.name,
        subject=said.who,
        action=str(said.action),
        run=said.run,
        job=job,
        step=said.step,
        started_by=_started_by(said.run) or said.who,
        reason=said.why,
        value=said.value,
        away=said.away,
    )
    return allowed(open_gate(domain).decide("intervene", document))


def _started_by(run: str) -> str:
    with DagsterInstance.get() as instance:
        known = instance.get_run_by_id(run)
        return known.tags.get(SUBJECT, "") if known is not None else ""


def _end(said: Intervention) -> str:
    run = said.run
    with DagsterInstance.get() as instance:
        known = instance.get_run_by_id(run)
        if known is None or known.is_finished:
            return "nothing to cancel: it is over"
        why = f" ({said.why})" if said.why else ""
        instance.report_engine_event(f"{said.who} said: cancel{why}", known)
        if not instance.run_coordinator.cancel_run(run):
            return "it could not be asked to end: see its log"
        until = time.monotonic() + ENDED_S
        while time.monotonic() < until:
            now = instance.get_run_by_id(run)
            if now is None or now.is_finished:
                return "ended"
            time.sleep(LOOK_S)
    return f"asked to end; it had not after {ENDED_S:g} s"
