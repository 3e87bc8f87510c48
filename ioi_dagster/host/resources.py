"""The registry and the governors as Dagster resources."""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableResource

from ioi_dagster.adapters.http.client import GatewayClient, own_gateway
from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.domain import DomainHome, home_domain
from ioi_dagster.errors import FinalError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.story import Entry
from ioi_dagster.ras.selection import Discovery, Query


class RASResource(ConfigurableResource):
    """The home domain's registry, through its gateway."""

    def discover(self, capability: str, data_class: DataClass = DataClass.INTERNAL) -> Discovery:
        """Who at home offers `capability`; every rejection with its reason."""
        home = _home()
        config = home.config()
        query = Query(capability, data_class, home.name, config.spec.authority)
        return self._client(home).discover(query)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Bodies of the newest records; signatures were checked by the gateway."""
        return [signed.body for signed in self._client(_home()).records(kind)]

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


def _home() -> DomainHome:
    home = home_domain()
    if home is None:
        raise FinalError("no policy root is configured: set IOI_HOME and IOI_DOMAIN, or start it by `ioi up`")
    return home
