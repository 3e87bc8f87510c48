"""The gateway's doors: who is let in, what is believed, what is bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import msgspec
import pytest

from ioi_dagster.adapters.http import client as client_module
from ioi_dagster.adapters.http import membership
from ioi_dagster.adapters.http.client import Asked, GatewayClient
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.protocol import (
    PERMIT_HEADER,
    PROOF_HEADER,
    OrderAnswer,
    OrderRequest,
    RunAnswer,
    RunOrder,
)
from ioi_dagster.adapters.http.refusals import QUIET_S
from ioi_dagster.adapters.http.registries import believed
from ioi_dagster.adapters.http.standing import Saved, StandingDesk
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import converted, from_msgpack
from ioi_dagster.domain import ClusterAddress, DomainConfig
from ioi_dagster.errors import NotAllowedError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors import network
from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.intervention import Action
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.negotiation import (
    MAX_GROUPS,
    Announce,
    AskGroup,
    Award,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
)
from ioi_dagster.model.order import Order, Target, Verb
from ioi_dagster.model.permit import RunPermit, StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experience, Experiences, Standing
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from ioi_dagster.policy.permits import encode, issue
from ioi_dagster.policy.proof import prove
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.ras.selection import Candidate, Discovery, Query, Rejected
from ioi_dagster.signing import SigningKey, TrustedKeys, digest_bytes
from tests.members import author

HOME, PEER, STRANGER = (SigningKey.generate(name) for name in ("library", "cloud", "library"))
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (HOME, PEER)})
SPEC = DomainSpec("lab", "books", (ClusterSpec("lab-c", (NodeSpec("lab-1"),)),))
LEASE = Lease("lab-c/1/1", "r", "s", 1, 0, "echo", "lab-c", "lab", "lab-1", 1, origin="library")
CONFIG = DomainConfig(
    network="n",
    home="library",
    spec=SPEC,
    gateway="http://lab",
    clusters=(ClusterAddress("lab-c", "tcp://lab", "unix:/governor"),),
    peers={},
    policies="",
    scopes=("n",),
    authorities={"library": "books", "lab": "books", "cloud": "clouds"},
    limits={"library": DataClass.RESTRICTED, "lab": DataClass.INTERNAL, "cloud": DataClass.PUBLIC},
)


def run_permit(key: SigningKey = HOME, **changes: Any) -> str:
    permit = RunPermit(
        run="r",
        job="j",
        job_snapshot="",
        plan="",
        config="",
        selection="",
        code="",
        subject="ann",
        highest=DataClass.INTERNAL,
        domains=("lab", "library"),
        decision_ids=(),
        revision="",
        not_before=0.0,
        expires=2e9,
        nonce="n",
        issuer=key.domain,
    )
    return encode(issue(key, replace(permit, **changes)))


def step_permit(sent: bytes, lease: Lease = LEASE, key: SigningKey = HOME, **changes: Any) -> dict[str, Any]:
    permit = StepPermit(
        run=lease.run,
        step=lease.step,
        fence=lease.fence,
        copy=lease.copy,
        lease=lease.id,
        capability=lease.capability,
        data_class=DataClass.INTERNAL,
        audience="lab",
        cluster=lease.cluster,
        node=lease.node,
        payload=digest_bytes(sent),
        not_before=0.0,
        expires=2e9,
        nonce="step-nonce",
        issuer=key.domain,
    )
    return msgspec.to_builtins(issue(key, replace(permit, **changes)))


class Runner:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []
        self.problem: tuple[str, str] | None = None
        """(error, cause) of every call."""

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        asked = from_msgpack(request, StartRequest)
        self.calls.append((key, call, timeout_s))
        if self.problem is not None:
            error, cause = self.problem
            return msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, error=error, cause=cause))
        return msgspec.msgpack.encode(StartAnswer("a", node, 1.0, 2.0, result=asked.payload))


class KnowsCloud(membership.NoMembers):
    def read(self) -> dict[str, MemberRecord]:
        return {"cloud": author("cloud").record()}


class Leaves(KnowsCloud):
    def leaving(self) -> bool:
        return True


class NoRecords:
    def records(self, kind: Any, domain: Any) -> list[Any]:
        return []


def nobody(request: httpx.Request) -> httpx.Response:
    return httpx.Response(503)


class _Governor:
    """It holds `LEASE` alone."""

    def __init__(self, asked: list[str], sent: list[Any], patience_s: list[float]) -> None:
        self._asked, self._sent, self._patience_s = asked, sent, patience_s

    async def ask(self, door: str, message: Any, kind: type, timeout_s: float) -> Any:
        self._asked.append(door)
        self._patience_s.append(timeout_s)
        self._sent.append(msgspec.to_builtins(message))
        if door == "status":
            mine = {"id": "c/1/1", "origin": "library", "run": "r", "step": "s", "node": "n"}
            other = {"id": "c/1/2", "origin": "cloud", "run": "q", "step": "t", "node": "n"}
            return converted({"leases": [mine, other], "abandoned": [other]}, kind)
        if door == "verify":
            return Renewed((LEASE.id,) if message.lease == LEASE else ())
        return converted({}, kind)


class Lab:
    """A gateway in this process; its cluster governor is a stand-in that holds `LEASE` alone."""

    def __init__(
        self,
        config: DomainConfig = CONFIG,
        elsewhere: Callable[..., httpx.Response] | None = None,
        kept: Saved | None = None,
        records: Any = None,
        clock: Any = None,
        runner: Any = None,
        book: membership.MemberBook | None = None,
    ) -> None:
        self.clock, self.runner = clock or ManualClock(), runner or Runner()
        self.verdict = Decision("d", Verdict.ALLOW)
        self.forwarded: list[str] = []
        self.sent: list[Any] = []
        """Bodies of what was forwarded."""
        self.patience_s: list[float] = []
        """How long was waited for their answers at most."""
        self.decided = 0
        context = GatewayContext(
            config=config,
            token="own",
            trusted=TRUSTED,
            store=records or NoRecords(),  # pyright: ignore[reportArgumentType]
            decide=self._decide,
            runners={"lab-c": self.runner},  # pyright: ignore[reportArgumentType]
            clock=self.clock,
            clusters={"lab-c": _Governor(self.forwarded, self.sent, self.patience_s)},
            http_to=lambda _: httpx.AsyncClient(transport=httpx.MockTransport(elsewhere or nobody)),
            book=book or KnowsCloud(),
            standing=StandingDesk(self.clock, kept),
            orders=self,
        )
        self.looks = 0
        self.given: list[tuple[Order, str, str]] = []
        self.app = create_app(context)

    def refused(self) -> list[tuple[str, str, int]]:
        """(door, code, count). Those of handshakes are counted for the whole process, and other tests have some."""
        rows = self.app.state.refused()
        return [(row.door, row.code, row.count) for row in rows if row.door != "the handshake"]

    def give(self, order: Order, subject: str, of: str, unseen: bool) -> OrderAnswer:
        self.given.append((order, subject, of))
        if of != "library":
            raise NotAllowedError(f"{of} does not order here")
        return OrderAnswer(order, "so it is", "d1")

    def in_force(self) -> list[dict[str, Any]]:
        return [{"name": "echo"}]

    def say(self, said: RunOrder, of: str) -> RunAnswer:
        if of != "library":
            raise NotAllowedError(f"{of} does not order here")
        return RunAnswer(said.run, 1, said.subject, "", "d1")

    def heard(self, said: RunAnswer) -> RunAnswer:
        self.looks += 1
        return replace(said, answer="goes on" if self.looks == 2 else "")

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://lab") as client:
                return await client.request(method, path, content=body, headers=headers)

        return asyncio.run(send())

    def member(self, peer: str, state: str) -> dict[str, Any]:
        """What is said of `peer` once it is `state`."""

        async def probed() -> dict[str, Any]:
            async with self.app.router.lifespan_context(self.app), asyncio.timeout(20):
                transport = httpx.ASGITransport(self.app)
                async with httpx.AsyncClient(transport=transport, base_url="http://lab") as client:
                    while (found := (await client.get("/v1/members")).json()[peer])["state"] != state:
                        await asyncio.sleep(0.01)
            return found

        return asyncio.run(probed())

    def signed(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        key: SigningKey = HOME,
        permit: str | None = None,
        audience: str = "lab",
        ahead_s: float = 0.0,
    ):
        """`ahead_s`: by how much the gateway's clock is ahead of who signs, who knows that."""
        asked = {"audience": audience, "method": method, "path": path, "body": digest_bytes(body)}
        proof = prove(key, **asked, now=self.clock.wall() - ahead_s, ahead_s=ahead_s)
        return self.ask(method, path, body, **{PROOF_HEADER: proof, PERMIT_HEADER: permit or run_permit()})

    def _decide(self, *_: Any) -> Decision:
        self.decided += 1
        return self.verdict


def code_of(answer: httpx.Response) -> str:
    return "" if answer.status_code == 200 else answer.json()["error"]["code"]


RELEASE = msgspec.json.encode({"cluster": "lab-c", "release": ReleaseRequest("r", (LEASE.id,))})


def test_a_signed_release_is_passed_on():
    lab = Lab()
    assert lab.signed("POST", "/v1/release", RELEASE).status_code == 200
    assert lab.forwarded == ["release"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key": STRANGER}, "proof.signature"),
        ({"key": PEER}, "permit.not_yours"),
        ({"permit": run_permit(domains=("library",))}, "permit.domain"),
        ({"permit": run_permit(run="other")}, "permit.run_mismatch"),
        ({"permit": run_permit(expires=1.0)}, "permit.expired"),
        ({"permit": "rubbish"}, "permit.malformed"),
    ],
)
def test_nobody_else_frees_a_runs_leases(change, code):
    lab = Lab()
    assert code_of(lab.signed("POST", "/v1/release", RELEASE, **change)) == code
    assert lab.forwarded == []


def test_a_request_cannot_be_passed_on_or_changed():
    lab = Lab()
    now = lab.clock.wall()

    def proof(**change: Any) -> str:
        asked = {"audience": "lab", "method": "POST", "path": "/v1/release", "body": digest_bytes(RELEASE), "now": now}
        return prove(HOME, **{**asked, **change})

    def code(text: str, body: bytes = RELEASE) -> str:
        return code_of(lab.ask("POST", "/v1/release", body, **{PROOF_HEADER: text, PERMIT_HEADER: run_permit()}))

    assert code("") == "proof.missing"
    assert code(proof(audience="cloud")) == "proof.audience_mismatch"
    assert code(proof(path="/v1/renew")) == "proof.path_mismatch"
    assert code(proof(now=now - 301)) == "proof.stale"
    assert code(proof(), RELEASE + b" ") == "proof.body_mismatch"
    assert lab.forwarded == []


@pytest.mark.parametrize("ahead_s", [-86_400.0, -720.0, 0.0, 720.0, 86_400.0])
def test_a_permit_ends_by_the_clock_of_who_has_issued_it(ahead_s):
    lab = Lab()
    now = lab.clock.wall() - ahead_s
    good, over = (run_permit(not_before=now - 60.0, expires=now + left_s) for left_s in (60.0, -1.0))
    assert code_of(lab.signed("POST", "/v1/release", RELEASE, permit=good, ahead_s=ahead_s)) == ""
    assert code_of(lab.signed("POST", "/v1/release", RELEASE, permit=over, ahead_s=ahead_s)) == "permit.expired"
    assert lab.forwarded == ["release"]


def test_a_permit_that_was_issued_while_the_clock_was_ahead_holds_when_it_is_right_again():
    lab, hour = Lab(), 3_600.0
    permit = run_permit(not_before=lab.clock.wall() + hour, expires=lab.clock.wall() + 25 * hour)
    assert code_of(lab.signed("POST", "/v1/release", RELEASE, permit=permit)) == ""


@pytest.mark.parametrize(
    ("ahead_s", "told"),
    [
        (-90_000.0, "the clock of library is 25 h ahead of that of lab, which says 2023-11-14 22:13:20 UTC"),
        (90_000.0, "the clock of library is 25 h behind of that of lab, which says 2023-11-14 22:13:20 UTC"),
    ],
)
def test_a_clock_that_is_too_far_off_is_refused_however_well_the_request_is_dated(ahead_s, told):
    lab = Lab()
    answer = lab.signed("POST", "/v1/release", RELEASE, ahead_s=ahead_s)
    assert answer.json()["error"] == {
        "code": "proof.stale",
        "text": f"{told}, or the request was signed so long before it came",
        "remedy": "set the clock of whichever is wrong, and have it kept right (NTP)",
    }
    assert lab.forwarded == []


def test_each_answer_tells_the_gateways_clock():
    lab = Lab()
    asked = [lab.ask("GET", "/v1/health"), lab.ask("POST", "/v1/award"), lab.ask("GET", "/elsewhere")]
    assert [(one.status_code, one.headers["ioi-clock"]) for one in asked] == [
        (200, "1700000000.000"),
        (401, "1700000000.000"),
        (404, "1700000000.000"),
    ]


def test_what_is_refused_is_logged_by_door_and_code_and_a_flood_is_counted(caplog):
    lab = Lab()
    for _ in range(3):
        lab.ask("GET", "/v1/registry/state", authorization="Bearer guessed")
    proof = prove(HOME, audience="lab", method="POST", path="/v1/award", body=digest_bytes(b"{}"), now=lab.clock.wall())
    assert code_of(lab.ask("POST", "/v1/award", b"{}", **{PROOF_HEADER: proof})) == "permit.missing"
    invoke(lab, payload=digest_bytes(b"another"))
    lab.clock.advance(QUIET_S)
    lab.ask("GET", "/v1/registry/state")
    assert [record.getMessage() for record in caplog.records if record.name == "ioi.gateway"] == [
        "refused at /v1/registry/state: proof.missing",
        "refused at /v1/award: permit.missing",
        "refused at /v1/invoke: permit.payload_mismatch",
        "refused at /v1/registry/state: proof.missing, and 2 times since it was told last",
    ]


def test_a_cluster_is_told_which_domain_asks_and_nobody_says_it_himself():
    lab = Lab()
    forged = replace(ReleaseRequest("r", (LEASE.id,)), origin="cloud")
    lab.signed("POST", "/v1/release", msgspec.json.encode({"cluster": "lab-c", "release": forged}))
    renew = RenewRequest("r", (LEASE.id,), origin="cloud")
    lab.signed("POST", "/v1/renew", msgspec.json.encode({"cluster": "lab-c", "renew": renew}))
    invoke(lab)
    assert lab.forwarded == ["release", "renew", "verify"]
    assert [one["origin"] for one in lab.sent] == ["library"] * 3


@pytest.mark.parametrize("door", ["announce", "award"])
def test_nobody_asks_in_the_name_of_another_domain(door):
    lab = Lab()
    announce = {"cluster": "lab-c", "announce": Announce("r", 1, "cloud", (AskGroup("echo", DataClass.PUBLIC, 1),))}
    award = Award("lab-c", "r", 1, "cloud", (LeaseRequest("r", "s", 1, "echo", DataClass.PUBLIC),))
    answer = lab.signed("POST", f"/v1/{door}", msgspec.json.encode({"announce": announce, "award": award}[door]))
    assert (answer.status_code, code_of(answer)) == (403, "gateway.other_origin")
    assert lab.forwarded == []


class Patience(GatewayClient):
    """Asks nobody, and tells how long it would have waited."""

    def _asked(self, path: str, message: Any, kind: type[Any], timeout: float) -> Any:
        return Asked(Future(), lambda: timeout)


@pytest.mark.parametrize("wait_s", [0.5, 5.0, 60.0])
def test_who_waits_in_vain_is_waited_for_until_its_cluster_has_looked_and_the_answer_has_come(wait_s):
    """A governor finds out within a second that a wait is over."""
    lab, announce = Lab(), Announce("r", 1, "library", (AskGroup("echo", DataClass.PUBLIC, 1),), 0.5, wait_s)
    lab.signed("POST", "/v1/announce", msgspec.json.encode({"cluster": "lab-c", "announce": announce}))
    client = Patience("http://lab", "lab")
    asked = [*lab.patience_s, client.announce("lab-c", announce)]
    client.close()
    assert len(asked) == 2
    assert all(patience_s > wait_s + 1.0 for patience_s in asked)
    assert client.announcing("lab-c", replace(announce, wait_s=0.0)).result() == 0.5


def test_a_domain_sees_which_leases_are_its_own_and_that_there_are_others():
    lab = Lab()
    told = lab.signed("GET", "/v1/status").json()["clusters"]["lab-c"]
    mine, other = told["leases"]
    assert told["abandoned"] == [other]
    assert (mine["id"], mine["run"], mine["step"]) == ("c/1/1", "r", "s")
    assert other == {"id": "", "origin": "", "run": "", "step": "", "node": "n"}
    every = lab.ask("GET", "/v1/status", Authorization="Bearer own").json()["clusters"]["lab-c"]["leases"]
    assert [one["id"] for one in every] == ["c/1/1", "c/1/2"]


@pytest.mark.parametrize("path", ["/v1/status", "/v1/registry/state"])
def test_state_is_for_those_who_are_known(path):
    lab = Lab()
    assert code_of(lab.ask("GET", path)) == "proof.missing"


def test_a_registry_that_holds_what_others_state_offers_its_own_alone_and_to_whom_it_may_be_told(tmp_path):
    lab_key, clouds = SigningKey.generate("lab"), SigningKey.generate("cloud")
    trusted = TrustedKeys({key.key_id: key.public_bytes for key in (lab_key, clouds, HOME)})
    store = SqlRecordStore(tmp_path / "registry.sqlite", trusted)

    def block(key: SigningKey, capability: str, handles: str, audience: str = "public") -> Record:
        spec = {"capability": capability, "contract": {"id": capability, "name": capability}, "handles": handles}
        return make_record(key, Kind.BLOCK, capability, "1", spec, audience=audience)

    own, theirs, hidden = (
        block(lab_key, "echo", "internal"),
        block(clouds, "echo", "public"),
        block(HOME, "far", "public"),
    )
    few, none = block(lab_key, "few", "internal", "partner:library"), block(lab_key, "none", "internal", "local")
    for record in (own, theirs, hidden, few, none):
        store.put(record.signed)
    lab = Lab(records=store)
    alive = msgspec.json.encode([{"key": "cluster/lab-c", "value": {"nodes": 1}, "ttl_s": 5}])
    lab.ask("POST", "/v1/registry/lease", alive, Authorization="Bearer own")

    def told(**headers: Any) -> list[str]:
        return [one["body"]["urn"].rsplit(":")[-1] for one in lab.ask("GET", "/v1/registry/records", **headers).json()]

    def offered(capability: str, key: SigningKey) -> list[str]:
        query = Query(capability, DataClass.PUBLIC, key.domain, "books")
        answer = lab.signed("POST", "/v1/registry/discover", msgspec.json.encode(query), key).json()
        return [
            *(one["block"] for one in answer["candidates"]),
            *(one["refusal"]["code"] for one in answer["rejected"]),
        ]

    assert (told(), told(Authorization="Bearer own")) == (["echo"], ["echo", "few", "none"])
    assert [offered("echo", HOME), offered("few", HOME), offered("few", PEER)] == [
        [own.urn],
        [few.urn],
        ["ras.no_capability"],
    ]
    assert [offered(capability, HOME) for capability in ("far", "none")] == [["ras.no_capability"]] * 2


@pytest.mark.parametrize("key", ["urn:ioi:library/x", "cluster/library-c", "node/other/n1", "block/lab-c", "lab-c", ""])
def test_a_domain_states_what_is_its_own_and_nothing_else(key):
    lab = Lab()

    def state(*keys: str) -> httpx.Response:
        body = msgspec.json.encode([{"key": name, "value": {"free": 1}, "ttl_s": 5} for name in keys])
        return lab.ask("POST", "/v1/registry/lease", body, Authorization="Bearer own")

    answer = state("cluster/lab-c", key)
    assert (answer.status_code, code_of(answer)) == (403, "gateway.not_its_own")
    assert lab.signed("GET", "/v1/registry/state").json() == {}, "all of a report or nothing"
    assert state("cluster/lab-c", "node/lab-c/lab-1").status_code == 200
    assert set(lab.signed("GET", "/v1/registry/state").json()) == {"cluster/lab-c", "node/lab-c/lab-1"}


class Kept:
    """What was saved last, and when."""

    def __init__(self) -> None:
        self.saved: list[tuple[Standing, ...]] = []

    def load(self, now: float) -> tuple[tuple[Standing, ...], float]:
        return (self.saved[-1] if self.saved else ()), 0.0

    def save(self, standings: tuple[Standing, ...], now: float) -> None:
        self.saved.append(standings)


def test_how_clusters_stand_goes_by_the_domains_own_runs_outlives_the_gateway_and_is_told_to_nobody_else():
    kept = Kept()
    own = replace(CONFIG, spec=replace(SPEC, name="library"))

    def tell(lab: Lab, *seen: Experience, key: SigningKey = HOME) -> httpx.Response:
        return lab.signed("POST", "/v1/standing", msgspec.json.encode(Experiences("r", seen)), key, audience="library")

    first = Lab(own, kept=kept)
    assert tell(first).json() == []
    row = {"cluster": "cloud-c", "trust": 0.5, "kept": 0.0, "broken": 1.0, "late": 0.0, "lost": 0.0, "why": "none came"}
    row["told_s_ago"] = 0.0
    assert tell(first, Experience("cloud-c", broken=1.0, why="none came")).json() == [row]
    answer = tell(first, Experience("cloud-c", kept=9.0), key=PEER)
    assert (answer.status_code, code_of(answer)) == (403, "gateway.not_its_own")
    assert code_of(tell(first, key=STRANGER)) == "proof.signature"
    assert code_of(first.ask("POST", "/v1/standing", Authorization="Bearer own")) == "proof.missing"
    first.clock.advance(10.0)
    assert tell(first, Experience("lab-c", kept=1.0)).json()[0] == row | {"told_s_ago": 10.0}
    assert [[one.cluster for one in standings] for standings in kept.saved] == [["cloud-c"], ["cloud-c", "lab-c"]]
    again = Lab(own, kept=kept)
    assert [one["cluster"] for one in tell(again).json()] == ["cloud-c", "lab-c"]
    status = again.ask("GET", "/v1/status", Authorization="Bearer own").json()
    assert [one["trust"] for one in status["standing"]] == [0.5, 1.0]
    assert again.signed("GET", "/v1/status", key=PEER, audience="library").json()["standing"] == []


def test_a_message_of_what_was_seen_is_bounded():
    lab = Lab(replace(CONFIG, spec=replace(SPEC, name="library")))
    for seen in ([{"cluster": "c", "kept": -1.0}], [{"cluster": "c", "why": "w" * 301}], [{"cluster": "c"}] * 1_001):
        body = msgspec.json.encode({"run": "r", "seen": seen})
        assert code_of(lab.signed("POST", "/v1/standing", body, audience="library")) == "gateway.malformed"


def test_an_announcement_is_bounded_and_each_kind_decided_once():
    lab = Lab()

    def announce(count: int) -> httpx.Response:
        groups = tuple(AskGroup("echo", DataClass.PUBLIC, 1, tenant=str(n)) for n in range(count))
        body = msgspec.json.encode({"cluster": "lab-c", "announce": Announce("r", 1, "library", groups)})
        return lab.signed("POST", "/v1/announce", body)

    assert code_of(announce(MAX_GROUPS + 1)) == "gateway.malformed"
    assert lab.decided == 0
    announce(MAX_GROUPS)
    assert lab.decided == 1


@pytest.mark.parametrize(("key", "decided", "asked"), [(HOME, 1, ["announce"]), (PEER, 0, [])])
def test_a_domain_that_leaves_takes_what_is_new_of_its_own_runs_alone(key, decided, asked):
    lab = Lab(replace(CONFIG, spec=replace(SPEC, name="library")), book=Leaves())
    groups = (AskGroup("echo", DataClass.PUBLIC, 1),)
    body = msgspec.json.encode({"cluster": "lab-c", "announce": Announce("r", 1, key.domain, groups)})
    answer = lab.signed("POST", "/v1/announce", body, key, run_permit(key), audience="library")
    assert ("gateway.leaving" in answer.text) == (key is PEER)
    assert (lab.decided, lab.forwarded) == (decided, asked)


def invoke(lab: Lab, lease: Lease = LEASE, timeout_s: float = 60.0, **permit: Any) -> dict[str, Any]:
    payload = encode_payload(Payload({"say": "hello"}))
    document = {
        "lease": msgspec.to_builtins(lease),
        "permit": step_permit(payload, lease, **permit),
        "capability": "echo",
        "payload": {"say": "hello"},
        "timeout_s": timeout_s,
    }
    answer = lab.signed("POST", "/v1/invoke", encode_payload(Payload(document)))
    assert answer.status_code == 200, answer.text
    return decode_payload(answer.content).document


def test_an_invocation_runs_under_a_key_of_its_own_and_for_a_bounded_time():
    lab = Lab()
    assert invoke(lab, timeout_s=1e300)["payload"] == {"say": "hello"}
    assert lab.runner.calls == [("library/r/s/1/0", "invoke/step-nonce", 3_600.0)]


@pytest.mark.parametrize(("cause", "infrastructure"), [("", False), (Cause.NODE_ERROR, True), (Cause.LEASE_LOST, True)])
def test_what_a_node_lost_is_told_from_an_error_of_the_block(cause, infrastructure):
    lab = Lab()
    lab.runner.problem = ("it failed", cause)
    answer = invoke(lab)
    assert (answer["ok"], answer["error"], answer["infrastructure"]) == (False, "it failed", infrastructure)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key": PEER}, "gateway.other_issuer"),
        ({"key": STRANGER}, "permit.signature"),
        ({"payload": "sha256:other"}, "permit.payload_mismatch"),
        ({"audience": "cloud"}, "permit.audience_mismatch"),
        ({"lease": replace(LEASE, id="made-up")}, "gateway.no_lease"),
        ({"lease": replace(LEASE, fence=9)}, "gateway.no_lease"),
        ({"lease": replace(LEASE, origin="cloud")}, "gateway.no_lease"),
        ({"lease": replace(LEASE, node="lab-2")}, "gateway.no_lease"),
        ({"node": "lab-2"}, "permit.node_mismatch"),
    ],
)
def test_an_invocation_without_a_permit_and_a_granted_lease_reaches_no_node(change, code):
    lab = Lab()
    assert invoke(lab, **change)["refusal"]["code"] == code
    assert lab.runner.calls == []


@pytest.mark.parametrize("body", [b"", b"IOI1", b"[" * 100_000, b"\xff\xfe", b'{"cluster": 1}'])
def test_rubbish_is_told_apart_from_work(body):
    for path in ("/v1/invoke", "/v1/invoke/stream", "/v1/announce", "/v1/award", "/v1/renew"):
        assert code_of(Lab().signed("POST", path, body)) == "gateway.malformed"


def test_a_registry_speaks_for_itself_only():
    query = Query("echo", DataClass.INTERNAL, "library", "books")
    liar = Candidate("library", "library-c", "books", "step", DataClass.RESTRICTED, scheduler="tcp://evil:1")
    boaster = Candidate("cloud", "cloud-c", "books", "step", DataClass.RESTRICTED, scheduler="tcp://evil:1")
    honest = Candidate("lab", "lab-c", "books", "step", DataClass.INTERNAL, scheduler="tls://lab:1")

    def of(name: str, candidate: Candidate, asked: Query = query) -> Discovery:
        limits, clusters = CONFIG.limits, {f"{name}-c"}
        return believed(name, Discovery((candidate,)), CONFIG.authorities, limits, asked, clusters)

    assert of("lab", honest) == Discovery((honest,))
    here, there = (replace(honest, scheduler=f"tcp://{host}:1") for host in ("127.0.0.1", "lab"))
    assert of("lab", here) == Discovery((here,)), "on this machine nobody listens"
    away = Rejected("lab-c", Refusal("ras.cluster_away", "it is away", "lab"), "library")
    told = believed("lab", Discovery(rejected=(away,)), CONFIG.authorities, CONFIG.limits, query, {"lab-c"})
    assert told == Discovery(rejected=(replace(away, domain="lab"),))
    (plain,) = of("lab", there).rejected
    assert (plain.who, plain.refusal.code) == ("lab-c", "ras.plain_dask"), "its other clusters may do"
    assert [item.refusal.code for item in of("cloud", liar).rejected] == ["ras.not_its_own"]
    assert [item.refusal.code for item in of("cloud", boaster).rejected] == ["ras.domain_class"]
    (thief,) = of("cloud", replace(boaster, cluster="lab-c"), replace(query, data_class=DataClass.PUBLIC)).rejected
    assert (thief.who, thief.domain, thief.refusal.code) == ("cloud", "cloud", "ras.not_its_cluster")
    assert thief.may_change(()), "its newer record may be on its way"
    (public,) = of("cloud", boaster, replace(query, data_class=DataClass.PUBLIC)).candidates
    assert (public.authority, public.accepts, public.handles, public.scheduler) == ("clouds", "block", "public", "")


def test_a_peer_that_drips_costs_its_deadline_and_no_more():
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = server.accept()
        with connection:
            try:
                while not ended.wait(0.05):
                    connection.sendall(b"H")
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    client = GatewayClient(f"http://127.0.0.1:{server.getsockname()[1]}", "lab")
    begun = time.monotonic()
    with pytest.raises(UnreachableError):
        client.health(timeout=0.3)
    assert time.monotonic() - begun < 20, "a generous limit: without a wall-clock deadline it never ends"
    ended.set()
    client.close()
    thread.join()
    server.close()


def test_a_renewal_goes_to_the_cluster_that_is_named():
    body = msgspec.json.encode({"cluster": "elsewhere", "renew": RenewRequest("r", ())})
    assert code_of(Lab().signed("POST", "/v1/renew", body)) == "gateway.no_cluster"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "protocol.version"),
        ("POST", "/v2/announce", 404, "protocol.version"),
        ("GET", "/v1/secrets", 404, "protocol.no_door"),
        ("GET", "/v1/award", 405, "protocol.method"),
        ("DELETE", "/v1/registry/records", 405, "protocol.method"),
    ],
)
def test_what_is_asked_of_no_door_is_refused_by_name_and_counted_together(caplog, method, path, status, code):
    answer = Lab().ask(method, path)
    assert (answer.status_code, code_of(answer)) == (status, code)
    place = path if status == 405 else "no door"
    assert [r.getMessage() for r in caplog.records if r.name == "ioi.gateway"] == [f"refused at {place}: {code}"]


@pytest.mark.parametrize(
    ("health", "state", "why"),
    [
        ({"protocols": [1]}, "alive", ""),
        ({"protocols": [1, 2]}, "alive", ""),
        ({"protocols": [2, 3]}, "suspect", "it speaks version 2, 3 of the protocol, not 1"),
        ({"epoch": "many"}, "suspect", "ValidationError"),
    ],
)
def test_a_peer_of_another_version_is_told_apart_from_one_that_is_away(monkeypatch, health, state, why):
    body = {"domain": "cloud", "epoch": 3, "ready": True, **health}
    monkeypatch.setattr(network, "PROBE_S", 0.0)
    monkeypatch.setattr(membership, "TICK_S", 0.01)
    member = Lab(elsewhere=lambda _request: httpx.Response(200, json=body)).member("cloud", state)
    assert member["why"] == why


@pytest.mark.parametrize(
    ("headers", "ahead_s"),
    [
        ({}, None),
        ({"ioi-clock": "soon"}, None),
        ({"ioi-clock": "1700000000.4"}, 0.0),
        ({"ioi-clock": "1700000720.0"}, 720.0),
    ],
)
def test_a_peers_clock_is_seen_by_its_answers(monkeypatch, headers, ahead_s):
    body = {"domain": "cloud", "epoch": 3, "ready": True}
    monkeypatch.setattr(membership, "TICK_S", 0.01)
    member = Lab(elsewhere=lambda _request: httpx.Response(200, json=body, headers=headers)).member("cloud", "alive")
    assert member["clock_ahead_s"] == ahead_s


@pytest.mark.parametrize(("introductions", "members"), [(True, {"cloud", "edge"}), (False, {"cloud"})])
def test_an_owner_says_whether_whom_a_member_tells_of_is_one_too(monkeypatch, introductions, members):
    monkeypatch.setattr(network, "PROBE_S", 0.0)
    monkeypatch.setattr(membership, "TICK_S", 0.01)
    asked: list[str] = []

    def cloud(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        told = [{"domain": "edge", "serial": 1, "state": "alive"}]
        health = {"domain": "cloud", "epoch": 3, "ready": True, "heard": told}
        answer = health if request.url.path == "/v1/health" else [author("edge").signed()]
        return httpx.Response(200, content=msgspec.json.encode(answer))

    class Told(KnowsCloud):
        def introductions(self) -> bool:
            return introductions

    lab = Lab(CONFIG, cloud, book=Told())

    async def seen() -> set[str]:
        async with lab.app.router.lifespan_context(lab.app), asyncio.timeout(20):
            transport = httpx.ASGITransport(lab.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://lab") as client:
                while asked.count("/v1/health") < 5 or not members <= set((await client.get("/v1/members")).json()):
                    await asyncio.sleep(0.01)
                return set((await client.get("/v1/members")).json())

    assert asyncio.run(seen()) == members
    assert set(asked) == {"/v1/health", "/v1/member"} if introductions else {"/v1/health"}


def test_threads_that_ask_first_at_the_same_time_share_one_loop(monkeypatch):
    made = []

    def slowly():
        loop = stock()
        made.append(loop)
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2)
        return loop

    stock, together = client_module.uvloop.new_event_loop, threading.Barrier(2)
    monkeypatch.setattr(client_module, "_loops", [])
    monkeypatch.setattr(client_module.uvloop, "new_event_loop", slowly)
    with ThreadPoolExecutor(4) as pool:
        loops = list(pool.map(lambda _: client_module._loop(), range(4)))
    assert set(map(id, loops)) == {id(made[0])}
    made[0].call_soon_threadsafe(made[0].stop)


def test_what_is_said_to_a_run_is_answered_by_the_run():
    lab, body = Lab(), msgspec.json.encode(RunOrder("r", Action.RESUME, "ann"))
    assert lab.signed("POST", "/v1/intervene", body).json() == {
        "run": "r", "number": 1, "who": "ann", "answer": "goes on", "decision": "d1",
    }  # fmt: skip
    assert lab.looks == 2
    assert code_of(lab.signed("POST", "/v1/intervene", body, PEER)) == "order.not_allowed"
    assert code_of(lab.ask("POST", "/v1/intervene", body)) == "proof.missing"


ORDER = Order(Target.BLOCK, "echo", Verb.PAUSE, why="a bad model")


def test_an_order_is_taken_from_whom_a_domain_vouches_for_by_its_proof():
    lab, body = Lab(), msgspec.json.encode(OrderRequest(ORDER, "ann"))
    assert lab.signed("POST", "/v1/order", body).json()["answer"] == "so it is"
    refused = lab.signed("POST", "/v1/order", body, PEER)
    assert (refused.status_code, code_of(refused)) == (403, "order.not_allowed")
    assert lab.given == [(ORDER, "ann", "library"), (ORDER, "ann", "cloud")]
    for answer in (lab.ask("POST", "/v1/order", body), lab.ask("POST", "/v1/order", body, authorization="Bearer own")):
        assert code_of(answer) == "proof.missing"
    assert code_of(lab.signed("POST", "/v1/order", body, STRANGER)) == "proof.signature"
    assert len(lab.given) == 2


@pytest.mark.parametrize(
    "change",
    [{"target": "planet"}, {"verb": "explode"}, {"value": -1}, {"value": 10**9}, {"why": "x" * 501}, {"name": ""}],
)
def test_an_order_out_of_bounds_is_malformed(change):
    lab = Lab()
    order = msgspec.to_builtins(ORDER) | change
    assert code_of(lab.signed("POST", "/v1/order", msgspec.json.encode({"order": order, "subject": "ann"}))) == (
        "gateway.malformed"
    )
    assert lab.given == []


def test_what_is_in_force_is_told_to_the_domains_own():
    lab = Lab(replace(CONFIG, spec=replace(SPEC, name="lab")))
    assert lab.ask("GET", "/v1/status", authorization="Bearer own").json()["orders"] == [{"name": "echo"}]
    assert lab.signed("GET", "/v1/status").json()["orders"] == []
