"""What the flow driver is given and gives back: steps to place, their outcomes, and the network that it places them in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ioi_dagster.governors import flow
from ioi_dagster.host.fleets import Fleet
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Ask, Lease
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experience, Standing
from ioi_dagster.model.start import Streaming
from ioi_dagster.model.story import Entry
from ioi_dagster.signing import Signed


@dataclass(frozen=True, slots=True)
class Found:
    """The places for one kind of ask, and who was rejected why. `may_change`: see `flow.PlacesFound`."""

    places: tuple[flow.Place, ...]
    rejected: tuple[tuple[str, Refusal], ...]
    may_change: bool


class Network(Protocol):
    """What the driver needs from the federation (or from the one embedded cluster)."""

    home: str
    links: tuple[Link, ...]
    """What is told of what lies between the run's domain and others."""

    immediate: bool
    """Registries and clusters answer in this process at once, so that asking needs no thread."""

    shares_storage: bool
    """Its nodes belong to the owner of the run and may open the storage of the run's Dagster instance."""

    outlives_run_process: bool
    """What runs there goes on when the run process is gone."""

    def find(self, capability: str, data_class: DataClass, domains: tuple[str, ...], typed: bool) -> Found:
        """Registry and policy together; may block for a second."""
        ...

    def fleet(self, cluster: str) -> Fleet: ...

    def fleets(self) -> list[Fleet]: ...

    def names(self) -> set[str]:
        """Of the nodes and clusters that are known without asking anybody."""
        ...

    def standing(self) -> tuple[Standing, ...]:
        """How clusters stand with the run's domain, as far as that is known; may block for a second, once."""
        ...

    def experienced(self, seen: tuple[Experience, ...]) -> None:
        """Tell the run's domain; may block for a second. What nobody takes is forgotten."""
        ...

    def step_permit(self, lease: Lease, data_class: DataClass, sent: bytes) -> Signed | None:
        """`sent`: what the step's node gets, which the permit is for."""
        ...

    def issued_anew(self) -> list[str]:
        """What is to be told of the run's permit, since the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """A step to be placed. `work` is what its node gets, or makes that when there is a lease: of a thousand steps over one large
    value only those that are sent hold it. `payload` is set for a block call with one typed input: where that is refused,
    the step is run here with the refusal as its block's answer, so that its own code says what becomes of the refused input."""

    ask: Ask
    work: bytes | Callable[[], bytes]
    payload: Callable[[], Payload] | None
    priority: int
    assigns_class: bool
    then: tuple[Work, ...] = ()
    """Steps that may run in one task after this one, and `fused`, which makes the bytes that say so."""
    fused: Callable[[], bytes] | None = None
    timeout_s: float = 0.0
    """Seconds that the step may run at its node; 0: no limit."""
    streams: Streaming = Streaming.NO
    chunk: bool = False
    """It is a chunk of a map inside a step; Dagster knows nothing of it."""

    def encoded(self) -> bytes:
        """Raises `FinalError` where an input is gone, and `OSError` where one cannot be read."""
        return self.work if isinstance(self.work, bytes) else self.work()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the executor is told of a step: its events were committed, or it failed with a refusal."""

    step: str
    events: list[str] = field(default_factory=list)
    refusal: Refusal | None = None
    lease: Lease | None = None
    attempt: str = ""
    permit: str = ""
    data_class: DataClass = DataClass.INTERNAL
    fused_after: str = ""
    """The step that began the task in which this one ran too."""
    failure: str | None = None
    chunk: bool = False
    seconds: float = 0.0
    story: tuple[Entry, ...] = ()
    """What was told of the step since it was ready, up to its commit or refusal."""
