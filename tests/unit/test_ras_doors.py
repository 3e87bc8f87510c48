"""The registry's doors at a gateway: what is told to whom, what is taken from whom, and how often anybody may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ioi_dagster.adapters.files.tokens import TokenFile
from ioi_dagster.adapters.http.buckets import Buckets
from ioi_dagster.adapters.http.doors import Rate
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.protocol import BY_PATH, PROOF_HEADER
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_desk import SqlRegistryDesk
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import converted
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.token import TokenScope
from ioi_dagster.policy.proof import prove
from ioi_dagster.policy.tokens import make_token
from ioi_dagster.ras.asking import FoundTold, Registered, Resolved
from ioi_dagster.ras.lock import read_lock
from ioi_dagster.ras.pointers import PointerEvent, Status, set_alias, set_status
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, digest_bytes
from tests.unit.test_gateway import CONFIG

LAB, LIBRARY, CLOUD = (SigningKey.generate(name) for name in ("lab", "library", "cloud"))
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, LIBRARY, CLOUD)})
READER = "urn:ioi:lab:service:reader"
WORDS = "read letters aloud"


def reader(version: str, audience: str = "public", name: str = "reader", key: SigningKey = LAB) -> Record:
    text = "Reads letters aloud to who cannot see them."
    contract = {"id": "text.read", "name": name.title(), "description": text, "tags": ["speech"]}
    return make_record(key, Kind.SERVICE, name, version, {"contracts": [contract]}, audience=audience)


class Gateway:
    """The lab's, in this process, over a registry of its own."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.clock = ManualClock()
        self.home = DomainHome(folder / "lab")
        (self.home.root / "keys").mkdir(parents=True)
        self.tokens = TokenFile(self.home)
        self.store = SqlRecordStore(folder / "registry.sqlite", TRUSTED, wall=self.clock.wall)
        its: dict[str, Any] = {
            "config": CONFIG,
            "token": "own",
            "trusted": TRUSTED,
            "store": self.store,
            "decide": lambda *_: Decision("d", Verdict.ALLOW),
            "runners": {},
            "clusters": {},
            "clock": self.clock,
            "registry": SqlRegistryDesk(self.store, "lab", self.clock.monotonic),
            "tokens": self.tokens.known,
        }
        self.context = GatewayContext(**(its | more))
        self.app = create_app(self.context)

    def token(self, *scopes: TokenScope, ttl_s: float = 60.0, **more: Any) -> tuple[str, str]:
        """(what its holder shows, id)"""
        secret = digest_bytes(str(len(self.tokens.known())).encode())[-38:].encode()
        text, token = make_token("ann", scopes or (TokenScope.READ,), ttl_s, self.clock.wall(), secret, **more)
        self.tokens.add(token, self.clock.wall())
        return text, token.id

    async def sent(self, door: str, asked: Any = None, query: str = "", **headers: str) -> httpx.Response:
        body = b"" if asked is None else asked if isinstance(asked, bytes) else msgspec.json.encode(asked)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://lab") as client:
            return await client.request(BY_PATH[door].method, f"/v1/{door}{query}", content=body, headers=headers)

    def send(self, door: str, asked: Any = None, query: str = "", **headers: str) -> httpx.Response:
        return asyncio.run(self.sent(door, asked, query, **headers))

    def proof(self, key: SigningKey, door: str, asked: Any = None) -> dict[str, str]:
        body = b"" if asked is None else msgspec.json.encode(asked)
        its = {"method": BY_PATH[door].method, "path": f"/v1/{door}", "body": digest_bytes(body)}
        return {PROOF_HEADER: prove(key, audience="lab", now=self.clock.wall(), **its)}

    def as_(self, key: SigningKey, door: str, asked: Any = None, query: str = "") -> httpx.Response:
        return self.send(door, asked, query, **self.proof(key, door, asked))

    def bearing(self, token: str, door: str, asked: Any = None, query: str = "") -> httpx.Response:
        return self.send(door, asked, query, authorization=f"Bearer {token}")


@pytest.fixture
def lab(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def read(answer: httpx.Response, kind: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return converted(answer.json(), kind)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def found(answer: httpx.Response) -> list[str]:
    return [one.urn for one in read(answer, FoundTold).options]


EVERYBODY: dict[str, Callable[[Gateway, str, Any, str], httpx.Response]] = {
    "the lab": lambda lab, door, asked, query: lab.as_(LAB, door, asked, query),
    "a process of the lab's": lambda lab, door, asked, query: lab.send(door, asked, query, authorization="Bearer own"),
    "the library": lambda lab, door, asked, query: lab.as_(LIBRARY, door, asked, query),
    "the cloud": lambda lab, door, asked, query: lab.as_(CLOUD, door, asked, query),
    "a token": lambda lab, door, asked, query: lab.bearing(lab.token()[0], door, asked, query),
    "a token of the library's view": lambda lab, door, asked, query: lab.bearing(
        lab.token(audience="partner:library")[0], door, asked, query
    ),
    "a token of the lab's view": lambda lab, door, asked, query: lab.bearing(
        lab.token(audience="local")[0], door, asked, query
    ),
}
EVERY, PARTNERS, PUBLIC = {"local", "partner", "public"}, {"partner", "public"}, {"public"}
SEES = {
    "the lab": EVERY,
    "a process of the lab's": EVERY,
    "the library": PARTNERS,
    "the cloud": PUBLIC,
    "a token": PUBLIC,
    "a token of the library's view": PARTNERS,
    "a token of the lab's view": EVERY,
}


@pytest.mark.parametrize("asker", EVERYBODY)
def test_who_may_not_see_a_record_is_not_told_by_any_door_that_it_is_there(lab: Gateway, asker: str) -> None:
    names = {"public": "public", "partner": "partner:library", "local": "local"}
    for name, audience in names.items():
        lab.store.put(reader("1", audience, name).signed)
    ask = EVERYBODY[asker]
    told = ask(lab, "ras/find", {"words": WORDS, "k": 10}, "")
    assert {urn.rpartition(":")[2] for urn in found(told)} == SEES[asker]
    named = ask(
        lab, "ras/discover", {"capability": "text.read", "kinds": ["tool"], "asker": "lab", "origin": "lab"}, ""
    )
    rejected = read(named, FoundTold).rejected
    assert {one.urn.rpartition(":")[2] for one in rejected} == SEES[asker], "what is refused is told of as little"
    for name in names:
        answers = [
            ask(lab, door, None, f"?urn=urn:ioi:lab:service:{name}{more}")
            for door, more in (("ras/resolve", "&version=1"), ("ras/pointers", ""), ("ras/history", ""))
        ]
        nowhere = ask(lab, "ras/resolve", None, "?urn=urn:ioi:lab:service:nowhere&version=1")
        assert {answer.status_code for answer in answers} == ({200} if name in SEES[asker] else {404})
        if name not in SEES[asker]:
            assert answers[0].text == nowhere.text.replace("nowhere", name)
    health = ask(lab, "ras/health", None, "").json()
    assert health["records"] == {"service": {"active": len(SEES[asker])}}


def test_a_version_for_others_is_neither_given_nor_named_nor_its_aliases(lab: Gateway) -> None:
    lab.store.put_many([reader("1").signed, reader("2", "partner:library").signed])
    said = [
        set_alias(LAB, READER, 1, 1.0, "production", "2"),
        set_alias(LAB, READER, 2, 2.0, "latest", "2"),
        set_alias(LAB, READER, 3, 3.0, "stable", "1"),
        set_status(LAB, READER, 4, 4.0, Status.DEPRECATED, "2", reason="too slow"),
        set_alias(LAB, READER, 5, 5.0, "production", ""),
    ]
    lab.store.point_many([event.signed for event in said])
    query = f"?urn={READER}"
    library, cloud = (
        {door: lab.as_(key, door, None, query).json() for door in ("ras/resolve", "ras/pointers", "ras/history")}
        for key in (LIBRARY, CLOUD)
    )
    assert library["ras/resolve"]["version"] == "2"
    assert (cloud["ras/resolve"]["version"], cloud["ras/resolve"]["aliases"]) == ("1", ["stable"])
    assert library["ras/pointers"]["aliases"] == {"latest": "2", "stable": "1"}
    assert cloud["ras/pointers"]["aliases"] == {"stable": "1"}
    assert [event["body"]["sequence"] for event in library["ras/history"]["events"]] == [1, 2, 3, 4, 5]
    assert [event["body"]["sequence"] for event in cloud["ras/history"]["events"]] == [3]
    assert problem(lab.as_(CLOUD, "ras/resolve", None, f"{query}&alias=latest")) == (404, "ras.not_there")


def test_a_name_is_resolved_by_version_range_and_alias_now_and_as_it_was(lab: Gateway) -> None:
    start = lab.clock.wall()
    lab.store.put_many([reader(version).signed for version in ("1.0", "1.5", "2.0", "3.0rc1")])
    lab.clock.advance(100)
    said = [
        set_alias(LAB, READER, 1, start + 10, "production", "1.0"),
        set_alias(LAB, READER, 2, start + 50, "production", "1.5"),
        set_status(LAB, READER, 3, start + 60, Status.YANKED, "2.0"),
    ]
    lab.store.point_many([event.signed for event in said])

    def version(**asked: Any) -> str:
        query = "&".join(f"{name}={text}" for name, text in {"urn": READER, **asked}.items())
        answer = lab.as_(CLOUD, "ras/resolve", None, f"?{query}")
        return read(answer, Resolved).version if answer.status_code == 200 else problem(answer)[1]

    assert version() == "1.5"
    assert version(alias="production") == "1.5"
    assert version(alias="production", as_of=start + 20) == "1.0"
    assert version(as_of=start + 20) == "2.0"
    assert version(range="%3E%3D1,%3C1.2") == "1.0"
    assert version(range="%3E%3D2") == "3.0rc1", "where there is no final one"
    assert version(range="%3E%3D4") == "ras.not_there"
    assert version(version="2.0") == "2.0", "a yanked one is given to who names it"
    assert version(version="9") == "ras.not_there"
    assert version(range="^1") == "registry.malformed"
    assert version(version="1.0", alias="production") == "registry.malformed"
    assert version(urn="urn:ioi:lab:nothing:x") == "registry.malformed"
    assert version(as_of="nan") == "registry.malformed"


def test_what_is_selected_is_pinned_and_the_lock_can_be_read_again(lab: Gateway) -> None:
    lab.store.put(reader("1").signed)
    selected = lab.as_(CLOUD, "ras/select", {"words": WORDS}).json()
    lock = read_lock(selected["lock"])
    assert (lock.chosen.urn, lock.digest, lock.asked["asker"]) == (READER, selected["digest"], "cloud")
    assert selected["record"]["body"] == reader("1").signed.body
    nothing = lab.as_(CLOUD, "ras/select", {"words": "bake a cake"})
    assert problem(nothing) == (404, "ras.nothing_fits")
    assert "ras.not_relevant 1" in nothing.text


def test_where_nothing_fits_the_nearest_is_told_with_what_it_is_refused_for(lab: Gateway) -> None:
    lab.store.put(reader("1").signed)
    told = read(lab.as_(CLOUD, "ras/find", {"words": "letters of credit for shipping wheat to Norway"}), FoundTold)
    assert (told.options, [one.urn for one in told.closest]) == ((), [READER])
    assert told.rejected_by_code == {"ras.not_relevant": 1}


def events(*said: PointerEvent) -> list[Signed]:
    return [event.signed for event in said]


def test_a_batch_is_registered_whole_or_not_at_all_and_each_is_told_what_became_of_it(lab: Gateway) -> None:
    lab.store.put(reader("1").signed)
    good, known = reader("2").signed, reader("1").signed
    other = make_record(LAB, Kind.SERVICE, "reader", "1", {"changed": True}).signed
    forged = Signed({**good.body, "version": "3"}, good.key_id, good.signature)
    theirs = reader("1", name="theirs", key=CLOUD).signed
    alias = set_alias(LAB, READER, 1, lab.clock.wall(), "production", "2")
    batch = {"records": [good, known, other, forged, theirs], "events": events(alias)}

    def states(told: Registered) -> list[str]:
        return [one.state for one in (*told.records, *told.events)]

    told = read(lab.as_(LAB, "ras/register", batch), Registered)
    assert (told.written, states(told)) == (False, ["left", "known", "refused", "refused", "refused", "left"])
    assert lab.store.get(READER, "2") is None
    assert lab.store.history(READER) == []
    assert all(one.why for one in told.records[2:])
    told = read(lab.as_(LAB, "ras/register", {**batch, "whole": False}), Registered)
    assert states(told) == ["registered", "known", "refused", "refused", "refused", "registered"]
    assert lab.store.get(READER, alias="production") == reader("2")
    again = read(lab.as_(LAB, "ras/register", {"records": [good], "events": events(alias)}), Registered)
    assert (again.written, states(again)) == (False, ["known", "known"])


def test_others_hand_in_what_they_own_and_nothing_in_the_labs_name(lab: Gateway) -> None:
    for key, name, written in ((CLOUD, "theirs", True), (LAB, "reader", False)):
        told = read(lab.as_(CLOUD, "ras/register", {"records": [reader("1", name=name, key=key).signed]}), Registered)
        assert told.written is written
    stolen = CLOUD.sign(reader("1").signed.body)
    told = read(lab.as_(CLOUD, "ras/register", {"records": [stolen]}), Registered)
    assert "may not write under the prefix" in told.records[0].why
    reading, registering = lab.token()[0], lab.token(TokenScope.REGISTER)[0]
    batch = {"records": [reader("1").signed]}
    assert problem(lab.bearing(reading, "ras/register", batch)) == (403, "token.scope")
    assert read(lab.bearing(registering, "ras/register", batch), Registered).written


def test_a_token_counts_until_it_ends_or_is_revoked_and_only_its_digest_is_kept(lab: Gateway) -> None:
    text, its_id = lab.token(ttl_s=60)
    other, _ = lab.token(ttl_s=600)
    asked = {"words": WORDS}
    kept = (lab.home.root / "keys" / "tokens.json").read_text()
    assert its_id in kept
    assert text.rpartition("_")[2] not in kept
    assert lab.bearing(text, "ras/find", asked).status_code == 200
    lab.tokens.revoke(its_id, lab.clock.wall())
    refused = lab.bearing(text, "ras/find", asked)
    assert problem(refused) == (401, "token.revoked")
    assert refused.headers["www-authenticate"] == 'Bearer realm="ioi", error="invalid_token"'
    assert lab.bearing(other, "ras/find", asked).status_code == 200
    lab.clock.advance(600)
    assert problem(lab.bearing(other, "ras/find", asked)) == (401, "token.expired")
    for wrong in ("", "ioi_", "own2", other[:-1], other + "0", f"ioi_{its_id}_", "ioi_" + "9" * 500):
        assert problem(lab.bearing(wrong, "ras/find", asked)) == (401, "token.unknown")
    assert problem(lab.send("ras/find", asked)) == (401, "gateway.nobody")
    (lab.home.root / "keys" / "tokens.json").write_text("rubbish")
    assert problem(lab.bearing(other, "ras/find", asked)) == (503, "token.unreadable")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "ann\n"}, "no name of who"),
        ({"scopes": ()}, "a token for nothing"),
        ({"ttl_s": 0.0}, "it would hold for 0 s"),
        ({"ttl_s": float("nan")}, "it would hold for nan s"),
        ({"ttl_s": 1e9}, "it would hold for 1e\\+09 s"),
        ({"audience": "partner:"}, "is no audience"),
        ({"secret": b"short"}, "too short a secret"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(change: dict[str, Any], what: str) -> None:
    its = {"name": "ann", "scopes": (TokenScope.READ,), "ttl_s": 1.0, "now": 0.0, "secret": bytes(38)} | change
    with pytest.raises(BadInputError, match=what):
        make_token(**its)


def test_a_token_opens_no_door_of_domains(lab: Gateway) -> None:
    text, _ = lab.token(*TokenScope, audience="local")
    closed = {door: lab.bearing(text, door).status_code for door, its in BY_PATH.items() if its.scope is None}
    read_by_anyone = {"health", "openapi.json", "members", "member", "registry/records"}
    assert {door for door, status in closed.items() if status == 200} == read_by_anyone
    assert set(closed.values()) == {200, 401}


def test_who_asks_too_often_waits_and_others_do_not(lab: Gateway) -> None:
    rate = BY_PATH["ras/health"].rate
    assert rate is not None
    text, _ = lab.token()
    statuses = [lab.bearing(text, "ras/health").status_code for _ in range(rate.burst + 1)]
    assert statuses == [200] * rate.burst + [429]
    refused = lab.bearing(text, "ras/health")
    assert (problem(refused), refused.headers["retry-after"]) == ((429, "gateway.too_often"), "1")
    assert lab.bearing(text, "ras/find", {"words": WORDS}).status_code == 200, "another door"
    assert lab.as_(CLOUD, "ras/health").status_code == 200, "another asker"
    lab.clock.advance(1 / rate.per_s)
    assert [lab.bearing(text, "ras/health").status_code for _ in range(2)] == [200, 429]


def test_buckets_of_who_has_not_asked_for_long_are_forgotten() -> None:
    buckets, rate = Buckets(most=3), Rate(1.0, 1)
    assert [buckets.take(str(name), "door", rate, 0.0) for name in range(4)] == [0.0] * 4
    assert len(buckets) == 3
    assert [buckets.take(str(name), "door", rate, 0.5) for name in (3, 0)] == [0.5, 0.0]


BAD: dict[str, tuple[Any, tuple[int, str]]] = {
    "no JSON": (b"{", (400, "gateway.malformed")),
    "a million words": ({"words": "word " * 10_000}, (400, "gateway.malformed")),
    "more than a message may have": (b" " * (2**20 + 1), (413, "gateway.too_large")),
    "a kind that is none": ({"kinds": ["spaceship"]}, (400, "gateway.malformed")),
    "a NUL": ({"words": "a\0b"}, (400, "registry.malformed")),
    "a filter that is none": ({"filter": {"logicalOperator": "XOR", "conditions": []}}, (400, "registry.malformed")),
    "a search for nothing": ({"filter": {"matchType": "moon"}}, (400, "registry.malformed")),
    "a weight that is none": ({"weights": {"beauty": 1}}, (400, "registry.malformed")),
    "a runtime that is none": ({"needs": {"wings": 2}}, (400, "registry.malformed")),
    "a range that is none": ({"versions": "=>1<"}, (400, "registry.malformed")),
    "lists in lists": (b'{"inputs": {"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}}", (400, "gateway.malformed")),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_asked_is_answered_with_why(lab: Gateway, bad: str) -> None:
    lab.store.put(reader("1").signed)
    asked, expected = BAD[bad]
    text, _ = lab.token()
    assert problem(lab.bearing(text, "ras/discover", asked)) == expected


def test_health_says_what_is_wrong_and_metrics_are_for_who_may_have_them(lab: Gateway) -> None:
    lab.store.put_many([reader("1").signed, reader("2", "local").signed])
    text, _ = lab.token(TokenScope.METRICS)
    assert lab.as_(CLOUD, "ras/find", {"words": WORDS}).status_code == 200
    assert problem(lab.as_(CLOUD, "ras/metrics")) == (401, "token.missing")
    told = lab.bearing(text, "ras/metrics")
    assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = told.text.splitlines()
    assert 'ioi_registry_records{kind="service",status="active"} 2' in lines
    route = 'http_request_method="POST",http_route="/v1/ras/find",http_response_status_code="200"'
    assert f"http_server_request_duration_seconds_count{{{route}}} 1" in lines
    assert f'http_server_request_duration_seconds_bucket{{{route},le="+Inf"}} 1' in lines
    assert 'ioi_gateway_refusals_total{door="/v1/ras/metrics",code="token.missing"} 1' in lines
    for line in lines:
        assert line.startswith("# ") or (len(line.rpartition(" ")) == 3 and float(line.rpartition(" ")[2]) >= 0)
    assert json.loads(lab.as_(CLOUD, "ras/health").text)["ready"] is True
    lab.store.engine.dispose()
    (Path(str(lab.store.engine.url.database))).write_bytes(b"this is no database" * 100)
    ill = lab.as_(CLOUD, "ras/health").json()
    assert (ill["ready"], ill["problem"]) == (False, "the database does not answer: DatabaseError")
    assert problem(lab.as_(CLOUD, "ras/find", {"words": WORDS})) == (503, "registry.database")
