"""What people say to a run that is under way: pause, resume, cancel, reroute, prioritise, cap.

It is asked of the policy first, then left in the ledger, where the run's process finds it, this one or the one that goes on
with the run. A run as a whole is cancelled by Dagster, which is imported where there is no other way: that takes longer than all
else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.host.tags import SUBJECT
from ioi_dagster.local.gate import me, open_gate
from ioi_dagster.local.run_orders import answer_of, find_run, gone
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.policy.documents import intervene_document
from ioi_dagster.policy.gate import allowed

ANSWER_S, LOOK_S = 15.0, 0.1
SILENT_S = 2.0
"""Who has not answered by then may be dead: Dagster is asked whether the run is over."""
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

    Raises `BadInputError` for what makes no sense or is not known, and `NotAllowedError`."""
    who = said.who or me()
    whole = said.action is Action.CANCEL and not said.step
    if not whole:
        said.check()
    ledger = Ledger(where)
    try:
        known = find_run(ledger, said.run)
        said = replace(said, run=known.run, who=who, at=time.time())
        started_by = ledger.started_by(known.run)
        if started_by is None:
            started_by, _ = _of_dagster(known.run)
        decision = _decide(domain, said, known.job, started_by or who) if domain is not None else ""
        if known.ended:
            return Said(replace(said, answer=gone(known.run)), decision)
        if whole:
            return Said(replace(said, answer=_end(said)), decision)
        return Said(_answered(ledger, ledger.intervene(said), known.run), decision)
    finally:
        ledger.close()


def _answered(ledger: Ledger, number: int, run: str) -> Intervention:
    """With what came of it; without, where no process of the run has seen it in time. Raises `BadInputError`."""
    began, asked = time.monotonic(), False
    while True:
        said = ledger.interventions(run, number - 1)[0]
        waited = time.monotonic() - began
        if answer_of(said) or waited > ANSWER_S:
            return said
        if waited > SILENT_S and not asked:
            asked, (_, over) = True, _of_dagster(run)
            if over and not ledger.interventions(run, number - 1)[0].answer:
                ledger.answered(number, gone(run))
        time.sleep(LOOK_S)


def _decide(domain: DomainHome, said: Intervention, job: str, started_by: str) -> str:
    """The decision's id. Raises `NotAllowedError`."""
    document = intervene_document(
        now=time.time(),
        domain=domain.name,
        subject=said.who,
        action=str(said.action),
        run=said.run,
        job=job,
        step=said.step,
        started_by=started_by,
        reason=said.why,
        value=said.value,
        away=said.away,
    )
    return allowed(open_gate(domain).decide("intervene", document))


def _of_dagster(run: str) -> tuple[str, bool]:
    """Who has started it, and whether it is over: also where its process ended without a word."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        known = instance.get_run_by_id(run)
        return (known.tags.get(SUBJECT, ""), known.is_finished) if known is not None else ("", False)


def _end(said: Intervention) -> str:
    from dagster import DagsterInstance

    run = said.run
    with DagsterInstance.get() as instance:
        known = instance.get_run_by_id(run)
        if known is None or known.is_finished:
            return gone(run)
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
