"""Tells, once each, that the ledger cannot be written and that it can be again, and that outputs had to wait for their disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from ioi_dagster.host.event_groups import EventLogWriteError
from ioi_dagster.host.flow_driver import FlowDriver
from ioi_dagster.host.private import DagsterEvent, EngineEventData, PlanOrchestrationContext
from ioi_dagster.host.run_outputs import PATIENCE_S

log = logging.getLogger("ioi.ledger")


class OutageTeller:
    """One a run process; asked once a turn."""

    def __init__(self, driver: FlowDriver) -> None:
        self._driver = driver
        self._told = False

    def tell(self, plan_context: PlanOrchestrationContext) -> Iterator[DagsterEvent]:
        for text in self._driver.outputs.waited():
            yield from _told(plan_context, text)
        why = self._driver.ledger_away
        if bool(why) == self._told:
            return
        self._told = bool(why)
        text = (
            f"{why}; steps that end wait for it, for {PATIENCE_S:g} s at most"
            if why
            else "The ledger can be written again: what had to wait is committed"
        )
        yield from _told(plan_context, text)


def _told(plan_context: PlanOrchestrationContext, text: str) -> Iterator[DagsterEvent]:
    try:
        yield DagsterEvent.engine_event(plan_context, text, EngineEventData())
    except EventLogWriteError as error:  # on the same full disk
        log.warning("%s (%s)", text, error)
