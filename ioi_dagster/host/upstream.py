"""The versions of the assets that a step depends on, for nodes that may not look into the log of the run's owner.

Dagster writes into each materialisation which ones of its upstream assets it was made from; without that everything that
depends on something is out of date as soon as it is there. A node that sees an empty instance is sent what it needs for it:
versions and places in the log, and none of what the log tells besides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from dagster import AssetKey, AssetMaterialization, AssetObservation, DagsterInstance, EventLogRecord
from typing_extensions import override

from ioi_dagster.host.private import (
    DATA_VERSION_TAG,
    AssetEntry,
    AssetObservationData,
    AssetRecord,
    DagsterEvent,
    DagsterEventType,
    EventLogEntry,
    ExecutionStep,
    InMemoryEventLogStorage,
    StepMaterializationData,
    extract_data_version_from_entry,
)

MAX_PARTITIONS = 1_000
"""An asset with more has its newest version sent, and not that of each partition."""


class UpstreamAsset(msgspec.Struct, frozen=True):
    """The newest event of an asset: its id in the log, its run, when (Unix seconds) and the data version that it states;
    `observed`: it is no materialisation. `partitions`: partition → its data version."""

    asset: str
    id: int
    run: str
    at: float
    version: str | None = None
    observed: bool = False
    partitions: dict[str, str] = {}


def upstream_of(step: ExecutionStep, layer: Any, instance: DagsterInstance) -> list[UpstreamAsset]:
    """What is known now of the assets that `step` depends on, for those that it makes. `layer`: the job's `asset_layer`."""
    keys = (output.properties.asset_key for output in step.step_outputs)
    made = [key for key in keys if key is not None and layer.has(key)]
    needed = list(dict.fromkeys(key for asset in made for key in layer.get(asset).parent_keys if key not in made))
    if not needed:
        return []
    records = {record.asset_entry.asset_key: record.asset_entry for record in instance.get_asset_records(needed)}
    found = []
    for key in needed:
        entry = records.get(key)
        event = entry and (entry.last_materialization_record or entry.last_observation_record)
        if event is None:
            event = next(iter(instance.fetch_observations(key, limit=1).records), None)
        if event is not None:
            partitioned = layer.get(key).partitions_def is not None
            found.append(_told(key, event, _partitions(key, instance) if partitioned else {}))
    return found


def _told(key: AssetKey, record: EventLogRecord, partitions: dict[str, str]) -> UpstreamAsset:
    version = extract_data_version_from_entry(record.event_log_entry)
    return UpstreamAsset(
        asset=key.to_string(),
        id=record.storage_id,
        run=record.run_id,
        at=record.timestamp,
        version=version.value if version is not None else None,
        observed=record.event_log_entry.asset_observation is not None,
        partitions=partitions,
    )


def _partitions(key: AssetKey, instance: DagsterInstance) -> dict[str, str]:
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {name: its[DATA_VERSION_TAG] for name, its in tags.items()} if len(tags) <= MAX_PARTITIONS else {}


class SentEventLogStorage(InMemoryEventLogStorage):
    """The event log of a node that has none: what was sent along with the step is there, and nothing else."""

    _sent: Mapping[AssetKey, UpstreamAsset] = {}

    def take(self, assets: Iterable[UpstreamAsset]) -> None:
        """What there is from now on."""
        known = ((AssetKey.from_db_string(asset.asset), asset) for asset in assets)
        self._sent = {key: asset for key, asset in known if key is not None}

    @property
    @override
    def asset_records_have_last_observation(self) -> bool:
        return True

    @override
    def get_asset_records(self, asset_keys: Sequence[AssetKey] | None = None) -> Sequence[AssetRecord]:
        keys = self._sent if asset_keys is None else [key for key in asset_keys if key in self._sent]
        return [_record(key, self._sent[key]) for key in keys]

    @override
    def get_latest_tags_by_partition(
        self,
        asset_key: AssetKey,
        event_type: DagsterEventType,
        tag_keys: Sequence[str],
        asset_partitions: Sequence[str] | None = None,
        before_cursor: int | None = None,
        after_cursor: int | None = None,
    ) -> Mapping[str, Mapping[str, str]]:
        known = self._sent.get(asset_key)
        if (
            known is None
            or event_type is not DagsterEventType.ASSET_MATERIALIZATION
            or DATA_VERSION_TAG not in tag_keys
        ):
            return {}
        asked = known.partitions if asset_partitions is None else asset_partitions
        return {name: {DATA_VERSION_TAG: known.partitions[name]} for name in asked if name in known.partitions}


def _record(key: AssetKey, asset: UpstreamAsset) -> AssetRecord:
    tags = {DATA_VERSION_TAG: asset.version} if asset.version is not None else {}
    if asset.observed:
        kind, data = DagsterEventType.ASSET_OBSERVATION, AssetObservationData(AssetObservation(key, tags=tags))
    else:
        kind = DagsterEventType.ASSET_MATERIALIZATION
        data = StepMaterializationData(AssetMaterialization(key, tags=tags))
    event = DagsterEvent(event_type_value=kind.value, job_name="", event_specific_data=data)
    written = EventLogEntry(
        error_info=None, level=logging.INFO, user_message="", run_id=asset.run, timestamp=asset.at, dagster_event=event
    )
    record = EventLogRecord(storage_id=asset.id, event_log_entry=written)
    entry = AssetEntry(
        asset_key=key,
        last_materialization_record=None if asset.observed else record,
        last_observation_record=record if asset.observed else None,
    )
    return AssetRecord(storage_id=0, asset_entry=entry)
