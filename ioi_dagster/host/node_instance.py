"""The Dagster instance that a step sees on a node: it collects the run's events instead of writing them.

Where the run owner's storage may be opened from the node (alone: the nodes are the owner's, as with Dagster's own
executors) everything else is real: partitions, earlier materialisations, what user code reports about other runs, captured
output. Elsewhere a step sees an empty instance, since a node of another owner has no access to that storage; of the assets
that it depends on it is sent the versions (`upstream`).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from ioi_dagster.adapters.dask.forks import end_if_forked
from ioi_dagster.host.capture import captured
from ioi_dagster.host.private import (
    CapturedLogContext,
    DefaultRunCoordinator,
    EventLogEntry,
    InMemoryRunStorage,
    InstanceRef,
    InstanceType,
    LocalArtifactStorage,
    LocalComputeLogManager,
    NoOpComputeLogManager,
    SyncInMemoryRunLauncher,
    deserialize_value,
)
from ioi_dagster.host.upstream import SentEventLogStorage, UpstreamAsset

MAX_KEPT = 4
"""Instances kept by a thread: one a run owner, and a cluster has few."""


LONG_LOG_NAME = 200


class NodeInstance:
    """One a thread, kept warm: making a Dagster instance costs more than a small step."""

    def __init__(self, dagster: DagsterInstance) -> None:
        self.dagster = dagster
        self._run = ""
        self._collected: list[EventLogEntry] = []
        storage = dagster.event_log_storage
        self._store, self._store_batch = storage.store_event, storage.store_event_batch
        storage.store_event, storage.store_event_batch = self._take, self._take_batch  # pyright: ignore
        manager = dagster.compute_log_manager
        self._capture = manager.capture_logs
        manager.capture_logs = self._captured_logs  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def collecting(self, run: str, upstream: Sequence[UpstreamAsset] = ()) -> Iterator[list[EventLogEntry]]:
        """Within it the events of `run` go to the list that it gives; `upstream` is what there is of assets where the instance
        is an empty one."""
        self._run, self._collected = run, []
        storage = self.dagster.event_log_storage
        if isinstance(storage, SentEventLogStorage):
            storage.take(upstream)
        try:
            yield self._collected
        finally:
            self._run = ""

    def _take(self, event: EventLogEntry) -> None:
        if event.dagster_event is not None:
            # A copy of this process that has come back from the step's code goes no further: its output is not the step's.
            end_if_forked()
        if event.run_id == self._run:
            self._collected.append(event)
        else:
            self._store(event)

    def _take_batch(self, events: Sequence[EventLogEntry]) -> None:
        mine = [event for event in events if event.run_id == self._run]
        self._collected += mine
        if len(mine) < len(events):
            self._store_batch([event for event in events if event.run_id != self._run])

    @contextmanager
    def _captured_logs(self, log_key: Sequence[str]) -> Iterator[Any]:
        manager = self.dagster.compute_log_manager
        if isinstance(manager, LocalComputeLogManager):
            out, err, complete = _log_files(manager, log_key)
            with captured(out, err):
                yield CapturedLogContext(log_key)
            Path(complete).touch()
            return
        # Managers of other kinds point the process's descriptors somewhere: one step at a time.
        alone = _others.acquire(blocking=False)
        try:
            with self._capture(log_key) if alone else nullcontext(CapturedLogContext(log_key)) as context:
                yield context
        finally:
            if alone:
                _others.release()


def _log_files(manager: LocalComputeLogManager, log_key: Sequence[str]) -> tuple[str, str, str]:
    """Where the captured stdout and stderr of a step lie, and the mark that they are complete: one name with three endings."""
    out = manager.get_captured_local_path(log_key, "out")
    if len(log_key[-1]) > LONG_LOG_NAME:
        # Dagster shortens what is too long with its ending.
        return out, manager.get_captured_local_path(log_key, "err"), manager.complete_artifact_path(log_key)
    base = out.removesuffix("out")
    return out, f"{base}err", f"{base}complete"


_others = threading.Lock()
_opening = threading.Lock()
_kept = threading.local()


def node_instance(ref: str | None) -> NodeInstance:
    """The instance for a step. `ref`: a serialised `InstanceRef`, where the node may open what it names."""
    kept: dict[str, NodeInstance] = _kept.__dict__.setdefault("instances", {})
    known = kept.get(ref or "")
    if known is None:
        while len(kept) >= MAX_KEPT:
            kept.pop(next(iter(kept))).dagster.dispose()
        known = kept[ref or ""] = NodeInstance(_opened(ref) or _empty())
    return known


def _opened(ref: str | None) -> DagsterInstance | None:
    """None where this machine does not have the folder that the instance keeps its files in."""
    if ref is None:
        return None
    value = deserialize_value(ref, InstanceRef)
    folder = value.local_artifact_storage_data.config_dict.get("base_dir")
    if not folder:
        return DagsterInstance.from_ref(value)
    return _opened_at(value, folder) if Path(folder).is_dir() else None


def _opened_at(ref: InstanceRef, folder: str) -> DagsterInstance:
    """What the owner's dagster.yaml leaves to the environment is his, not that of whoever started this worker."""
    with _opening:
        before = os.environ.get("DAGSTER_HOME")
        os.environ["DAGSTER_HOME"] = folder
        try:
            return DagsterInstance.from_ref(ref)
        finally:
            if before is None:
                del os.environ["DAGSTER_HOME"]
            else:
                os.environ["DAGSTER_HOME"] = before


def _empty() -> DagsterInstance:
    return DagsterInstance(
        instance_type=InstanceType.EPHEMERAL,
        local_artifact_storage=LocalArtifactStorage(tempfile.gettempdir()),
        run_storage=InMemoryRunStorage(),
        event_storage=SentEventLogStorage(),
        compute_log_manager=NoOpComputeLogManager(),
        run_coordinator=DefaultRunCoordinator(),
        run_launcher=SyncInMemoryRunLauncher(),
    )
