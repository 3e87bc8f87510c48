"""Folds parts of several assets into one part of a new one."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

from ioi_dagster.adapters.fsspec.folder import CHUNK, Folder
from ioi_dagster.adapters.fsspec.mover import Mover, PartUnavailableError
from ioi_dagster.errors import BadInputError, RetryableError
from ioi_dagster.ras.data.asset import Asset, AssetSpec, Part, check_parts
from ioi_dagster.ras.data.fold import BYTES, LINES, Fold, lacking, provenance
from ioi_dagster.ras.data.routing import Refused

Pieces = Iterator[tuple[Part, IO[bytes]]]
Way = Callable[[Pieces], Iterable[bytes]]
"""Given each part with a file of it, which is open until the next one is asked for; gives the bytes of the result."""


@dataclass(frozen=True, slots=True)
class Folded:
    """`spec` and `provenance` are for the record of the result (`asset_record`), whose part lies in the folder. `refused`: of
    sources that were away. `spec.lacks` names what is not in it."""

    spec: AssetSpec
    provenance: tuple[Mapping[str, Any], ...]
    refused: tuple[Refused, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.spec.lacks


def fold(
    plan: Fold, mover: Mover, into: Folder, name: str, modules: Collection[str] = (), partial: bool = False
) -> Folded:
    """Write the result as `name` into the folder, whole or not at all. `modules`: those whose functions may be called.
    `partial`: take what there is. Raises `RetryableError` where something lacks and that is not so, and where nothing is left;
    `BadInputError` for a way of folding that there is not; and whatever the function raises."""
    check_parts([Part(name, 0, "sha256:" + "0" * 64)], "folding")
    way = _way(plan.how, modules)
    used: list[tuple[Asset, str]] = []
    lacks, refused = list(plan.lacks), list(plan.refused)
    if lacks and not partial:
        raise RetryableError(_lacking(lacks))

    def pieces() -> Pieces:
        for asset, leg in plan.legs:
            try:
                with mover.reading(leg) as file:
                    used.append((asset, leg.part.name))
                    yield leg.part, file
            except PartUnavailableError as error:
                refused.extend(error.refused)
                lacks.append(lacking(asset, leg.part.name))
                if not partial:
                    raise RetryableError(_lacking(lacks)) from error

    incoming, hashed, size = into.begin(name), hashlib.sha256(), 0
    try:
        for chunk in way(pieces()):
            incoming.write(chunk)
            hashed.update(chunk)
            size += len(chunk)
        if not used:
            raise RetryableError(_lacking(lacks))
        incoming.publish()
    except BaseException:
        incoming.discard()
        raise
    part = Part(name, size, f"sha256:{hashed.hexdigest()}")
    spec = AssetSpec((part,), data_class=plan.data_class, regions=plan.regions, lacks=tuple(lacks))
    return Folded(spec, provenance(plan.how, used), tuple(refused))


def _bytes(pieces: Pieces) -> Iterator[bytes]:
    for _, file in pieces:
        while chunk := file.read(CHUNK):
            yield chunk


def _lines(pieces: Pieces) -> Iterator[bytes]:
    for _, file in pieces:
        last = b"\n"
        while chunk := file.read(CHUNK):
            last = chunk[-1:]
            yield chunk
        if last != b"\n":
            yield b"\n"


_WAYS: dict[str, Way] = {BYTES: _bytes, LINES: _lines}


def _way(how: str, modules: Collection[str]) -> Way:
    if how in _WAYS:
        return _WAYS[how]
    module, colon, name = how.partition(":")
    if not colon or module not in modules:
        raise BadInputError(
            f"{how[:100]!r} is no way of folding that is allowed here",
            where="folding",
            todo=f"one of {', '.join(_WAYS)}, or module:function of a module that is allowed",
        )
    found = getattr(importlib.import_module(module), name, None)
    if not callable(found):
        raise BadInputError(f"{module} has no function {name[:60]!r}", where="folding", todo="name one that it has")
    return cast(Way, found)


def _lacking(lacks: list[str]) -> str:
    return f"{', '.join(lacks[:3]) or 'everything'} cannot be had now — fold again later, or take what there is"
