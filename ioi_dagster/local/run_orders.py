"""What is said to runs at the gateway of the domain that owns them: found, asked of its policy, and left in their ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ioi_dagster.adapters.http.protocol import RunAnswer, RunOrder
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.policy.documents import intervene_document
from ioi_dagster.policy.gate import Gate, allowed_from


class RunOrders:
    """Of the domain `domain`, whose ledger is at `where`."""

    def __init__(self, domain: str, where: Path, gate: Gate) -> None:
        self._domain, self._where, self._gate = domain, where, gate
        self._ledger: Ledger | None = None

    def say(self, said: RunOrder, who: str, of: str, now: float) -> RunAnswer:
        """`who` says it, for whom the domain `of` vouches. Who has started a run only Dagster knows, so to the policy it is the
        run of others. Raises `BadInputError`, `NotAllowedError` and `LedgerAwayError`."""
        word = Intervention(said.run, said.action, said.step, said.value, said.away, said.why, who, now)
        if said.action is Action.CANCEL and not said.step:
            todo = "end it by Dagster: `terminateRun` of its API, the button of its pages, or `ioi cancel`"
            raise BadInputError("a whole run is ended by Dagster, not here", todo=todo)
        word.check()
        # Which runs there are is nothing to other domains, unless policy lets them.
        own = of == self._domain
        run, job = under_way(self._opened(), said.run) if own else (said.run, "")
        document = intervene_document(
            now=now,
            domain=self._domain,
            subject=who,
            action=str(said.action),
            run=run,
            job=job,
            step=said.step,
            started_by="",
            reason=said.why,
            value=said.value,
            away=said.away,
            of=of,
        )
        decision = allowed_from(self._gate.decide("intervene", document), of, self._domain)
        run = run if own else under_way(self._opened(), said.run)[0]
        number = self._opened().intervene(replace(word, run=run))
        return RunAnswer(run, number, who, "", decision)

    def heard(self, said: RunAnswer) -> RunAnswer:
        """With what came of it by now. Raises `LedgerAwayError`."""
        found = self._opened().interventions(said.run, said.number - 1)
        return replace(said, answer=found[0].answer) if found else said

    def _opened(self) -> Ledger:
        if self._ledger is None:
            if not self._where.exists():
                raise BadInputError(
                    f"{self._domain} has no runs", todo="ask the gateway of the domain that has started it"
                )
            self._ledger = Ledger(self._where)
        return self._ledger


def under_way(ledger: Ledger, name: str) -> tuple[str, str]:
    """(run, job) of the run of that id, or of what it begins with; `last` is the newest. Raises `BadInputError`."""
    found = ledger.runs("" if name == "last" else name, limit=1 if name == "last" else 2)
    if not found:
        raise BadInputError(f"nothing is known of run {name}", todo="see `ioi runs`")
    if len(found) > 1 and found[0][0] != name:
        raise BadInputError(f"several runs begin with {name!r}", todo="see `ioi runs`, and write more of its id")
    run, job, _, ended = found[0]
    if ended is not None:
        raise BadInputError(f"run {run[:8]} has ended", todo="see `ioi runs`")
    return run, job
