"""Assets are made again where what they are made by has changed in the registry: new, better, or withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from dagster import (
    AssetKey,
    AssetObservation,
    AssetSelection,
    DefaultSensorStatus,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.host.registry_assets import USES, asset_key, home_of
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.pointers import Stand, Status
from ioi_dagster.signing import digest

CHANGED = "ioi/registry-change"
"""Tag of a run: why it was asked for."""
MAX_TOLD = 1_000
"""Characters of a tag."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a use comes to: a version of a record, and how it stands."""

    urn: str
    version: str
    digest: str
    status: str


@dataclass(frozen=True, slots=True)
class Change:
    """`use`: a URN or a capability. `kind`: `new`, `better`, `withdrawn`, `deprecated`, or `gone` where nothing is in its
    place."""

    use: str
    kind: str
    text: str
    urn: str

    @property
    def affects(self) -> bool:
        """Is there something by which assets can be made anew?"""
        return self.kind in ("new", "better", "withdrawn")


def registry_sensor(
    name: str = "registry_changes",
    *,
    domain_home: str = "",
    minimum_interval_seconds: int = 60,
    default_status: DefaultSensorStatus = DefaultSensorStatus.STOPPED,
) -> SensorDefinition:
    """A sensor over all assets that can be made and say by metadata `ioi/uses` what they are made by: URNs, or capabilities
    (`capability:page.ocr`), whose best offer counts. Its cursor is what stood when it looked last; the first look asks for
    nothing. One run is asked for all assets that a look finds affected, and says why in its tag `ioi/registry-change`."""

    @sensor(
        name=name,
        asset_selection=AssetSelection.all(),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Makes assets again that a new, better or withdrawn version in the registry affects.",
    )
    def registry_changes(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        assert context.repository_def is not None
        graph = context.repository_def.asset_graph
        users = users_of({key: graph.get(key).metadata for key in graph.materializable_asset_keys})
        if not users:
            return SkipReason(f"no asset says by metadata {USES} what it is made by")
        return looked(context.cursor, users, lambda uses: standing(home_of(domain_home), uses))

    return registry_changes


def users_of(metadata: Mapping[AssetKey, Mapping[str, Any]]) -> dict[str, list[AssetKey]]:
    """Use → the assets that say so."""
    users: dict[str, list[AssetKey]] = {}
    for key, its in sorted(metadata.items(), key=lambda item: item[0].to_user_string()):
        told = its.get(USES)
        told = getattr(told, "value", getattr(told, "data", told))
        for use in [told] if isinstance(told, str) else told or ():
            users.setdefault(str(use), []).append(key)
    return users


def looked(
    cursor: str | None,
    users: Mapping[str, list[AssetKey]],
    ask: Callable[[Iterable[str]], tuple[dict[str, Chosen | None], Callable[[Chosen], Stand]]],
) -> SensorResult:
    """What one look asks for. `ask` gives what stands now by use, and how a version that stood before stands."""
    now, stand = ask(sorted(users))
    before = from_json(cursor, dict[str, Chosen | None]) if cursor else {}
    found = [
        change
        for use, chosen in now.items()
        if use in before and (change := _change(use, before[use], chosen, stand)) is not None
    ]
    kept = msgspec.json.encode(now).decode()
    if not found:
        return SensorResult(skip_reason=SkipReason("nothing that assets are made by has changed"), cursor=kept)
    why = "; ".join(dict.fromkeys(change.text for change in found))
    assets = sorted(
        {key for change in found if change.affects for key in users[change.use]}, key=AssetKey.to_user_string
    )
    observed = [
        AssetObservation(
            asset_key(change.urn), description=change.text, metadata={"change": change.kind, "use": change.use}
        )
        for change in found
    ]
    if not assets:
        return SensorResult(
            skip_reason=SkipReason(f"nothing can be made anew: {why}"), cursor=kept, asset_events=observed
        )
    run = RunRequest(
        run_key=digest([cursor, kept])[7:39],
        asset_selection=assets,
        tags={CHANGED: why[:MAX_TOLD]},
    )
    return SensorResult(run_requests=[run], cursor=kept, asset_events=observed)


def _change(use: str, before: Chosen | None, now: Chosen | None, stand: Callable[[Chosen], Stand]) -> Change | None:
    if before == now:
        return None
    if before is None:
        assert now is not None
        return Change(use, "new", f"{use} is offered now, by {_named(now)}", now.urn)
    its = stand(before)
    reason = f" ({its.reason})" if its.reason else ""
    if now is None:
        return Change(
            use,
            "gone",
            f"{use} is offered by nobody any more: {_named(before)} is {its.status.value}{reason}",
            before.urn,
        )
    if (now.urn, now.version, now.digest) == (before.urn, before.version, before.digest):
        if now.status == Status.ACTIVE.value:
            return None  # it was withdrawn, and is not any more
        return Change(use, "deprecated", f"{_named(now)} is {now.status}{reason}, and nothing is in its place", now.urn)
    if its.status is not Status.ACTIVE:
        text = f"{_named(before)} is {its.status.value}{reason}: {_named(now)} is in its place"
        return Change(use, "withdrawn", text, now.urn)
    if now.urn == before.urn:
        return Change(use, "new", f"{_named(now)} is new, after {before.version}", now.urn)
    return Change(use, "better", f"{_named(now)} is better for {use} than {_named(before)}", now.urn)


def _named(one: Chosen) -> str:
    return f"{one.urn} {one.version}"


def standing(home: DomainHome, uses: Iterable[str]) -> tuple[dict[str, Chosen | None], Callable[[Chosen], Stand]]:
    """What each use comes to in the domain's registry."""
    store = SqlRecordStore(home.registry, home.trusted())
    try:
        found = {use: _chosen(store, home, use) for use in uses}
    finally:
        store.close()

    def stand(one: Chosen) -> Stand:
        its = SqlRecordStore(home.registry, home.trusted())
        try:
            return its.pointers(one.urn).stand(one.version)
        finally:
            its.close()

    return found, stand


def _chosen(store: SqlRecordStore, home: DomainHome, use: str) -> Chosen | None:
    if use.startswith("urn:"):
        record = store.get(use)
        if record is None:
            return None
        return Chosen(use, record.version, record.digest, store.pointers(use).stand(record.version).status.value)
    intent = Intent(capability=use.removeprefix("capability:"), asker=home.name)
    best = SqlRegistry(store, f"registry of {home.name}").discover(intent, {}).chosen
    if best is None:
        return None
    return Chosen(best.summary.urn, best.summary.version, best.summary.digest, best.summary.status.value)
