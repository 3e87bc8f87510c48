"""What is told to the arbiter and what it answers: plain frozen values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ioi_dagster.model.quota import Amounts


@dataclass(frozen=True, slots=True)
class Request:
    """One ask for room. `amounts` is what one copy takes on one node, by resource; `nodes` are those allowed (None: any), of
    those that offer `capability` ("": any); `arrived` is when it was first asked (s), which a request that comes again after
    an eviction keeps; of `copies` all start at once or none does; it is `wanted` so many times, each by itself;
    `remaining_s`: seconds of work that whoever asks has left, see `Rules.longest_s`; `preemptible` says that it may be ended for
    others, `checkpointable` that ending it loses little; `seconds`: so long it runs at most, as far as is known; 0: it is not."""

    id: str
    tenant: str
    amounts: Amounts
    arrived: float = 0.0
    nodes: Collection[str] | None = None
    block_class: str = ""
    priority: int = 0
    copies: int = 1
    checkpointable: bool = False
    capability: str = ""
    wanted: int = 1
    preemptible: bool = True
    remaining_s: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """`aging_s`: a step of priority is worth so many seconds of waiting, and no more. Of those of one line who have least work
    left come first (L. Schrage, "A proof of the optimality of the shortest remaining processing time discipline", Operations
    Research 16(3), 1968), where a second that was waited counts as a second of work, and no more work than `longest_s` is
    counted. `min_run_s`: what ran shorter is not evicted. Of one tenant at most `evictions` requests are evicted for others in
    any `window_s` seconds. `seed` is of the nodes that are sampled; clusters of up to `exact` nodes are searched whole, larger
    ones by the best of `choices`, which is the emptiest where they are to `spread`, else the one that is left most useful."""

    aging_s: float = 60.0
    longest_s: float = 4 * 3600.0
    min_run_s: float = 30.0
    evictions: int = 8
    window_s: float = 300.0
    seed: int = 0
    exact: int = 64
    choices: int = 8
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop `victim` (a request that runs), then say `on_finished`; what it held is kept for `tenant`."""

    victim: str
    tenant: str
    why: str


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant's books. `share` is its dominant share of the cluster (0..1), `entitled` what weighted fairness would give
    it now; `lent` is the part of its guarantee that others use; of resources that `limit` does not name it may use any amount.
    `waiting` is all that is asked for, `stopping` how many run that were told to stop; `over` is what the others use beyond its
    limits, of resources where that is something: who has lowered those cannot have it before they end, since they may not be
    stopped."""

    cohort: str
    weight: float
    share: float
    entitled: float
    used: Mapping[str, float]
    guarantee: Mapping[str, float]
    borrowed: Mapping[str, float]
    lent: Mapping[str, float]
    limit: Mapping[str, float]
    running: int
    waiting: int
    oldest_wait_s: float
    stopping: int
    over: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    capacity: Mapping[str, float]
    used: Mapping[str, float]
    tenants: Mapping[str, TenantView]
    cohorts: Mapping[str, TenantView]
    """The same of cohorts; their `cohort` is the one that they are part of, empty at the top."""
    classes: Mapping[str, Mapping[str, TenantView]]
    """Tenant → class → the same; empty: all classes that have no quota of their own. Tenants without classes are not there."""
    held: Mapping[str, str]
    """Node → the tenant for whose next request it is being emptied."""
