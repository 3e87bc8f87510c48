"""The outputs of a run's steps: stored under the name of their attempt, published when its commit is in the ledger."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ioi_dagster.adapters.files.store import StoreSpec
from ioi_dagster.clock import Clock
from ioi_dagster.errors import FinalError, RetryableError
from ioi_dagster.host.exchange import Handle, Owed, Staged, StepResult, handle_text
from ioi_dagster.host.io_manager import ObjectStore, asset_name, run_name
from ioi_dagster.host.staged import from_reference, publish, reference, tidy
from ioi_dagster.model.data_class import DataClass

T = TypeVar("T")
log = logging.getLogger("ioi.outputs")

PATIENCE_S = 60.0
"""So long commits are held back when the ledger or outputs cannot be written; then the run ends with the reason."""
PAUSE_S = 0.2
CHECKPOINT = "\x00checkpoint"
"""What no output is called."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Outputs of one attempt: for its commit, references by handle, the classes that differ from its step's and, by output, how
    many values and bytes; for later, under which names others find them."""

    references: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


class RunOutputs:
    """`meanwhile` is called again and again while a write is waited for: a disk may be full for a while."""

    def __init__(self, run: str, objects: ObjectStore, clock: Clock, meanwhile: Callable[[], None]) -> None:
        self._run, self._objects, self._clock, self._meanwhile = run, objects, clock, meanwhile
        self.classes: dict[Handle, DataClass] = {}
        self.references: dict[Handle, str] = {}
        self._staged: dict[str, list[Staged]] = {}
        """By attempt."""
        self._specs: dict[str, StoreSpec] = {}
        self._checkpoints: dict[str, int] = {}
        """Step → the fence of the attempt that left the one that is kept."""
        self.stores: set[str] = set()
        """URLs of the stores that steps of this run write to, whatever became of their attempts."""
        self._waited: list[str] = []

    def waited(self) -> list[str]:
        """What is to be told of writes that had to wait, since the last call."""
        waited, self._waited = self._waited, []
        return waited

    def store(self, attempt: str, result: StepResult, data_class: DataClass, assigns_class: bool) -> Stored:
        """`data_class` is the step's; where `assigns_class`, its outputs may state another. Raises `FinalError` when they could
        not be written for `PATIENCE_S`."""
        stored = Stored()
        for output in result.outputs:
            _, its_name, _ = output.handle
            values, size = stored.sizes.get(its_name, (0, 0))
            size += len(output.data) + sum(map(len, output.partitions.values()))
            stored.sizes[its_name] = values + 1, size
            name = self._put(run_name(self._run, output.handle, attempt), output.data)
            self._note(stored, output.handle, name, output.data_class if assigns_class else None, data_class)
            # Re-executions and readers of a run's results find an output without knowing which attempt made it.
            stored.links.append((name, run_name(self._run, output.handle)))
            if output.asset is not None:
                stored.links.append((name, asset_name(output.asset)))
            for asset, data in output.partitions.items():
                part = self._put(run_name(self._run, output.handle, f"{attempt}\x00{asset}"), data)
                stored.links.append((part, asset_name(asset)))
        for staged in result.staged:
            self._specs[staged.store.url] = staged.store
            stated = staged.data_class if assigns_class else None
            self._note(stored, staged.handle, reference(staged), stated, data_class)
        if result.staged:
            self._staged[attempt] = result.staged
        return stored

    def publish(self, attempt: str, links: Iterable[tuple[str, str]], committed: bool) -> None:
        """The attempt's commit is in the ledger, or never will be."""
        staged = self._staged.pop(attempt, [])
        if committed:
            self._patiently(lambda: self._publish(staged, links))

    def publish_again(self, step: str, owed: Owed) -> None:
        """What an earlier process of this run committed and may not have published."""
        staged = [output for output in map(from_reference, self.references.values()) if output]
        self._publish([output for output in staged if output.handle[0] == step], owed.links)

    def keep_checkpoint(self, step: str, fence: int, data: bytes) -> bool:
        """What an attempt of the step left when it was stopped, unless one of a newer fence did; whether it is kept.
        Nobody waits for a disk for its sake: raises `OSError` or `RetryableError` where it cannot be written now."""
        if fence <= self._checkpoints.get(step, 0):
            return False
        self._objects.put(run_name(self._run, (step, CHECKPOINT, "")), data)
        self._checkpoints[step] = fence
        return True

    def checkpoint(self, step: str) -> bytes | None:
        """What its last attempt left, of this process of the run or an earlier one."""
        return self._objects.get(run_name(self._run, (step, CHECKPOINT, "")))

    def read(self, name: str) -> bytes | None:
        return self._objects.get(name)

    def size(self, name: str) -> int | None:
        return self._objects.size(name)

    def find(self, handle: Handle, runs: list[str]) -> str | None:
        """Where an output of this run, or else of one of `runs` (its parents, nearest first), is stored."""
        if handle in self.references:
            return self.references[handle]
        names = (run_name(run, handle) for run in runs)
        return next((name for name in names if self._objects.has(name)), None)

    def tidy(self) -> None:
        """The run has ended: what attempts left that were never committed goes."""
        kept = filter(None, map(from_reference, self.references.values()))
        tidy(self._run, self.stores, kept, self._specs)

    def _note(self, stored: Stored, handle: Handle, name: str, stated: DataClass | None, of_step: DataClass) -> None:
        text = handle_text(handle)
        stored.references[text] = self.references[handle] = name
        self.classes[handle] = stated or of_step
        if stated and stated != of_step:
            stored.classes[text] = str(stated)

    def _put(self, name: str, data: bytes) -> str:
        return self._patiently(lambda: self._objects.put(name, data))

    def _publish(self, staged: Iterable[Staged], links: Iterable[tuple[str, str]]) -> None:
        """Give a commit's outputs the names under which others find them; doing it again changes nothing."""
        publish(staged)
        for source, name in links:
            self._objects.link(source, name)

    def _patiently(self, write: Callable[[], T]) -> T:
        began, why = self._clock.monotonic(), ""
        while True:
            try:
                written = write()
                if why:
                    waited_s = self._clock.monotonic() - began
                    self._waited.append(f"Waited {waited_s:.1f} s until what steps made could be stored: {why}")
                return written
            except (OSError, RetryableError) as error:
                if not why:
                    why = str(error)
                    log.warning("what a step made cannot be stored: %s; it is tried for %g s", why, PATIENCE_S)
                if self._clock.monotonic() > began + PATIENCE_S:
                    raise FinalError(
                        f"for {PATIENCE_S:g} s the outputs of this run could not be stored: {error} — free the disk, then "
                        "re-execute the run from failure"
                    ) from error
                self._meanwhile()
                time.sleep(PAUSE_S)
