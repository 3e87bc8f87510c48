"""Capability contracts: what a block can do, as its owner states it and others match on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.model.data_class import DataClass


@dataclass(frozen=True, slots=True)
class Contract:
    """Match at capability level, return the record. `inputs` and `outputs` are JSON Schemas."""

    id: str
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    effect: str = "pure"
    cost: float = 1.0
    limits: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A block as its domain registers it. `entrypoint` is `module:Class`; `memory` in bytes, `timeout_s` per call.

    `handles` is the highest data class that this block may be given here.
    """

    name: str
    version: str
    capability: str
    entrypoint: str
    contract: Contract
    handles: DataClass = DataClass.RESTRICTED
    model: str = ""
    licence: str = ""
    memory: int = 0
    timeout_s: float = 120.0
