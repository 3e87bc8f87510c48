"""What is asked of a registry from outside of its process, and what it answers: plain values for any wire.

Who asks stands in none of them: that is proved, and given beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.runtime import read_offer, read_requirement
from ioi_dagster.model.trust import TrustDemand
from ioi_dagster.ras.aigrid_search import Search, read_search
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.filter_tree import Filter, read_filter
from ioi_dagster.ras.pointers import Stand
from ioi_dagster.ras.summary import Liveness
from ioi_dagster.ras.urn import Kind
from ioi_dagster.ras.utility import DEFAULT_WEIGHTS, Figures
from ioi_dagster.signing import Signed

MAX_WORDS = 10_000
MAX_TOLD = 200
"""Refused candidates that are told one by one; of the others it is told how many there are."""
MAX_BATCH = 1_000

Name = Annotated[str, Meta(max_length=500)]
Names = Annotated[tuple[Name, ...], Meta(max_length=100)]
Words = Annotated[str, Meta(max_length=MAX_WORDS)]
Most = Annotated[int, Meta(ge=1, le=500)]
Kinds = Annotated[tuple[Kind, ...], Meta(max_length=len(Kind))]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is wanted: the fields of `ras.discovery.Intent`, where `filter` is a filter tree or a search of AIGr.id's, `runs_on`
    an offer and `needs` a requirement of a runtime as documents have them. `tag`: of a contract. `k`: so many options are
    told."""

    words: Words = ""
    kinds: Kinds = ()
    capability: Name = ""
    tag: Name = ""
    versions: Name = ""
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    sends: Names = ()
    expects: Names = ()
    unknown_types: bool = False
    runs_on: dict[str, Any] | None = None
    needs: dict[str, Any] | None = None
    trust: TrustDemand = field(default_factory=TrustDemand)
    filter: dict[str, Any] | None = None
    deprecated: bool = False
    least: Liveness = Liveness.UNKNOWN
    weights: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    currency: Name = ""
    metric: Name = ""
    most: Most = 100
    k: Most = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Who can do what is said in `words`? The `k` best; of `kinds`, with that `capability` or `tag`, for data of `data_class`;
    `deprecated` ones too."""

    words: Annotated[str, Meta(min_length=1, max_length=MAX_WORDS)]
    k: Most = 5
    kinds: Kinds = ()
    capability: Name = ""
    tag: Name = ""
    data_class: DataClass = DataClass.PUBLIC
    deprecated: bool = False

    def demand(self) -> Demand:
        trust, most = TrustDemand(self.data_class), max(self.k, 100)
        return Demand(
            self.words,
            self.kinds,
            self.capability,
            self.tag,
            trust=trust,
            deprecated=self.deprecated,
            most=most,
            k=self.k,
        )


def intent_of(demand: Demand, asker: str) -> Intent:
    """`asker`: the domain that is proved to ask; empty: anybody. Raises `BadInputError` for what cannot be asked."""
    return Intent(
        words=demand.words,
        kinds=demand.kinds,
        capability=demand.capability,
        versions=demand.versions,
        inputs=demand.inputs,
        outputs=demand.outputs,
        sends=demand.sends,
        expects=demand.expects,
        unknown_types=demand.unknown_types,
        runs_on=None if demand.runs_on is None else read_offer(demand.runs_on, "runs_on"),
        needs=None if demand.needs is None else read_requirement(demand.needs, "needs"),
        trust=demand.trust,
        asker=asker,
        filter=_filter(demand.filter),
        deprecated=demand.deprecated,
        least=demand.least,
        weights=demand.weights,
        currency=demand.currency,
        metric=demand.metric,
        most=demand.most,
    )


def _filter(document: Mapping[str, Any] | None) -> Filter | Search | None:
    if document is None:
        return None
    bare = {"logicalOperator", "variable", "aggOperator"} & document.keys()
    return read_filter(document) if bare else read_search(document)


@dataclass(frozen=True, slots=True)
class OptionTold:
    """One that would do. `name` and `description` are of its contract; for the rest see `ras.discovery.Option`, `ras.utility`."""

    urn: str
    version: str
    digest: str
    kind: Kind
    capability: str
    status: str
    name: str
    description: str
    figures: Figures
    utility: float
    parts: dict[str, float]
    missing: tuple[str, ...] = ()
    dominated_by: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectedTold:
    urn: str
    version: str
    capability: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class NearTold:
    urn: str
    version: str
    capability: str


@dataclass(frozen=True, slots=True)
class FoundTold:
    """`options`: best first, of which `more` are left off. `rejected`: `MAX_TOLD` at most, all of them counted by code in
    `rejected_by_code`. `closest`: where nothing fits the words, what came nearest. `at`: Unix seconds by the clock of `by`."""

    by: str
    at: float
    options: tuple[OptionTold, ...]
    more: int
    rejected: tuple[RejectedTold, ...]
    rejected_by_code: dict[str, int]
    closest: tuple[NearTold, ...]


@dataclass(frozen=True, slots=True)
class Selected:
    """`lock`: the selection lock as a document, `digest` its own. `record`: what it has chosen."""

    lock: dict[str, Any]
    digest: str
    record: Signed


@dataclass(frozen=True, slots=True)
class VersionTold:
    """A version, how it stands, whether it is what is given where none is named (`offered`), and when it came (Unix seconds)."""

    version: str
    digest: str
    stand: Stand
    offered: bool
    registered: float


@dataclass(frozen=True, slots=True)
class Resolved:
    """`record`, as its owner signed it; how its version stands, which aliases name it, and who owns the name."""

    record: Signed
    digest: str
    version: str
    stand: Stand
    aliases: tuple[str, ...]
    owner: str


@dataclass(frozen=True, slots=True)
class Pointers:
    """What the pointer events of a name come to, at a time where one was asked for. `owners`: all that it has had, the present
    one last; `sequence`: the number of the last event."""

    urn: str
    owners: tuple[str, ...]
    aliases: dict[str, str]
    whole: Stand
    versions: tuple[VersionTold, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class History:
    """Each pointer event of a name, as it was signed, in order of its number; and the versions, as they came."""

    urn: str
    owners: tuple[str, ...]
    events: tuple[Signed, ...]
    versions: tuple[VersionTold, ...]


Batch = Annotated[tuple[Signed, ...], Meta(max_length=MAX_BATCH)]


@dataclass(frozen=True, slots=True)
class Registration:
    """Signed records, and pointer events after them. `whole`: all of it is registered, or nothing; else what can be."""

    records: Batch = ()
    events: Batch = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state`: `registered`, `known` (as it was), `refused` (`why` says for what) or `left` (it could have been, and others of
    the same whole could not). Of an event `version` is its number."""

    state: str
    urn: str
    version: str
    digest: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of each, in the order in which they were sent. `written`: anything was. `told`: why other registries are not
    told of it yet; empty: they are, or nothing was new."""

    written: bool
    records: tuple[Outcome, ...]
    events: tuple[Outcome, ...]
    told: str = ""


@dataclass(frozen=True, slots=True)
class RegistryHealth:
    """`problem`: why it is not `ready`. `records`: how many versions who asks may see, by kind and status. `feeds`: of those that
    he may see, how they stand."""

    domain: str
    ready: bool
    problem: str
    records: dict[str, dict[str, int]]
    database: dict[str, str]
    feeds: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Calling:
    """A call of a block that does what `demand` asks, with data of the class in its `trust`. `payload` and `parts` (base64) are
    what it is given. `timeout_s`: by then there is an answer, also where it waits for room. `key`: who asks again with the same
    one and the same call gets what became of the first; empty: each is another."""

    payload: dict[str, Any]
    demand: Demand = Demand()
    parts: dict[str, bytes] = field(default_factory=dict)
    timeout_s: Annotated[float, Meta(ge=0.1, le=3_600.0)] = 60.0
    key: Annotated[str, Meta(max_length=200)] = ""


@dataclass(frozen=True, slots=True)
class Called:
    """`ok`: what came of it. Else `refusal`, or `error`, of which `infrastructure` says whether it may be better another time.
    `urn`, `version` and `lock` (the digest of the selection lock) say what was chosen; `node`, `attempt`, `started` and `ended`
    (Unix seconds) where and when it ran, after `attempts` in all."""

    ok: bool
    payload: dict[str, Any] | None = None
    parts: dict[str, bytes] = field(default_factory=dict)
    urn: str = ""
    version: str = ""
    lock: str = ""
    cluster: str = ""
    node: str = ""
    attempt: str = ""
    started: float = 0.0
    ended: float = 0.0
    attempts: int = 0
    refusal: Refusal | None = None
    error: str = ""
    infrastructure: bool = False


@dataclass(frozen=True, slots=True)
class CalledPiece:
    """A line of a streamed call: `begun`, then each `piece` with its `number` from 0, last `ended` with `end`, where `number`
    pieces are there in all."""

    word: str
    number: int = 0
    payload: dict[str, Any] | None = None
    parts: dict[str, bytes] = field(default_factory=dict)
    end: Called | None = None
