"""What a gateway stands on: ports, behind which clusters, orders and files are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx

from ioi_dagster.adapters.http.data import DataDesk
from ioi_dagster.adapters.http.feeds import FeedDesk
from ioi_dagster.adapters.http.membership import MemberBook, NoMembers
from ioi_dagster.adapters.http.protocol import OrderAnswer, RunAnswer, RunOrder
from ioi_dagster.adapters.http.standing import StandingDesk
from ioi_dagster.adapters.http.tls import Peers
from ioi_dagster.clock import Clock
from ioi_dagster.domain import DomainConfig
from ioi_dagster.model.block import Begun
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.order import Order
from ioi_dagster.model.token import Token
from ioi_dagster.ras.asking import (
    Demand,
    FoundTold,
    History,
    Pointers,
    Registered,
    Registration,
    Resolved,
    Selected,
)
from ioi_dagster.ras.discovery import Policy
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.store import RecordStore
from ioi_dagster.ras.summary import Living
from ioi_dagster.signing import SigningKey, TrustedKeys

T = TypeVar("T")


class BlockRunner(Protocol):
    """Runs a start on a node of the domain's own cluster; raises `UnreachableError` when it was lost."""

    async def run(self, request: bytes, key: str, call: str, node: str, timeout_s: float) -> bytes:
        """`key`: that of the lease; `call` tells calls under it apart."""
        ...

    def stream(
        self, request: bytes, stream: str, key: str, call: str, node: str, timeout_s: float
    ) -> AsyncGenerator[Begun | list[bytes] | bytes, None]:
        """The same; before the answer comes who gives the pieces, and they, framed, as they come. `stream`: its name in the
        request."""
        ...


class ClusterDoor(Protocol):
    """To the governor of one of the domain's clusters."""

    async def ask(self, door: str, message: Any, kind: type[T], timeout_s: float) -> T:
        """Raises `UnreachableError`, `RefusedError`, and `msgspec.ValidationError` on an answer of another kind."""
        ...


DecidePlacement = Callable[[str, str, str, DataClass], Decision]
"""(origin domain, its authority, capability, data class) → this domain's own decision."""


class OrderDesk(Protocol):
    """Takes what is ordered in the domain, as its policy allows."""

    def give(self, order: Order, subject: str, of: str, unseen: bool) -> OrderAnswer:
        """`subject` orders it, for whom the domain `of` vouches. Raises `BadInputError`, `NotAllowedError` and `OSError`; may
        wait for a disk."""
        ...

    def in_force(self) -> list[dict[str, Any]]: ...

    def say(self, said: RunOrder, of: str) -> RunAnswer:
        """Leave word for a run. Raises as `give`."""
        ...

    def heard(self, said: RunAnswer) -> RunAnswer:
        """With what came of it by now."""
        ...


class RegistryDesk(Protocol):
    """The registry that a gateway answers for, see `adapters.sql.registry_desk`. `asker`: the domain that is proved to ask."""

    def found(self, demand: Demand, asker: str, living: Mapping[str, Living]) -> FoundTold: ...

    def selected(
        self, demand: Demand, asker: str, living: Mapping[str, Living], policy: Policy | None = None
    ) -> Selected | FoundTold: ...

    def resolved(
        self, urn: str, asker: str, version: str = "", range: str = "", alias: str = "", as_of: float | None = None
    ) -> Resolved | None: ...

    def pointers(self, urn: str, asker: str, as_of: float | None = None) -> Pointers | None: ...

    def history(self, urn: str, asker: str) -> History | None: ...

    def register(self, asked: Registration, signer: str) -> Registered: ...

    def counts(self, asker: str | None) -> dict[str, dict[str, int]]: ...

    def database(self) -> dict[str, str]: ...


@dataclass(slots=True)
class GatewayContext:
    """What the gateway stands on; everything is a port."""

    config: DomainConfig
    token: str
    trusted: TrustedKeys
    store: RecordStore
    decide: DecidePlacement
    runners: Mapping[str, BlockRunner]
    clusters: Mapping[str, ClusterDoor]
    clock: Clock
    peers: Peers | None = None
    """Whose certificate a connection was opened with; None where the listener is not one of TLS."""
    http_to: Callable[[MemberRecord], httpx.AsyncClient] | None = None
    """Member → what asks its gateway; None: nobody is asked."""
    shown: Callable[[], object] = lambda: None
    """The certificate that it shows there."""
    book: MemberBook = field(default_factory=NoMembers)
    orders: OrderDesk | None = None
    """None: nothing is ordered here."""
    state: LeasedState = field(default_factory=LeasedState)
    standing: StandingDesk | None = None
    """How clusters stand with the domain; None: that is forgotten with the gateway."""
    feeds: FeedDesk | None = None
    """None: nothing is told to other registries, and nothing taken of them."""
    data: DataDesk | None = None
    """None: nothing is said of data."""
    epoch: int = 1
    registry: RegistryDesk | None = None
    """None: nobody is answered for it."""
    tokens: Callable[[], Mapping[str, Token]] = dict
    """By id, as they are now. Raises `BadInputError` where that cannot be told."""
    key: Callable[[], SigningKey] | None = None
    """What the domain signs by, as it is now; None: the gateway calls no blocks in its name."""
