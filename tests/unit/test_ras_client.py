"""The client of the registry's doors and the OpenAPI document are held to the table of the doors, and to a gateway."""

from __future__ import annotations

import asyncio
import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from ioi_dagster.adapters.http.doors import Door
from ioi_dagster.adapters.http.openapi import document, operation_id
from ioi_dagster.adapters.http.protocol import DOORS
from ioi_dagster.adapters.http.ras_client import RasBusyError, RasClient, RasProblemError
from ioi_dagster.adapters.http.ras_doors import RAS_DOORS
from ioi_dagster.decoding import from_json
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.token import TokenScope
from ioi_dagster.ras.asking import Demand, Finding, Registration
from ioi_dagster.ras.pointers import set_alias
from tests.unit.test_ras_doors import LAB, READER, WORDS, Gateway, reader

METHODS = {operation_id(door).removeprefix("ras_"): door for door in RAS_DOORS}
TYPES = {"string": str, "number": float | None}


class InProcess(httpx.BaseTransport):
    def __init__(self, gateway: Gateway) -> None:
        self._inner = httpx.ASGITransport(gateway.app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def asked() -> httpx.Response:
            sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            answer = await self._inner.handle_async_request(sent)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(asked())


def test_the_client_has_a_method_for_each_door_and_no_other() -> None:
    public = {name for name, its in inspect.getmembers(RasClient, inspect.isfunction) if not name.startswith("_")}
    assert public - {"close"} == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_and_gives_what_its_door_does(name: str) -> None:
    door, method = METHODS[name], getattr(RasClient, name)
    hints = typing.get_type_hints(method)
    answers = hints.pop("return")
    assert answers == (Iterator[door.answers] if door.media == "application/x-ndjson" else door.answers)
    if door.asks is not None:
        assert hints == {"asks": door.asks}
        return
    assert hints == {one.name: TYPES[one.kind] for one in door.query}
    needed = {
        parameter.name
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty and parameter.name != "self"
    }
    assert needed == {one.name for one in door.query if one.required}


def test_the_client_asks_a_gateway_by_token_and_by_key(tmp_path: Path) -> None:
    lab = Gateway(tmp_path)
    token, _ = lab.token(TokenScope.READ, TokenScope.METRICS)
    its = {"transport": InProcess(lab), "wall": lab.clock.wall}
    with (
        RasClient("http://lab", "lab", token=token, **its) as tool,
        RasClient("http://lab", "lab", key=LAB, **its) as owner,
    ):
        record, alias = reader("1").signed, set_alias(LAB, READER, 1, 1.0, "production", "1").signed
        assert owner.register(Registration((record,), (alias,))).written
        with pytest.raises(RasProblemError) as refused:
            tool.register(Registration((record,)))
        assert (refused.value.status, refused.value.code) == (403, "token.scope")
        assert [one.urn for one in tool.find(Finding(WORDS)).options] == [READER]
        assert tool.select(Demand(WORDS)).record == record
        assert tool.discover(Demand(capability="nothing")).rejected_by_code == {"ras.no_capability": 1}
        assert tool.resolve(READER, alias="production").record == record
        assert tool.pointers(READER).aliases == {"production": "1"}
        assert tool.history(READER).events == (alias,)
        assert tool.health().records == {"service": {"active": 1}}
        assert "ioi_registry_records" in tool.metrics()
        rate = METHODS["health"].rate
        assert rate is not None
        for _ in range(rate.burst - 1):
            tool.health()
        with pytest.raises(RasBusyError) as busy:
            tool.health()
        assert (busy.value.code, busy.value.after_s) == ("gateway.too_often", 1.0)


def test_the_published_document_is_that_of_the_doors() -> None:
    published = json.loads((PROJECT / "docs" / "reference" / "openapi.json").read_text())
    assert published == from_json(msgspec.json.encode(document())), (
        "write it anew: ioi protocol show --openapi > docs/reference/openapi.json"
    )


def _told(door: Door) -> dict[str, object]:
    return document()["paths"][f"/{door.path}"][door.method.lower()]


def test_the_document_names_each_door_once_and_what_is_shown_there() -> None:
    told = document()
    assert {(path, method) for path, its in told["paths"].items() for method in its} == {
        (f"/{door.path}", door.method.lower()) for door in DOORS
    }
    assert len({_told(door)["operationId"] for door in DOORS}) == len(DOORS)
    schemas = told["components"]["schemas"]
    named = set(_refs(told))
    assert named <= {f"#/components/schemas/{name}" for name in schemas} | {"#/components/responses/Problem"}
    for door in DOORS:
        shown = [set(one) for one in _told(door)["security"]]  # pyright: ignore[reportGeneralTypeIssues]
        assert ({"token"} in shown) == (door.scope is not None)
        assert set().union(*shown) <= told["components"]["securitySchemes"].keys()


def _refs(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, its in value.items():
            yield from [its] if name == "$ref" else _refs(its)
    elif isinstance(value, list | tuple):
        for its in value:
            yield from _refs(its)


def test_a_gateway_gives_the_document_to_anybody(tmp_path: Path) -> None:
    answer = Gateway(tmp_path).send("openapi.json")
    assert answer.json() == from_json(msgspec.json.encode(document()))
