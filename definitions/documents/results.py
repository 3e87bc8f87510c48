"""What became of each page, and what is made of the accepted ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from definitions.documents.inventory import natural_order
from definitions.documents.quality import look
from definitions.documents.values import Page
from ioi_dagster.model.block import Payload
from ioi_dagster.quality.outcomes import Judgement

COLUMNS = ("page", "chars", "letters", "confidence", "language", "word_share", "shape_share", "script_share")
PHRASES = 8


@dataclass(frozen=True, slots=True)
class PageResult:
    """One page in the end: `indexed`, `refused` (policy or quality said no) or `failed` (could not be read)."""

    page: str
    file: str
    number: int
    digest: str
    data_class: str
    listed: bool
    status: str
    reason: str
    lines: tuple[str, ...]
    confidence: float
    languages: tuple[tuple[str, float], ...]
    phrases: tuple[str, ...]
    turn: int
    trimmed: int

    @property
    def chars(self) -> int:
        return len("\n".join(self.lines))


@dataclass(frozen=True, slots=True)
class Pile:
    """All results of a run in page order, with thumbnails beside them, and what the inventory found odd."""

    results: tuple[PageResult, ...]
    thumbnails: Mapping[str, bytes]
    problems: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def to_payload(self) -> Payload:
        document = {
            "results": [asdict(result) for result in self.results],
            "problems": list(self.problems),
            "only": list(self.only),
        }
        return Payload(document, dict(self.thumbnails))

    @classmethod
    def from_payload(cls, payload: Payload) -> Pile:
        results = tuple(result_from(item) for item in payload.document["results"])
        return cls(results, payload.parts, tuple(payload.document["problems"]), tuple(payload.document["only"]))

    def accepted(self) -> tuple[PageResult, ...]:
        return tuple(result for result in self.results if result.status == "indexed")


def result_from(item: Mapping[str, Any]) -> PageResult:
    """A result from plain JSON."""
    return PageResult(
        **{
            **item,
            "lines": tuple(item["lines"]),
            "languages": tuple((str(name), float(share)) for name, share in item["languages"]),
            "phrases": tuple(item["phrases"]),
        }
    )


def key_phrases(pages: Sequence[Page]) -> dict[str, tuple[str, ...]]:
    """Page → its phrases of up to three words that set it apart from the pile (TF-IDF, scikit-learn)."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    texts = {page.ref.id: page.text for page in pages if page.ok and page.text.strip()}
    if not texts:
        return {}
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 3),
        stop_words=sorted(ENGLISH_STOP_WORDS),
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        sublinear_tf=True,
        max_features=50_000,
    )
    try:
        matrix = vectorizer.fit_transform(texts.values())
    except ValueError:  # nothing but stop words in the whole pile
        return {}
    names = vectorizer.get_feature_names_out()
    found = {}
    for row, page in enumerate(texts):
        scores = matrix[row].tocoo()
        ranked = sorted(zip(scores.col, scores.data, strict=True), key=lambda item: (-item[1], names[item[0]]))
        found[page] = tuple(_distinct([str(names[column]) for column, _ in ranked]))
    return found


def expectations() -> dict[str, list[dict[str, Any]]]:
    """The suites of `expectations.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "expectations.yaml").read_text())


def rows_of(pages: Sequence[Page]) -> list[dict[str, Any]]:
    return [look(page) for page in pages]


def decide(
    pages: Sequence[Page],
    judgement: Judgement,
    judged: Sequence[str],
    phrases: Mapping[str, tuple[str, ...]],
    problems: tuple[str, ...],
    only: tuple[str, ...],
) -> Pile:
    """Each page's end. `judged` names the rows that `judgement` is about."""
    why = {judged[row]: "; ".join(reasons) for row, reasons in judgement.reasons().items()}
    results = []
    for page in sorted(pages, key=lambda page: natural_order(page.ref.id)):
        status, reason = page.status, page.reason
        if page.ok:
            reason = why.get(page.ref.id, "")
            status = "refused" if reason else "indexed"
        results.append(
            PageResult(
                page=page.ref.id,
                file=page.ref.file,
                number=page.ref.number,
                digest=page.ref.digest,
                data_class=str(page.ref.data_class),
                listed=page.ref.listed,
                status=status,
                reason=reason,
                lines=tuple(line.text for line in page.lines),
                confidence=round(page.confidence, 4),
                languages=page.languages,
                phrases=phrases.get(page.ref.id, ()),
                turn=page.turn,
                trimmed=len(page.trimmed),
            )
        )
    return Pile(tuple(results), {page.ref.id: page.thumbnail for page in pages if page.thumbnail}, problems, only)


def merged(old: Pile, new: Pile) -> Pile:
    """A run over everything replaces everything; one over some pages replaces these and keeps the rest."""
    if not new.only:
        return new
    fresh = {result.page: result for result in new.results}
    # A file asked for as a whole takes all its old pages with it.
    kept = [r for r in old.results if r.page not in fresh and r.file not in new.only]
    results = sorted([*kept, *fresh.values()], key=lambda result: natural_order(result.page))
    names = {result.page for result in results}
    thumbnails = {name: data for name, data in {**old.thumbnails, **new.thumbnails}.items() if name in names}
    return Pile(tuple(results), thumbnails, new.problems, new.only)


def _distinct(phrases: list[str]) -> list[str]:
    """The best phrases, none of which is part of one before it."""
    chosen: list[str] = []
    for phrase in phrases:
        if not any(phrase in other or other in phrase for other in chosen):
            chosen.append(phrase)
        if len(chosen) == PHRASES:
            break
    return chosen
