"""Copies in several domains of one home, kept as the data's owner wants them; and assets that are made of others."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence

import msgspec

from ioi_dagster.adapters.fsspec.folder import Door, Doors
from ioi_dagster.adapters.fsspec.folding import fold
from ioi_dagster.adapters.fsspec.keeping import Keeper, Kept
from ioi_dagster.adapters.fsspec.mover import Mover
from ioi_dagster.adapters.fsspec.stores import doors_of
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.data_making import Made, finish, signed
from ioi_dagster.local.data_plane import DataPlane, siblings
from ioi_dagster.model.data_stores import StoreSpec
from ioi_dagster.private_file import write_private
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.data.fold import plan_fold
from ioi_dagster.ras.data.routing import Refused
from ioi_dagster.ras.data.sync import Plan, Wanted, plan_sync
from ioi_dagster.ras.record import Record
from ioi_dagster.ras.urn import read_urn


class Syncing:
    """For the domain of `plane`, which owns the data, and for all others whose folders lie beside its own."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane, self._homes = plane, siblings(plane.home)
        self._planes: dict[str, DataPlane] = {plane.name: plane}
        self._records: dict[str, Record] = {}

    def close(self) -> None:
        """All but the plane that was given."""
        for plane in self._planes.values():
            if plane is not self._plane:
                plane.close()

    def note(self, urn: str, domains: Iterable[str]) -> None:
        """From now on these are to hold it, and no others. Raises `BadInputError` where it is not this domain's to say."""
        urn, noted = self._own(urn), self._noted()
        known = {*self._plane.config.limits, self._plane.name}
        odd = next((one for one in domains if one not in known), None)
        if odd is not None:
            raise BadInputError(f"{odd[:80]!r} is no member", where="data", todo=f"one of {', '.join(sorted(known))}")
        noted[urn] = sorted(set(domains))
        write_private(self._plane.home.kept_where, msgspec.json.encode(noted))

    def wanted(self, urn: str = "") -> list[str]:
        noted = self._noted()
        if not urn:
            return sorted(noted)
        urn = self._own(urn)
        if urn not in noted:
            raise BadInputError(
                "where it is to be kept is not noted", where=urn, todo="say it: --at DOMAIN, again for each"
            )
        return [urn]

    def plan(self, urn: str, withdrawn: bool = False) -> Plan:
        holding = self._plane.find(urn, self._homes)
        self._records[holding.record.digest] = holding.record
        network = self._plane.network(self._homes)
        return plan_sync(
            Wanted(holding.asset, frozenset(self._noted().get(urn, ())), withdrawn), holding.standings, network
        )

    def apply(self, plan: Plan) -> Kept:
        """Whatever can be done from here; the rest is refused with its reason."""
        return self._keeper({action.domain for action in plan.actions}).sync(plan, self._plane.clock.wall())

    def spread(self, urn: str, domains: Collection[str], fan_out: int) -> tuple[Asset, Kept]:
        """The version in force to each of `domains` of this home that has no whole copy."""
        holding = self._plane.find(urn, self._homes)
        self._records[holding.record.digest] = holding.record
        network, now = self._plane.network(self._homes), self._plane.clock.wall()
        keeper = self._keeper(set(domains))
        return holding.asset, keeper.spread(holding.asset, holding.standings, domains, network, now, fan_out)

    def _keeper(self, domains: set[str]) -> Keeper:
        """Which may write to what these domains keep."""
        doors: dict[str, Sequence[Door]] = dict(self._plane.doors.of)
        roots: dict[str, str] = {}
        most = 2**40
        for name in domains & self._homes.keys():
            other = self._of(name)
            if other.config.data.stores:
                doors[name] = [*doors_of(other.home, other.config.data).of[name], *doors.get(name, ())]
                store = other.store()
                roots[name], most = store.url, min(most, store.most)
        mover = Mover(Doors(doors), most=most, told=self._plane.told)
        return Keeper(mover, Doors(doors), roots, self._tell, self._withdraw)

    def _tell(self, copy: Copy) -> None:
        other = self._of(copy.domain)
        if copy.of in self._records:
            other.keep_record(self._records[copy.of])
        other.tell([copy])

    def _withdraw(self, copy: Copy) -> None:
        self._of(copy.domain).tell([], [copy])

    def _of(self, name: str) -> DataPlane:
        """Raises `BadInputError` for a domain that is not of this home."""
        if name not in self._homes:
            raise BadInputError(f"{name} is not of this home", where="data", todo=f"its owner does it, as {name}")
        if name not in self._planes:
            self._planes[name] = DataPlane(self._homes[name])
        return self._planes[name]

    def _own(self, urn: str) -> str:
        its = read_urn(urn)
        if its.domain != self._plane.name:
            todo = f"its owner says where it is to be kept: --domain {its.domain}"
            raise BadInputError(f"it is of {its.domain}, and this is {self._plane.name}", where=urn, todo=todo)
        return str(its)

    def _noted(self) -> dict[str, list[str]]:
        path = self._plane.home.kept_where
        try:
            return from_json(path.read_bytes(), dict[str, list[str]])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            raise BadInputError(f"cannot be read: {error}", where=str(path), todo="mend or remove it") from error


def folded(
    plane: DataPlane,
    urns: Sequence[str],
    name: str,
    how: str,
    part: str,
    store: StoreSpec,
    modules: Collection[str] = (),
    partial: bool = False,
    version: str = "",
    audience: str = "",
) -> tuple[Made, tuple[Refused, ...]]:
    """An asset of this domain made of others, and what was refused meanwhile. Raises as `fold`."""
    plane.records.check_may_sign()
    network = plane.network()
    plan = plan_fold([plane.routed(plane.find(urn), plane.name, network) for urn in urns], how)
    url = f"{store.url}/folded/{secrets.token_hex(8)}"
    its = fold(plan, plane.mover(store.most), plane.doors.open(plane.name, url), part, modules, partial)
    record = signed(plane, name, its.spec, version, audience, its.provenance)
    return finish(plane, record, url), its.refused
