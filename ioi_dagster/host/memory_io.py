"""The IO manager whose values stay in the memory of the workers that made them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ioi_dagster.adapters.files.store import StoreSpec, ValueStore
from ioi_dagster.compound.attempt import current_attempt
from ioi_dagster.compound.codec import decode_value, encode_value
from ioi_dagster.errors import FinalError
from ioi_dagster.host.exchange import Exchange, Staged, current_exchange
from ioi_dagster.host.staged_io import LocalFilesIOManager

MEGABYTE = 2**20
_writers = ThreadPoolExecutor(4, thread_name_prefix="durable")


class MemoryIOManager(LocalFilesIOManager):
    """Values go from worker to worker over Dask; the run process sees references only.

    Each value has a durable copy in `folder` (see `LocalFilesIOManager`), written while the step goes on and finished before
    its attempt can be committed. A value that is no longer in memory, because its worker died or kept more than `memory_mb`
    megabytes, is read from there. Readers get a value of their own each. Works on one cluster: alone or by address; raises
    `FinalError` in a federation. Under any other executor it is `LocalFilesIOManager`.
    """

    memory_mb: int = 512

    def _put(self, store: ValueStore, spec: StoreSpec, source: str, value: Any) -> None:
        exchange = current_exchange()
        if exchange is None:
            return super()._put(store, spec, source, value)
        if not exchange.one_cluster:
            raise FinalError(
                "MemoryIOManager passes values inside one cluster, and this run is on a federation — use ExchangeIOManager"
            )
        data = encode_value(value)
        exchange.writes.append(_writers.submit(_write, store, spec.url, source, data))
        attempt = current_attempt()
        if attempt is not None:
            from ioi_dagster.adapters.dask.held import hold

            exchange.holder = hold(attempt.run, source, data, self.memory_mb * MEGABYTE)

    def _holder(self, exchange: Exchange | None) -> str:
        return exchange.holder if exchange is not None else ""

    def _fetch(self, staged: Staged, source: str) -> tuple[bool, Any]:
        attempt = current_attempt()
        if attempt is None or not staged.holder:
            return False, None
        from ioi_dagster.adapters.dask.held import find

        data = find(staged.holder, attempt.run, source, self.memory_mb * MEGABYTE)
        return (False, None) if data is None else (True, decode_value(data))


def _write(store: ValueStore, url: str, source: str, data: bytes) -> None:
    try:
        store.put(source, data)
    except OSError as error:
        # Of a full disk it would not say which.
        raise OSError(f"{url} does not take the value: {error}") from error
