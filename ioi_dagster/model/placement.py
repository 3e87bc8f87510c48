"""The values of placement: what a graph needs, what nodes have, what lies between domains, who is put where.

Work is in seconds at speed 1, memory in any one unit, sizes in bytes, latency in seconds, bandwidth in bytes a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Step:
    """One step's demand. Raises `BadInputError` for what cannot be.

    `kind` groups steps whose estimates err alike. `inputs` is what it reads from outside the graph: domain → bytes. `brings`
    bytes come to it from the domain `through`, and `makes` go back there, while it has its room: so values travel that pass
    through a run's process. `domains` are the only ones allowed (None: any); `capability` is what its node must offer ("":
    nothing). `tenant` names whose it is; graphs of one tenant are ordered among themselves.
    """

    id: str
    work: float
    cores: int = 1
    memory: float = 0.0
    gpus: float = 0.0
    min_trust: int = 0
    domains: frozenset[str] | None = None
    inputs: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    kind: str = ""
    tenant: str = "default"
    capability: str = ""
    through: str = ""
    brings: float = 0.0
    makes: float = 0.0

    def __post_init__(self) -> None:
        amounts = {"work": self.work, "memory": self.memory, "gpus": self.gpus}
        amounts |= {"what it brings": self.brings, "what it makes": self.makes}
        amounts |= {f"input from {domain}": size for domain, size in self.inputs.items()}
        _sound(f"step {self.id!r}", amounts)
        if self.cores < 1:
            raise BadInputError(f"it needs {self.cores} cores", where=f"step {self.id!r}", todo="ask for one at least")


@dataclass(frozen=True, slots=True)
class Edge:
    """`consumer` reads `size` bytes that `producer` makes. Raises `BadInputError` for a size that cannot be."""

    producer: str
    consumer: str
    size: float = 0.0

    def __post_init__(self) -> None:
        _sound(f"edge {self.producer!r} → {self.consumer!r}", {"size": self.size})


@dataclass(frozen=True, slots=True)
class Made:
    """What steps of an op make as one of their outputs, in bytes: `each` value, of which a step may make several, and `whole`,
    all of them of one step."""

    each: float
    whole: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What one node has, and the capabilities that it `offers`. A step runs there for `work / speed` seconds. Raises
    `BadInputError` for what cannot be."""

    node: str
    domain: str
    cores: int
    memory: float = inf
    gpus: float = 0.0
    trust: int = 0
    speed: float = 1.0
    offers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        where = f"node {self.node!r}"
        _sound(where, {"cores": self.cores, "gpus": self.gpus, "memory": 0.0 if self.memory == inf else self.memory})
        if not 0 < self.speed < inf:
            raise BadInputError(f"its speed is {self.speed}", where=where, todo="give a number above 0")


@dataclass(frozen=True, slots=True)
class Link:
    """Between two domains (or inside one: `source == target`), in this direction."""

    source: str
    target: str
    latency: float
    bandwidth: float

    def __post_init__(self) -> None:
        where = f"link {self.source!r} → {self.target!r}"
        _sound(where, {"latency": self.latency})
        if not self.bandwidth > 0:
            raise BadInputError(f"its bandwidth is {self.bandwidth}", where=where, todo="give a number above 0")


UNTOLD_BETWEEN, UNTOLD_INSIDE = (0.02, 50e6), (0.0005, 1e9)
"""Latency and bandwidth between two domains and inside one, where nobody tells them."""


def untold(source: str, target: str) -> Link:
    """What is expected of a link of which nobody tells anything."""
    return Link(source, target, *(UNTOLD_INSIDE if source == target else UNTOLD_BETWEEN))


@dataclass(frozen=True, slots=True)
class Assignment:
    """`step` is to wait on `node`, where the ready one with the least `order` starts first; no node: it is bound nowhere.

    `copy`: beside one that runs already; the first to finish wins. `restart`: those that run are stopped.
    `refusal`: no node can ever take it, and what it would need; what depends on it is not placed either.
    """

    step: str
    node: str | None
    order: int = 0
    copy: bool = False
    restart: bool = False
    refusal: Refusal | None = None


def _sound(where: str, amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        if not 0 <= amount < inf:
            raise BadInputError(f"{name} is {amount}", where=where, todo="give a finite number from 0")
