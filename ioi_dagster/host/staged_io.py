"""IO managers whose values lie in files, each attempt's under a name of its own until its commit publishes it."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from typing import Any
from urllib.parse import quote

from dagster import ConfigurableIOManager, InputContext, OutputContext

from ioi_dagster.adapters.files.store import STAGED, StoreSpec, ValueStore, open_store
from ioi_dagster.compound.attempt import Attempt, current_attempt
from ioi_dagster.compound.codec import decode_value, encode_value
from ioi_dagster.errors import FinalError, IoiError
from ioi_dagster.host.exchange import Exchange, Handle, Piece, Staged, current_exchange
from ioi_dagster.host.io_manager import default_folder, missing, partition_values, run_name
from ioi_dagster.host.staged import from_reference, publish
from ioi_dagster.model.data_class import DataClass

LONGEST = 120
"""Bytes of one readable name; file systems take 255."""


class StagedIOManager(ConfigurableIOManager):
    """What the managers of this module share; not for use by itself.

    Under the governed executor an output is staged by its attempt and published when that is committed. Under any other
    executor it is published at once. A reader sees a whole value: the old one or the new one.
    """

    @abstractmethod
    def _spec(self) -> StoreSpec: ...

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Raises `FinalError` for a value that nothing can write down and for a store that does not take it."""
        exchange = current_exchange()
        spec = self._spec()
        store = open_store(spec)
        if exchange is not None and not store.shared:
            raise FinalError(f"{spec.url} is a store of one process — use a folder or a store that the nodes can reach")
        if exchange is not None:
            exchange.tell_store(spec.url)
        attempt = current_attempt() or Attempt()
        handle: Handle = (context.step_key, context.name, context.mapping_key or "")
        pieces = []
        for partition, value in _values(context, obj).items():
            source = f"{STAGED}/{context.run_id}/{attempt.id}/{_hash(*handle, partition)}"
            self._put(store, spec, source, value)
            names = [_run_name(context.run_id, handle, partition)]
            if context.has_asset_key:
                names.append(asset_file(context.asset_key.path, partition))
            pieces.append(Piece(partition, source, names))
        stated = getattr(obj, "data_class", None)
        staged = Staged(handle, spec, pieces, stated if isinstance(stated, DataClass) else None, self._holder(exchange))
        if exchange is None:
            publish([staged])
        else:
            exchange.staged.append(staged)

    def load_input(self, context: InputContext) -> Any:
        """Raises `FinalError` when a value that should be there is not."""
        if not (context.has_asset_key and context.has_asset_partitions):
            return self._load(context, "")
        keys = list(context.asset_partition_keys)
        values = {key: self._load(context, key) for key in keys}
        return values[keys[0]] if len(keys) == 1 else values

    def _load(self, context: InputContext, partition: str) -> Any:
        store = open_store(self._spec())
        upstream = context.upstream_output
        names = []
        if upstream is not None and not (upstream.step_key == "none" and context.has_asset_key):
            handle: Handle = (upstream.step_key, upstream.name, upstream.mapping_key or "")
            exchange = current_exchange()
            reference = exchange.references.get(handle) if exchange is not None else None
            staged = from_reference(reference) if reference else None
            source = staged.source(partition) if staged is not None else None
            if staged is not None and source is not None:
                found, value = self._fetch(staged, source)
                if found:
                    return value
                names.append(source)
            names.append(_run_name(upstream.run_id, handle, partition))
        if context.has_asset_key:
            names.append(asset_file(context.asset_key.path, partition))
        for name in names:
            data = self._get(store, name)
            if data is not None:
                return decode_value(data)
        raise FinalError(missing(context, partition, self._spec().url))

    def _put(self, store: ValueStore, spec: StoreSpec, source: str, value: Any) -> None:
        try:
            store.put(source, encode_value(value))
        except IoiError:
            raise
        except Exception as error:  # each store has errors of its own
            raise FinalError(f"{spec.url} does not take the value: {error}") from error

    def _get(self, store: ValueStore, name: str) -> bytes | None:
        try:
            return store.get(name)
        except Exception as error:
            raise FinalError(f"{self._spec().url} does not give {name}: {error}") from error

    def _fetch(self, staged: Staged, source: str) -> tuple[bool, Any]:
        """(True, value) where it can be had without the store."""
        return False, None

    def _holder(self, exchange: Exchange | None) -> str:
        return ""


class LocalFilesIOManager(StagedIOManager):
    """Files in `folder` (default: `$DAGSTER_HOME/storage/ioi`, or the home domain's `objects`).

    `folder/assets` has the newest value of each asset under its key, `folder/runs` the outputs of each run.
    """

    folder: str = ""

    def _spec(self) -> StoreSpec:
        return StoreSpec(os.path.abspath(self.folder or str(default_folder())))


class FsspecIOManager(StagedIOManager):
    """Objects below `url`, as in `s3://bucket/prefix` or `file:///data`, in every store that fsspec knows.

    `storage_options` go to fsspec. They reach the run process with the step's result and are written nowhere, so a run process
    that resumes a run has to find its credentials by itself (environment, instance role).
    """

    url: str
    storage_options: dict[str, Any] = {}

    def _spec(self) -> StoreSpec:
        return StoreSpec(self.url, dict(self.storage_options))


def asset_file(path: Any, partition: str) -> str:
    """Where the newest value of an asset (of one of its partitions) lies: readable, and different for different keys."""
    name = "/".join(["assets", *(_readable(part) for part in path)])
    return f"{name}.parts/{_readable(partition)}.value" if partition else f"{name}.value"


def _values(context: OutputContext, obj: Any) -> dict[str, Any]:
    """What is stored, by partition; one that is not partitioned has the partition ''."""
    if not (context.has_asset_key and context.has_asset_partitions):
        return {"": obj}
    keys = list(context.asset_partition_keys)
    if len(keys) == 1:
        return {keys[0]: obj}
    return partition_values(obj, keys, context.asset_key.to_user_string())


def _run_name(run: str, handle: Handle, partition: str) -> str:
    return run_name(run, handle, f"partition {partition}" if partition else "")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]


def _readable(text: str) -> str:
    """A file name that says what it is. What is too long is cut, and a hash of the whole keeps it different."""
    name = quote(text, safe=" +=@,").replace(".", "%2E")
    return name if 0 < len(name) <= LONGEST else f"{name[: LONGEST - 18]}~{_hash(text)[:16]}"
