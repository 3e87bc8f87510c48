"""Group commit for Dagster's SQL event logs: a thread's events are held back and then written together.

`GroupedEventLogStorage` goes before one of Dagster's storages in a class's bases; `storage.py` and `storage_postgres.py` do so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec
from dagster import DagsterInstance
from typing_extensions import override

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import RetryableError
from ioi_dagster.host.entry_text import entry_text
from ioi_dagster.host.private import (
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    PLAIN,
    EventLogEntry,
    SqlEventLogStorage,
    wrap_planned_events,
)

MAX_GUARDS = 32
MAX_GROUP = 5_000
"""Events held back at most before they are written."""


PATIENCE_S = 60.0
"""So long a run process waits for an event log that cannot be written; then it ends with the reason, and may be resumed."""
PAUSE_S = 0.2

log = logging.getLogger("ioi.log")


class EventLogWriteError(RetryableError):
    """The event log did not take what it was given; the same run may go on once the cause is gone. `passing`: the cause may
    be gone by itself in a while."""

    def __init__(self, text: str, passing: bool = True) -> None:
        self.passing = passing
        super().__init__(text)


class _Kind(msgspec.Struct):
    event_type_value: str
    step_key: str | None = None


class _Glance(msgspec.Struct):
    """Of a serialised `EventLogEntry` what its row needs."""

    run_id: str
    timestamp: float
    step_key: str | None = None
    dagster_event: _Kind | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ToldEvent:
    """An event of one of the kinds `PLAIN`, or a line that a person's code logged, as the text that it was sent as: to make an
    `EventLogEntry` of it costs more than to write it."""

    text: str
    run_id: str
    timestamp: float
    kind: str | None
    step_key: str | None


def told_event(text: str) -> ToldEvent | None:
    """None where more than the text of this serialised `EventLogEntry` is needed."""
    seen = from_json(text, _Glance)
    event = seen.dagster_event
    if event is None:
        return ToldEvent(text, seen.run_id, seen.timestamp, None, seen.step_key)
    if event.event_type_value not in PLAIN:
        return None
    return ToldEvent(text, seen.run_id, seen.timestamp, event.event_type_value, event.step_key)


class GroupedEventLogStorage(SqlEventLogStorage):
    """See the module. The class it is mixed with says in `store_event_batch` how a group is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._groups = threading.local()
        self._guards: OrderedDict[str, Callable[[], None]] = OrderedDict()
        self._patience_s = 0.0
        self._meanwhile: Callable[[], None] = lambda: None
        self._waits: list[str] = []
        super().__init__(*args, **kwargs)

    def guard(self, run: str, check: Callable[[], None]) -> None:
        """`check` is called within each transaction that writes events of `run`; what it raises undoes the transaction."""
        self._guards[run] = check
        while len(self._guards) > MAX_GUARDS:
            self._guards.popitem(last=False)

    def settle(self, run: str) -> None:
        """Returns when no transaction that writes events of `run` is under way. A guard that was made to refuse before this is
        called lets none through after it."""
        raise NotImplementedError

    def _ask_guard(self, run: str) -> None:
        """To be called within the transaction, and under the lock that `settle` waits for."""
        guard = self._guards.get(run)
        if guard is not None:
            guard()

    def wait_for(self, patience_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """From now on what cannot be written is tried again for `patience_s` seconds, and `meanwhile` is called again and
        again. Used up once, there is no patience any more."""
        self._patience_s, self._meanwhile = patience_s, meanwhile

    def wait_alone(self) -> None:
        """Patience stays as it is; there is nothing to do meanwhile."""
        self._meanwhile = lambda: None

    def waits(self) -> list[str]:
        """What was waited for since the last call, a sentence each."""
        waits, self._waits = self._waits, []
        return waits

    @override
    def register_instance(self, instance: DagsterInstance) -> None:
        """Also: what the instance plans when it makes a run is one group from now on."""
        super().register_instance(instance)
        wrap_planned_events(instance, self.group)

    @contextmanager
    def group(self) -> Iterator[dict[int, str]]:
        """Within it this thread's events are held back; leaving it writes them, in order, before anything else happens.

        What is held back is not to be read yet: gather what happened, leave, and only then act on it. A change of a run's
        status is written at once, with all that was held back before it. Also after an exception what was gathered is
        written, since it happened. Gives a dict for those who have an event's serialised text already, by `id(event)`: it
        came from a node like that, and is not made a second time.
        """
        if getattr(self._groups, "held", None) is not None:
            yield self._groups.texts
            return
        held: list[EventLogEntry | ToldEvent] = []
        self._groups.held, self._groups.texts = held, {}
        try:
            yield self._groups.texts
        finally:
            self._groups.held = None
            try:
                self._store(held)
            finally:
                self._groups.texts = {}

    @override
    def store_event(self, event: EventLogEntry | ToldEvent) -> None:
        held = getattr(self._groups, "held", None)
        if held is None:
            self._store([event])
            return
        held.append(event)
        if len(held) >= MAX_GROUP or kind_of(event) in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
            events = list(held)
            # First: what a write refused is not to be written again when the group ends.
            held.clear()
            self._store(events)

    def _store(self, events: list[EventLogEntry | ToldEvent]) -> None:
        began, why = time.monotonic(), ""
        while True:
            try:
                self.store_event_batch(events)  # pyright: ignore[reportArgumentType]
            except EventLogWriteError as error:
                if not error.passing or time.monotonic() - began >= self._patience_s:
                    if self._patience_s:
                        # Also here, since Dagster may end with an error of its own, from a storage that is away as well.
                        log.error("%s", error)
                    self._patience_s = 0.0
                    raise
                if not why:
                    why = str(error)
                    log.warning("%s; it is tried again for %g s", why, self._patience_s)
                self._meanwhile()
                time.sleep(PAUSE_S)
            else:
                if why:
                    self._waits.append(f"Waited {time.monotonic() - began:.0f} s for the event log: {why}")
                return

    @override
    def _event_to_row(self, event: EventLogEntry | ToldEvent) -> dict[str, Any]:
        if isinstance(event, ToldEvent):
            text, kind, step_key, asset_key, partition = event.text, event.kind, event.step_key, None, None
        else:
            of_dagster = event.dagster_event
            text = getattr(self._groups, "texts", {}).get(id(event)) or entry_text(event)
            kind = of_dagster.event_type_value if of_dagster else None
            step_key = of_dagster.step_key if of_dagster else event.step_key
            asset_key = of_dagster.asset_key if of_dagster else None
            partition = (of_dagster.partition or None) if of_dagster else None
        return {
            "run_id": event.run_id,
            "event": text,
            "dagster_event_type": kind,
            "timestamp": self._event_insert_timestamp(event),
            "step_key": step_key,
            "asset_key": asset_key.to_string() if asset_key else None,
            "partition": partition,
        }


def kind_of(event: EventLogEntry | ToldEvent) -> Any:
    """The `DagsterEventType`; None for a `ToldEvent`, and a line that a person's code logged."""
    return event.dagster_event_type if isinstance(event, EventLogEntry) and event.is_dagster_event else None


def grouped(instance: DagsterInstance) -> AbstractContextManager[dict[int, str]]:
    """`GroupedEventLogStorage.group` where the instance has such a storage; elsewhere each event is written at once."""
    storage = instance.event_log_storage
    return storage.group() if isinstance(storage, GroupedEventLogStorage) else nullcontext({})


@contextmanager
def patient(instance: DagsterInstance, meanwhile: Callable[[], None]) -> Iterator[None]:
    """`GroupedEventLogStorage.wait_for`, for `PATIENCE_S` seconds, where the instance has such a storage. After it the process
    is as patient: the run's end is told then."""
    storage = instance.event_log_storage
    if not isinstance(storage, GroupedEventLogStorage):
        yield
        return
    storage.wait_for(PATIENCE_S, meanwhile)
    try:
        yield
    finally:
        storage.wait_alone()


def waits_for_log(instance: DagsterInstance) -> list[str]:
    """`GroupedEventLogStorage.waits`."""
    storage = instance.event_log_storage
    return storage.waits() if isinstance(storage, GroupedEventLogStorage) else []
