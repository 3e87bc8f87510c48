"""What steps of a run share in a process, and the definitions that say so."""

from __future__ import annotations

import threading
from contextlib import ExitStack, asynccontextmanager

import pytest
from dagster import ConfigurableResource, DagsterInvalidDefinitionError, ResourceDefinition

from ioi_dagster import run_scoped
from ioi_dagster.adapters.dask.run_scope import IDLE_S, RunScope
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import RetryableError
from ioi_dagster.host.run_scoped import is_run_scoped


def test_who_comes_first_sets_it_up_and_the_others_wait():
    scope, made, began, go = RunScope(), [], threading.Event(), threading.Event()

    def set_up(stack: ExitStack) -> object:
        began.set()
        assert go.wait(10)
        made.append(object())
        return made[-1]

    def use() -> None:
        with scope.shared("r", "db {}", set_up) as value:
            used.append(value)

    used: list[object] = []
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert used == made * 4


def test_the_last_that_was_set_up_is_torn_down_first_and_once():
    scope, ended = RunScope(), []
    for name in ("a", "b", "a", "c"):
        with scope.shared("r", name, lambda stack, name=name: stack.callback(ended.append, name)):
            pass
    assert scope.end("other") == []
    assert scope.end("r") == []
    assert scope.end("r") == []
    assert ended == ["c", "b", "a"]


def test_what_ends_badly_is_told_and_keeps_nothing_else_from_ending():
    scope, ended = RunScope(), []

    def bad(stack: ExitStack) -> None:
        stack.callback(lambda: 1 / 0)

    for name, set_up in (("good {}", lambda stack: stack.callback(ended.append, "good")), ("bad {}", bad)):
        with scope.shared("r", name, set_up):
            pass
    assert scope.end("r") == ["the resource bad was not torn down well: ZeroDivisionError: division by zero"]
    assert ended == ["good"]


def test_what_cannot_be_set_up_is_tried_by_the_next():
    scope, answers, undone = RunScope(), iter([ValueError("no"), 1]), []

    def set_up(stack: ExitStack) -> int:
        stack.callback(undone.append, "undone")
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ValueError, match="no"), scope.shared("r", "db", set_up):
        pass
    assert undone == ["undone"]
    with scope.shared("r", "db", set_up) as value:
        assert value == 1


def test_what_is_set_up_while_its_run_ends_is_not_left_behind():
    scope, ended = RunScope(), []

    def set_up(stack: ExitStack) -> None:
        stack.callback(ended.append, "torn down")
        scope.end("r")

    with pytest.raises(RetryableError, match="the run ended while db was set up"), scope.shared("r", "db {}", set_up):
        pass
    assert ended == ["torn down"]


def test_what_no_step_uses_for_long_goes():
    clock, ended = ManualClock(), []
    scope = RunScope(clock.monotonic)
    with scope.shared("r", "db", lambda stack: stack.callback(ended.append, "db")):
        clock.advance(2 * IDLE_S)
        assert scope.idle() == [], "a step uses it still"
    clock.advance(0.9 * IDLE_S)
    assert scope.idle() == []
    clock.advance(0.2 * IDLE_S)
    assert scope.idle() == ["r"]
    scope.end_idle()
    assert (ended, scope.idle()) == (["db"], [])


class Asynchronous(ConfigurableResource):
    @asynccontextmanager
    async def yield_for_execution(self, context):  # pyright: ignore
        yield self


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(DagsterInvalidDefinitionError, match="and 7 is none"):
        run_scoped(7)  # pyright: ignore
    with pytest.raises(DagsterInvalidDefinitionError, match="asynchronously"):
        run_scoped(Asynchronous())


def test_the_resource_itself_stays_as_it_is():
    stock = ResourceDefinition.hardcoded_resource(1)
    scoped = run_scoped(stock)
    assert run_scoped(scoped) is scoped
    assert (is_run_scoped(scoped), is_run_scoped(stock)) == (True, False)
