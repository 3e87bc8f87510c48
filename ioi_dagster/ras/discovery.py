"""From what is wanted to what is chosen, in three explained steps: hard filters, relevance, utility.

Filters are rows of a table; those that read an index's columns come first, those that read the record itself see only what these
have left. Columns alone are looked at for up to 100,000 candidates; a registry of a million hands over what its own index has
left by kind and capability, a few thousand at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.runtime import Offer, Requirement, shortfalls
from ioi_dagster.model.trust import TrustDemand, distrust
from ioi_dagster.ras.aigrid_search import Search
from ioi_dagster.ras.compatibility.check import Answer, Compatibility, compatible, media_compatible
from ioi_dagster.ras.filter_tree import Filter, compiled, why_not
from ioi_dagster.ras.record import PARTNER, PUBLIC
from ioi_dagster.ras.summary import Details, Liveness, Living, Source, Status, Summary
from ioi_dagster.ras.urn import Kind
from ioi_dagster.ras.utility import DEFAULT_WEIGHTS, MAX_COMPARED, Figures, Score, dominators, figures_of, scores
from ioi_dagster.ras.version_range import in_range, order_of

MAX_CANDIDATES = 100_000
LEASED = frozenset({Kind.TOOL, Kind.AGENT, Kind.SERVICE, Kind.BLOCK, Kind.NODE, Kind.CLUSTER})
"""Kinds of which something runs: only these can be dead."""
CLOSEST = 3


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted. `words`: in words. `inputs`: JSON Schema of what it will be given, `outputs` of what it has to give;
    `sends` and `expects` are media types of the same. `unknown_types`: take also those of which that is not known.
    `runs_on`: where it has to run; `needs`: what it has to offer. `asker`: the domain that asks. `least`: how alive it has to be.
    `currency` and `metric` are those of cost and quality. `most`: how many the words may bring."""

    words: str = ""
    kinds: tuple[Kind, ...] = ()
    capability: str = ""
    versions: str = ""
    inputs: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    sends: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()
    unknown_types: bool = False
    runs_on: Offer | None = None
    needs: Requirement | None = None
    trust: TrustDemand = field(default_factory=TrustDemand)
    asker: str = ""
    filter: Filter | Search | None = None
    deprecated: bool = False
    least: Liveness = Liveness.UNKNOWN
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    currency: str = ""
    metric: str = ""
    most: int = 100


class Match(Protocol):
    """`fit` in 0..1 can be compared between requests; `fits` is false where it was found by chance more likely than not."""

    @property
    def id(self) -> str: ...
    @property
    def fit(self) -> float: ...
    @property
    def fits(self) -> bool: ...


class Ranker(Protocol):
    """Which entries answer a request in words: the `k` best of `among`, best first, those that share nothing with it left out."""

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> Sequence[Match]: ...


Policy = Callable[[Summary, Details], Refusal | None]


@dataclass(frozen=True, slots=True)
class Rejected:
    summary: Summary
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Option:
    """One that would do. `dominated_by`: entries that are as good on every count and better on one; empty on the Pareto front."""

    summary: Summary
    figures: Figures
    score: Score
    dominated_by: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    """What is not known of it and was let pass."""


@dataclass(frozen=True, slots=True)
class Found:
    """`options`: all that would do, best first. `closest`: where nothing fits the words, what came nearest."""

    options: tuple[Option, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    closest: tuple[Summary, ...] = ()

    @property
    def chosen(self) -> Option | None:
        return self.options[0] if self.options else None


@dataclass(frozen=True, slots=True)
class Registry:
    """What there is to choose from. `by` names who answers; `living` is run-time state by URN; `now` is seconds of the epoch."""

    by: str
    summaries: Sequence[Summary]
    source: Source
    living: Mapping[str, Living]
    now: float
    ranker: Ranker | None = None
    policy: Policy | None = None


def discover(intent: Intent, registry: Registry) -> Found:
    """Raises `BadInputError` for what cannot be asked."""
    if len(registry.summaries) > MAX_CANDIDATES:
        what = f"{len(registry.summaries)} candidates; {MAX_CANDIDATES} are looked at"
        raise BadInputError(what, where=registry.by, todo="narrow by kind, capability or words")
    left, rejected = _filtered(intent, registry)
    relevance, fitting, missed = _relevant(intent, registry, [summary for summary, _, _ in left])
    rejected += missed
    kept = [row for row in left if row[0].entry in fitting]
    kept.sort(key=lambda row: (-relevance.get(row[0].entry, 0.0), row[0].entry))
    many = Refusal("ras.many", f"more than {MAX_COMPARED} would do", registry.by, "ask for more, so that fewer will do")
    rejected += [Rejected(summary, many) for summary, _, _ in kept[MAX_COMPARED:]]
    kept = kept[:MAX_COMPARED]
    closest = () if fitting else tuple(one.summary for one in missed[:CLOSEST])
    return Found(_ordered(intent, registry, kept, relevance), tuple(rejected), closest)


_Left = tuple[Summary, Details, tuple[str, ...]]


def _filtered(intent: Intent, registry: Registry) -> tuple[list[_Left], list[Rejected]]:
    columns = [row for row in COLUMNS if row.asked(intent)]
    refusals: dict[tuple[str, str], Refusal] = {}
    left, rejected = [], []
    for summary in registry.summaries:
        for row in columns:
            text = row.text(intent, summary, registry)
            if text:
                key = (row.code, text)
                refusal = refusals.get(key) or refusals.setdefault(
                    key, Refusal(row.code, text, registry.by, row.remedy)
                )
                rejected.append(Rejected(summary, refusal))
                break
        else:
            details, found = detailed(intent, summary, registry)
            hard = next((one for one in found if one.code not in LET_PASS or not intent.unknown_types), None)
            if hard is not None:
                rejected.append(Rejected(summary, hard))
            else:
                left.append((summary, details, tuple(one.text for one in found)))
    return left, rejected


def detailed(intent: Intent, summary: Summary, registry: Registry) -> tuple[Details, list[Refusal]]:
    """With everything that the record itself is refused for."""
    try:
        details = registry.source.details(summary)
    except KeyError:
        return Details(), [Refusal("ras.gone", "its record has gone", registry.by, "ask again")]
    except BadInputError as error:
        return Details(), [Refusal("ras.unreadable", error.what, registry.by, error.todo or "")]
    found = [refusal for row in DETAILS for refusal in row(intent, summary, details, registry.by)]
    refused = registry.policy(summary, details) if registry.policy else None
    return details, found + ([refused] if refused else [])


@dataclass(frozen=True, slots=True)
class Row:
    """A filter over an index's columns: `asked` tells whether an intent needs it, `text` why it refuses (empty: it does not)."""

    code: str
    asked: Callable[[Intent], bool]
    text: Callable[[Intent, Summary, Registry], str]
    remedy: str


def _always(intent: Intent) -> bool:
    return True


def _deprecated(intent: Intent, summary: Summary, registry: Registry) -> str:
    if summary.status is not Status.DEPRECATED:
        return ""
    return f"its owner has deprecated it{f' for {summary.successor}' if summary.successor else ''}"


def _audience(intent: Intent, summary: Summary, registry: Registry) -> str:
    if summary.audience == PUBLIC or intent.asker == summary.domain or summary.audience == PARTNER + intent.asker:
        return ""
    return f"it is not for {intent.asker or 'everybody'}"


def _liveness(intent: Intent, summary: Summary, registry: Registry) -> str:
    if summary.kind not in LEASED:
        return ""
    living = registry.living.get(summary.urn)
    there = living.liveness if living else Liveness.UNKNOWN
    if there is Liveness.DEAD:
        return "nothing of it runs"
    return (
        "whether anything of it runs is not known"
        if there is Liveness.UNKNOWN and intent.least is Liveness.ALIVE
        else ""
    )


COLUMNS: tuple[Row, ...] = (
    Row(
        "ras.kind",
        lambda intent: bool(intent.kinds),
        lambda i, s, r: "" if s.kind in i.kinds else f"it is a {s.kind}",
        "ask for that kind",
    ),
    Row(
        "ras.no_capability",
        lambda intent: bool(intent.capability),
        lambda i, s, r: "" if s.capability == i.capability else f"it offers {s.capability or 'no capability'}",
        "ask for that capability, or register one that offers this",
    ),
    Row(
        "ras.deleted",
        _always,
        lambda i, s, r: "its owner has deleted it" if s.status is Status.DELETED else "",
        "choose another",
    ),
    Row(
        "ras.yanked",
        _always,
        lambda i, s, r: "its owner has withdrawn this version" if s.status is Status.YANKED else "",
        "choose another version",
    ),
    Row(
        "ras.deprecated",
        lambda intent: not intent.deprecated,
        _deprecated,
        "take its successor, or ask for deprecated ones too",
    ),
    Row(
        "ras.expired",
        _always,
        lambda i, s, r: "its owner's word for it has ended" if 0 < s.valid_until <= r.now else "",
        "its owner registers it anew",
    ),
    Row("ras.audience", _always, _audience, "ask its owner for a grant"),
    Row(
        "ras.version",
        lambda intent: bool(intent.versions),
        lambda i, s, r: (
            "" if in_range(s.version, s.scheme, i.versions) else f"its version {s.version} is not in {i.versions}"
        ),
        "widen the range of versions",
    ),
    Row(
        "ras.data_class",
        _always,
        lambda i, s, r: (
            ""
            if i.trust.data_class.within(s.handles)
            else f"it handles {s.handles} at most, the data is {i.trust.data_class}"
        ),
        "choose another, or give it data of a lower class",
    ),
    Row("ras.lease", _always, _liveness, "it is started, or its home is heard of again"),
)
"""Cheap checks first; the first that refuses is the reason given."""


def _types(intent: Intent, summary: Summary, details: Details, by: str) -> Iterable[Refusal]:
    contract = details.contract
    asked = (
        ("inputs", intent.inputs, lambda own: compatible(intent.inputs, own)),
        ("outputs", intent.outputs, lambda own: compatible(own, intent.outputs)),
    )
    for side, wanted, check in asked:
        if wanted is None:
            continue
        own = getattr(contract, side) if contract else {}
        # An empty schema would take and give anything; here it says that nothing was declared.
        found = check(own) if own else Compatibility(Answer.UNKNOWN, "$", f"it does not say what its {side} are")
        yield from _answered(found, side, by)
    if contract and intent.sends:
        yield from _answered(media_compatible(intent.sends, contract.takes), "media taken", by)
    if contract and intent.expects:
        yield from _answered(media_compatible(contract.gives, intent.expects), "media given", by)


def _answered(found: Compatibility, side: str, by: str) -> Iterable[Refusal]:
    if found.answer is Answer.NO:
        yield Refusal(
            "ras.types", f"{side} do not fit: {found.path} {found.reason}", by, "convert it, or choose another"
        )
    elif found.answer is Answer.UNKNOWN:
        yield Refusal(
            "ras.types_unknown", f"whether {side} fit is not known: {found.path} {found.reason}", by, _TODO_UNKNOWN
        )


_TODO_UNKNOWN = "let those pass of which it is not known, or have its owner say more"
LET_PASS = frozenset({"ras.types_unknown"})


def _runtime(intent: Intent, summary: Summary, details: Details, by: str) -> Iterable[Refusal]:
    lacking = shortfalls(details.requires, intent.runs_on) if intent.runs_on else ()
    lacking += shortfalls(intent.needs, details.offers) if intent.needs else ()
    if lacking:
        yield Refusal(
            "ras.runtime", "; ".join(map(str, lacking)), by, "choose a place that has it, or another that needs less"
        )


def _trust(intent: Intent, summary: Summary, details: Details, by: str) -> Iterable[Refusal]:
    return distrust(intent.trust, details.trust, summary.domain, by)


def _tree(intent: Intent, summary: Summary, details: Details, by: str) -> Iterable[Refusal]:
    if intent.filter is None:
        return
    if isinstance(intent.filter, Search):
        reasons = intent.filter.why_not(details.documents)
    else:
        document = details.documents.get(str(summary.kind), {})
        reasons = () if compiled(intent.filter)(document) else why_not(intent.filter, document)
    if reasons:
        yield Refusal("ras.filter", "; ".join(reasons), by, "loosen the filter")


DETAILS: tuple[Callable[[Intent, Summary, Details, str], Iterable[Refusal]], ...] = (_trust, _runtime, _tree, _types)
"""Filters over the record itself; types last, as they cost most."""


def _relevant(
    intent: Intent, registry: Registry, left: list[Summary]
) -> tuple[dict[str, float], set[str], list[Rejected]]:
    """(fit by entry, the entries that stay, the others: nearest first)."""
    entries = {summary.entry: summary for summary in left}
    if not intent.words.strip():
        return {}, set(entries), []
    if registry.ranker is None:
        raise BadInputError("this registry ranks no words", where=registry.by, todo="ask by capability or types")
    matches = registry.ranker.rank(intent.words, max(intent.most, CLOSEST), among=list(entries))
    fits = {match.id: match.fit for match in matches}
    fitting = {match.id for match in matches if match.fits} if matches and matches[0].fits else set()
    missed = [
        Rejected(
            entries[id], Refusal("ras.not_relevant", _how_near(fits.get(id)), registry.by, "say it in other words")
        )
        for id in sorted(entries, key=lambda id: (-fits.get(id, 0.0), id))
        if id not in fitting
    ]
    return fits, fitting, missed


def _how_near(fit: float | None) -> str:
    return "it is none of the nearest to these words" if fit is None else f"it covers {fit:.0%} of these words"


def _ordered(
    intent: Intent, registry: Registry, kept: list[_Left], relevance: Mapping[str, float]
) -> tuple[Option, ...]:
    figures = [
        figures_of(details.contract, registry.living.get(s.urn), relevance.get(s.entry), intent.currency, intent.metric)
        for s, details, _ in kept
    ]
    beaten = dominators(figures)
    options = [
        Option(summary, own, score, tuple(sorted(kept[place][0].entry for place in places)), unknown)
        for (summary, _, unknown), own, score, places in zip(
            kept, figures, scores(figures, intent.weights), beaten, strict=True
        )
    ]
    return in_order(options)


def in_order(options: Iterable[Option]) -> tuple[Option, ...]:
    """Best first; of equal ones by URN and capability, then the newest version. The same for the same options in any order."""
    groups: dict[tuple[float, str, str, str], list[Option]] = {}
    for one in options:
        key = (-one.score.utility, one.summary.urn, one.summary.capability, str(one.summary.scheme))
        groups.setdefault(key, []).append(one)
    found: list[Option] = []
    for _, alike in sorted(groups.items()):
        alike.sort(key=lambda one: one.summary.digest)
        found += sorted(alike, key=lambda one: order_of(one.summary.version, one.summary.scheme), reverse=True)
    return tuple(found)
