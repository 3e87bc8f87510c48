"""What is registered, as external assets: from a pinned snapshot, so that definitions load without a network and a database."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetSelection,
    AssetSpec,
    ComponentLoadContext,
    Definitions,
    MetadataValue,
    Resolvable,
    StateBackedComponent,
    TableColumn,
    TableRecord,
    TableSchema,
    define_asset_job,
    multi_asset_check,
)
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_listing import MAX_LOOKED_AT, Wish, listed
from ioi_dagster.domain import DomainHome, home_domain
from ioi_dagster.errors import BadInputError, FinalError, IoiError
from ioi_dagster.ras.discovery import LEASED
from ioi_dagster.ras.pointers import Stand, Status
from ioi_dagster.ras.snapshot import SHOWN, Entry, Snapshot, read_snapshot, snapshot
from ioi_dagster.ras.summary import Liveness
from ioi_dagster.ras.urn import Kind, read_urn

CHECK = "registered"
USES = "ioi/uses"
"""Metadata of an asset: the URNs, and capabilities, by which it is made, see `registry_sensor`."""


@dataclass
class RegistryComponent(StateBackedComponent, Resolvable):
    """The home domain's records as assets. `kinds`: of these. The registry is read when the state is refreshed (`dg utils
    refresh-defs-state`, or a start of `dagster dev`) and by the checks, never when definitions load."""

    kinds: Sequence[str] = field(default_factory=lambda: [str(kind) for kind in SHOWN])
    domain_home: str = ""
    defs_state: ResolvedDefsStateConfig = field(default_factory=DefsStateConfigArgs.local_filesystem)

    @property
    def defs_state_config(self) -> DefsStateConfig:
        return DefsStateConfig.from_args(self.defs_state, default_key="ioi-registry")

    def write_state_to_path(self, state_path: Path) -> None:
        """Take the snapshot."""
        state_path.write_bytes(taken(self._home(), tuple(map(Kind, self.kinds)), time.time()).written())

    def build_defs_from_state(self, context: ComponentLoadContext, state_path: Path | None) -> Definitions:
        if state_path is None:
            return Definitions()
        return registry_definitions(read_snapshot(state_path.read_bytes()), self._home)

    def _home(self) -> DomainHome:
        return home_of(self.domain_home)


def taken(home: DomainHome, kinds: Sequence[Kind], now: float) -> Snapshot:
    """What the domain's registry offers of those kinds. Raises `BadInputError` where that is more than can be shown."""
    store = SqlRecordStore(home.registry, home.trusted())
    try:
        rows = listed(store, Wish(tuple(kinds)), MAX_LOOKED_AT + 1)
        if len(rows) > MAX_LOOKED_AT:
            what = f"more than {MAX_LOOKED_AT} records"
            raise BadInputError(what, where=f"registry of {home.name}", todo="show fewer kinds")
        offered = [(row.record, store.pointers(row.urn).owner, row.stand) for row in rows if row.record is not None]
        return snapshot(home.name, now, offered)
    finally:
        store.close()


def registry_definitions(pinned: Snapshot, home: Callable[[], DomainHome]) -> Definitions:
    """An external asset for each entry, a check of each, and the job `registry_checks`, which runs them. `home` is asked when a
    check runs."""
    if not pinned.entries:
        return Definitions()
    checks = _checks(pinned, home)
    job = define_asset_job("registry_checks", AssetSelection.checks(checks))
    return Definitions([_spec(entry, pinned) for entry in pinned.entries], asset_checks=[checks], jobs=[job])


def asset_key(urn: str) -> AssetKey:
    """`registry/<domain>/<kind>/<name>`; a name with signs that keys may not have is told apart by its digest."""
    its = read_urn(urn)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", its.name)
    told = "" if plain == its.name else f"_{hashlib.sha256(its.name.encode()).hexdigest()[:8]}"
    return AssetKey(["registry", its.domain, str(its.kind), plain + told])


def _spec(entry: Entry, pinned: Snapshot) -> AssetSpec:
    tags = {"ioi/kind": str(entry.kind), "ioi/status": entry.stand.status.value}
    tags |= {"ioi/data-class": entry.handles} if entry.handles else {}
    tags |= {tag: "" for tag in entry.tags if re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", tag)}
    return AssetSpec(
        asset_key(entry.urn),
        deps=[asset_key(urn) for urn in entry.uses],
        description=entry.description or None,
        group_name="registry_" + re.sub(r"[^A-Za-z0-9_]", "_", read_urn(entry.urn).domain),
        owners=[f"team:{entry.owner}"],
        kinds={str(entry.kind)},
        tags=tags,
        code_version=entry.version,
        metadata=_metadata(entry, pinned),
    )


def _metadata(entry: Entry, pinned: Snapshot) -> dict[str, Any]:
    told: dict[str, Any] = {
        "urn": entry.urn,
        "version": entry.version,
        "digest": entry.digest,
        "status": _stand(entry.stand),
        "audience": entry.audience,
        "snapshot": pinned.digest,
        "snapshot taken": MetadataValue.timestamp(pinned.at),
    }
    if entry.valid_until:
        told["valid until"] = MetadataValue.timestamp(entry.valid_until)
    if entry.capabilities:
        told["capabilities"] = _table(("capability",), [(name,) for name in entry.capabilities])
    if entry.facts:
        told["what it says"] = _table(("what", "value"), entry.facts)
    return told | {f"link {number}": MetadataValue.url(link) for number, link in enumerate(entry.links, 1)}


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Any:
    schema = TableSchema([TableColumn(name, "string") for name in columns])
    return MetadataValue.table([TableRecord(dict(zip(columns, row, strict=True))) for row in rows], schema)


def _stand(stand: Stand) -> str:
    successor = f" for {stand.successor} {stand.successor_version}".rstrip() if stand.successor else ""
    return f"{stand.status.value}{successor}" + (f": {stand.reason}" if stand.reason else "")


def _checks(pinned: Snapshot, home: Callable[[], DomainHome]) -> Any:
    described = "Is the version that the snapshot pins registered still, does it stand, and does anything of it run?"
    specs = [AssetCheckSpec(CHECK, asset=asset_key(entry.urn), description=described) for entry in pinned.entries]

    @multi_asset_check(specs=specs, name="registry_health", can_subset=True)
    def registry_health(context) -> Iterator[AssetCheckResult]:
        wanted = {key.asset_key for key in context.selected_asset_check_keys}
        entries = [entry for entry in pinned.entries if asset_key(entry.urn) in wanted]
        for health in healths(entries, home()):
            yield AssetCheckResult(
                passed=health.passed,
                check_name=CHECK,
                asset_key=asset_key(health.entry.urn),
                severity=AssetCheckSeverity.ERROR if health.bad else AssetCheckSeverity.WARN,
                description=health.text,
                metadata=health.metadata,
            )

    return registry_health


@dataclass(frozen=True, slots=True)
class Health:
    """Of the version that a snapshot pins. `liveness`: None for what does not run. `bad`: it may not be used any more."""

    entry: Entry
    stand: Stand
    liveness: Liveness | None
    gone: bool = False

    @property
    def bad(self) -> bool:
        return self.gone or self.liveness is Liveness.DEAD or self.stand.status.rank >= Status.YANKED.rank

    @property
    def passed(self) -> bool:
        """That nothing is heard of it says nothing of it."""
        return not self.bad and self.stand.status is Status.ACTIVE

    @property
    def text(self) -> str:
        if self.gone:
            return f"{self.entry.version} is not registered any more"
        lives = f"; {self.liveness}" if self.liveness else ""
        return f"{self.entry.version} is {_stand(self.stand)}{lives}"

    @property
    def metadata(self) -> Mapping[str, Any]:
        told = {"status": self.stand.status.value, "version": self.entry.version, "digest": self.entry.digest}
        return told | ({"liveness": str(self.liveness)} if self.liveness else {})


def healths(entries: Sequence[Entry], home: DomainHome) -> list[Health]:
    """As the domain's registry, and its gateway where it answers, have it now."""
    living = _living(home)
    store = SqlRecordStore(home.registry, home.trusted())
    try:
        found = []
        for entry in entries:
            record = store.get(entry.urn, entry.version)
            stand = store.pointers(entry.urn).stand(entry.version)
            gone = stand.status is not Status.DELETED and (record is None or record.digest != entry.digest)
            found.append(Health(entry, stand, _liveness(entry, living), gone))
        return found
    finally:
        store.close()


def _living(home: DomainHome) -> Mapping[str, Any] | None:
    """Leased entries by name; None: the gateway does not answer."""
    try:
        return own_gateway(home).state()
    except (IoiError, OSError):
        return None


def _liveness(entry: Entry, living: Mapping[str, Any] | None) -> Liveness | None:
    if entry.kind not in LEASED:
        return None
    if living is None:
        return Liveness.UNKNOWN
    if f"{entry.kind}/{entry.name}" in living:
        return Liveness.ALIVE
    # Clusters alone tell of themselves all the time.
    return Liveness.DEAD if entry.kind is Kind.CLUSTER else Liveness.UNKNOWN


def home_of(folder: str) -> DomainHome:
    """The domain of that folder, or the one that this process works for. Raises `FinalError` where there is none."""
    home = DomainHome(Path(folder)) if folder else home_domain()
    if home is None:
        raise FinalError("no domain is configured: set IOI_HOME and IOI_DOMAIN, or domain_home of the component")
    return home
