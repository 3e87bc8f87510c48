"""The flow driver over one node that runs what it was sent in order, and dies of one step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ioi_dagster.adapters.dask.client import SCHEDULER_LOST, WORKER_DIED
from ioi_dagster.adapters.dask.node import begun_topic, over_topic, shed_topic
from ioi_dagster.adapters.dask.running import GRACE_S
from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import FinalError
from ioi_dagster.governors import flow
from ioi_dagster.governors.cluster import EVERYTHING, ClusterGovernor, NodeJoined, Reply
from ioi_dagster.governors.failures import Cause, in_doubt
from ioi_dagster.governors.flow import MAX_LOSSES, MAX_NODES_LOST, FlowGovernor
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.host import dask_starts, results
from ioi_dagster.host.exchange import StepResult
from ioi_dagster.host.fleet_watch import RENEW_EVERY_S
from ioi_dagster.host.flow_driver import EXPERIENCE_S, UNFIT_TODO, FlowDriver
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.map_desk import MAX_CHUNKS, Heard
from ioi_dagster.host.work import Found, Outcome, Work
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Ask, Award, Awarded, Effect, LeaseRequest, RenewRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experience, Standing
from ioi_dagster.model.start import StartAnswer
from ioi_dagster.model.story import Chapter


class OneNode:
    """A network and a fleet at once: one node with eight places, which runs one start after the other."""

    home = cluster = domain = "alone"
    links = ()
    accepts, immediate, shares_storage = "step", True, True

    def __init__(self, price: float = 0.0) -> None:
        self._governor = ClusterGovernor("alone", "alone", 1, price)
        self._governor.handle(NodeJoined("n", 8, EVERYTHING), 0.0)
        self.queue: list = []
        self.told: list = []
        self.seen: list[tuple[Experience, ...]] = []
        self.listening: dict = {}
        self.deaths = 0
        self.anew: list[str] = []

    def find(self, *_):
        return Found((Place("alone", "alone"),), (), True)

    def fleet(self, _cluster):
        return self

    def fleets(self):
        return [self]

    def standing(self):
        return (Standing("alone", 0.2, broken=4.0),)

    def experienced(self, seen):
        self.seen.append(seen)

    def step_permit(self, *_):
        return None

    def issued_anew(self):
        told, self.anew = self.anew, []
        return told

    def at_once(self, _node):
        return 1

    def look_after(self, now): ...

    def listen(self, topic, take):
        self.listening[topic] = take

    def tell(self, worker, function, map_id, answers):
        self.told.append((worker, map_id, [(chunk, refusal and refusal["code"]) for chunk, _, refusal in answers]))

    def begin(self, message): ...

    def waits(self, lease, waits): ...

    def forget(self, run): ...

    def alive(self):
        return True

    def cancel(self, keys): ...

    def _ask(self, message) -> Any:
        replies = [i.answer for i in self._governor.handle(message, 0.0) if isinstance(i, Reply)]
        return replies[0] if replies else None

    announce = award = renew = release = _ask

    def adopt(self, start, on_done):
        self.queue.append((start, on_done))

    def start(self, starts, on_done):
        self.queue += [(start, on_done) for start in starts]

    def run(self) -> None:
        """What the node does next: the first start ends well, or takes the node and all that waits there with it."""
        first, on_done = self.queue[0]
        if first.lease.step != "poison":
            self.queue.pop(0)
            result = msgspec.msgpack.encode(StepResult([], [], started=8.0, ended=8.5))
            return on_done(first, StartAnswer(f"a{first.lease.step}", "n", 1.0, 2.0, result=result), None)
        self.deaths += 1
        lost, self.queue = self.queue, []
        for start, done in lost:
            done(start, None, "the worker died")


@pytest.mark.parametrize("priority", [0, 1])
def test_what_waited_behind_a_step_that_kills_its_node_is_not_blamed(tmp_path: Path, priority: int) -> None:
    """`priority` 1: the poison step is sent last and runs first, as Dask does it."""
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    names = ["poison", *(f"s{number}" for number in range(6))]
    ended: dict[str, Outcome] = {}

    def settle() -> None:
        """Until everything that waits is placed."""
        for _ in range(6):
            clock.advance(1.0)
            ended.update({outcome.step: outcome for outcome in driver.pump(0.0)})
        node.queue.sort(key=lambda item: -item[0].priority)

    def submit(name: str) -> None:
        urgent = priority if name == "poison" else 0
        driver.submit(Work(Ask("r", name, "dagster.step", priority=urgent), b"", None, urgent, False))
        settle()

    for name in names if priority == 0 else reversed(names):
        submit(name)
    while node.queue:
        assert len(node.queue) + len(ended) == len(names)
        node.run()
        settle()
    driver.close(False)
    ledger.close()
    refused = {step: outcome.refusal.code for step, outcome in ended.items() if outcome.refusal}
    assert refused == {"poison": "flow.poison_step"}
    assert set(ended) == set(names)
    assert node.deaths == MAX_LOSSES, "each was laid to the one that caused it"
    assert node.deaths == 5


def test_that_the_permit_of_a_run_was_issued_anew_is_in_its_story_once(tmp_path: Path) -> None:
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    driver.pump(0.0)
    node.anew.append("under another key")
    for _ in range(3):
        driver.pump(0.0)
    told = [(entry.step, entry.text) for entry in ledger.story("r") if entry.chapter is Chapter.POLICY]
    driver.close(False)
    ledger.close()
    assert told == [("", "under another key")]


def test_what_a_step_is_sent_is_made_when_there_is_a_place_for_it(tmp_path: Path) -> None:
    """Of many steps over one large value only those that are sent may hold it, and what was sent is not kept here."""
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    made: list[str] = []

    def work(name: str) -> bytes:
        made.append(name)
        return name.encode()

    for number in range(20):
        name = f"s{number}"
        driver.submit(Work(Ask("r", name, "dagster.step"), partial(work, name), None, 0, False))
    for _ in range(4):
        clock.advance(1.0)
        driver.pump(0.0)
    assert made == [start.work.decode() for start, _ in node.queue]
    assert len(made) == 8
    while node.queue:
        node.run()
        clock.advance(1.0)
        driver.pump(0.0)
    assert sorted(made) == sorted(f"s{number}" for number in range(20))
    driver.close(False)
    ledger.close()


def test_a_step_whose_input_is_gone_when_it_is_sent_fails_and_gives_its_place_back(tmp_path: Path) -> None:
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]

    def gone() -> bytes:
        raise FinalError("the stored value x of this run is gone")

    for number in range(10):
        driver.submit(Work(Ask("r", f"gone{number}", "dagster.step"), gone, None, 0, False))
    driver.submit(Work(Ask("r", "good", "dagster.step"), b"", None, 0, False))
    ended: dict[str, Refusal | None] = {}
    for _ in range(8):
        clock.advance(1.0)
        ended |= {outcome.step: outcome.refusal for outcome in driver.pump(0.0)}
        while node.queue:
            node.run()
    driver.close(False)
    ledger.close()
    refusal = Refusal("flow.unfit_step", "the stored value x of this run is gone", flow.BY, UNFIT_TODO)
    assert ended == {"good": None} | {f"gone{number}": refusal for number in range(10)}


def test_of_what_was_in_flight_only_what_may_run_once_is_refused_with_what_is_to_be_done(tmp_path: Path) -> None:
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    driver.in_doubt = {"pays", "reads"}
    driver.submit(Work(Ask("r", "pays", "dagster.step", effect=Effect.AT_MOST_ONCE), b"", None, 0, False))
    driver.submit(Work(Ask("r", "reads", "dagster.step"), b"", None, 0, False))
    ended: dict[str, Refusal | None] = {}
    for _ in range(4):
        clock.advance(1.0)
        ended |= {outcome.step: outcome.refusal for outcome in driver.pump(0.0)}
        while node.queue:
            node.run()
    driver.close(False)
    ledger.close()
    assert ended == {"pays": in_doubt(flow.BY), "reads": None}
    assert in_doubt(flow.BY).remedy


@pytest.mark.parametrize(("accepts", "ran"), [("step", (8.0, 8.5)), ("block", (1.0, 2.0))])
def test_a_call_of_a_foreign_block_took_as_long_as_it_ran_there(tmp_path: Path, accepts: str, ran: tuple) -> None:
    """Its step, which is run here with the answer, takes no time."""
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    node.accepts = accepts
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    driver.submit(Work(Ask("r", "s", "ocr"), b"", lambda: Payload({}), 0, False))
    outcomes: list[Outcome] = []
    for _ in range(6):
        clock.advance(1.0)
        outcomes += driver.pump(0.0)
        if node.queue:
            node.run()
    driver.close(False)
    (row,) = ledger.steps("r")
    ledger.close()
    assert (row.started, row.ended) == ran
    assert [outcome.seconds for outcome in outcomes] == [ran[1] - ran[0]]


ASKS = {
    "op": "ask",
    "map": "m",
    "worker": "tcp://n",
    "parent": "s",
    "fence": 1,
    "label": "s",
    "number": 1,
    "chunks": [2],
}


def hears(folder: Path, *heard: Heard, then: tuple[Work, ...] = ()) -> tuple[list[str], list, list[str]]:
    """While the step `s` runs: (what the story says of maps, what the node was told, steps that were sent to it)."""
    clock, node, ledger = ManualClock(), OneNode(), Ledger(folder / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(folder), clock)  # pyright: ignore[reportArgumentType]
    driver.submit(Work(Ask("r", "s", "dagster.step"), b"", None, 0, False, then))
    for one in (None, *heard, None):
        if one is not None:
            driver.post(one)
        clock.advance(1.0)
        driver.pump(0.0)
    sent = [start.lease.step for start, _ in node.queue]
    driver.close(False)
    told = [entry.text for entry in ledger.story("r") if entry.chapter is Chapter.MAP]
    ledger.close()
    return told, node.told, sent


def test_a_map_is_placed_in_chunks(tmp_path: Path) -> None:
    assert hears(tmp_path, Heard("alone", ASKS)) == ([], [("tcp://n", "m", [])], ["s", "s#1.1/0"])


@pytest.mark.parametrize(
    "message",
    [
        None,
        "ask",
        {"op": "explode", "map": "m"},
        {"op": "ask"},
        ASKS | {"fence": -1},
        ASKS | {"chunks": [0]},
        ASKS | {"chunks": [1] * (MAX_CHUNKS + 1)},
        ASKS | {"chunks": "many"},
        ASKS | {"chunks": [2**31]},
        ASKS | {"worker": "w" * 501},
    ],
    ids=[
        *("nothing", "text", "other op", "no map", "negative fence", "empty chunk", "too many chunks", "no list"),
        *("too many items", "long address"),
    ],
)
def test_what_a_node_tells_of_maps_and_cannot_mean_is_told_and_dropped(tmp_path: Path, message: object) -> None:
    told, answered, sent = hears(tmp_path, Heard("alone", message))
    assert [text.partition(": ")[0] for text in told] == ["alone told of a map that cannot be read"]
    assert (answered, sent) == ([], ["s"])


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (ASKS | {"chunks": []}, "it has no chunks"),
        (ASKS | {"label": "other"}, "it is not of the step 'other'"),
    ],
    ids=["no chunks", "label of another step"],
)
def test_a_map_that_its_step_cannot_have_is_told_and_dropped(tmp_path: Path, message: dict, why: str) -> None:
    over = {"op": "over", "map": "m"}
    told, answered, sent = hears(tmp_path, Heard("alone", message), Heard("alone", over))
    assert told == [f"alone told of a map that cannot be meant: {why}"]
    assert (answered, sent) == ([], ["s"])


def test_a_second_map_of_one_number_is_told_and_dropped(tmp_path: Path) -> None:
    """Its chunks would have the names of the first one's; that one goes on, and ends."""
    twin = {"map": "twin"}
    heard = [ASKS, ASKS | twin, {"op": "over", "map": "m"}, {"op": "over"} | twin]
    told, answered, sent = hears(tmp_path, *(Heard("alone", message) for message in heard))
    assert told[:2] == [
        "alone told of a map that cannot be meant: another map is number 1 of s",
        "map 1 of 2 items in 1 chunks",
    ]
    assert (answered, sent) == ([("tcp://n", "m", [])], ["s", "s#1.1/0"])


def test_a_map_of_a_step_that_runs_in_one_task_after_another_is_its_own(tmp_path: Path) -> None:
    then = Work(Ask("r", "then", "dagster.step"), b"", None, 0, False)
    told, answered, sent = hears(tmp_path, Heard("alone", ASKS | {"label": "then"}), then=(then,))
    assert (told, answered, sent) == ([], [("tcp://n", "m", [])], ["s", "s#1.1/0"])


def test_who_waits_for_the_items_of_a_map_runs_and_its_items_are_no_steps(tmp_path: Path) -> None:
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, FlowGovernor("r", "alone"), ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]
    running: list[list[str]] = []

    def turn() -> None:
        for _ in range(3):
            clock.advance(1.0)
            driver.pump(0.0)
        running.append(driver.running())

    for name in ("s", "waits_at_the_node"):
        driver.submit(Work(Ask("r", name, "dagster.step"), b"", None, 0, False))
    turn()
    driver.post(Heard("alone", ASKS))
    turn()
    inner = {"map": "inner", "parent": "s#1.1/0"}
    driver.post(Heard("alone", ASKS | inner))
    turn()
    assert [start.lease.step for start, _ in node.queue] == ["s", "waits_at_the_node", "s#1.1/0", "s#1.1/0#1.1/0"]
    driver.close(False)
    ledger.close()
    assert running == [["s"]] * 3


def test_a_map_is_its_own_clusters(tmp_path: Path) -> None:
    """Another one can neither ask for a step that runs elsewhere, nor end a map of it."""
    its, others = {"map": "m"}, {"map": "other"}
    told, answered, sent = hears(
        tmp_path,
        Heard("alone", ASKS),
        Heard("elsewhere", ASKS | others),
        Heard("elsewhere", ASKS | its),
        Heard("elsewhere", {"op": "over", **its}),
    )
    assert told == ["elsewhere told of a map that is not its own"] * 2
    assert answered == [("tcp://n", "m", []), ("tcp://n", "other", [(0, "flow.map_stale")])]
    assert sent == ["s", "s#1.1/0"]


@dataclass
class Run:
    """A driver over one node, whose clock the test moves."""

    driver: FlowDriver
    governor: FlowGovernor
    ledger: Ledger
    node: OneNode
    clock: ManualClock
    ended: dict[str, Outcome] = field(default_factory=dict)

    def submit(self, step: str, payload: Callable[[], Payload] | None = None, **ask) -> None:
        timeout_s = ask.pop("timeout_s", 0.0)
        ask = {"capability": "dagster.step", **ask}
        self.driver.submit(Work(Ask("r", step, **ask), b"", payload, 0, False, timeout_s=timeout_s))
        self.settle()

    def settle(self, seconds: float = 1.0) -> None:
        """Until everything that waits is placed."""
        for _ in range(6):
            self.clock.advance(seconds / 6)
            self.ended.update({outcome.step: outcome for outcome in self.driver.pump(0.0)})

    def until(self, holds: Callable[[], object]) -> None:
        """What threads of the driver post is waited for."""
        for _ in range(200):
            if holds():
                return
            self.ended.update({outcome.step: outcome for outcome in self.driver.pump(0.05)})
        raise AssertionError("it does not come")

    def answer(self, step: str, answer: StartAnswer | None, why: str | None = None) -> None:
        """Of the start of `step` that is at the node."""
        (number,) = [number for number, (start, _) in enumerate(self.node.queue) if start.lease.step == step]
        start, on_done = self.node.queue.pop(number)
        on_done(start, answer, why)

    def begins(self, step: str) -> None:
        """The node says that it has loaded the code of `step`."""
        (key,) = [start.key for start, _ in self.node.queue if start.lease.step == step]
        self.node.listening[begun_topic("alone/r")](key)

    def time_is_up(self, step: str) -> None:
        """The node says so, and that it asks the step to stop."""
        (key,) = [start.key for start, _ in self.node.queue if start.lease.step == step]
        self.node.listening[over_topic("alone/r")](key)

    def dies(self) -> None:
        """The node, with all that is there."""
        for step in self.sent:
            self.answer(step, None, WORKER_DIED)
        self.settle()

    @property
    def codes(self) -> dict[str, str]:
        return {step: outcome.refusal.code for step, outcome in self.ended.items() if outcome.refusal}

    @property
    def sent(self) -> list[str]:
        return [start.lease.step for start, _ in self.node.queue]


@contextmanager
def a_run(folder: Path, node: OneNode | None = None, **governor) -> Iterator[Run]:
    clock, node, ledger = ManualClock(), node or OneNode(), Ledger(folder / "ledger.sqlite")
    flow_governor = FlowGovernor("r", "alone", **governor)
    epoch = ledger.take_over("r", "j", 1.0)
    driver = FlowDriver("r", epoch, node, flow_governor, ledger, ObjectStore(folder), clock)  # pyright: ignore[reportArgumentType]
    try:
        yield Run(driver, flow_governor, ledger, node, clock)
        driver.close(False)
    finally:
        ledger.close()


LEASE_OF = ("cluster", "domain", "run", "step", "fence", "copy", "capability")
DONE = StartAnswer("a1", "n", 1.0, 2.0, result=msgspec.msgpack.encode(StepResult([], [], started=8.0, ended=8.5)))
NO = Refusal("node.no", "not here", "node n")


def test_a_refused_block_call_leaves_what_the_run_has_spent_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(results, "run_shell", lambda work, refusal: DONE.result)
    with a_run(tmp_path, OneNode(price=1.0), budget=9.0) as run:
        run.submit("first")
        run.answer("first", DONE)
        run.settle()
        spent = run.governor.snapshot().spent
        assert spent > 0
        run.submit("call", lambda: Payload({}), capability="ocr")
        for _ in range(MAX_NODES_LOST):
            run.answer("call", StartAnswer("", "n", 0.0, 0.0, refusal=NO))
            run.settle()
        run.until(lambda: "call" in run.ended)
        assert run.governor.snapshot().spent == pytest.approx(spent)
        assert run.governor.fence("call") == MAX_NODES_LOST + 1, "what came before it can no longer commit"


def test_the_limit_of_a_step_does_not_run_while_it_waits_at_its_node(tmp_path: Path) -> None:
    """It waited for longer than it may run, behind a step that kills the node."""
    with a_run(tmp_path) as run:
        run.submit("kills")
        run.submit("waits", timeout_s=1.0)
        run.settle(2 * GRACE_S)
        run.dies()
        assert sorted(run.sent) == ["kills", "waits"], "placed again"
        assert run.codes == {}


@pytest.mark.parametrize(
    ("loads_s", "runs_s", "codes"),
    [
        (0.0, 1.0 + GRACE_S, {"slow": "flow.timeout"}),
        (60.0, 0.5, {}),
        (60.0, 1.0 + GRACE_S, {"slow": "flow.timeout"}),
        (60.0, None, {}),
    ],
    ids=["did not stop", "has just begun", "did not stop, and began late", "still loads"],
)
def test_the_limit_of_a_step_runs_from_when_its_code_begins(
    tmp_path: Path, loads_s: float, runs_s: float | None, codes: dict[str, str]
) -> None:
    with a_run(tmp_path) as run:
        run.submit("slow", timeout_s=1.0)
        run.clock.advance(loads_s)
        if runs_s is not None:
            run.begins("slow")
            run.clock.advance(runs_s)
        run.dies()
        assert run.codes == codes
        assert run.sent == ([] if codes else ["slow"])


def test_while_the_run_process_is_held_up_no_step_runs_out_of_time(tmp_path: Path) -> None:
    """The node dies half a second after the step began; it is looked at a minute later."""
    with a_run(tmp_path) as run:
        run.submit("s", timeout_s=1.0)
        run.begins("s")
        run.clock.advance(0.5)
        run.answer("s", None, WORKER_DIED)
        run.clock.advance(60.0)
        run.settle()
        assert (run.sent, run.codes) == (["s"], {})


@pytest.mark.parametrize("begun", [False, True])
def test_a_node_that_said_a_steps_time_is_up_was_ended_by_that_step_however_late_the_rest_is_heard(
    tmp_path: Path, begun: bool
) -> None:
    """On a crowded machine it was heard seconds late that the code began, so that it seemed to have had time left."""
    with a_run(tmp_path) as run:
        run.submit("slow", timeout_s=1.0)
        run.clock.advance(4.0)
        if begun:
            run.begins("slow")
        run.time_is_up("slow")
        run.clock.advance(GRACE_S - 2.0)
        run.dies()
        assert run.codes == {"slow": "flow.timeout"}


def test_a_step_that_is_given_up_and_ends_with_its_node_is_not_blamed_for_that(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.submit("s")
        for _ in range(2 * MAX_LOSSES):
            ((start, _),) = run.node.queue
            run.node.listening[shed_topic("alone/r")](start.key)
            run.answer("s", None, WORKER_DIED)
            run.settle(10.0)
        assert (run.sent, run.codes) == (["s"], {})
        for _ in range(MAX_LOSSES):
            run.dies()
            run.settle(10.0)
        assert run.codes == {"s": "flow.poison_step"}, "what nobody gave up counts as ever"


@pytest.mark.parametrize("message", [None, 7, ["s"], {"key": "s"}, "alone/r/other/1/0"])
def test_what_a_node_says_of_no_step_of_its_own_is_not_heard(tmp_path: Path, message: object) -> None:
    with a_run(tmp_path) as run:
        run.submit("s", timeout_s=1.0)
        run.node.listening[begun_topic("alone/r")](message)
        run.node.listening[over_topic("alone/r")](message)
        run.node.listening[shed_topic("alone/r")](message)
        run.clock.advance(60.0)
        run.dies()
        assert (run.sent, run.codes) == (["s"], {})


class Foreign(OneNode):
    """Its gateway changes what the cluster says."""

    def __init__(self, bids=lambda bid: bid, grants=lambda awarded: awarded) -> None:
        super().__init__()
        self.bids, self.grants = bids, grants
        self.awards = 0

    def announce(self, message):
        return self.bids(self._ask(message))

    def award(self, message):
        self.awards += 1
        return self.grants(self._ask(message))


@pytest.mark.parametrize(
    "changes", [{"cluster": "home"}, {"run": "other"}, {"round": 7}], ids=["cluster", "run", "round"]
)
def test_a_bid_of_something_else_than_was_asked_is_none(tmp_path: Path, changes: dict) -> None:
    node = Foreign(bids=lambda bid: replace(bid, **changes))
    with a_run(tmp_path, node) as run:
        run.submit("s")
        assert (run.sent, node.awards) == ([], 0)
        node.bids = lambda bid: bid
        run.settle(5.0)
        assert run.sent == ["s"]
        run.answer("s", DONE)
        run.settle()
        assert run.ended["s"].refusal is None
        (missed, *_) = [entry.text for entry in run.ledger.story("r") if entry.chapter is Chapter.BID]
        assert missed.startswith("no bid from alone: it answered with a bid of "), missed


def test_a_bid_may_come_when_its_round_is_over(tmp_path: Path) -> None:
    late: list = []
    with a_run(tmp_path) as run:
        run.node.immediate = False
        asked, answered = threading.Event(), threading.Event()

        def slowly(message):
            late.append(message.round)
            asked.set()
            assert answered.wait(30)
            return run.node._ask(message)

        run.node.announce = slowly
        run.submit("s")
        run.until(asked.is_set)
        run.settle(60.0)
        assert run.sent == []
        answered.set()
        run.until(lambda: run.clock.advance(0.1) or run.sent)
        assert late == [1], "that bid was taken"


def without_one(awarded: Awarded) -> Awarded:
    return replace(awarded, leases=awarded.leases[1:])


def leased(**changes) -> Callable[[Awarded], Awarded]:
    return lambda awarded: replace(awarded, leases=tuple(replace(lease, **changes) for lease in awarded.leases))


@pytest.mark.parametrize(
    "grants",
    [
        without_one,
        lambda awarded: replace(awarded, leases=()),
        lambda awarded: replace(awarded, cluster="home"),
        leased(cluster="nowhere"),
        leased(domain="home"),
        leased(run="other"),
        leased(step="other"),
        leased(fence=7),
        leased(copy=1),
        leased(capability="ocr"),
    ],
    ids=["one less", "nothing", "cluster", *(f"lease of another {it}" for it in LEASE_OF)],
)
def test_what_is_awarded_without_a_good_lease_is_awarded_again(tmp_path: Path, grants) -> None:
    node = Foreign(grants=grants)
    with a_run(tmp_path, node) as run:
        run.submit("s")
        assert run.sent == []
        assert run.governor.snapshot().waiting.keys() == {"s"}
        node.grants = lambda awarded: awarded
        run.settle(20.0)
        run.settle(20.0)
        assert run.sent == ["s"]
        missed = [entry.text for entry in run.ledger.story("r") if "not answered" in entry.text]
        assert missed[0].startswith("award to alone not answered: it "), missed


def test_a_lease_that_comes_twice_is_used_once(tmp_path: Path) -> None:
    def twice(awarded: Awarded) -> Awarded:
        return replace(awarded, leases=awarded.leases * 2)

    with a_run(tmp_path, Foreign(grants=twice)) as run:
        run.submit("s")
        assert run.sent == ["s"]
        (lease,) = run.governor.leases()
        assert run.node.renew(RenewRequest("r", (lease.id,))).held == (lease.id,), "and is not given back"


def ask_for_a_map(run: Run, fence: int) -> None:
    """The step `s` under `fence` asks for a map of one chunk."""
    run.driver.post(Heard("alone", ASKS | {"map": f"m{fence}", "fence": fence}))
    run.settle()


@pytest.mark.parametrize(
    ("why", "sent", "answer"),
    [
        (WORKER_DIED, ["s"], "flow.poison_chunk"),
        (SCHEDULER_LOST, ["s", f"s#{MAX_LOSSES + 1}.1/0"], None),
    ],
)
def test_a_chunk_is_blamed_for_the_nodes_that_it_may_have_taken_down(
    tmp_path: Path, why: str, sent: list[str], answer: str | None
) -> None:
    """Each time its step is lost with it, and asks again."""
    with a_run(tmp_path) as run:
        run.submit("s")
        for fence in range(1, MAX_LOSSES + 1):
            ask_for_a_map(run, fence)
            assert run.sent == ["s", f"s#{fence}.1/0"]
            for step in run.sent:
                run.answer(step, None, why)
            run.settle()
        ask_for_a_map(run, MAX_LOSSES + 1)
        assert run.sent == sent
        assert [code for _, _, answers in run.node.told for _, code in answers] == [answer] * (answer is not None)


def test_a_chunk_that_was_placed_elsewhere_is_not_blamed_for_where_it_was(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.submit("s")
        ask_for_a_map(run, 1)
        for fence in range(1, MAX_LOSSES + 1):
            older = run.node.queue.pop()
            assert older[0].lease.fence == fence
            run.driver.post(flow.StepLost("s#1.1/0", fence, "", "its slot is gone", Cause.LEASE_LOST))
            run.settle()
            older[1](older[0], None, WORKER_DIED)
            run.settle()
        for step in run.sent:
            run.answer(step, None, SCHEDULER_LOST)
        run.settle()
        ask_for_a_map(run, 2)
        assert run.sent == ["s", "s#2.1/0"]


@pytest.mark.parametrize("effect", list(Effect))
def test_a_node_hears_of_a_start_whether_it_may_give_it_up(tmp_path: Path, effect: Effect) -> None:
    with a_run(tmp_path) as run:
        run.submit("s", effect=effect)
        ((start, _),) = run.node.queue
        assert dask_starts._request(start).preemptible is (effect is not Effect.AT_MOST_ONCE)


@pytest.mark.parametrize("effect", [Effect.PURE, Effect.AT_MOST_ONCE])
def test_a_step_that_is_under_way_keeps_its_limit_and_a_process_of_its_own(tmp_path: Path, effect: Effect) -> None:
    once = effect is Effect.AT_MOST_ONCE
    with a_run(tmp_path) as run:
        run.governor.resume({"found": 1})
        request = LeaseRequest("r", "found", 1, "dagster.step", DataClass.INTERNAL)
        (lease,) = run.node.award(Award("alone", "r", 0, "alone", (request,))).leases
        run.driver.found = {"found": lease}
        run.submit("found", timeout_s=7.0, effect=effect)
        ((start, _),) = run.node.queue
        assert (start.lease, start.timeout_s, start.own_process) == (lease, 7.0, once)
        run.submit("other")
        assert run.sent == (["found"] if once else ["found", "other"]), "it has the node to itself while it is there"
        run.answer("found", DONE)
        run.settle()
        assert run.sent == ["other"]


def test_a_step_that_is_under_way_may_run_out_of_time(tmp_path: Path) -> None:
    with a_run(tmp_path) as run:
        run.governor.resume({"found": 1})
        request = LeaseRequest("r", "found", 1, "dagster.step", DataClass.INTERNAL)
        (lease,) = run.node.award(Award("alone", "r", 0, "alone", (request,))).leases
        run.driver.found = {"found": lease}
        run.submit("found", timeout_s=1.0)
        run.clock.advance(1.0 + GRACE_S)
        run.dies()
        assert run.codes == {"found": "flow.timeout"}


def test_what_waits_for_the_ledger_is_not_told_with_steps_that_are_not_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away: what is told then is not in it, and where it is a chunk's, it is nothing for Dagster."""
    with a_run(tmp_path) as run:
        run.submit("s")
        run.driver.post(Heard("alone", ASKS | {"chunks": [1]}))
        run.settle()
        assert run.sent == ["s", "s#1.1/0"]
        with monkeypatch.context() as away:

            def write(*_: object) -> None:
                raise LedgerAwayError("here", "the disk is full")

            away.setattr(run.ledger, "write", write)
            for step in run.sent:
                run.driver.post(flow.StepLost(step, 1, "n", "it holds too much", Cause.MEMORY))
            run.settle()
            unfit = Refusal("flow.unfit_step", "its tags are unfit", flow.BY)
            run.driver.refuse("unfit", unfit)
            assert run.driver.fused() == [Outcome("unfit", refusal=unfit)]
            assert run.driver.fused() == []
        assert run.ended == {}
        run.settle()
        assert run.codes == {"s": "flow.memory"}
        assert "s" not in run.driver._work


def test_after_its_end_a_run_renews_nothing_and_says_nothing_of_it(tmp_path: Path) -> None:
    """Who waits for the event log calls it again and again, to the end and after it."""
    with a_run(tmp_path) as run:
        run.submit("s")
        run.answer("s", DONE)
        run.settle()
        run.submit("t")
        run.driver.close(True)
        run.clock.advance(2 * RENEW_EVERY_S)
        run.driver.renew()


class UnableError(BaseException):
    """As what is no `Exception`, so that user code lets it pass."""


def test_why_a_refused_call_could_not_be_told_to_its_step_is_told(tmp_path: Path, monkeypatch) -> None:
    def breaks(_work, _refusal):
        raise UnableError("no module named 'books'")

    monkeypatch.setattr(results, "run_shell", breaks)
    with a_run(tmp_path) as run:
        run.submit("call", lambda: Payload({}), capability="ocr")
        for _ in range(MAX_NODES_LOST):
            run.answer("call", StartAnswer("", "n", 0.0, 0.0, refusal=NO))
            run.settle()
        run.until(lambda: "call" in run.ended)
        refusal = run.ended["call"].refusal
        assert refusal is not None
        assert (refusal.code, refusal.by) == (NO.code, NO.by)
        assert refusal.text == (
            "not here; what its step makes of that is not known, since it ended with UnableError: no module named 'books'"
        )


class TwoNodes(OneNode):
    """Another node beside it, `m`, and what is to be stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._governor.handle(NodeJoined("m", 8, EVERYTHING), 0.0)
        self.cancelled: list[str] = []
        self.released: list[str] = []

    def cancel(self, keys):
        self.cancelled += keys

    def release(self, message) -> Any:
        self.released += message.leases
        return self._ask(message)


@pytest.mark.parametrize("winner", [0, 1])
def test_of_a_late_step_and_its_copy_one_is_committed_and_the_other_is_stopped(tmp_path: Path, winner: int) -> None:
    with a_run(tmp_path, TwoNodes()) as run:
        node = run.node
        assert isinstance(node, TwoNodes)
        for number in range(3):
            run.submit(f"read[{number}]", copies=1)
            run.answer(f"read[{number}]", replace(DONE, attempt=f"a{number}"))
            run.settle()
        run.submit("read[x]", copies=1)
        run.until(lambda: run.clock.advance(0.2) or len(run.sent) == 2)
        starts = {start.lease.copy: (start, on_done) for start, on_done in node.queue}
        (first, _), (copy, _) = starts[0], starts[1]
        assert first.lease.node != copy.lease.node
        assert (first.lease.fence, first.key) == (copy.lease.fence, first.key)
        ended, on_done = starts[winner]
        other = starts[1 - winner][0]
        on_done(ended, replace(DONE, attempt="wins", node=ended.lease.node), None)
        run.until(lambda: "read[x]" in run.ended and node.cancelled and other.lease.id in node.released)
        starts[1 - winner][1](other, replace(DONE, attempt="late", node=other.lease.node), None)
        run.settle()
        (row,) = [row for row in run.ledger.steps("r") if row.step == "read[x]"]
        assert (row.attempt, row.node, row.fence, row.state) == ("wins", ended.lease.node, 1, "DONE")
        assert node.cancelled == [other.key]
        assert run.ended["read[x]"].lease == ended.lease
        told = [entry.text for entry in run.ledger.story("r", "read[x]") if entry.chapter is Chapter.COPY]
        assert told[0].startswith("late: it has run")


def test_a_copy_that_cannot_be_sent_leaves_its_step_as_it_is(tmp_path: Path) -> None:
    """Its input is gone by now."""
    with a_run(tmp_path, TwoNodes()) as run:
        sent: list[str] = []

        def work() -> bytes:
            if sent:
                raise FinalError("the stored value x of this run is gone")
            sent.append("once")
            return b""

        for number in range(3):
            run.submit(f"read[{number}]", copies=1)
            run.answer(f"read[{number}]", replace(DONE, attempt=f"a{number}"))
            run.settle()
        ask = Ask("r", "read[x]", "dagster.step", copies=1)
        run.driver.submit(Work(ask, work, None, 0, False))
        why = "the stored value x of this run is gone"
        run.until(lambda: run.clock.advance(0.2) or any(entry.text.endswith(why) for entry in run.ledger.story("r")))
        run.answer("read[x]", replace(DONE, attempt="it"))
        run.settle()
        assert run.ended["read[x]"].refusal is None


def test_a_run_begins_with_what_its_domain_knows_and_tells_it_what_it_has_seen(tmp_path: Path) -> None:
    clock, node, ledger = ManualClock(), OneNode(), Ledger(tmp_path / "ledger.sqlite")
    epoch = ledger.take_over("r", "j", 1.0)
    governor = FlowGovernor("r", "alone")
    driver = FlowDriver("r", epoch, node, governor, ledger, ObjectStore(tmp_path), clock)  # pyright: ignore[reportArgumentType]

    def place(step: str) -> None:
        driver.submit(Work(Ask("r", step, "dagster.step"), b"", None, 0, False))
        for _ in range(3):
            clock.advance(1.0)
            driver.pump(0.0)

    place("one")
    (told,) = (entry for entry in ledger.story("r", "one") if entry.chapter is Chapter.BID)
    assert [(offer["cluster"], offer["trust"]) for offer in told.facts["offers"]] == [("alone", 0.2)]
    assert node.seen == []
    clock.advance(EXPERIENCE_S)
    driver.pump(0.0)
    place("two")
    driver.close(False)
    ledger.close()
    assert node.seen == [(Experience("alone", kept=1.0),), (Experience("alone", kept=1.0),)]


STOPPED = "stopped: a tenant takes back what is its own"


@pytest.mark.parametrize("room", [True, False])
def test_a_checkpoint_for_which_there_is_no_room_costs_no_more_than_itself(tmp_path: Path, room: bool) -> None:
    if not room:
        (tmp_path / "runs").write_text("nothing can be written below a file")
    with a_run(tmp_path) as run:
        run.submit("s", checkpointable=True)
        left = StartAnswer("a1", "n", 1.0, 2.0, error=STOPPED, cause=Cause.LEASE_LOST, checkpoint=b"12")
        run.answer("s", left)
        run.settle()
        assert run.sent == ["s"], "placed anew"
        assert run.driver.outputs.checkpoint("s") == (b"12" if room else None)
        (text,) = [entry.text for entry in run.ledger.story("r", "s") if "checkpoint" in entry.text]
        if room:
            assert text == "it left a checkpoint of 2 bytes, from which it goes on"
        else:
            assert text.startswith("it left a checkpoint of 2 bytes, which cannot be stored (")
            assert text.endswith("): it goes on without it")
            (tmp_path / "runs").unlink()
        run.answer("s", replace(left, checkpoint=b"3"))
        run.settle()
        assert run.driver.outputs.checkpoint("s") == b"3"
