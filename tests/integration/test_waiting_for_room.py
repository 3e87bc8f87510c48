"""An announcement waits for room through a real gateway and the real door of a cluster governor, over HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ioi_dagster.adapters.http import gateway
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.serving import MAX_CONNECTIONS, serving_protocol
from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.link.door import Waiting, open_door
from ioi_dagster.clock import SystemClock
from ioi_dagster.errors import RetryableError
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, Reply, Tick
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, LeaseRequest, ReleaseRequest
from ioi_dagster.policy.permits import decode
from ioi_dagster.signing import Signed
from tests.unit.test_gateway import CONFIG, HOME, TRUSTED, run_permit

LIMIT_S = 30.0
PERMIT = decode(run_permit())
assert isinstance(PERMIT, Signed)


class Lab:
    """A domain of one node with one slot, on a loop in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.governor.handle(NodeJoined("one", 1, frozenset({"echo"})), 0.0)
        self.waiting = Waiting()
        self.loop = asyncio.new_event_loop()
        self._folder, self._socket = folder, socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server: uvicorn.Server
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        until(lambda: getattr(getattr(self, "_server", None), "started", False))

    async def _serve(self) -> None:
        address = f"unix:{self._folder}/governor.sock"
        door = await open_door(self, "own", address)
        context = GatewayContext(
            config=CONFIG,
            token="own",
            trusted=TRUSTED,
            store=None,  # pyright: ignore[reportArgumentType]
            decide=lambda *_: Decision("d", Verdict.ALLOW),
            runners={},
            clock=SystemClock(),
            clusters={"lab-c": ClusterLine("lab-c", address, "own")},
        )
        settings = uvicorn.Config(
            create_app(context), log_level="warning", http=serving_protocol(None), limit_concurrency=MAX_CONNECTIONS
        )
        self._server = uvicorn.Server(settings)
        await self._server.serve([self._socket])
        door.close()

    def request(self, message: Any) -> Any:
        """As the plugin of a scheduler does it."""
        answer = None
        for one in self.governor.handle(message, time.monotonic()):
            if isinstance(one, Reply) and one.waited is not None:
                self.waiting.answer(one.waited, one.answer)
            elif isinstance(one, Reply):
                answer = one.answer
        return answer

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(LIMIT_S)
        self.loop.close()

    @property
    def parked(self) -> int:
        return self.governor.snapshot().parked


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def run(lab: Lab):
    """The client of a run that holds the one slot."""
    client = GatewayClient(lab.url, "lab", HOME, PERMIT)
    request = LeaseRequest("r", "s", 1, "echo", DataClass.PUBLIC)
    client.award(Award("lab-c", "r", 1, "library", (request,)))
    yield client
    client.close()


def announcement(round_: int = 2, wait_s: float = LIMIT_S) -> Announce:
    return Announce("r", round_, "library", (AskGroup("echo", DataClass.PUBLIC, 1),), 5.0, wait_s)


def test_the_answer_comes_when_the_slot_is_given_back(lab: Lab, run: GatewayClient):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run.announce, "lab-c", announcement())
        until(lambda: lab.parked == 1)
        run.release("lab-c", ReleaseRequest("r", tuple(one["id"] for one in lab.governor.snapshot().leases)))
        bid = answer.result(LIMIT_S)
    assert (bid.round, [(point.capability, point.slots) for point in bid.points]) == (2, [("echo", 1)])


def test_a_wait_that_is_over_is_answered_with_the_reason(lab: Lab, run: GatewayClient):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run.announce, "lab-c", announcement(wait_s=0.05))
        until(lambda: lab.parked == 1)
        until(lambda: (lab.loop.call_soon_threadsafe(lab.request, Tick()), answer.done())[1])
        bid = answer.result(LIMIT_S)
    assert (bid.points, [refusal.text for refusal in bid.refusals]) == ((), ["its only node is busy"])


def test_the_cluster_learns_that_nobody_waits_any_longer(lab: Lab, run: GatewayClient):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run.announce, "lab-c", announcement())
        until(lambda: lab.parked == 1)
        run.withdraw("lab-c", "r", 2)
        with pytest.raises(RetryableError, match="nobody waits for lab"):
            answer.result(LIMIT_S)
    until(lambda: lab.parked == 0)


def test_a_client_that_is_closed_waits_no_longer(lab: Lab):
    client = GatewayClient(lab.url, "lab", HOME, PERMIT)
    client.award(Award("lab-c", "r", 1, "library", (LeaseRequest("r", "s", 1, "echo", DataClass.PUBLIC),)))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.announce, "lab-c", announcement())
        until(lambda: lab.parked == 1)
        client.close()
        with pytest.raises(RetryableError):
            answer.result(LIMIT_S)
    until(lambda: lab.parked == 0)


def test_where_too_many_wait_one_more_is_answered_at_once(lab: Lab, run: GatewayClient, monkeypatch):
    monkeypatch.setattr(gateway, "MAX_WAITING", 0)
    bid = run.announce("lab-c", announcement())
    assert (bid.points, [refusal.code for refusal in bid.refusals]) == ((), ["cluster.full"])
