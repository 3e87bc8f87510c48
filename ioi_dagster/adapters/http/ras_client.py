"""A client of a domain's registry for tools: a method for each of its doors, typed as the table of the doors has it.

It needs no more than an address and a token, or what a domain signs and shows.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

import httpx
import msgspec

from ioi_dagster.adapters.http.protocol import BY_PATH, PREFIX, PROOF_HEADER, ProblemAnswer
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError, RetryableError, UnreachableError
from ioi_dagster.policy.proof import prove
from ioi_dagster.ras.asking import (
    Called,
    CalledPiece,
    Calling,
    Demand,
    Finding,
    FoundTold,
    History,
    Pointers,
    Registered,
    Registration,
    RegistryHealth,
    Resolved,
    Selected,
)
from ioi_dagster.signing import SigningKey, digest_bytes

T = TypeVar("T")
MAX_ANSWER = 64 * 2**20
MAX_LINE = 8 * 2**20
SLACK_S = 5.0


class RasProblemError(FinalError):
    """The gateway does not do it. `code` stays the same from version to version."""

    def __init__(self, domain: str, status: int, code: str, text: str, remedy: str) -> None:
        self.status, self.code, self.text, self.remedy = status, code, text, remedy
        super().__init__(f"{domain}: {text} [{code}]{f' — {remedy}' if remedy else ''}")


class RasBusyError(RetryableError):
    """The gateway does not do it now; it may in `after_s` seconds."""

    def __init__(self, domain: str, code: str, text: str, after_s: float) -> None:
        self.code, self.after_s = code, after_s
        super().__init__(f"{domain}: {text} [{code}]")


class RasClient:
    """The registry of `domain` at the gateway `url`. Who asks: `token`, or the domain of `key`, which signs each request. `tls`:
    whom it believes and what it shows. Raises `RasProblemError`, `RasBusyError`, and `UnreachableError` where nobody answers.
    Threads may share one."""

    def __init__(
        self,
        url: str,
        domain: str,
        *,
        token: str = "",
        key: SigningKey | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._domain, self._key, self._wall, self._timeout_s = domain, key, wall, timeout_s
        headers = {"authorization": f"Bearer {token}"} if token else {}
        verify: ssl.SSLContext | bool = tls if tls is not None else True
        self._http = httpx.Client(base_url=url, headers=headers, trust_env=False, transport=transport, verify=verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def find(self, asks: Finding) -> FoundTold:
        return self._post("ras/find", asks, FoundTold)

    def discover(self, asks: Demand) -> FoundTold:
        return self._post("ras/discover", asks, FoundTold)

    def select(self, asks: Demand) -> Selected:
        return self._post("ras/select", asks, Selected)

    def resolve(
        self, urn: str, *, version: str = "", range: str = "", alias: str = "", as_of: float | None = None
    ) -> Resolved:
        query = {"urn": urn, "version": version, "range": range, "alias": alias, "as_of": as_of}
        return self._get("ras/resolve", query, Resolved)

    def pointers(self, urn: str, *, as_of: float | None = None) -> Pointers:
        return self._get("ras/pointers", {"urn": urn, "as_of": as_of}, Pointers)

    def history(self, urn: str) -> History:
        return self._get("ras/history", {"urn": urn}, History)

    def register(self, asks: Registration) -> Registered:
        return self._post("ras/register", asks, Registered)

    def health(self) -> RegistryHealth:
        return self._get("ras/health", {}, RegistryHealth)

    def metrics(self) -> str:
        return self._answer("ras/metrics", b"", {}, self._timeout_s).decode()

    def invoke(self, asks: Calling) -> Called:
        """Waits as long as the call may take. What it is refused for, and how it failed, stands in the answer."""
        body = msgspec.json.encode(asks)
        return self._read(self._answer("ras/invoke", body, {}, asks.timeout_s + SLACK_S), Called)

    def invoke_stream(self, asks: Calling) -> Iterator[CalledPiece]:
        """Pieces as they come; who stops reading them has the call stopped."""
        body, rest = msgspec.json.encode(asks), b""
        for part in self._parts("ras/invoke/stream", body, {}, asks.timeout_s + SLACK_S):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield self._read(line, CalledPiece)
            if len(rest) > MAX_LINE:
                raise RetryableError(f"{self._domain} answers with a line of more than {MAX_LINE} bytes")

    def _post(self, door: str, asks: Any, kind: type[T]) -> T:
        return self._read(self._answer(door, msgspec.json.encode(asks), {}, self._timeout_s), kind)

    def _get(self, door: str, query: dict[str, Any], kind: type[T]) -> T:
        return self._read(self._answer(door, b"", query, self._timeout_s), kind)

    def _read(self, data: bytes, kind: type[T]) -> T:
        try:
            return from_json(data, kind)
        except msgspec.MsgspecError as error:
            raise RetryableError(f"{self._domain} answers with something else than {kind}: {error}") from error

    def _answer(self, door: str, body: bytes, query: dict[str, Any], timeout_s: float) -> bytes:
        return b"".join(self._parts(door, body, query, timeout_s))

    def _parts(self, door: str, body: bytes, query: dict[str, Any], timeout_s: float) -> Iterator[bytes]:
        path, its, size = PREFIX + door, BY_PATH[door], 0
        asked = {name: value for name, value in query.items() if value not in ("", None)}
        headers = {"content-type": "application/json"} if body else {}
        if self._key is not None:
            headers[PROOF_HEADER] = prove(
                self._key,
                audience=self._domain,
                method=its.method,
                path=path,
                body=digest_bytes(body),
                now=self._wall(),
            )
        try:
            with self._http.stream(
                its.method,
                path,
                params=asked,
                content=body or None,
                headers=headers,
                timeout=timeout_s,
                extensions={"sni_hostname": self._domain},
            ) as answer:
                if answer.status_code != 200:
                    raise self._problem(answer, _first(answer.iter_bytes(), MAX_LINE))
                for part in answer.iter_bytes():
                    size += len(part)
                    if size > MAX_ANSWER and door != "ras/invoke/stream":
                        raise RetryableError(f"{self._domain} answers with more than {MAX_ANSWER} bytes")
                    yield part
        except httpx.HTTPError as error:
            raise UnreachableError(f"gateway of {self._domain}", str(error) or type(error).__name__) from error

    def _problem(self, answer: httpx.Response, data: bytes) -> RasProblemError | RasBusyError:
        status = answer.status_code
        try:
            problem = from_json(data, ProblemAnswer).error
        except msgspec.MsgspecError:
            return RasProblemError(self._domain, status, "gateway.malformed", f"it answered {status}", "")
        if status in (429, 503):
            after = answer.headers.get("retry-after", "1")
            after_s = float(after) if after.isdecimal() else 1.0
            return RasBusyError(self._domain, problem.code, problem.text, after_s)
        return RasProblemError(self._domain, status, problem.code, problem.text, problem.remedy)


def _first(parts: Iterator[bytes], most: int) -> bytes:
    """No more of them than is to be looked at."""
    found = b""
    for part in parts:
        found += part
        if len(found) >= most:
            break
    return found[:most]
