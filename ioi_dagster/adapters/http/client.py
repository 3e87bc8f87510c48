"""Clients of gateways, and the run's view of all registries through them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import msgspec

from ioi_dagster.adapters.http.gateway import PERMIT_HEADER
from ioi_dagster.errors import FinalError, RetryableError, UnreachableError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.block import Payload
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, Lease, ReleaseRequest, Renewed, RenewRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import encode
from ioi_dagster.ras.selection import Discovery, Query, Rejected
from ioi_dagster.signing import Signed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InvokeMeta:
    attempt: str
    node: str
    started: float
    ended: float


class GatewayClient:
    """One gateway. Raises `UnreachableError` when it does not answer, `RetryableError` and `FinalError` on its errors.

    Thread-safe; connections are kept; proxies and redirects are not followed.
    """

    def __init__(self, url: str, domain: str, permit: Signed | None = None, token: str | None = None) -> None:
        headers = {PERMIT_HEADER: encode(permit)} if permit else {}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self.url, self.domain = url, domain
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=16)
        self._http = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=3.0, limits=limits)

    def close(self) -> None:
        self._http.close()

    def health(self, timeout: float = 1.0) -> dict[str, Any]:
        return self._get("health", dict, timeout)

    def members(self) -> dict[str, dict[str, Any]]:
        return self._get("members", dict, 1.0)

    def status(self) -> dict[str, Any]:
        return self._get("status", dict, 3.0)

    def records(self, kind: str | None = None) -> list[Signed]:
        return self._get(f"registry/records{'?kind=' + kind if kind else ''}", list[Signed], 3.0)

    def state(self) -> dict[str, Any]:
        return self._get("registry/state", dict, 1.0)

    def discover(self, query: Query) -> Discovery:
        return self._post("registry/discover", query, Discovery, 1.0)

    def announce(self, cluster: str, announce: Announce, timeout: float = 1.0) -> Bid:
        return self._post("announce", {"cluster": cluster, "announce": announce}, Bid, timeout)

    def award(self, award: Award) -> Awarded:
        return self._post("award", award, Awarded, 3.0)

    def renew(self, cluster: str, renew: RenewRequest) -> Renewed:
        return self._post("renew", {"cluster": cluster, "renew": renew}, Renewed, 3.0)

    def release(self, cluster: str, release: ReleaseRequest) -> None:
        self._post("release", {"cluster": cluster, "release": release}, dict, 3.0)

    def invoke(
        self, lease: Lease, permit: Signed, capability: str, payload: Payload, *, timeout: float
    ) -> tuple[Payload, InvokeMeta] | Refusal:
        """Run a block there. Loss of its node or cluster is a `RetryableError`, an error of the block a `FinalError`."""
        document = {
            "lease": msgspec.to_builtins(lease),
            "permit": msgspec.to_builtins(permit),
            "capability": capability,
            "payload": payload.document,
            "timeout_s": timeout,
        }
        frame = decode_payload(
            self._send("POST", "invoke", encode_payload(Payload(document, payload.parts)), timeout + 5.0)
        )
        answer = frame.document
        if answer.get("ok"):
            meta = InvokeMeta(answer["attempt"], answer["node"], answer["started"], answer["ended"])
            return Payload(answer["payload"], frame.parts), meta
        if "refusal" in answer:
            return msgspec.convert(answer["refusal"], Refusal)
        text = f"{self.domain}: {answer.get('error', 'no further word')}"
        raise RetryableError(text) if answer.get("infrastructure") else FinalError(text)

    def _get(self, path: str, kind: type[T], timeout: float) -> T:
        return self._decode(self._send("GET", path, None, timeout), kind)

    def _post(self, path: str, message: Any, kind: type[T], timeout: float) -> T:
        return self._decode(self._send("POST", path, msgspec.json.encode(message), timeout), kind)

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise RetryableError(f"{self.domain} answered with something else than {kind}: {error}") from error

    def _send(self, method: str, path: str, content: bytes | None, timeout: float) -> bytes:
        try:
            answer = self._http.request(method, f"/v1/{path}", content=content, timeout=timeout)
        except httpx.HTTPError as error:
            raise UnreachableError(f"gateway of {self.domain}", type(error).__name__) from error
        if answer.status_code == 200:
            return answer.content
        try:
            problem = answer.json()["error"]
            text = f"{self.domain}: {problem['text']} [{problem['code']}]"
        except (ValueError, KeyError, TypeError):
            text = f"{self.domain} answered {answer.status_code}"
        raise RetryableError(text) if answer.status_code >= 500 else FinalError(text)


class FederatedRegistry:
    """The registries of all domains, each asked at its own gateway; there is no central one."""

    def __init__(self, home: GatewayClient, permit: Signed | None) -> None:
        self._permit = permit
        self._clients = {home.domain: home}
        self._home = home
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="registry")

    def client(self, domain: str) -> GatewayClient:
        return self._clients[domain]

    def discover(self, query: Query) -> Discovery:
        """Everybody's answer; a domain that does not answer is a rejection with that reason."""
        try:
            members = self._home.members()
        except RetryableError as error:
            refusal = Refusal("ras.unreachable", str(error), "registry", "it is restarted")
            return Discovery(rejected=(Rejected(self._home.domain, refusal),))
        for name, facts in members.items():
            if name not in self._clients:
                self._clients[name] = GatewayClient(str(facts["gateway"]), name, self._permit)
        answers = self._pool.map(lambda name: self._ask(name, query), [self._home.domain, *sorted(members)])
        candidates, rejected = [], []
        for answer in answers:
            candidates += answer.candidates
            rejected += answer.rejected
        return Discovery(tuple(candidates), tuple(rejected))

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        for client in self._clients.values():
            client.close()

    def _ask(self, name: str, query: Query) -> Discovery:
        try:
            return self._clients[name].discover(query)
        except (RetryableError, FinalError) as error:
            return Discovery(rejected=(Rejected(name, Refusal("domain.unreachable", str(error), "registry")),))
