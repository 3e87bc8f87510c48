"""What a domain's gateway knows of its data: its stores, and what its own policy says of giving it to others."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ioi_dagster.adapters.fsspec.stores import Surveyor
from ioi_dagster.adapters.http.data import DataDesk
from ioi_dagster.clock import Clock
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_move import MovePolicy, Place
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.data_moves import move_policy
from ioi_dagster.policy.gate import Gate
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.data.routing import Network, may_go
from ioi_dagster.ras.store import RecordStore

log = logging.getLogger("ioi.data")


def data_desk(home: DomainHome, config: DomainConfig, records: RecordStore, gate: Gate, clock: Clock) -> DataDesk:
    def may_have(asset: Asset, domain: str) -> tuple[Refusal, ...]:
        return may_go(asset, home.name, domain, network_of(home.config(), move_policy(gate, home.name, clock)))

    stores = _Stores(Surveyor(home, config.data, records), clock)
    return DataDesk(home.name, records, clock, stores, may_have, config.data.survey_s)


def network_of(config: DomainConfig, policy: MovePolicy) -> Network:
    """Domains as this one knows them: by what its owner gives them and where he believes them to be."""
    own = config.spec
    places = {
        name: Place(name, limit, config.regions.get(name, ""), config.authorities.get(name, ""))
        for name, limit in config.limits.items()
    }
    places[own.name] = Place(own.name, own.handles, own.region, own.authority)
    return Network(places, policy, {(link.source, link.target): link for link in config.links})


@dataclass(slots=True)
class _Stores:
    surveyor: Surveyor
    clock: Clock

    def copies(self) -> tuple[tuple[Copy, ...], bool]:
        try:
            found = self.surveyor.look(self.clock.wall())
        except BadInputError as error:
            log.warning("the stores cannot be looked into: %s", error)
            return (), False
        for name, why in found.away:
            log.warning("store %s cannot be looked into: %s", name, why)
        return found.copies, not found.away
