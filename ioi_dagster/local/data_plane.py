"""What a domain's owner does with data: who holds what is asked of all gateways, and what the domain itself may do is done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ioi_dagster.adapters.fsspec.mover import Moved, Mover, version_url
from ioi_dagster.adapters.fsspec.stores import Surveyor, doors_of
from ioi_dagster.adapters.http.client import Asked, GatewayClient
from ioi_dagster.adapters.http.protocol import CopiesOf
from ioi_dagster.adapters.http.tls import TlsTo
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_listing import versions_of
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.local.data_desk import network_of
from ioi_dagster.local.gate import open_gate
from ioi_dagster.model.data_move import DataMove, MovePolicy
from ioi_dagster.model.data_stores import StoreSpec
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.data_moves import move_policy
from ioi_dagster.ras.data.asset import Asset, asset_of
from ioi_dagster.ras.data.copies import Copy, Standing, read_copy, standings
from ioi_dagster.ras.data.routing import BY, Network, Refused, Route, policy_says, route
from ioi_dagster.ras.record import Record, read_record
from ioi_dagster.ras.store import version_key
from ioi_dagster.ras.urn import Kind, read_urn
from ioi_dagster.signing import Signed


@dataclass(frozen=True, slots=True)
class Holding:
    """`asset` is the version in force, as far as is known, by `record`; `against`: what a domain has against giving it to this
    one; `away`: domains that could not be asked, and why."""

    record: Record
    asset: Asset
    standings: tuple[Standing, ...]
    against: Mapping[str, tuple[Refusal, ...]]
    away: Mapping[str, str]


class DataPlane:
    """Of the domain in `home`, whose key signs what is asked. `told` hears of bytes that move, in any thread."""

    def __init__(self, home: DomainHome) -> None:
        self.home, self.config = home, home.config()
        self.told: Callable[[int], object] = lambda size: None
        self.clock, self.records = SystemClock(), SqlRecordStore(home.registry, home.trusted())
        self.doors = doors_of(home, self.config.data)
        self._clients: dict[str, GatewayClient] = {}

    @property
    def name(self) -> str:
        return self.home.name

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self.records.close()

    def store(self, name: str = "") -> StoreSpec:
        """Of that name, or the first. Raises `BadInputError`."""
        stores = self.config.data.stores
        found = next((one for one in stores if name in ("", one.name)), None)
        if found is None:
            names = ", ".join(one.name for one in stores)
            what = f"{self.name} has no store {name!r}" if stores else f"{self.name} has no store for data"
            todo = (
                f"it has {names}" if stores else "say `data: {stores: [{name: shelf, url: data}]}` in its topology file"
            )
            raise BadInputError(what, where=str(self.home.topology or self.home.root), todo=todo)
        return found

    # Who holds what

    def find(self, urn: str, homes: Mapping[str, DomainHome] | None = None) -> Holding:
        """Asks all members, those of `homes` as themselves. Raises `BadInputError` where nobody tells of such an asset."""
        its = read_urn(urn)
        urn = str(its)
        if its.kind is not Kind.ASSET:
            raise BadInputError(f"it is a {its.kind}", where=urn, todo="name an asset: urn:ioi:<domain>:asset:<name>")
        answers, away = self._asked(urn, homes or {})
        told = {name: self._records_of(answer, urn) for name, answer in answers.items()}
        record = self._in_force(its.domain, urn, told)
        if record is None:
            missing = "; ".join(f"{name}: {why}" for name, why in away.items())
            raise BadInputError(
                f"nobody tells {self.name} of such an asset" + (f" ({missing})" if missing else ""),
                where=urn,
                todo="see `ioi ras list --kind asset`; its owner registers it by `ioi data register`, for an audience",
            )
        asset = asset_of(record)
        known = {one.digest: one for those in told.values() for one in those if one.digest != record.digest}
        known |= {one.digest: one for one in self._versions(urn) if one.digest != record.digest}
        copies = [copy for name, answer in answers.items() for copy in _copies(answer, name)]
        if self.name not in answers:
            copies += self.lying(urn)
        against = {name: answer.against for name, answer in answers.items() if answer.against}
        return Holding(
            record, asset, standings(asset, copies, [asset_of(one) for one in known.values()]), against, away
        )

    def lying(
        self, urn: str = "", anew: bool = False, told: Callable[[Asset], None] = lambda asset: None
    ) -> list[Copy]:
        """In the domain's own stores, as they are now."""
        found = Surveyor(self.home, self.config.data, self.records).look(self.clock.wall(), anew, urn, told)
        for name, why in found.away:
            raise BadInputError(f"store {name} cannot be looked into: {why}", where=self.name, todo="see its URL")
        return list(found.copies)

    def tell(self, copies: Iterable[Copy], withdrawn: Iterable[Copy] = ()) -> str:
        """The domain's own gateway hears of it now; empty, or why it will only with its next look into its stores."""
        try:
            self._client(self.name, self.config.gateway).hold(copies, withdrawn)
        except IoiError as error:
            return str(error)
        return ""

    def _asked(self, urn: str, homes: Mapping[str, DomainHome]) -> tuple[dict[str, CopiesOf], dict[str, str]]:
        addresses = {**self.config.peers, self.name: self.config.gateway}
        asked: dict[str, Asked[CopiesOf]] = {}
        answers: dict[str, CopiesOf] = {}
        away: dict[str, str] = {}
        for name, url in sorted(addresses.items()):
            try:
                asked[name] = self._client(name, url, homes.get(name)).copies(urn)
            except IoiError as error:  # it is no member any more
                away[name] = str(error)
        for name, one in asked.items():
            try:
                answers[name] = one.result()
            except IoiError as error:
                away[name] = str(error)
        return answers, away

    def _client(self, name: str, url: str, home: DomainHome | None = None) -> GatewayClient:
        """`home`: of the domain as which it is asked."""
        if name not in self._clients:
            asks = home or self.home
            tls = TlsTo(asks, name, TrustFolder(asks.trust))
            self._clients[name] = GatewayClient(url, name, asks.own_key(), tls=tls)
        return self._clients[name]

    def _records_of(self, answer: CopiesOf, urn: str) -> list[Record]:
        """Those whose signature holds, that in force first; what is not of this asset is left out."""
        found = []
        for signed in (answer.asset, *answer.earlier):
            record = self._read(signed, urn) if signed is not None else None
            if record is not None:
                found.append(record)
        return found

    def _read(self, signed: Signed, urn: str) -> Record | None:
        try:
            record = read_record(signed, self.home.trusted(), (self.records.pointers(urn).owner,))
            asset_of(record)
        except IoiError:
            return None
        return record if record.urn == urn else None

    def _in_force(self, owner: str, urn: str, told: Mapping[str, Sequence[Record]]) -> Record | None:
        """As its owner says, else as this domain's own registry does, else the highest version of which anybody tells."""
        if told.get(owner):
            return told[owner][0]
        mine = self.records.get(urn)
        if mine is not None:
            return mine
        firsts = [those[0] for those in told.values() if those]
        return max(firsts, key=lambda one: version_key(one.version), default=None)

    def _versions(self, urn: str) -> list[Record]:
        return [one.record for one in versions_of(self.records, urn) if one.record is not None]

    # Moving

    def network(self, homes: Mapping[str, DomainHome] | None = None) -> Network:
        """As this domain knows it. `homes`: other domains whose owner does the same here; their policies are asked as well."""
        gates = {name: move_policy(open_gate(home), name, self.clock) for name, home in (homes or {}).items()}
        gates[self.name] = move_policy(open_gate(self.home), self.name, self.clock)
        return network_of(self.config, _all_of(self.name, gates))

    def routed(self, holding: Holding, target: str, network: Network, sources: Collection[str] = ()) -> Route:
        """`sources`: from these domains alone (empty: from any). Who has something against giving it is not taken from."""
        usable = [
            one
            for one in holding.standings
            if (not sources or one.copy.domain in sources) and (one.copy.url or one.copy.domain not in holding.against)
        ]
        way = route(holding.asset, usable, target, network)
        said = {one.refusal.code for one in way.refused}
        against: list[Refused] = []
        for name, refusals in holding.against.items():
            if target == self.name and (not sources or name in sources):
                # The own policy says the same with the place of its rule.
                for why in (*policy_says(holding.asset, name, target, network), *refusals):
                    if why.code not in said:
                        said.add(why.code)
                        against.append(Refused(name, "", why))
        return replace(way, refused=(*way.refused, *against))

    def mover(self, most: int = 2**40) -> Mover:
        return Mover(self.doors, most=most, told=self.told)

    def move(self, holding: Holding, way: Route, store: StoreSpec) -> tuple[Moved, str]:
        """Into a store of this domain; what came of it, and why its gateway does not know yet."""
        self.keep_record(holding.record)
        # What is refused of sources does not stop the others; who gives nothing is not among them.
        moved = self.mover(store.most).move(
            replace(way, refused=()), version_url(store.url, holding.asset), self.clock.wall()
        )
        moved = replace(moved, refused=(*way.refused, *moved.refused))
        return moved, self.tell([moved.copy]) if moved.copy.held else ""

    def keep_record(self, record: Record) -> None:
        """Who holds a copy has to know what it is of."""
        if self.records.by_digest(record.digest) is None:
            self.records.put(record.signed)


def siblings(home: DomainHome) -> dict[str, DomainHome]:
    """All domains whose folders lie beside that one, itself among them: their owner is who runs this."""
    found = {}
    for folder in sorted(home.root.parent.glob("*/domain.json")):
        found[folder.parent.name] = DomainHome(Path(folder.parent))
    return {**found, home.name: home}


def _copies(answer: CopiesOf, name: str) -> list[Copy]:
    """What makes no sense is left out; a domain speaks for itself."""
    found = []
    for one in answer.copies:
        try:
            found.append(read_copy(one, name))
        except BadInputError:
            continue
    return found


def _all_of(own: str, gates: Mapping[str, MovePolicy]) -> MovePolicy:
    """Each end whose policy can be asked here, and whoever asks; the first that does not allow it decides."""

    def decide(move: DataMove) -> Decision:
        decision: Decision | None = None
        for name in dict.fromkeys((own, move.source.domain, move.target.domain)):
            if name in gates:
                decision = gates[name](move)
                if not decision.allowed or decision.obligations:
                    return decision
        return decision or Decision("", Verdict.HOLD, (Refusal("data.nobody_asked", "no policy was asked", BY),))

    return decide
