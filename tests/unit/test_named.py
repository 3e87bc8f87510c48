"""Whom an intervention names: a step of the plan, a place, nobody, or what is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DynamicOut, DynamicOutput, in_process_executor, job, op

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.clock import ManualClock
from ioi_dagster.governors.flow import Answer, FlowGovernor, Tell
from ioi_dagster.governors.flow_messages import Idle, Intervened
from ioi_dagster.host.interventions import InterventionDesk
from ioi_dagster.host.named import Named
from ioi_dagster.host.private import create_execution_plan
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.names import near


@op(out=DynamicOut(int))
def pages() -> Iterator[DynamicOutput[int]]:
    yield DynamicOutput(1, "0")


@op
def ocr(value: int) -> int:
    return value


@op
def total(values: list[int]) -> int:
    return sum(values)


@job(executor_def=in_process_executor)
def books():
    total(pages().map(ocr).collect())


NO_PLACE = "no node or cluster that the run knows is called"
BEFORE: dict[str, Any] = {}
MADE: dict[str, Any] = {"pages": {"result": ["p1", "p2"]}}


def look(
    step: str = "", away: str = "", mappings: dict[str, Any] = MADE, over: tuple[str, ...] = ("pages",)
) -> Idle | None:
    named = Named(create_execution_plan(books), lambda: mappings, lambda: set(over), lambda: {"lab-1", "lab-c"})
    return named.look(Intervention("r", Action.REROUTE if away else Action.PAUSE, step, away=away))


@pytest.mark.parametrize(
    ("step", "more", "expected"),
    [
        ("", {}, None),
        ("total", {}, None),
        ("ocr", {}, None),
        ("ocr[p1]", {}, None),
        ("ocr[p1]#3", {}, None),
        ("ocr", {"mappings": BEFORE}, None),
        ("ocr[p9]", {"mappings": BEFORE}, None),
        ("orc", {}, Idle("the run has no step 'orc'; did you mean ocr?", True)),
        ("xyz", {}, Idle("the run has no step 'xyz'; known: ocr, pages, total", True)),
        ("orc[p1]", {}, Idle("the run has no step 'orc[p1]'; did you mean ocr?", True)),
        ("ocr[p9]", {}, Idle("the run has no step 'ocr[p9]'; did you mean ocr[p2] or ocr[p1]?", True)),
        ("ocr[p9]#3", {}, Idle("the run has no step 'ocr[p9]#3'; did you mean ocr[p2] or ocr[p1]?", True)),
        ("total[p1]", {}, Idle("the run has no step 'total[p1]'; did you mean total?", True)),
        ("pages", {}, Idle("gone: nothing to do; pages is over", False)),
        ("ocr[p1]", {"over": ("ocr[p1]",)}, Idle("gone: nothing to do; ocr[p1] is over", False)),
        ("ocr", {"over": ("ocr[p1]",)}, None),
        ("ocr", {"over": ("ocr[p1]", "ocr[p2]")}, Idle("gone: nothing to do; ocr is over", False)),
        ("ocr", {"away": "lab-1"}, None),
        ("ocr", {"away": "lab-2"}, Idle(f"{NO_PLACE} 'lab-2'; did you mean lab-c or lab-1?", True)),
    ],
)  # fmt: skip
def test_a_name_is_that_of_a_step_or_of_nobody(step: str, more: dict[str, Any], expected: Idle | None) -> None:
    assert look(step, **more) == expected


def test_what_names_nobody_is_answered_as_refused_and_counts_for_nothing_also_in_the_next_process(
    tmp_path: Path,
) -> None:
    ledger, clock = Ledger(tmp_path / "ledger.sqlite"), ManualClock()

    def process() -> tuple[InterventionDesk, list[Intervened]]:
        desk = InterventionDesk("r", ledger, clock)
        desk.idle = Named(create_execution_plan(books), lambda: MADE, set, set).look
        return desk, desk.look()

    ledger.intervene(Intervention("r", Action.PAUSE, "orc", why="lunch", who="ann"))
    ledger.intervene(Intervention("r", Action.PAUSE, "ocr", who="ann"))
    desk, heard = process()
    governor = FlowGovernor("r", "home")
    out = [one for event in heard for one in governor.handle(event, 0.0)]
    for answer in (one for one in out if isinstance(one, Answer)):
        desk.answered(answer)
    desk.write()
    assert [one.text for one in out if isinstance(one, Tell)] == [
        "pause by ann (lunch): the run has no step 'orc'; did you mean ocr?",
        "pause by ann: paused; what runs goes on to its end",
    ]
    assert [(one.answer, one.refused) for one in ledger.interventions("r")] == [
        ("the run has no step 'orc'; did you mean ocr?", True),
        ("paused; what runs goes on to its end", False),
    ]
    _, again = process()
    assert [(one.said.step, one.again, one.idle) for one in again] == [("ocr", True, None)]
    ledger.close()


def test_of_very_many_names_some_are_told() -> None:
    many = [f"step-{number:05}" for number in range(5_000)]
    assert near("x", many) == f"known: {', '.join(many[:8])} and 4992 more"
    assert near("x", []) == "none is known"
