"""Capability contracts: what a block can do, as its owner states it and others match on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Effect


class Evidence(StrEnum):
    """On whose word a figure stands: its owner's, an attestor's, or what callers measured."""

    DECLARED = "declared"
    ATTESTED = "attested"
    OBSERVED = "observed"


@dataclass(frozen=True, slots=True)
class Charge:
    """`amount` of `currency` (ISO 4217, or a unit that domains have agreed on) for each `unit` (`call`, `second`, `token`, …)."""

    unit: str
    amount: float
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Quality:
    """`value` of `metric` on the data set with `dataset`, its digest."""

    metric: str
    value: float
    dataset: str = ""
    evidence: Evidence = Evidence.DECLARED


@dataclass(frozen=True, slots=True)
class Slo:
    """What its owner promises of a call: milliseconds and shares in 0..1; 0 where nothing is promised."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    availability: float = 0.0


@dataclass(frozen=True, slots=True)
class Contract:
    """Match at capability level, return the record. `inputs` and `outputs` are JSON Schemas.

    `effect` says what a second call with the same input would do to the world (`pure`, `idempotent`, `at_most_once`), `external`
    that it changes something outside of its domain, `irreversible` that nobody can undo it. `takes` and `gives` are media types
    (RFC 6838), `skills` ids of the Open Agentic Schema Framework. `examples` are requests that it answers, two to five.
    """

    id: str
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    effect: str = Effect.PURE.value
    external: bool = False
    irreversible: bool = False
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    charges: tuple[Charge, ...] = ()
    quality: tuple[Quality, ...] = ()
    slo: Slo = Slo()
    cost: float = 1.0
    limits: dict[str, Any] = field(default_factory=dict)
    streams: bool = False
    """Its result comes in pieces: the entrypoint is a `model.block.StreamingBlock`."""
    resumes: bool = False
    """It can go on after the pieces that another replica of the same name and version has made."""


class Isolate(StrEnum):
    """Where a replica lives: in a thread of its worker, or in a process of its own beside it."""

    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A block as its domain registers it. Raises `BadInputError` for values that make no sense.

    Two specs that differ in anything are two versions of the block, and the newer one takes over (see `governors.block`).
    """

    name: str
    version: str
    capability: str
    entrypoint: str
    """`module:Class` of a `model.block.Block`, or of a `StreamingBlock` where the contract says that it streams."""
    contract: Contract
    handles: DataClass = DataClass.RESTRICTED
    """The highest data class that this block may be given here."""
    model: str = ""
    licence: str = ""
    memory_mb: int = 0
    """What one replica needs, in MiB (0: not known, and not counted). A replica in a process of its own that takes more is
    ended."""
    timeout_s: float = 120.0
    """How long one `invoke` may take (0: no limit)."""
    load_timeout_s: float = 600.0
    """How long `load` may take (0: no limit)."""
    max_batch: int = 1
    """How many calls one `invoke` is given at most."""
    max_wait_ms: float = 0.0
    """How long a call may wait for others to fill its batch. 0: a batch is what waits anyway when a replica gets free."""
    replicas: int = 1
    """How many replicas one node loads at most: a further one where calls wait."""
    concurrency: int = 1
    """How many `invoke`s of one replica may run at once; more than one only for a class that is thread-safe."""
    max_queue: int = 64
    """How many calls may wait on one node; the next is refused with `block.queue_full`."""
    idle_s: float = 900.0
    """A replica that had no call for so long is unloaded (0: never)."""
    isolate: Isolate = Isolate.THREAD
    max_failures: int = 5
    """So many failures in a row open the circuit: no call for `rest_s`, then one to try."""
    rest_s: float = 20.0

    def __post_init__(self) -> None:
        for wrong, what, todo in _checks(self):
            if wrong:
                raise BadInputError(what, where=f"block {self.name!r}", todo=todo)


_ENTRYPOINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _checks(spec: BlockSpec) -> tuple[tuple[bool, str, str], ...]:
    """(is it wrong, what is wrong, what to do)."""
    at_least = {"max_batch": 1, "replicas": 1, "concurrency": 1, "max_queue": 1, "max_failures": 1}
    at_least |= dict.fromkeys(("memory_mb", "timeout_s", "load_timeout_s", "max_wait_ms", "idle_s", "rest_s"), 0)
    too_small = [(name, least) for name, least in at_least.items() if not getattr(spec, name) >= least]
    name, least = too_small[0] if too_small else ("", 0)
    effects = [effect.value for effect in Effect]
    return (
        (not spec.name, "the block has no name", "name it"),
        (not spec.version, "the block has no version", "say which it is"),
        (not spec.capability, "the block has no capability", "say what it can do"),
        (
            not _ENTRYPOINT.fullmatch(spec.entrypoint),
            f"entrypoint is {spec.entrypoint!r}",
            "write it as module:Class",
        ),
        (
            bool(too_small),
            f"{name} is {getattr(spec, name or 'name')!r}, and must be a number from {least}",
            "correct it",
        ),
        (
            spec.isolate not in tuple(Isolate),
            f"isolate is {spec.isolate!r}",
            f"one of {', '.join(Isolate)}",
        ),
        (
            spec.contract.effect not in effects,
            f"effect is {spec.contract.effect!r}",
            f"one of {', '.join(effects)}",
        ),
        (
            spec.isolate == Isolate.PROCESS and spec.concurrency > 1,
            f"a replica in a process of its own takes one batch at a time, concurrency is {spec.concurrency}",
            "set replicas instead",
        ),
        (
            spec.contract.effect == Effect.AT_MOST_ONCE and spec.max_batch > 1,
            "a batch that fails is tried again call by call, and this block may be called once only",
            "set max_batch to 1",
        ),
        (
            spec.contract.streams and spec.max_batch > 1,
            "a block that streams takes one call at a time",
            "set max_batch to 1",
        ),
        (spec.contract.resumes and not spec.contract.streams, "a block that resumes has to stream", "set streams too"),
    )
