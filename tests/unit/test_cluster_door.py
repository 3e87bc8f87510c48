"""The door of a cluster governor, in the scheduler's process: who may pass, and how much at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.testing import bind_unused_port

from ioi_dagster.adapters.dask.scheduler_preload import MAX_BODY, door_server
from ioi_dagster.governors.cluster import ClusterGovernor
from ioi_dagster.model.negotiation import ReleaseRequest


class Plugin:
    def __init__(self) -> None:
        self.governor = ClusterGovernor("lab", "lab-c", 1, 1.0)
        self.asked: list[Any] = []

    def status(self) -> Any:
        return self.governor.snapshot()

    def request(self, message: Any) -> Any:
        self.asked.append(message)


def ask(plugin: Plugin, method: str, path: str, body: bytes | None = None, token: str = "own", **more: Any):
    async def send() -> Any:
        server = door_server(plugin, "own")
        socket, port = bind_unused_port()
        server.add_socket(socket)
        try:
            headers = {"Authorization": f"Bearer {token}"}
            return await AsyncHTTPClient(force_instance=True).fetch(
                f"http://127.0.0.1:{port}/v1/{path}",
                method=method,
                headers=headers,
                body=body,
                raise_error=False,
                **more,
            )
        finally:
            server.stop()

    return asyncio.run(send())


def code_of(answer: Any) -> tuple[int, str]:
    return answer.code, json.loads(answer.body)["error"]["code"]


RELEASE = ReleaseRequest("r", ("l1",))


def test_a_message_reaches_the_governor():
    plugin = Plugin()
    assert ask(plugin, "POST", "release", msgspec.json.encode(RELEASE)).code == 200
    assert plugin.asked == [RELEASE]
    assert json.loads(ask(plugin, "GET", "status").body)["epoch"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "token", "expected"),
    [
        ("POST", "release", b"{}", "other", (401, "cluster.unauthorised")),
        ("POST", "release", b"{", "own", (400, "cluster.malformed")),
        ("POST", "nowhere", b"{}", "own", (404, "cluster.unknown_door")),
        ("GET", "release", None, "own", (404, "cluster.unknown_door")),
        ("POST", "release", b"x" * (MAX_BODY + 1), "own", (413, "cluster.too_large")),
    ],
)
def test_what_is_refused_is_told_with_a_code(method, path, body, token, expected):
    plugin = Plugin()
    assert code_of(ask(plugin, method, path, body, token)) == expected
    assert plugin.asked == []


def test_a_message_that_does_not_say_its_length_is_bounded_too():
    async def chunks(write: Any) -> None:
        for _ in range(MAX_BODY // 2**20 + 1):
            await write(b"x" * 2**20)

    plugin = Plugin()
    assert code_of(ask(plugin, "POST", "release", body_producer=chunks)) == (413, "cluster.too_large")
    assert plugin.asked == []
