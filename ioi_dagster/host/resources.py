"""The registry and the governors as Dagster resources."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dagster import ConfigurableResource, MetadataValue

from ioi_dagster.adapters.http.client import GatewayClient, own_gateway
from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.domain import DomainHome, home_domain
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.story import Entry
from ioi_dagster.ras.discovery import Found, Intent
from ioi_dagster.ras.lock import Lock, lock
from ioi_dagster.ras.record import Record
from ioi_dagster.ras.selection import Discovery, Query


class RASResource(ConfigurableResource):
    """The home domain's registry: `discover` and `records` through its gateway, all else in its database, which processes of the
    home domain alone can open."""

    def discover(self, capability: str, data_class: DataClass = DataClass.INTERNAL) -> Discovery:
        """Who at home offers `capability`; every rejection with its reason."""
        home = _home()
        config = home.config()
        query = Query(capability, data_class, home.name, config.spec.authority)
        return self._client(home).discover(query)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Bodies of the newest records; signatures were checked by the gateway."""
        return [signed.body for signed in self._client(_home()).records(kind)]

    def find(self, words: str, k: int = 5, **intent: Any) -> Found:
        """Who can do what is said in words, `k` at most and best first; every rejection with its reason. `intent`: fields of
        `ras.discovery.Intent`, as `kinds` or `inputs`."""
        found = self._discovered(Intent(words, **{"asker": _home().name, **intent}))
        return replace(found, options=found.options[:k])

    def select(self, intent: Intent | str, context: Any = None, output: str | None = None) -> Lock:
        """Choose, by an intent or words, and pin what was chosen. With the `context` of a step the lock's digest and what it
        chose go into the metadata of its output (`output`, where it has several). Raises `BadInputError` where nothing does."""
        home = _home()
        intent = Intent(intent, asker=home.name) if isinstance(intent, str) else intent
        pinned = lock(intent, self._discovered(intent), f"registry of {home.name}", time.time())
        if context is not None:
            told = {
                "ioi/selection": pinned.digest,
                "ioi/selected": str(pinned.chosen),
                "ioi/selection-lock": MetadataValue.json(pinned.document()),
            }
            context.add_output_metadata(told, output_name=output)
        return pinned

    def resolve(self, urn: str, version: str | None = None, *, alias: str | None = None) -> Record:
        """The record that is given of `urn`: that version, what the alias names, or what is given where none is named. Raises
        `BadInputError` where there is none."""
        home = _home()
        with _store(home) as store:
            record = store.get(urn, version, alias=alias)
        if record is None:
            what = f"alias {alias} of {urn}" if alias else f"{urn} {version or ''}".rstrip()
            raise BadInputError(f"the registry of {home.name} gives no {what}", todo="see `ioi ras history`")
        return record

    def _discovered(self, intent: Intent) -> Found:
        home = _home()
        with _store(home) as store:
            return SqlRegistry(store, f"registry of {home.name}").discover(intent, {})

    def _client(self, home: DomainHome) -> GatewayClient:
        return own_gateway(home)


class GovernorsResource(ConfigurableResource):
    """The hierarchy of governors and the ledger of the home domain's runs."""

    def status(self) -> dict[str, Any]:
        """Clusters, nodes, leases and peers as the home gateway sees them."""
        home = _home()
        return own_gateway(home).status()

    def steps(self, run: str) -> list[StepRow]:
        """Where each step of a run was placed; empty when runs here are not governed."""
        home = home_domain()
        if home is None:
            return []
        ledger = Ledger(home.ledger)
        try:
            return ledger.steps(run)
        finally:
            ledger.close()

    def story(self, run: str, step: str | None = None) -> list[Entry]:
        home = home_domain()
        if home is None:
            return []
        ledger = Ledger(home.ledger)
        try:
            return ledger.story(run, step)
        finally:
            ledger.close()


@contextmanager
def _store(home: DomainHome) -> Iterator[SqlRecordStore]:
    store = SqlRecordStore(home.registry, home.trusted())
    try:
        yield store
    finally:
        store.close()


def _home() -> DomainHome:
    home = home_domain()
    if home is None:
        raise FinalError("no policy root is configured: set IOI_HOME and IOI_DOMAIN, or start it by `ioi up`")
    return home
