"""What must hold of a run after a fault: from the ledger, Dagster's event log, what its starts left, and governors' leases."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from tests.chaos.lab import Run, until

LEASES_S = 45.0
"""One time to live of a lease, and a little."""


PAYS, IN_DOUBT = "pays", "flow.at_most_once"
"""The step that may be called once, and what it says where nobody knows whether it took effect."""


def whole(run: Run, steps: int) -> list[str]:
    """Violations of a run that should have succeeded, or failed by that of its steps alone that may be called once."""
    wrong, failed = once(run), run.failures()
    status, stated = run.now().status.value, "FAILURE" if in_doubt(run) else "SUCCESS"
    if status != stated or failed.keys() - {PAYS}:
        wrong.append(f"lost: the run ended {status} and not {stated}; failed: {failed}")
    expected = str(sum(number * number for number in range(steps)))
    total = run.folder / "total"
    found = total.read_text() if total.exists() else "nothing"
    if found != expected:
        wrong.append(f"lost: its result is {found} and not {expected}")
    keys = {"some", "total", *(f"square[n{number}]" for number in range(steps))}
    return wrong + counted(run, keys | ({PAYS} if run.pays and not in_doubt(run) else set()))


def in_doubt(run: Run) -> bool:
    """Did its step that may be called once fail in the way that is stated?"""
    return IN_DOUBT in run.failures().get(PAYS, "")


def once(run: Run) -> list[str]:
    """Violations by the step that may be called once: it was called twice, or failed and was committed all the same."""
    calls = sum(one.step == PAYS for one in run.began())
    wrong = [f"double: {PAYS}, which may be called once, was called {calls} times"] if calls > 1 else []
    if in_doubt(run) and any(row.step == PAYS and row.commits for row in run.lab.ledger.steps(run.id)):
        wrong.append(f"double: {PAYS} failed, and was committed")
    return wrong


def counted(run: Run, keys: set[str]) -> list[str]:
    """Each of `keys` is committed once and told once, by an attempt that ran."""
    wrong = []
    rows = {row.step: row for row in run.lab.ledger.steps(run.id)}
    for key in sorted(keys):
        row = rows.get(key)
        if row is None or row.state != "DONE":
            wrong.append(f"lost: {key} is {row.state if row else 'unknown'} in the ledger")
        elif row.commits != 1:
            wrong.append(f"double: {key} was committed {row.commits} times")
        elif row.attempt not in {one.attempt for one in run.began() if one.step == key}:
            wrong.append(f"double: what was committed of {key} is no attempt that ran")
    entries = run.lab.instance.all_logs(run.id)
    told = Counter(
        str(entry.step_key) for entry in entries if entry.dagster_event and entry.dagster_event.is_step_success
    )
    wrong += [f"double: {key} succeeded {told[key]} times in the log" for key in sorted(keys) if told[key] > 1]
    wrong += [f"lost: the success of {key} is not in the log" for key in sorted(keys) if not told[key]]
    return wrong


class Leasing(Protocol):
    def leases(self) -> list[dict[str, Any]]: ...


def leases_are_back(lab: Leasing) -> list[str]:
    """Nothing is held for runs that are over."""
    try:
        until(lambda: not lab.leases(), "all leases back", LEASES_S)
    except TimeoutError:
        return [f"leaked: {lease}" for lease in lab.leases()]
    return []
