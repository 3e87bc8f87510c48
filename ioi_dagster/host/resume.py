"""A run goes on in another process: what was done is told, what was in flight is placed again, the older one falls silent.

The ledger's epoch says whose the run is. A process that finds another's epoch there stops, and writes nothing any more: no
events, no status, no leases given back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from dagster import DagsterInstance, MetadataValue

from ioi_dagster.adapters.sql.ledger import FencedError, Ledger
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import FinalError
from ioi_dagster.host.adoption import find_under_way
from ioi_dagster.host.event_groups import GroupedEventLogStorage, grouped, kind_of
from ioi_dagster.host.exchange import Owed, handle_text
from ioi_dagster.host.flow_driver import FlowDriver
from ioi_dagster.host.pools import pool_of
from ioi_dagster.host.private import (
    ActiveExecution,
    DagsterEvent,
    DagsterEventType,
    DagsterRunStatus,
    EngineEventData,
    EventLogEntry,
    InstanceConcurrencyContext,
    PlanOrchestrationContext,
    deserialize_value,
    forget_claims,
    release_claims,
    replay_step,
    steps_in_flight,
)
from ioi_dagster.host.work import Network
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.data_class import DataClass

log = logging.getLogger("ioi.resume")

Fail = Callable[[str, str], DagsterEvent]
"""(step, serialised error) → the event that was written: its failure, or the next try that its retry policy allows."""


_ends_run: ContextVar[bool] = ContextVar("ioi_interruption_ends_run", default=False)


@contextmanager
def interruption_ends_run() -> Iterator[None]:
    """Within it who interrupts this process wants its run to be over, also where it could be resumed."""
    token = _ends_run.set(True)
    try:
        yield
    finally:
        _ends_run.reset(token)


def will_go_on(instance: DagsterInstance, run_id: str) -> bool:
    """This process is interrupted: will another one go on with its run? Not where somebody ends the run."""
    run = instance.get_run_by_id(run_id)
    if _ends_run.get() or run is None or run.is_finished or run.status is DagsterRunStatus.CANCELING:
        return False
    return instance.run_will_resume(run_id)


def resume(
    context: PlanOrchestrationContext,
    active: ActiveExecution,
    driver: FlowDriver,
    network: Network,
    ledger: Ledger,
    fail: Fail,
) -> Iterator[DagsterEvent]:
    """Go on where an earlier process of this run ended.

    Commits whose events did not reach the log are published and told there first, once each; then Dagster's plan is led
    through all that the log says. What was in flight then never committed. Where it is under way still, its answer is waited
    for; else it is handed over anew, under a new fence. Only a step that may run once is not, since nobody knows whether it did.
    """
    instance, run = context.instance, context.run_id
    _settle(instance, run)
    pending = [(step, attempt, from_msgpack(owed, Owed)) for step, attempt, owed in ledger.pending(run)]
    entries = list(instance.all_logs(run))
    _tell_owed(instance, driver, pending, entries)
    open_ends = [
        (step, owed.failure) for step, attempt, owed in pending if owed.failure and not _over(entries, step, attempt)
    ]
    entries = list(instance.all_logs(run))
    quiet(instance).ended[run] = {kind_of(entry) for entry in entries} & _ENDS
    entries = [entry for entry in entries if entry.dagster_event and entry.dagster_event.step_key]
    _remember_classes(driver, ledger, run, entries)
    replay(active, entries)
    # Dagster tells a run's end from the failures that it is handed; they are in the log, and are not written again.
    yield from (event for event in (entry.get_dagster_event() for entry in entries) if event.is_step_failure)
    for step, failure in open_ends:
        if replay_step(active, step) == "running":
            yield fail(step, failure)
    for step, attempt, _ in pending:
        driver.published(step, attempt)
    rows = ledger.steps(run)
    driver.in_doubt = {row.step for row in rows if row.state == "RUN"}
    driver.found = find_under_way(network, run, rows)
    events = [entry.get_dagster_event() for entry in entries]
    replayed = {str(event.step_key) for event in events if event.event_type in _MOVES}
    _free_slots(instance, run, active, replayed - driver.in_doubt)
    yield DagsterEvent.engine_event(
        context,
        f"Resumed: {counted(len(pending), 'commit')} told again, {counted(len(driver.in_doubt), 'step')} in flight, "
        f"{len(driver.found)} of them are so still",
        EngineEventData(),
    )


def _free_slots(instance: DagsterInstance, run: str, active: ActiveExecution, replayed: set[str]) -> None:
    """Give back the slots in pools of those steps of `told` that are not under way any more: Dagster gives back what this process
    has claimed, and these an earlier one had, which was killed before it came to that."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    over: dict[str, set[str]] = {}
    for key in replayed - steps_in_flight(active):
        pool = pool_of(active.get_step_by_key(key))
        if pool:
            over.setdefault(pool, set()).add(key)
    for pool, keys in over.items():
        info = storage.get_concurrency_info(pool)
        held = {one.step_key for one in (*info.claimed_slots, *info.pending_steps) if one.run_id == run}
        for key in keys & held:
            storage.free_concurrency_slot_for_step(run, key)


def _remember_classes(driver: FlowDriver, ledger: Ledger, run: str, entries: Iterable[EventLogEntry]) -> None:
    """Of every output that the log knows. One whose step the ledger does not know has the highest."""
    steps, stated = {row.step: row.data_class for row in ledger.steps(run)}, ledger.stated_classes(run)
    for event in (entry.get_dagster_event() for entry in entries):
        if event.is_successful_output:
            output = event.step_output_data.step_output_handle
            handle = (output.step_key, output.output_name, output.mapping_key or "")
            known = stated.get(handle_text(handle)) or steps.get(output.step_key)
            driver.outputs.classes.setdefault(handle, DataClass(known) if known else DataClass.RESTRICTED)


def _tell_owed(
    instance: DagsterInstance,
    driver: FlowDriver,
    pending: Iterable[tuple[str, str, Owed]],
    entries: Iterable[EventLogEntry],
) -> None:
    known = {_identity(entry) for entry in entries}
    with grouped(instance):
        for step, _, owed in pending:
            its = [deserialize_value(text, EventLogEntry) for text in owed.events]
            missing = [entry for entry in its if _identity(entry) not in known]
            if missing or not its:
                # Before they are told: who sees a success may read its outputs.
                driver.outputs.publish_again(step, owed)
            for entry in missing:
                instance.handle_new_event(entry)


def _over(entries: Iterable[EventLogEntry], step: str, attempt: str) -> bool:
    """The log says where this attempt ran, and after that how it ended."""
    placed = False
    for entry in entries:
        event = entry.dagster_event
        if event is None or event.step_key != step:
            continue
        if event.is_engine_event:
            placed = placed or event.engine_event_data.metadata.get(_ATTEMPT) == MetadataValue.text(attempt)
        elif placed and (event.is_step_failure or event.is_step_up_for_retry):
            return True
    return False


def replay(active: ActiveExecution, entries: Iterable[EventLogEntry]) -> None:
    """Lead Dagster's plan through the log of an earlier process. Raises `FinalError` where they do not go together."""
    entries = list(entries)
    last = {entry.get_dagster_event().step_key: number for number, entry in enumerate(entries)}
    for number, entry in enumerate(entries):
        event = entry.get_dagster_event()
        if event.event_type not in _MOVES:
            continue
        step = str(event.step_key)
        state = replay_step(active, step)
        if state == "skipped":
            continue
        if state != "running":
            raise FinalError(f"step {step!r}: the log says {event.event_type_value}, but the plan has it not as ready")
        if event.is_step_up_for_retry:
            # Where the log goes on with it, its pause is over; else it goes on from when the log says.
            pause = event.step_retry_data.seconds_to_wait
            over = number < last[step] or not pause
            active.mark_up_for_retry(step, None if over else entry.timestamp + float(pause or 0.0))
        else:
            active.handle_event(event)


class Quiet:
    """Stands in for `instance.handle_new_event`: drops the events of runs that other processes have taken over, and what an
    earlier process has told of a run's end."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._handle, self._storage = instance.handle_new_event, instance.event_log_storage
        self.silent: set[str] = set()
        self.ended: dict[str, set[Any]] = {}
        """By run, the ends that its log tells already: an earlier process was killed before the run's status said so too."""

    def __call__(self, event: EventLogEntry, **more: Any) -> None:
        if event.run_id in self.silent:
            return
        try:
            with self._unwritten() if kind_of(event) in self.ended.get(event.run_id, ()) else nullcontext():
                self._handle(event, **more)
        except FencedError:
            # Nothing was written. The run's loop learns of it with its next write to the ledger.
            self.silent.add(event.run_id)

    @contextmanager
    def _unwritten(self) -> Iterator[None]:
        """What else follows from an event that is in the log: the run's status, and who wants to know of it."""
        store = self._storage.store_event
        self._storage.store_event = lambda event: None  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            self._storage.store_event = store  # pyright: ignore[reportAttributeAccessIssue]


def quiet(instance: DagsterInstance) -> Quiet:
    """The one `Quiet` of an instance, put in place when it is first asked for.

    Dagster itself tells how a run ended after its executor did, so the executor cannot hold that back in another way.
    """
    current: Callable[..., Any] = instance.handle_new_event
    if not isinstance(current, Quiet):
        current = Quiet(instance)
        instance.handle_new_event = current  # pyright: ignore[reportAttributeAccessIssue]
    return current


@contextmanager
def owned(
    instance: DagsterInstance, run: str, epoch: int, ledger: Ledger, pools: InstanceConcurrencyContext
) -> Iterator[None]:
    """Within it, and for what Dagster tells of the run afterwards, events are written only while this process owns the run.
    Slots that it holds in pools at the end are given back then.

    With the storages of this package that is asked within each transaction; with stock storage a process that was frozen
    between its last commit in the ledger and the writing of its events still writes those.
    """
    silence = quiet(instance)
    silence.silent.discard(run)
    storage = instance.event_log_storage
    if isinstance(storage, GroupedEventLogStorage):
        storage.guard(run, lambda: ledger.check(run, epoch))
    try:
        yield
    except FencedError:
        silence.silent.add(run)
        forget_claims(pools)
        raise
    except BaseException:
        _release(pools)
        raise
    _release(pools)


def _release(pools: InstanceConcurrencyContext) -> None:
    try:
        release_claims(pools)
    except Exception as error:  # each storage has errors of its own
        log.warning("slots of this run stay claimed until Dagster's daemon frees them: %s", error)


def _settle(instance: DagsterInstance, run: str) -> None:
    """After this, what an older process still writes to the log is refused: what is read now is all there will be."""
    storage = instance.event_log_storage
    if isinstance(storage, GroupedEventLogStorage):
        storage.settle(run)


def _identity(entry: EventLogEntry) -> tuple[float, str, str]:
    """What tells an event from the others of its run: a node's clock has read each of these times once."""
    event = entry.dagster_event
    return entry.timestamp, entry.step_key or "", event.event_type_value if event else entry.user_message


_MOVES = frozenset(
    {
        *(DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED, DagsterEventType.STEP_OUTPUT),
        *(DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED),
        DagsterEventType.STEP_UP_FOR_RETRY,
    }
)
"""The events that move a step through the plan; the others only tell."""

_ENDS = frozenset({DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED})

_ATTEMPT = "ioi/attempt"
"""In the metadata of the event that says where an attempt ran."""
