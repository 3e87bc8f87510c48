"""What a run process is doing right now, seen from outside, and its end by `kill -9` after a number of steps of its own.

Installed in a run process before it begins. The phase is a byte in a shared file, so that it can be read after a kill that
came from anywhere.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster import DagsterInstance

PHASES = (
    "starting",
    "between, in the loop",
    "taking the run over",
    "resuming",
    "storing outputs",
    "publishing outputs",
    "writing the ledger",
    "writing the run's log",
    "writing the catalogue",
    "giving back",
    "telling the run's status",
)


class Phases:
    """One a run process. `die_at`: the tick at which it kills itself, 0 for never, counted in the phase `die_in` alone where
    that is given. A tick is the beginning or the end of one of the calls of `_calls`, or one statement that a database has
    taken."""

    def __init__(self, page: Path, die_at: int, die_in: str = "") -> None:
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 16)
        self._die_at, self._ticks, self._its_ticks = die_at, 0, 0
        self._die_in = PHASES.index(die_in) if die_in else None

    def install(self, instance: DagsterInstance) -> None:
        for phase, owner, name in [*_calls(), ("telling the run's status", instance.run_storage, "handle_run_event")]:
            setattr(owner, name, self._within(phase, getattr(owner, name)))
        sa.event.listen(sa.Engine, "after_cursor_execute", lambda *_: self._tick())
        sa.event.listen(sa.Engine, "commit", lambda *_: self._tick())

    def _within(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        number = PHASES.index(phase)

        def observed(*args: Any, **kwargs: Any) -> Any:
            before = self._page[0]
            self._page[0] = number
            self._tick()
            try:
                return call(*args, **kwargs)
            finally:
                self._tick()
                # What comes after taking over is the loop's.
                self._page[0] = 1 if phase == "taking the run over" else before

        return observed

    def _tick(self) -> None:
        self._ticks += 1
        self._page[4:8] = self._ticks.to_bytes(4, "little")
        self._its_ticks += self._die_in is None or self._page[0] == self._die_in
        if self._its_ticks == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def new_page(path: Path) -> Path:
    path.write_bytes(bytes(16))
    return path


def read_page(path: Path) -> tuple[str, int]:
    """(phase, ticks so far)."""
    data = path.read_bytes()
    return PHASES[data[0]], int.from_bytes(data[4:8], "little")


def _calls() -> list[tuple[str, Any, str]]:
    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.host import flow_driver, resume, run_outputs
    from ioi_dagster.host.io_manager import ObjectStore
    from ioi_dagster.host.storage import GroupCommitEventLogStorage
    from ioi_dagster.host.storage_postgres import GroupCommitPostgresEventLogStorage

    return [
        ("taking the run over", Ledger, "take_over"),
        ("resuming", resume, "_settle"),
        ("resuming", resume, "replay"),
        ("storing outputs", ObjectStore, "put"),
        ("publishing outputs", ObjectStore, "link"),
        ("publishing outputs", run_outputs, "publish"),
        ("writing the ledger", Ledger, "write"),
        ("writing the catalogue", GroupCommitEventLogStorage, "_write_both"),
        ("writing the run's log", GroupCommitEventLogStorage, "_write_run"),
        ("writing the run's log", GroupCommitPostgresEventLogStorage, "store_event_batch"),
        ("giving back", flow_driver.FlowDriver, "close"),
    ]
