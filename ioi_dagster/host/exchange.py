"""The values of one step on their way in and out of it, when a governor runs the step.

The IO manager takes inputs from here and leaves outputs here, so a node needs no storage of the run's owner and an
attempt's outputs stay unseen until the flow governor has committed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import msgspec

from ioi_dagster.adapters.files.store import StoreSpec
from ioi_dagster.decoding import from_json, from_msgpack
from ioi_dagster.host.upstream import UpstreamAsset
from ioi_dagster.model.data_class import DataClass

Handle = tuple[str, str, str]
"""(step key, output name, mapping key or '')."""


class Piece(msgspec.Struct, frozen=True):
    """One stored value: where it lies, and under which names it is found once it is published."""

    partition: str
    source: str
    names: list[str]


class Staged(msgspec.Struct, frozen=True):
    """One output that its attempt has put into a store. `holder`: the address of the worker that has it in memory too."""

    handle: Handle
    store: StoreSpec
    pieces: list[Piece]
    data_class: DataClass | None = None
    holder: str = ""

    def source(self, partition: str) -> str | None:
        return next((piece.source for piece in self.pieces if piece.partition == partition), None)


@dataclass(slots=True)
class Exchange:
    inputs: dict[Handle, bytes]
    outputs: dict[Handle, bytes] = field(default_factory=dict)
    classes: dict[Handle, DataClass] = field(default_factory=dict)
    assets: dict[Handle, str] = field(default_factory=dict)
    partitions: dict[Handle, dict[str, bytes]] = field(default_factory=dict)
    """By the name under which later runs find it, where one output is several partitions of an asset."""
    staged: list[Staged] = field(default_factory=list)
    """Outputs that are in a store already, under the attempt's name."""
    writes: list[Future[None]] = field(default_factory=list)
    """Durable copies that are being written; a step's result says nothing before they are there."""
    holder: str = ""
    """The address of this worker, where it keeps outputs in memory."""
    references: dict[Handle, str] = field(default_factory=dict)
    """Where inputs lie that were staged by the attempts that made them."""
    one_cluster: bool = False
    """The run's nodes are one cluster of its owner's: they reach each other, and its storage."""
    tell_store: Callable[[str], None] = lambda url: None
    """Called with its URL before something is written to a store."""
    origin: str = ""
    run: str = ""
    step: str = ""
    """Of the step that runs here: what loads its code, its run (both in Dagster's serialisation) and its key."""


_exchange: ContextVar[Exchange | None] = ContextVar("ioi_exchange", default=None)


def current_exchange() -> Exchange | None:
    """The exchange of the step that runs here, None under an executor that is not ours."""
    return _exchange.get()


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[Exchange]:
    token = _exchange.set(exchange)
    try:
        yield exchange
    finally:
        _exchange.reset(token)


class StepInput(msgspec.Struct, frozen=True):
    handle: Handle
    data: bytes


class Located(msgspec.Struct, frozen=True):
    """An input that lies in a store: its committed attempt's reference."""

    handle: Handle
    reference: str


class StepWork(msgspec.Struct, frozen=True):
    """Everything a node needs to run one step of Dagster. Dagster's own values are in its JSON serialisation.

    `instance` names the storage of the run's owner, where the node may open it; elsewhere `upstream` says what it would find
    there on the assets that the step depends on. `then`: steps of a chain that the node goes on with; each `takes` outputs of
    the one before it. `checkpoint`: what an earlier attempt left that was stopped.
    """

    origin: str
    run: str
    step: str
    known_state: str
    retries: str
    repository_load_data: str | None = None
    inputs: list[StepInput] = []
    located: list[Located] = []
    one_cluster: bool = False
    takes: list[Handle] = []
    instance: str | None = None
    upstream: list[UpstreamAsset] = []
    then: list[StepWork] = []
    checkpoint: bytes | None = None


class StepOutput(msgspec.Struct, frozen=True):
    """`asset` is set when the output materialises one; `data_class` when the value states its own."""

    handle: Handle
    data: bytes
    data_class: DataClass | None = None
    asset: str | None = None
    partitions: dict[str, bytes] = {}


class StepResult(msgspec.Struct, frozen=True):
    """`events` are serialised `EventLogEntry`s in causal order. `failure` is a serialised `SerializableErrorInfo`: what
    Dagster raised around the step (a resource that does not start) instead of saying it in an event. `started` and `ended`
    are Unix seconds; `then` the results of as many steps of the chain as were run."""

    events: list[str]
    outputs: list[StepOutput]
    failure: str | None = None
    succeeded: bool = False
    started: float = 0.0
    ended: float = 0.0
    then: list[StepResult] = []
    staged: list[Staged] = []


class Owed(msgspec.Struct, frozen=True):
    """What a commit owes to the world, kept in the ledger until it is done: `links` are the names (of a stored value, and one
    more for it), `events` and `failure` those of `StepResult`."""

    events: list[str]
    links: list[tuple[str, str]] = []
    failure: str | None = None


def handle_text(handle: Handle) -> str:
    """A handle as one string, for the ledger."""
    return msgspec.json.encode(handle).decode()


def handle_from_text(text: str) -> Handle:
    return from_json(text, Handle)


_CHUNK = b"IOIMAP1"


class ChunkWork(msgspec.Struct, frozen=True):
    """One chunk of a map inside a step: what it is made of is fetched from the `worker` of the step that waits for it."""

    map: str
    index: int
    worker: str
    step: str


def encode_chunk(map_id: str, index: int, worker: str, step: str) -> bytes:
    """What a node gets instead of `StepWork`."""
    return _CHUNK + msgspec.msgpack.encode(ChunkWork(map_id, index, worker, step))


def decode_chunk(work: bytes) -> ChunkWork | None:
    """None where `work` is a `StepWork`."""
    if not work.startswith(_CHUNK):
        return None
    return from_msgpack(work[len(_CHUNK) :], ChunkWork)
