"""Performs plans of copies: spreads an asset and brings copies in sync, where one process may write to each domain's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ioi_dagster.adapters.fsspec.folder import Doors
from ioi_dagster.adapters.fsspec.mover import BY, Moved, Mover, drop, version_url
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset
from ioi_dagster.ras.data.copies import Copy, Standing, Worth
from ioi_dagster.ras.data.routing import Network, Refused, route
from ioi_dagster.ras.data.spread import spread
from ioi_dagster.ras.data.sync import Deed, Plan


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of it: copies that are there now, those that went, and what was refused or failed."""

    copies: tuple[Copy, ...] = ()
    dropped: tuple[Copy, ...] = ()
    refused: tuple[Refused, ...] = ()


class Keeper:
    """`roots`: by domain, below which URL its copies lie. `tell` hears of a copy when it is there, `withdraw` before it goes."""

    def __init__(
        self,
        mover: Mover,
        doors: Doors,
        roots: Mapping[str, str],
        tell: Callable[[Copy], None] = lambda copy: None,
        withdraw: Callable[[Copy], None] = lambda copy: None,
    ) -> None:
        self._mover, self._doors, self._roots, self._tell, self._withdraw = mover, doors, roots, tell, withdraw

    def spread(
        self,
        asset: Asset,
        standings: Iterable[Standing],
        targets: Iterable[str],
        network: Network,
        now: float,
        fan_out: int = 2,
    ) -> Kept:
        """One hop after the other. Where one fails, the rest is planned anew from who has it then; its target is not tried again,
        and a holder that failed is not taken from again."""
        known, left = list(standings), set(targets)
        made: list[Copy] = []
        refused: list[Refused] = []
        while True:
            plan = spread(asset, known, left, network, fan_out)
            for hop in plan.hops:
                own = [one for one in known if one.copy.domain == hop.source and one.worth is Worth.WHOLE]
                moved = self._into(asset, hop.target, own, network, now)
                refused += moved.refused
                if not moved.whole:
                    failed = {(one.domain, one.url) for one in moved.refused if one.url}
                    known = [one for one in known if one.copy.where not in failed]
                    if not failed:
                        left.discard(hop.target)
                    break
                left.discard(hop.target)
                made.append(moved.copy)
                known.append(Standing(moved.copy, Worth.WHOLE, {part.name: part.name for part in asset.parts}))
            else:
                return Kept(tuple(made), (), (*refused, *plan.refused))

    def sync(self, plan: Plan, now: float) -> Kept:
        """Copies first, then drops. What fails is refused and comes up in the next plan again."""
        made, dropped, refused = [], [], list(plan.refused)
        for action in plan.actions:
            if action.route is not None:
                url = self._url(action.route.asset, action.domain)
                if isinstance(url, Refused):
                    refused.append(url)
                    continue
                moved = self._mover.move(action.route, url, now)
                # Those of its route were refused by the plan already.
                refused += moved.refused[len(action.route.refused) :]
                made.append(moved.copy)
                if moved.copy.held:
                    self._tell(moved.copy)
            elif action.deed is Deed.DROP and action.copy is not None:
                try:
                    self._withdraw(action.copy)
                    drop(self._doors, action.copy)
                    dropped.append(action.copy)
                except Exception as error:  # each file system has errors of its own
                    its = Refusal("data.not_dropped", str(error)[:300], BY, "it is tried again with the next plan")
                    refused.append(Refused(*action.copy.where, its))
        return Kept(tuple(made), tuple(dropped), tuple(refused))

    def _into(self, asset: Asset, target: str, sources: list[Standing], network: Network, now: float) -> Moved:
        url = self._url(asset, target)
        if isinstance(url, Refused):
            return Moved(Copy(target, "", asset.urn, asset.version, asset.digest, {}, now), False, refused=(url,))
        moved = self._mover.move(route(asset, sources, target, network), url, now)
        self._tell(moved.copy)
        return moved

    def _url(self, asset: Asset, domain: str) -> str | Refused:
        if domain in self._roots:
            return version_url(self._roots[domain], asset)
        text = f"where {domain} keeps copies is not known"
        return Refused(domain, "", Refusal("data.no_root", text, BY, "say below which URL its copies lie"))
