"""A gateway keeps so many bytes of messages, of one domain and of all: what is beyond is refused, and others are answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.http import bodies
from ioi_dagster.adapters.http.bodies import MAX_BYTES, Bodies
from ioi_dagster.adapters.http.doors import MAX_INVOKE
from ioi_dagster.adapters.http.protocol import PERMIT_HEADER, PROOF_HEADER
from ioi_dagster.model.negotiation import ReleaseRequest
from ioi_dagster.policy.proof import prove
from ioi_dagster.signing import SigningKey, digest_bytes
from tests.unit.test_gateway import HOME, LEASE, PEER, Lab, run_permit

BODY = msgspec.json.encode({"cluster": "lab-c", "release": ReleaseRequest("r", (LEASE.id,))})


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, MAX_BYTES // 3), st.booleans()), max_size=60))
def test_of_however_many_domains_as_much_is_left_as_each_has(steps):
    kept = Bodies()
    held = Counter[str]()
    open_ = []
    for whose, size, ends in steps:
        message = kept.of(whose)
        body = message.__enter__()
        before = held.total()
        fits = held[whose] + size <= MAX_BYTES - before - size
        assert body.grows(size) is fits
        assert body.size == (size if fits else 0)
        held[whose] += body.size
        open_.append((whose, message, body))
        if ends:
            its, ended, gone = open_.pop(0)
            held[its] -= gone.size
            ended.__exit__(None, None, None)
        assert kept.total() == held.total() <= MAX_BYTES
        assert all(most <= MAX_BYTES - held.total() for most in held.values() if fits and most == held[whose])
    for _, message, _ in open_:
        message.__exit__(None, None, None)
    assert kept.total() == 0


def test_a_domain_has_three_of_the_largest_messages_at_a_time_and_others_have_one_meanwhile():
    kept = Bodies()
    open_ = [kept.of(whose) for whose in ("a", "a", "a", "a", "b")]
    assert [one.__enter__().grows(MAX_INVOKE) for one in open_] == [True, True, True, False, True]


def signed(key: SigningKey, lab: Lab) -> dict[str, str]:
    proof = prove(key, audience="lab", method="POST", path="/v1/release", body=digest_bytes(BODY), now=lab.clock.wall())
    return {PROOF_HEADER: proof, PERMIT_HEADER: run_permit(key)}


def test_what_a_domain_sends_beyond_its_room_is_refused_for_now_and_counted_and_others_are_answered(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BYTES", 4 * len(BODY) - 3)
    lab, goes_on = Lab(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield BODY[:-1]
        await goes_on.wait()
        yield BODY[-1:]

    async def story() -> list[httpx.Response]:
        transport = httpx.ASGITransport(lab.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://lab") as client:

            async def send(key: SigningKey, content: object = BODY) -> httpx.Response:
                return await client.post("/v1/release", content=content, headers=signed(key, lab))  # pyright: ignore[reportArgumentType]

            under_way = asyncio.create_task(send(HOME, slowly()))
            await asyncio.sleep(0)
            while lab.app.state.kept() < len(BODY) - 1:
                await asyncio.sleep(0)
            answers = [await send(HOME), await send(PEER)]
            goes_on.set()
            return [*answers, await under_way, await send(HOME)]

    async def bounded() -> list[httpx.Response]:
        return await asyncio.wait_for(story(), 30)

    answers = asyncio.run(bounded())
    assert [answer.status_code for answer in answers] == [503, 200, 200, 200]
    assert answers[0].json() == {
        "error": {
            "code": "gateway.too_much",
            "text": "more bytes of one domain's messages at a time than are left for others",
            "remedy": "send fewer at a time, or wait",
        }
    }
    assert lab.refused() == [("/v1/release", "gateway.too_much", 1)]
    assert lab.app.state.kept() == 0


@pytest.mark.parametrize("content", [BODY[:-1], BODY + b" "])
def test_nothing_is_kept_of_a_message_that_is_refused(content):
    lab = Lab()
    assert lab.ask("POST", "/v1/release", content, **signed(HOME, lab)).status_code == 401
    assert lab.app.state.kept() == 0


def test_who_hangs_up_in_the_middle_of_a_message_is_counted_and_told_once(caplog):
    lab = Lab()
    headers = [(name.encode(), value.encode()) for name, value in signed(HOME, lab).items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/release", "query_string": b"", "headers": headers}

    async def hang_up() -> None:
        comes = iter(
            [dict[str, Any](type="http.request", body=BODY[:5], more_body=True), dict[str, Any](type="http.disconnect")]
        )

        async def receive() -> MutableMapping[str, Any]:
            return next(comes)

        async def send(_: object) -> None:
            """Nobody hears it."""

        await lab.app(scope, receive, send)

    for _ in range(3):
        asyncio.run(hang_up())
    assert lab.refused() == [("/v1/release", "gateway.hung_up", 3)]
    assert [record.getMessage() for record in caplog.records] == ["refused at /v1/release: gateway.hung_up"]
    assert lab.app.state.kept() == 0
