"""What an AI block is to the parts that run it: a class with load, invoke and unload over typed payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Payload:
    """A typed value on its way to or from a block: a JSON document and named binary parts."""

    document: dict[str, Any]
    parts: Mapping[str, bytes] = field(default_factory=dict)


class Block(Protocol):
    """An AI block. `invoke` gets a batch and returns as many results, in order.

    `load` is called once per replica before the first `invoke`, `unload` once after the last. A block keeps no
    state between calls and writes no file. Input that it cannot process is a result (a document that says so);
    an exception means that the block itself is broken.
    """

    def load(self) -> None: ...

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]: ...

    def unload(self) -> None: ...
