"""The run's view of the registries of all domains, through their gateways. What one claims of others is not believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ioi_dagster.adapters.http.client import Asked, GatewayClient
from ioi_dagster.adapters.http.tls import TlsTo
from ioi_dagster.clock import Clock
from ioi_dagster.domain import DomainConfig, DomainHome, TrustFolder, hidden
from ioi_dagster.errors import FinalError, RetryableError, UnreachableError
from ioi_dagster.governors.network import PROBE_S, PeerState
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.selection import Candidate, Discovery, Query, Rejected
from ioi_dagster.signing import Signed, SigningKey

SILENT_S = 0.1
"""So long is waited for one that did not answer in time when it was asked last, or that the own gateway does not hear. The
question goes on, and its answer tells that it is back."""
HEARD_S = 5.0
"""So long after its answer to the run itself the own gateway's doubt of a domain counts nothing."""
NOT_IN_TIME = "it did not answer the last time"


@dataclass(frozen=True, slots=True)
class _View:
    """What the own gateway sees, or is asked for, and until when (monotonic) that will do."""

    until: float
    asked: Asked[dict[str, dict[str, Any]]] | None = None


class FederatedRegistry:
    """The registries of all domains, each asked at its own gateway; there is no central one.

    `config` is the home's: who the others are, by which authority, and what they may be given is its own knowledge. `key` and
    `permit`: see `GatewayClient`.
    """

    def __init__(
        self,
        home: DomainHome,
        config: DomainConfig,
        key: SigningKey | Callable[[], SigningKey],
        permit: Signed | Callable[[], Signed] | None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        gateways = {config.spec.name: config.gateway, **config.peers}
        self._trust = TrustFolder(home.trust)
        self._clients = {
            name: GatewayClient(url, name, key, permit, TlsTo(home, name, self._trust), clock)
            for name, url in gateways.items()
        }
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, Query], Asked[Discovery]] = {}
        self._silent: set[str] = set()
        self._heard: dict[str, float] = {}
        """Domain → when it last answered."""
        self._own, self._view = config.spec.name, _View(float("-inf"))

    def client(self, domain: str) -> GatewayClient:
        return self._clients[domain]

    def discover(self, query: Query) -> Discovery:
        """Everybody's answer; a domain that does not answer is a rejection with that reason. Who did not in time when it was
        asked last is not waited for as long as the others, nor is whom the own gateway does not hear. Equal questions at the same
        time are one."""
        candidates, rejected = [], []
        asked = {name: self._ask(name, query) for name in sorted(self._clients)}
        until = time.monotonic() + SILENT_S
        doubted = self._doubted()
        silent = dict.fromkeys(self._silent & set(asked), NOT_IN_TIME) | doubted
        wait([its.future for name, its in asked.items() if name not in silent])
        wait([asked[name].future for name in silent], max(0.0, until - time.monotonic()))
        for answer in [self._answer(name, its, query, silent.get(name, "")) for name, its in asked.items()]:
            candidates += answer.candidates
            rejected += answer.rejected
        return Discovery(tuple(candidates), tuple(rejected))

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _ask(self, name: str, query: Query) -> Asked[Discovery]:
        with self._lock:
            asked, mine = self._under_way.get((name, query)), False
            if asked is None:
                asked, mine = self._clients[name].discovering(query), True
                self._under_way[name, query] = asked
        if mine:
            asked.future.add_done_callback(partial(self._over, name, query))
        return asked

    def _doubted(self) -> dict[str, str]:
        """Whom the own gateway does not hear, and how it says so. Its word is a hint, and second to what the run has heard."""
        if len(self._clients) < 2:
            return {}
        with self._lock:
            now, silent = time.monotonic(), self._own in self._silent
            if now >= self._view.until:
                self._view = _View(now + PROBE_S, self._clients[self._own].seeing())
            seeing = self._view.asked
        assert seeing is not None
        # No longer than for its other answers, which are under way.
        wait([seeing.future], SILENT_S if silent else None)
        try:
            view = seeing.result() if seeing.future.done() else {}
        except (RetryableError, FinalError):
            return {}
        return {
            name: f"the gateway of {self._own} says it is {told['state']}: {str(told.get('why', ''))[:300]}"
            for name, told in view.items()
            if name in self._clients
            and told.get("state") in (PeerState.SUSPECT, PeerState.GONE)
            and now >= self._heard.get(name, float("-inf")) + HEARD_S
        }

    def _over(self, name: str, query: Query, future: Future[Any]) -> None:
        with self._lock:
            del self._under_way[name, query]
            if not future.cancelled():
                late = isinstance(future.exception(), TimeoutError)
                self._silent = self._silent | {name} if late else self._silent - {name}
                if future.exception() is None:
                    self._heard[name] = time.monotonic()

    def _answer(self, name: str, asked: Asked[Discovery], query: Query, silent: str) -> Discovery:
        """`silent`: why it was not waited for as long as others; empty where it was."""
        try:
            if not asked.future.done():
                why = f"{silent}, nor within {SILENT_S:g} s now: it has stopped, or is cut off"
                raise UnreachableError(f"gateway of {name}", why)
            answer = asked.result()
        except (RetryableError, FinalError) as error:
            refusal = Refusal("domain.unreachable", str(error), "registry")
            return Discovery(rejected=(Rejected(name, refusal, name),))
        return believed(name, answer, self._config.authorities, self._config.limits, query, self._clusters(name))

    def _clusters(self, name: str) -> Collection[str]:
        """The domain's, by its newest record, whose names no other member has."""
        record = self._trust.records().get(name)
        told = record.clusters if record is not None else ()
        own = self._config.spec.clusters if name == self._config.spec.name else ()
        return {*told, *(cluster.name for cluster in own)}


def believed(
    name: str,
    answer: Discovery,
    authorities: Mapping[str, str],
    limits: Mapping[str, DataClass],
    query: Query,
    clusters: Collection[str],
) -> Discovery:
    """What an answer of domain `name` is worth: it speaks for itself and its `clusters` only, and its authority, the way it
    takes work and the highest class it may be given are what the asking domain knows, not what is claimed."""
    candidates: list[Candidate] = []
    rejected = [replace(item, who=item.who[:200], domain=name) for item in answer.rejected]
    for item in answer.candidates:
        if item.domain != name or name not in authorities:
            text = f"{name} answered in the name of {item.domain[:100]}"
            rejected.append(Rejected(name, Refusal("ras.not_its_own", text, "registry", "ask its owner"), name))
            continue
        if item.cluster not in clusters:
            text = f"{name} offers {item.cluster[:100]}, which is none of the clusters that its record names"
            refusal = Refusal(
                "ras.not_its_cluster", text, "registry", "its newer record comes by itself, or ask its owner"
            )
            rejected.append(Rejected(name, refusal, name))
            continue
        own_authority = authorities[name] == query.authority
        handles = min(item.handles, limits.get(name, DataClass.PUBLIC), key=lambda data_class: data_class.rank)
        if not query.data_class.within(handles):
            text = f"{name} may be given {handles} at most, the data is {query.data_class}"
            rejected.append(
                Rejected(name, Refusal("ras.domain_class", text, "registry", "choose another domain"), name)
            )
            continue
        if own_authority and not hidden(item.scheduler):
            text = f"{name} takes steps over Dask at {item.scheduler[:100]}, where others could listen"
            refusal = Refusal("ras.plain_dask", text, "registry", "its owner has its clusters use tls://")
            rejected.append(Rejected(item.cluster[:200], refusal, name))
            continue
        candidates.append(
            replace(
                item,
                authority=authorities[name],
                accepts="step" if own_authority else "block",
                handles=handles,
                scheduler=item.scheduler if own_authority else "",
            )
        )
    return Discovery(tuple(candidates), tuple(rejected))
