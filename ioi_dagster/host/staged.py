"""Outputs that an attempt has put into a store, on their way to being published by its commit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec

from ioi_dagster.adapters.files.store import STAGED, StoreSpec, ValueStore, open_store
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import RetryableError
from ioi_dagster.host.exchange import Staged

_PREFIX = "staged:"
TRIES = 3

log = logging.getLogger("ioi.values")


def publish(staged: Iterable[Staged]) -> None:
    """Called by the run process when the attempt was committed; doing it again changes nothing. Raises `RetryableError` when
    a store does not take it."""
    for output in staged:
        store = open_store(output.store)
        for piece in output.pieces:
            for name in piece.names:
                _publish(store, output, piece.source, name)


def _publish(store: ValueStore, output: Staged, source: str, name: str) -> None:
    for left in reversed(range(TRIES)):
        try:
            return store.publish(source, name)
        except Exception as error:  # each store has errors of its own
            if not left:
                raise RetryableError(
                    f"the output {output.handle[1]!r} of step {output.handle[0]!r} was committed, but {output.store.url} "
                    f"does not take it as {name}: {error} — resume the run when the store is back"
                ) from error


def reference(staged: Staged) -> str:
    """For the ledger: without the store's options."""
    plain = msgspec.structs.replace(staged, store=staged.store.without_secrets())
    return _PREFIX + msgspec.json.encode(plain).decode()


def is_reference(text: str) -> bool:
    """Or else it is the name of an object that the run process keeps itself."""
    return text.startswith(_PREFIX)


def from_reference(text: str) -> Staged | None:
    """None where it is none."""
    return from_json(text[len(_PREFIX) :], Staged) if is_reference(text) else None


def tidy(run: str, stores: Iterable[str], kept: Iterable[Staged], specs: Mapping[str, StoreSpec]) -> int:
    """Remove what lost attempts of `run` left in `stores` (URLs) and in those of `kept`; returns how many values went. `specs`:
    how to open a store, by its URL, where that is known better than a reference says."""
    sources: dict[str, set[str]] = {url: set() for url in stores}
    for output in kept:
        sources.setdefault(output.store.url, set()).update(piece.source for piece in output.pieces)
    removed = 0
    for url, its in sources.items():
        try:
            removed += open_store(specs.get(url, StoreSpec(url))).tidy(f"{STAGED}/{run}", frozenset(its))
        except Exception as error:  # each store has errors of its own; nothing of what is left can be seen by anybody
            log.warning("%s was not tidied: %s", url, error)
    return removed
