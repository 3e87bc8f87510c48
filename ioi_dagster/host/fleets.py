"""Clusters as the flow driver sees them: ask, award, renew, release, start. Which start they accept is theirs to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ioi_dagster.adapters.http.client import Asked
from ioi_dagster.model.block import Payload
from ioi_dagster.model.negotiation import (
    Announce,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    run_key,
    start_key,
)
from ioi_dagster.model.start import StartAnswer, Streaming
from ioi_dagster.signing import Signed


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a step. `work` is for the step runner; `payload` what a foreign block gets instead."""

    key: str
    lease: Lease
    permit: Signed | None
    capability: str
    work: bytes
    payload: Payload | None
    priority: int = 0
    timeout_s: float = 0.0
    brief_s: float = 0.0
    """Seconds that it is known to take where those are few, so that it may share a task with others; 0: not known."""
    own_process: bool = False
    preemptible: bool = True
    """Its node may give it up, and it is placed again."""
    streams: Streaming = Streaming.NO

    def without_work(self) -> Start:
        """What is kept of it while it is out."""
        return replace(self, work=b"", payload=None)


OnDone = Callable[[Start, StartAnswer | None, str | None], None]
"""(start, answer, None) or (start, None, why it was lost). Called once, from any thread."""


@dataclass(frozen=True, slots=True)
class EarlierStart:
    """A start that an earlier process of the run had sent to `node`. `origin`: the domain whose run it is."""

    request: LeaseRequest
    node: str
    origin: str

    @property
    def key(self) -> str:
        request = self.request
        return start_key(run_key(self.origin, request.run), request.step, request.fence, request.copy)


class Fleet(Protocol):
    """One cluster. Calls block and raise `RetryableError` when the other side does not answer in time."""

    cluster: str
    domain: str
    accepts: str
    """`step` (over Dask) or `block` (an invocation at the gateway)."""

    def at_once(self, node: str) -> int:
        """How many of the starts that were sent to a node it runs at the same time; what is beyond waits there."""
        ...

    def announce(self, announce: Announce) -> Bid:
        """What it offers. Takes up to the announcement's `patience_s`."""
        ...

    def withdraw(self, run: str, round_: int) -> None:
        """Let the cluster know that nobody waits for its bid of that round. Does not wait."""
        ...

    def award(self, award: Award) -> Awarded:
        """Leases for what was chosen of its bid, as far as it has room still."""
        ...

    def begin(self, message: Announce | Award | ReleaseRequest) -> Asked[Any] | None:
        """`announce`, `award` or `release` without waiting; None where one has to."""
        ...

    def renew(self, renew: RenewRequest) -> Renewed:
        """Hold leases for longer; says which it does not hold any more."""
        ...

    def release(self, release: ReleaseRequest) -> None:
        """Give leases back."""
        ...

    def start(self, starts: Sequence[Start], on_done: OnDone) -> None:
        """Send steps to the nodes of their leases; does not wait for them."""
        ...

    def find(self, wanted: Sequence[EarlierStart]) -> list[Lease]:
        """Leases of those of `wanted` that are under way still and may be adopted; what else of them runs is stopped."""
        ...

    def adopt(self, start: Start, on_done: OnDone) -> None:
        """As `start`, for what was found."""
        ...

    def alive(self) -> bool:
        """Is its scheduler there, as far as is known without asking?"""
        ...

    def recover(self) -> bool:
        """Try to reach a cluster that was lost; True when it is back."""
        ...

    def cancel(self, keys: list[str]) -> None:
        """Stop the starts under `keys`, or take them back; returns when that is done, within seconds."""
        ...

    def look_after(self, now: float) -> None:
        """Called again and again while the run goes on; must not block."""
        ...

    def close(self) -> None:
        """The run is over: its connection ends, and so do processes that were started for it alone."""
        ...

    def listen(self, topic: str, take: Callable[[Any], None]) -> None:
        """From now on, and after a reconnection, what nodes tell under `topic` goes to `take`, from any thread."""
        ...

    def tell(self, worker: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the worker at the address `worker` call `function`. Does not wait; nothing is said of one that is gone."""
        ...

    def forget(self, run: str) -> None:
        """Drop the values of a run from its nodes' memory: it has ended."""
        ...

    def tear_down(self, its_run: str) -> list[str]:
        """Have the nodes tear down the resources that they keep for the run of that key, which has ended; returns what was
        raised by that."""
        ...

    def waits(self, lease: Lease, waits: bool) -> None:
        """What runs under `lease` waits for others, so its node may take one start more; or it goes on."""
        ...
