"""The IO manager of governed runs: values travel with the step; under any other executor they lie in plain files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext

from ioi_dagster.adapters.files.store import LocalStore
from ioi_dagster.compound.codec import MIB, decode_value, encode_value
from ioi_dagster.domain import home_domain
from ioi_dagster.errors import FinalError
from ioi_dagster.host.exchange import Handle, current_exchange
from ioi_dagster.model.data_class import DataClass


class ExchangeIOManager(ConfigurableIOManager):
    """Stores step values in `folder` (default: the home domain's `objects`, else `$DAGSTER_HOME/storage/ioi`).

    Under the governed executor a step's inputs come with it and its outputs go back with its result; the run process
    publishes them when it commits the attempt, so they are in memory at both ends: `max_mib` MiB each at most. Raises
    `FinalError` when a value is larger, or one that should be there is not.
    """

    folder: str = ""
    max_mib: float = 512.0

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        handle: Handle = (context.step_key, context.name, context.mapping_key or "")
        exchange = current_exchange()
        data = encode_value(obj, int(self.max_mib * MIB) if exchange is not None else None)
        assets = _stored_assets(context, obj, data) if context.has_asset_key else {}
        if exchange is not None:
            exchange.outputs[handle] = data
            stated = getattr(obj, "data_class", None)
            if isinstance(stated, DataClass):
                exchange.classes[handle] = stated
            if len(assets) == 1:
                exchange.assets[handle] = next(iter(assets))
            elif assets:
                exchange.partitions[handle] = assets
            return
        store = ObjectStore(self._folder())
        store.put(run_name(context.run_id, handle), data)
        for asset, its_data in assets.items():
            store.put(asset_name(asset), its_data)

    def load_input(self, context: InputContext) -> Any:
        store = ObjectStore(self._folder())
        upstream = context.upstream_output
        if upstream is None or (upstream.step_key == "none" and context.has_asset_key):
            return self._load_asset(context, store)
        handle: Handle = (upstream.step_key, upstream.name, upstream.mapping_key or "")
        exchange = current_exchange()
        if exchange is not None and handle in exchange.inputs:
            return _wanted(context, decode_value(exchange.inputs[handle]))
        data = store.get(run_name(upstream.run_id, handle))
        if data is not None:
            return _wanted(context, decode_value(data))
        return self._load_asset(context, store)

    def _load_asset(self, context: InputContext, store: ObjectStore) -> Any:
        if not context.has_asset_key:
            raise FinalError(missing(context, "", str(self._folder())))
        asset = context.asset_key.to_user_string()
        if not context.has_asset_partitions:
            return self._load_one(context, store, asset)
        keys = list(context.asset_partition_keys)
        values = {key: self._load_one(context, store, asset, key) for key in keys}
        return values[keys[0]] if len(keys) == 1 else values

    def _load_one(self, context: InputContext, store: ObjectStore, asset: str, partition: str = "") -> Any:
        data = store.get(asset_name(partition_of(asset, partition)))
        if data is None:
            raise FinalError(missing(context, partition, str(self._folder())))
        return decode_value(data)

    def _folder(self) -> Path:
        return Path(self.folder) if self.folder else default_folder()


def _stored_assets(context: OutputContext, obj: Any, data: bytes) -> dict[str, bytes]:
    """Under which names values are found by later runs: the asset's, or one for each of its partitions that the step made."""
    asset = context.asset_key.to_user_string()
    keys = list(context.asset_partition_keys) if context.has_asset_partitions else [""]
    if len(keys) == 1:
        return {partition_of(asset, keys[0]): data}
    return {partition_of(asset, key): encode_value(value) for key, value in partition_values(obj, keys, asset).items()}


def partition_values(obj: Any, keys: list[str], asset: str) -> dict[str, Any]:
    """The value of each of several partitions that one step made. Raises `FinalError` where `obj` does not tell."""
    if not isinstance(obj, Mapping) or set(obj) != set(keys):
        raise FinalError(
            f"one step makes {len(keys)} partitions of asset {asset!r}: return a dict with exactly their keys "
            f"({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        )
    return {key: obj[key] for key in keys}


def missing(context: InputContext, partition: str, where: str) -> str:
    """A sentence for a value that is not there: which, and what makes it."""
    if context.has_asset_key:
        asset = context.asset_key.to_user_string()
        of = f"partition {partition!r} of asset {asset!r}" if partition else f"asset {asset!r}"
        return f"{of} has no stored value in {where} — materialise it first"
    upstream = context.upstream_output
    if upstream is None:
        return f"the input {context.name!r} is not stored anywhere"
    return f"output {upstream.name!r} of step {upstream.step_key!r} is not stored in {where} — run that step again"


def _wanted(context: InputContext, value: Any) -> Any:
    """Of the partitions that one step made, those that this one takes."""
    if not (context.has_asset_key and context.has_asset_partitions) or not isinstance(value, Mapping):
        return value
    upstream = context.upstream_output
    if upstream is None or not upstream.has_asset_partitions or len(upstream.asset_partition_keys) < 2:
        return value
    keys = list(context.asset_partition_keys)
    return value[keys[0]] if len(keys) == 1 else {key: value[key] for key in keys}


def partition_of(asset: str, partition: str) -> str:
    """An asset's name, or that of one of its partitions."""
    return f"{asset}\x00{partition}" if partition else asset


class ObjectStore:
    """Bytes under names, each written at once or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._store = folder, LocalStore(folder)

    def put(self, name: str, data: bytes) -> str:
        self._store.put(name, data)
        return name

    def link(self, source: str, name: str) -> None:
        """Give stored bytes a second name, replacing what had it."""
        self._store.publish(source, name)

    def has(self, name: str) -> bool:
        return (self._folder / name).exists()

    def size(self, name: str) -> int | None:
        """In bytes; None where nothing has that name."""
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def sweep(self, folder: str, keep: set[str], dry_run: bool = False) -> int:
        """Remove what lies in `folder` and is not in `keep`; returns how many went (or would)."""
        there = (self._folder / folder).glob("*")
        gone = [path for path in there if f"{folder}/{path.name}" not in keep]
        for path in gone if not dry_run else []:
            path.unlink(missing_ok=True)
        return len(gone)

    def get(self, name: str) -> bytes | None:
        return self._store.get(name)


def default_folder() -> Path:
    home = home_domain()
    if home is not None:
        return home.root / "objects"
    return Path(os.environ.get("DAGSTER_HOME", ".")) / "storage" / "ioi"


def ledger_path() -> Path:
    """The ledger of the runs that are started here."""
    home = home_domain()
    return home.ledger if home is not None else default_folder() / "ledger.sqlite"


def run_name(run: str, handle: Handle, attempt: str = "") -> str:
    """Where a step's output lies: hashed, since step and mapping keys may be long or odd."""
    digest = hashlib.sha256("\x00".join((*handle, attempt)).encode()).hexdigest()[:32]
    return f"runs/{run}/{digest}"


def asset_name(asset: str) -> str:
    """Where the newest value of an asset (or of a partition of one, see `partition_of`) lies."""
    return f"assets/{hashlib.sha256(asset.encode()).hexdigest()[:32]}"
