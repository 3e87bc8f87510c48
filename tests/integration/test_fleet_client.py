"""Every start that was sent to Dask is answered once, however slow or odd the other side is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import msgspec
import pytest
from distributed import LocalCluster

from ioi_dagster.adapters.dask import client as module
from ioi_dagster.adapters.dask.client import TAKEN_BACK, DaskFleetClient
from ioi_dagster.adapters.dask.local_cluster import start_local_cluster
from ioi_dagster.host.dask_starts import adopt, submit
from ioi_dagster.host.fleets import Start
from ioi_dagster.model.negotiation import Lease
from tests.conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:  # pyright: ignore
        yield cluster.scheduler_address


@pytest.fixture
def client(address: str) -> Iterator[DaskFleetClient]:
    client = DaskFleetClient(address)
    yield client
    client.close()


def test_what_a_node_gave_back_is_told_though_its_cancellation_takes_long(
    client: DaskFleetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine under load: the node has answered, and the scheduler takes its time with the rest."""
    answers: list[tuple[str, bytes | None, str | None]] = []
    for key in ("one", "two"):
        client.submit(key, b"", "absent", 0, lambda *answer: answers.append(answer))
    eventually(lambda: len(client._outstanding) == 2, what="two starts that are out")

    async def gives_back(*_: object) -> list[str]:
        return ["one", "two"]

    async def for_ever(*_: object, **__: object) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(module, "CONNECT_S", 0.1)
    monkeypatch.setattr(client, "_ask_node", gives_back)
    monkeypatch.setattr(client._client, "cancel", for_ever)
    client.take_back("absent", ["one", "two"])
    assert sorted(answers) == [("one", None, TAKEN_BACK), ("two", None, TAKEN_BACK)]


def test_one_callers_defect_keeps_no_other_from_its_answer(client: DaskFleetClient) -> None:
    told = threading.Event()

    def breaks(*_: object) -> None:
        raise RuntimeError("a defect")

    client.submit("breaks", b"", "absent", 0, breaks)
    client.submit("works", b"", "absent", 0, lambda *_: told.set())
    assert told.wait(30), "both were sent to a node that never comes"


START = Start("key", Lease("lease", "run", "step", 1, 0, "own", "alone", "alone", "absent", 1), None, "own", b"", None)


class Garbage:
    """A client whose every answer is of no use."""

    def submit(self, key: str, request: bytes, node: str, priority: int, on_done, once: bool) -> None:
        on_done(key, msgspec.msgpack.encode("garbage"), None)

    def adopt(self, key: str, node: str, on_done) -> None:
        on_done(key, msgspec.msgpack.encode("garbage"), None)


@pytest.mark.parametrize(
    "send", [lambda dask, on_done: submit(dask, [START], on_done), lambda dask, on_done: adopt(dask, START, on_done)]
)
def test_an_answer_that_cannot_be_read_is_a_loss_and_not_a_silence(send) -> None:
    answers: list[tuple] = []
    send(Garbage(), lambda *answer: answers.append(answer))
    ((its, answer, why),) = answers
    assert (its, answer) == (START, None)
    assert "its answer cannot be read" in str(why)


def test_a_scheduler_that_dies_is_told_by_us_and_not_by_a_stack_of_dasks(tmp_path, caplog) -> None:
    cluster = start_local_cluster(0, str(tmp_path))
    client = DaskFleetClient(cluster.address)
    try:
        cluster.scheduler.kill()
        eventually(lambda: not client.alive(), what="the loss of the scheduler")
        assert not client.reconnect()
    finally:
        client.close()
        cluster.close()
    assert [record for record in caplog.records if record.name == "distributed.client"] == []


@pytest.mark.parametrize("frozen", [False, True], ids=["its process is gone", "its process stands still"])
def test_of_steps_in_one_task_those_are_adopted_that_began_and_the_rest_never_begins(
    address: str, client: DaskFleetClient, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """The workers are threads of this process, so what they call can be replaced."""
    began: list[bytes] = []
    go_on = threading.Event()

    def waits(request: bytes) -> bytes:
        began.append(request)
        assert go_on.wait(60)
        return b"answer to " + request

    older = DaskFleetClient(address)
    older.become_nodes("tests.integration.test_fleet_client:waits")
    monkeypatch.setattr("ioi_dagster.adapters.dask.node.start_here", waits)
    monkeypatch.setattr("ioi_dagster.adapters.dask.batch.BATCH_S", 3600.0)
    nodes = older.nodes()
    assert nodes is not None
    (node,) = nodes
    eventually(lambda: client.known_nodes() == nodes, what="the node, in the other client that asks nothing")
    keys = [f"{frozen}.one", f"{frozen}.two"]
    older.submit_batch({key: key.encode() for key in keys}, node, 0, lambda *_: None)
    eventually(lambda: began, what="the first of the two")
    if not frozen:
        older.close()
    answers: list[tuple[str, bytes | None, str | None]] = []
    assert client.claim(keys) == keys[:1]
    client.adopt(keys[0], node, lambda *answer: answers.append(answer))
    go_on.set()
    eventually(lambda: answers, what="the answer")
    assert answers == [(keys[0], b"answer to " + keys[0].encode(), None)]
    eventually(lambda: client.claim(keys) == [], what="the end of both")
    assert began == [keys[0].encode()]
    older.close()
