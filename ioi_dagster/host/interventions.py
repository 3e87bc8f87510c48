"""In the run process: what people have said to the run, as they left it in the ledger, and what came of it."""

from __future__ import annotations

from collections.abc import Callable

from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError
from ioi_dagster.clock import Clock
from ioi_dagster.governors.flow_messages import Answer, Idle, Intervened
from ioi_dagster.model.intervention import Intervention

LOOK_S = 0.5


class InterventionDesk:
    """One a run process. Nothing is said while the ledger is away; what was said and not answered is answered later."""

    def __init__(self, run: str, ledger: Ledger, clock: Clock) -> None:
        self.idle: Callable[[Intervention], Idle | None] = lambda _: None
        """Why there is nothing to be done about one."""
        self._run, self._ledger, self._clock = run, ledger, clock
        self._look_at, self._seen = float("-inf"), 0
        self._unwritten: list[Answer] = []
        self._untold: list[str] = []

    def look(self) -> list[Intervened]:
        """What was said since the last look."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        try:
            self.write()
            found = self._ledger.interventions(self._run, self._seen)
        except LedgerAwayError:
            return []
        for said in found:
            self._seen = said.number
        return [
            Intervened(said, True) if said.answer else Intervened(said, False, self.idle(said))
            for said in found
            if not said.refused
        ]

    def answered(self, answer: Answer) -> None:
        said = answer.said
        self._unwritten.append(answer)
        # Who asked waits for it.
        self._look_at = float("-inf")
        what = f"{said.action} {said.step}".strip()
        why = f" ({said.why})" if said.why else ""
        self._untold.append(f"{said.who or 'Somebody'} said: {what}{why} — {answer.text}")

    def write(self) -> None:
        """Raises `LedgerAwayError`."""
        while self._unwritten:
            answer = self._unwritten[0]
            self._ledger.answered(answer.said.number, answer.text, answer.refused)
            self._unwritten.pop(0)

    def told(self) -> list[str]:
        """For Dagster's log, since the last call."""
        untold, self._untold = self._untold, []
        return untold
