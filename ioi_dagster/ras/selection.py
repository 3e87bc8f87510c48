"""Who can do it: hard filters over records and living state, every rejection with its reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, SLOTS, Slots
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import ClusterSpec, DomainSpec
from ioi_dagster.ras.record import Kind, Record
from ioi_dagster.ras.store import version_key

MAY_CHANGE = frozenset(
    {"ras.no_living_node", "ras.cluster_away", "ras.not_its_cluster", "domain.unreachable", "ras.unreachable"}
)
"""Rejections that time can heal: a step that meets only these waits instead of being refused."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is wanted: a capability at a data class, by a domain of some certificate authority."""

    capability: str
    data_class: DataClass
    origin: str
    authority: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster that can take it. `accepts`: `step` over Dask at `scheduler`, or `block` at the gateway. `slots`: what its nodes
    have together at most, as its owner has registered them; 0: that is not known, as of a cluster which others may join."""

    domain: str
    cluster: str
    authority: str
    accepts: str
    handles: DataClass
    region: str = ""
    scheduler: str = ""
    block: str = ""
    version: str = ""
    slots: Slots = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """`who`: a domain or one of its clusters; `domain`: whose answer it is."""

    who: str
    refusal: Refusal
    domain: str = ""

    def may_change(self, domains: Collection[str]) -> bool:
        """Can time help a step that may run in `domains` only, or anywhere where none are named?"""
        return self.refusal.code in MAY_CHANGE and (not domains or self.domain in domains)


@dataclass(frozen=True, slots=True)
class Discovery:
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()


def discover(query: Query, domain: DomainSpec, records: Sequence[Record], state: Mapping[str, Any]) -> Discovery:
    """One domain's answer. `state` is its living run-time state (`cluster/<name>` → facts)."""
    block = _newest_block(query.capability, records)
    facts = _Facts(query, domain, block)
    for row in _FILTERS:
        if row.refused(facts):
            refusal = Refusal(row.code, row.text(facts), f"registry of {domain.name}", row.remedy)
            return Discovery(rejected=(Rejected(domain.name, refusal, domain.name),))
    accepts = "step" if domain.authority == query.authority else "block"
    candidates, rejected = [], []
    for cluster in domain.clusters:
        living = state.get(f"cluster/{cluster.name}")
        if living is None or not (living.get("nodes") or living.get("may_come")):
            code = "ras.cluster_away" if living is None else "ras.no_living_node"
            text = "its scheduler does not report" if living is None else "it has no living node"
            refusal = Refusal(code, text, f"registry of {domain.name}", "it is restarted")
            rejected.append(Rejected(cluster.name, refusal, domain.name))
            continue
        candidates.append(
            Candidate(
                domain.name,
                cluster.name,
                domain.authority,
                accepts,
                domain.handles,
                domain.region,
                living.get("scheduler", "") if accepts == "step" else "",
                block.urn if block else "",
                block.version if block else "",
                _at_most(cluster, living),
            )
        )
    return Discovery(tuple(candidates), tuple(rejected))


def _at_most(cluster: ClusterSpec, living: Mapping[str, Any]) -> Slots:
    """What is there was told seconds ago: where it is more than is registered, the next bid may be of more still."""
    registered = int(cluster.capacity.get(SLOTS, 0))
    return registered if living.get("slots", 0) <= registered else 0


@dataclass(frozen=True, slots=True)
class _Facts:
    query: Query
    domain: DomainSpec
    block: Record | None


@dataclass(frozen=True, slots=True)
class _Filter:
    code: str
    refused: Callable[[_Facts], bool]
    text: Callable[[_Facts], str]
    remedy: str = ""


_FILTERS = (
    _Filter(
        "ras.own_code_abroad",
        lambda f: f.query.capability == OWN_STEP and f.domain.authority != f.query.authority,
        lambda f: "it takes block calls only: its certificate authority is another",
        "offer the step as a block there",
    ),
    _Filter(
        "ras.no_capability",
        lambda f: f.query.capability != OWN_STEP and f.block is None,
        lambda f: f"no block here offers {f.query.capability}",
        "register a block",
    ),
    _Filter(
        "ras.domain_class",
        lambda f: not f.query.data_class.within(f.domain.handles),
        lambda f: f"the domain handles {f.domain.handles} at most, the data is {f.query.data_class}",
        "choose another domain",
    ),
    _Filter(
        "ras.block_class",
        lambda f: f.block is not None and not f.query.data_class.within(DataClass(f.block.spec["handles"])),
        lambda f: f"the block handles {f.block.spec['handles'] if f.block else '?'} at most",
        "choose another block",
    ),
)
"""Cheap checks first; the first that refuses is the reason given."""


def _newest_block(capability: str, records: Sequence[Record]) -> Record | None:
    fitting = [r for r in records if r.kind is Kind.BLOCK and r.spec.get("capability") == capability]
    return max(fitting, key=lambda record: version_key(record.version), default=None)
