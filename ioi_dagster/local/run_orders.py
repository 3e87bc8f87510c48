"""What is said to runs at the gateway of the domain that owns them: found, asked of its policy, and left in their ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ioi_dagster.adapters.http.protocol import RunAnswer, RunOrder
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.policy.documents import intervene_document
from ioi_dagster.policy.gate import Gate, allowed_from

MOST_TOLD = 8


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
        known = find_run(self._opened(), said.run) if own else Known(said.run)
        document = intervene_document(
            now=now,
            domain=self._domain,
            subject=who,
            action=str(said.action),
            run=known.run,
            job=known.job,
            step=said.step,
            started_by="",
            reason=said.why,
            value=said.value,
            away=said.away,
            of=of,
        )
        decision = allowed_from(self._gate.decide("intervene", document), of, self._domain)
        known = known if own else find_run(self._opened(), said.run)
        if known.ended:
            return RunAnswer(known.run, 0, who, gone(known.run), decision)
        number = self._opened().intervene(replace(word, run=known.run))
        return RunAnswer(known.run, number, who, "", decision)

    def heard(self, said: RunAnswer) -> RunAnswer:
        """With what came of it by now. Raises `BadInputError` where it names nobody, and `LedgerAwayError`."""
        if said.answer:
            return said
        found = self._opened().interventions(said.run, said.number - 1)
        return replace(said, answer=answer_of(found[0])) if found else said

    def _opened(self) -> Ledger:
        if self._ledger is None:
            if not self._where.exists():
                raise BadInputError(
                    f"{self._domain} has no runs", todo="ask the gateway of the domain that has started it"
                )
            self._ledger = Ledger(self._where)
        return self._ledger


@dataclass(frozen=True, slots=True)
class Known:
    """A run of the ledger's."""

    run: str
    job: str = ""
    ended: bool = False


def find_run(ledger: Ledger, name: str) -> Known:
    """The run of that id, or of what it begins with; `last` is the newest. Raises `BadInputError`."""
    found = ledger.runs("" if name == "last" else name, limit=1 if name == "last" else 2)
    if not found:
        told = [f"{run[:8]} of {job}" for run, job, _, ended in ledger.runs() if ended is None][:MOST_TOLD]
        under_way = f"under way: {', '.join(told)}" if told else "none is under way"
        raise BadInputError(f"nothing is known of run {name}", todo=f"{under_way}; see `ioi runs`")
    if len(found) > 1 and found[0][0] != name:
        raise BadInputError(f"several runs begin with {name!r}", todo="see `ioi runs`, and write more of its id")
    run, job, _, ended = found[0]
    return Known(run, job, ended is not None)


def gone(run: str) -> str:
    """What is said to who means a run that has ended."""
    return f"gone: nothing to do; run {run[:8]} has ended"


def answer_of(said: Intervention) -> str:
    """What came of it. Raises `BadInputError` where it names nobody."""
    if said.refused:
        what, _, todo = said.answer.partition("; ")
        raise BadInputError(what, todo=todo)
    return said.answer
