"""`flow.map` inside steps, on real clusters."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, RetryPolicy, execute_job, job, op, reconstructable
from distributed import LocalCluster
from typer.testing import CliRunner

from ioi_dagster import ExchangeIOManager, MapItemError, flow, governed_executor
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli import app
from ioi_dagster.errors import FinalError
from ioi_dagster.host.io_manager import default_folder
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

RESOURCES = {"io_manager": ExchangeIOManager()}


def _say(value: Any) -> None:
    Path(os.environ["IOI_TEST_RESULT"]).write_text(json.dumps(value))


@op
def squares_and_nothing() -> None:
    base = 10
    _say([flow.map(lambda n: n * n + base, (n for n in range(7)), chunk=2), flow.map(str, []), flow.map(str, [1])])


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def mapped():
    squares_and_nothing()


def tree(depth: int) -> int:
    """Each level waits for two of the next."""
    return 1 if depth == 0 else sum(flow.map(tree, [depth - 1] * 2, chunk=1))


@op
def grows(number: int) -> int:
    return tree(number)


@op
def four() -> int:
    return 4


@op
def all_of_them(left: int, right: int) -> None:
    _say([left, right])


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def nested():
    depth = four()
    all_of_them(grows.alias("left")(depth), grows.alias("right")(depth))


def dies_once_on_three(number: int) -> int:
    marker = Path(os.environ["IOI_TEST_MARKER"])
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(os.environ["IOI_TEST_RAN"]).open("a") as ran:
        ran.write(f"{number}\n")
    return number


@op
def survives_a_loss() -> None:
    _say(flow.map(dies_once_on_three, range(8), chunk=1))


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def losing():
    survives_a_loss()


def fails_on_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def tries_twice(folder: str) -> str:
    marker = Path(folder) / "tried"
    if not marker.exists():
        marker.touch()
        raise ValueError("not yet")
    return "at last"


@op
def fails_as_told() -> None:
    returned = flow.map(fails_on_odd, range(4), chunk=2, on_error="return")
    shown = [str(one) if isinstance(one, MapItemError) else one for one in returned]
    try:
        flow.map(fails_on_odd, [0, 2, 4, 5, 6], chunk=1)
    except MapItemError as error:
        raised = [error.index, str(error)]
    else:
        raised = []
    unpicklable = flow.map(lambda n: (x for x in [n]), [1], on_error="return")
    again = flow.map(tries_twice, [os.path.dirname(os.environ["IOI_TEST_RESULT"])], retries=1)
    _say([shown, raised, str(unpicklable[0]), again])


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_by_its_item(context) -> None:
    if context.retry_number == 0:
        flow.map(fails_on_odd, [1])


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def failing():
    fails_as_told()
    fails_by_its_item()


def dies_on_zero(number: int) -> int:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@op
def has_a_poison_item() -> None:
    answers = flow.map(dies_on_zero, range(5), chunk=1, on_error="return")
    _say([answer.kind if isinstance(answer, MapItemError) else answer for answer in answers])


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def poisoned():
    has_a_poison_item()


class Loud:
    def load(self) -> None: ...

    def unload(self) -> None: ...

    def invoke(self, batch: Any) -> list[Payload]:
        return [Payload({"text": payload.document["text"].upper()}) for payload in batch]


LOUD = BlockSpec("loud", "1", "text.loud", f"{__name__}:Loud", Contract("loud", "makes it loud"))


@op
def shouts() -> None:
    _say([answer.document for answer in flow.map(LOUD, [Payload({"text": "a"}), Payload({"text": "b"})])])


@job(executor_def=governed_executor, resource_defs=RESOURCES)
def blocks():
    shouts()


@pytest.fixture
def result(tmp_path, monkeypatch, clean_environment) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    for name in ("RESULT", "MARKER", "RAN"):
        monkeypatch.setenv(f"IOI_TEST_{name}", str(tmp_path / name.lower()))
    return tmp_path / "result"


def _execute(factory: Any, **config: Any) -> tuple[str, list[Any]]:
    run_config = {"execution": {"config": config or {"workers": 2}}}
    with (
        DagsterInstance.local_temp(os.environ["DAGSTER_HOME"]) as instance,
        execute_job(reconstructable(factory), instance, run_config=run_config) as done,
    ):
        assert done.success
        return done.run_id, [event for event in done.all_events if event.message and "flow.map" in event.message]


def test_results_in_order_and_told_in_the_log(result, tmp_path):
    run, events = _execute(mapped)
    assert json.loads(result.read_text()) == [[10, 11, 14, 19, 26, 35, 46], [], ["1"]]
    assert [event.message for event in events] == [
        "flow.map 1 of squares_and_nothing: 7 items, 4 of 4 chunks done",
        "flow.map 2 of squares_and_nothing: 1 items, 1 of 1 chunks done",
    ]
    table = events[0].event_specific_data.metadata["ioi/chunks"]
    assert [(record.data["items"], record.data["outcome"]) for record in table.records] == [
        ("0–1", "done"), ("2–3", "done"), ("4–5", "done"), ("6–6", "done"),
    ]  # fmt: skip
    ledger = Ledger(default_folder() / "ledger.sqlite")
    told = [entry.text for entry in ledger.story(run, "squares_and_nothing") if entry.chapter == "map"]
    ledger.close()
    assert told[0] == "map 1 of 7 items in 4 chunks"
    assert re.match(
        r"squares_and_nothing#\d\.1/0: items 0–1 done on alone-\d in [\d.]+ s, fence \d, attempt \w+", told[1]
    )
    # Elsewhere than in the project's folder, where a federation may have been started before.
    shown = CliRunner().invoke(app, ["explain", "run", run, "squares_and_nothing"], env={"IOI_HOME": str(tmp_path)})
    assert "map 1 of 7 items in 4 chunks" in shown.output


@pytest.mark.parametrize("workers", [1, 2])
def test_maps_deeper_than_there_are_nodes(result, workers):
    _execute(nested, workers=workers)
    assert json.loads(result.read_text()) == [16, 16]


def test_a_lost_node_costs_only_its_chunks(result, tmp_path):
    _, events = _execute(losing)
    assert json.loads(result.read_text()) == list(range(8))
    # The node that died may have been the one of the step: then the step began again, and its earlier map was dropped.
    table = events[-1].event_specific_data.metadata["ioi/chunks"]
    assert {record.data["outcome"] for record in table.records} == {"done"}
    if len(events) == 1:
        ran = sorted(int(line) for line in (tmp_path / "ran").read_text().split())
        assert ran == list(range(8))


def test_an_item_that_kills_every_node_is_an_error_in_the_end(result):
    _execute(poisoned)
    answers = json.loads(result.read_text())
    assert answers.pop(0) in ("flow.poison_step", "flow.poison_chunk")
    assert answers == [1, 2, 3, 4]


def test_a_failing_item_is_named(result):
    _execute(failing)
    assert json.loads(result.read_text()) == [
        [0, "item 1 failed: ValueError: 1 is odd", 2, "item 3 failed: ValueError: 3 is odd"],
        [3, "item 3 failed: ValueError: 5 is odd"],
        "item 0 failed: TypeError: its result cannot be pickled: cannot pickle 'generator' object",
        ["at last"],
    ]


def test_a_block_is_invoked(result):
    _execute(blocks)
    assert json.loads(result.read_text()) == [{"text": "A"}, {"text": "B"}]


def test_on_a_cluster_by_address(result):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster:
        _execute(nested, address=cluster.scheduler_address)
    assert json.loads(result.read_text()) == [16, 16]


@pytest.mark.parametrize(("factory", "said"), [(mapped, [[10, 11, 14, 19, 26, 35, 46], [], ["1"]]), (nested, [16, 16])])
def test_under_a_stock_executor_items_run_in_the_step(result, factory, said):
    assert factory.execute_in_process(run_config={}).success
    assert json.loads(result.read_text()) == said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"retries": -1}, "retries is -1: give a number of tries, 0 or more"),
        ({"chunk": 0}, "chunk is 0: give a number of items, 1 or more"),
        ({"chunk": "a"}, "chunk is 'a': give a number of items, 1 or more"),
        ({"on_error": "skip"}, "on_error is 'skip': say 'raise' or 'return'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, words):
    with pytest.raises(FinalError, match=words):
        flow.map(str, [1, 2], **arguments)
