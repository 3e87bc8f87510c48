"""What must hold of a run whose process was killed, against the same run undisturbed."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import AssetCheckKey, AssetKey, AssetRecordsFilter, DagsterInstance

from definitions.conformance.observe import Facts, read
from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.host.private import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEventType,
    EventLogEntry,
)
from tests.crash.jobs import read_output

ASSETS = ("raw", "doubled", "last")
CHECKS = (("raw", "raw_is_positive"), ("doubled", "is_even"))
STARTS = frozenset({DagsterEventType.RUN_START, DagsterEventType.RUN_STARTING})
"""Told again by a run that is started again, which Dagster's engine does before any executor is asked."""

ENDS = frozenset({DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SKIPPED})
Handle = tuple[str, str, str]
CHECK_RESULTS = frozenset({("raw_raw_is_positive", "result", ""), ("doubled", "doubled_is_even", "")})
"""Outputs in name only: nothing of them is stored."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A run that is over: what can be compared with the same run on another day."""

    status: str
    facts: Facts
    commits: dict[str, int]
    catalogue: dict[str, Any]
    values: dict[Handle, Any]


@dataclass(slots=True)
class Seen:
    """What was there at the moment of a kill, to be found unchanged later."""

    done: dict[str, StepRow] = field(default_factory=dict)
    committed: dict[str, StepRow] = field(default_factory=dict)


def whole(instance: DagsterInstance, ledger: Ledger, job: str, run_id: str) -> Whole:
    observed = read(instance, [run_id], ())
    facts = {key: count for key, count in observed.facts.items() if key[0] not in {kind.value for kind in STARTS}}
    values: dict[Handle, Any] = {}
    for handle in outputs(instance.all_logs(run_id)):
        try:
            values[handle] = read_output(instance, job, run_id, handle)
        except Exception as error:
            values[handle] = error
    return Whole(
        observed.status,
        facts,
        {row.step: row.commits for row in ledger.steps(run_id)},
        _catalogue(instance, run_id) if job == "assets" else {},
        values,
    )


def at_the_kill(
    instance: DagsterInstance, ledger: Ledger, job: str, run_id: str, oracle: Whole, before: Seen
) -> tuple[Seen, list[str]]:
    """What is there now, when nobody writes: every success has its outputs, and nothing that was there before is gone."""
    entries = instance.all_logs(run_id)
    wrong = missing_outputs(instance, job, run_id, entries, oracle)
    rows = {row.step: row for row in ledger.steps(run_id) if row.state == "DONE"}
    told = {str(entry.step_key) for entry in entries if entry.dagster_event and entry.dagster_event.event_type in ENDS}
    for step in told & {row.step for row in ledger.steps(run_id)}:
        if step not in rows:
            wrong.append(f"the log says that {step} ended, and the ledger does not")
    wrong += changed(before, rows)
    return Seen({step: rows[step] for step in told if step in rows}, rows), wrong


def changed(before: Seen, rows: dict[str, StepRow]) -> list[str]:
    """What was done is as it was; what was committed and not told yet is the same commit, or a later try followed it."""
    wrong = [
        f"{step} was done by {was}, now {rows.get(step)}" for step, was in before.done.items() if rows.get(step) != was
    ]
    for step, was in before.committed.items():
        now = rows.get(step)
        # A row that runs again is not among `rows`: a retry, which only follows a commit that was told.
        if now is not None and now != was and now.commits <= was.commits:
            wrong.append(f"the commit of {step} was lost: {was}, now {now}")
    return wrong


def missing_outputs(
    instance: DagsterInstance, job: str, run_id: str, entries: list[EventLogEntry], oracle: Whole
) -> list[str]:
    """Outputs of steps whose success is in the log that cannot be read, or are not what they should be."""
    succeeded = {
        str(entry.step_key) for entry in entries if entry.dagster_event and entry.dagster_event.is_step_success
    }
    wrong = []
    for handle in outputs(entries):
        if handle[0] in succeeded:
            try:
                value = read_output(instance, job, run_id, handle)
            except Exception as error:
                wrong.append(f"{handle} is a success in the log, and its output cannot be read: {error}")
            else:
                if value != oracle.values[handle]:
                    wrong.append(f"{handle} is {value!r} and not {oracle.values[handle]!r}")
    return wrong


def outputs(entries: list[EventLogEntry]) -> list[Handle]:
    found = []
    for entry in entries:
        event = entry.dagster_event
        if event is not None and event.is_successful_output:
            handle = event.step_output_data.step_output_handle
            found.append((handle.step_key, handle.output_name, handle.mapping_key or ""))
    return [handle for handle in found if handle not in CHECK_RESULTS]


def at_the_end(oracle: Whole, found: Whole, last: Seen, rows: dict[str, StepRow], starts: Path) -> list[str]:
    """`starts`: the folder with a file for each start of a step."""
    wrong = changed(last, rows)
    for what in ("status", "facts", "commits", "catalogue", "values"):
        here, there = getattr(found, what), getattr(oracle, what)
        if here != there:
            wrong.append(f"{what}: {_difference(there, here)}")
    attempts = Counter(tuple(path.name.split()[:3]) for path in starts.iterdir()) if starts.is_dir() else Counter()
    wrong += [f"attempt {attempt} was begun {count} times" for attempt, count in attempts.items() if count > 1]
    fences = Counter((step, fence) for step, fence, _ in attempts)
    # Steps that were fused bear the fence of the one that began their task.
    if "link_0" not in oracle.commits:
        wrong += [
            f"{count} attempts of {step} under fence {fence}" for (step, fence), count in fences.items() if count > 1
        ]
    return wrong


def _difference(wanted: Any, found: Any) -> str:
    if not isinstance(wanted, dict):
        return f"{found!r} and not {wanted!r}"
    keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    return "; ".join(f"{key}: {found.get(key)!r} and not {wanted.get(key)!r}" for key in keys)


def mirrored(home: Path, run_id: str) -> list[str]:
    """With SQLite: the index has the same events of the run as the run's own file has, each once."""
    kinds = ", ".join(
        f"'{kind.value}'" for kind in (*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS)
    )
    query = f"select dagster_event_type, step_key, event from event_logs where run_id = ? and dagster_event_type in ({kinds})"

    def rows(name: str) -> Counter[Any]:
        with sqlite3.connect(home / "history" / "runs" / f"{name}.db") as connection:
            return Counter(connection.execute(query, [run_id]).fetchall())

    run, index = rows(run_id), rows("index")
    return [f"in the index {index[row]} times, in the run's file {run[row]} times: {row[:2]}" for row in run | index
            if run[row] != index[row]]  # fmt: skip


def _catalogue(instance: DagsterInstance, run_id: str) -> dict[str, Any]:
    """What the catalogue says of this run's assets and checks, without times and ids."""
    keys = [AssetKey(name) for name in ASSETS]
    found: dict[str, Any] = {}
    for record in instance.get_asset_records(keys):
        entry = record.asset_entry
        materialized = entry.last_materialization
        found[f"last of {record.asset_entry.asset_key.to_user_string()}"] = (
            entry.last_run_id == run_id,
            materialized is not None and materialized.run_id == run_id,
        )
    for key in keys:
        its = instance.fetch_materializations(AssetRecordsFilter(asset_key=key), limit=1_000).records
        found[f"materializations of {key.to_user_string()}"] = sum(record.run_id == run_id for record in its)
    storage = instance.event_log_storage
    for asset, name in CHECKS:
        history = storage.get_asset_check_execution_history(AssetCheckKey(AssetKey(asset), name), limit=1_000)
        found[f"check {asset}:{name}"] = sorted(record.status.value for record in history if record.run_id == run_id)
    return found
