"""What became of runs whose last process has not said that it ends: by Dagster's word, and by whether that process is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from ioi_dagster.host.launcher import process_of


class State(StrEnum):
    RUNNING = "running"
    GONE = "gone"
    """Its process is not there any more, and Dagster does not know it."""
    ENDED = "ended"
    """Dagster knows that it has ended."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fate:
    state: State
    text: str

    @property
    def gone(self) -> bool:
        return self.state is State.GONE

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED


_NOBODY_KNOWS = "running, or ended without a word"
_ENDED = {
    DagsterRunStatus.SUCCESS: "well, by Dagster's word",
    DagsterRunStatus.FAILURE: "failed, by Dagster's word",
    DagsterRunStatus.CANCELED: "canceled, by Dagster's word",
}


def fate_of(run: DagsterRun | None) -> Fate:
    """None: Dagster does not know the run."""
    if run is None:
        return Fate(State.UNKNOWN, _NOBODY_KNOWS)
    if run.status in _ENDED:
        return Fate(State.ENDED, _ENDED[run.status])
    process = process_of(run)
    if process is None:
        return Fate(State.UNKNOWN, _NOBODY_KNOWS)
    if process.elsewhere:
        return Fate(State.UNKNOWN, f"{_NOBODY_KNOWS} on {process.host}")
    if process.alive:
        return Fate(State.RUNNING, "running")
    return Fate(State.GONE, "its process is gone; `ioi up` goes on with it")


def fates(folder: Path, runs: Iterable[str]) -> dict[str, Fate]:
    """Of each of `runs`, by the Dagster instance in `folder`; where none was ever used, nobody knows."""
    wanted = list(runs)
    known: dict[str, DagsterRun] = {}
    # One that is not there would be made.
    if wanted and ((folder / "dagster.yaml").exists() or (folder / "history").exists()):
        with DagsterInstance.from_config(str(folder)) as instance:
            known = {run.run_id: run for run in instance.get_runs(RunsFilter(run_ids=wanted))}
    return {run: fate_of(known.get(run)) for run in wanted}
