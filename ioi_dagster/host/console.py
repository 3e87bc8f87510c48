"""What nodes tell of steps, on the console of the run process as Dagster's own executors leave it there."""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.host.private import (
    WITH_ERROR,
    DagsterLogManager,
    EventLogEntry,
    deserialize_value,
    event_error_text,
    event_title,
    loggers_of,
)


class _Event(msgspec.Struct):
    event_type_value: str
    pid: int | None = None


class _Line(msgspec.Struct):
    """Of a serialised `EventLogEntry` what a console shows."""

    run_id: str
    timestamp: float
    level: int
    user_message: str
    pipeline_name: str | None = None
    step_key: str | None = None
    dagster_event: _Event | None = None


class Console:
    """The run's loggers that write to this process's stdout or stderr. Others have run where the step ran."""

    def __init__(self, log: DagsterLogManager) -> None:
        self._handlers = [
            (logger, handler)
            for logger in loggers_of(log)
            for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream in _consoles()
        ]

    def show(self, text: str) -> None:
        """One serialised event or line of a log, as it came from a node."""
        if not self._handlers:
            return
        line = from_json(text, _Line)
        event = line.dagster_event
        parts = [line.pipeline_name or "system", line.run_id]
        if event is not None and event.pid:
            parts.append(str(event.pid))
        if line.step_key:
            parts.append(line.step_key)
        if event is not None:
            parts.append(event_title(event.event_type_value))
        message = " - ".join([*parts, line.user_message])
        if event is not None and event.event_type_value in WITH_ERROR:
            message += event_error_text(deserialize_value(text, EventLogEntry))
        for logger, handler in self._handlers:
            if line.level < max(logger.level, handler.level):
                continue
            record = logger.makeRecord(logger.name, line.level, "", 0, message, (), None)
            record.created, record.msecs = line.timestamp, line.timestamp % 1 * 1000
            handler.handle(record)


def _consoles() -> set[Any]:
    return {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
