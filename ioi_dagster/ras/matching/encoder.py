"""The port of an encoder, which tells how near two texts are in meaning, and what it adds to an index of words.

There is none by default: an index of words needs no weights and nothing to be downloaded. What loads an encoder's weights, from a
folder of this machine, is an adapter, and imports its libraries there.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import mul
from statistics import fmean, pstdev
from typing import Protocol

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.entry import Entry, text_of
from ioi_dagster.ras.matching.index import CapabilityIndex
from ioi_dagster.ras.matching.ranking import MAX_CANDIDATES, Match

WHOLE = 2_000
"""Up to so many entries all are compared by meaning, else those that words have found: 2,000 products of vectors of 384 numbers
take some 30 ms."""


class Encoder(Protocol):
    def encode(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """A vector for each text, all of one length and none of zeros: the smaller the angle, the nearer the meaning. The same
        text has the same vector."""
        ...


class BlendedIndex:
    """An index of words and one of meanings: what both say of the candidates is standardised (mean 0, deviation 1) and added, the
    meaning weighing `1 - fit` of what fits best by words. So it decides where words tell nothing, and words do where they cover
    the request: no one weight is right for all requests and catalogues."""

    def __init__(self, encoder: Encoder, entries: Iterable[Entry] = ()) -> None:
        self._encoder = encoder
        self._words = CapabilityIndex()
        self._vectors: dict[str, array[float]] = {}
        self.add(*entries)

    def __len__(self) -> int:
        return len(self._words)

    def add(self, *entries: Entry) -> None:
        """In place of those of the same ids. Raises `BadInputError` where the encoder's vectors cannot be compared; then nothing
        is added."""
        vectors = self._encoded([text_of(entry) for entry in entries])
        for entry, vector in zip(entries, vectors, strict=True):
            self._words.add(entry)
            self._vectors[entry.id] = vector

    def remove(self, id: str) -> None:
        """Raises `BadInputError` where it is not there."""
        self._words.remove(id)
        del self._vectors[id]

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> list[Match]:
        """As `CapabilityIndex.rank`, and such as share no word with the query too. `score` is the blend; `fit` is by words alone,
        for what nearness is worth differs from encoder to encoder."""
        allowed = self._vectors.keys() if among is None else self._vectors.keys() & set(among)
        if k <= 0 or not allowed or not query.strip():
            return []
        whole = len(allowed) <= WHOLE
        found = {match.id: match for match in self._words.rank(query, len(allowed) if whole else MAX_CANDIDATES, among)}
        candidates = sorted(allowed if whole else found)
        if not candidates:
            return []
        words = {id: found[id].score if id in found else 0.0 for id in candidates}
        (asked,) = self._encoded([query])
        near = {id: sum(map(mul, asked, self._vectors[id])) for id in candidates}
        share = 1 - max((match.fit for match in found.values()), default=0.0)
        scores = blended(words, near, share)
        best = heapq.nsmallest(k, candidates, key=lambda id: (-scores[id], id))
        return [Match(id, scores[id], found[id].fit if id in found else 0.0) for id in best]

    def _encoded(self, texts: Sequence[str]) -> list[array[float]]:
        vectors = [_unit(vector) for vector in self._encoder.encode(texts)] if texts else []
        size = len(next(iter(self._vectors.values()), vectors[0] if vectors else ()))
        if len(vectors) != len(texts) or any(len(vector) != size for vector in vectors):
            sizes = sorted({*map(len, vectors)})
            raise BadInputError(
                f"the encoder gave vectors of {sizes} numbers, {len(vectors)} for {len(texts)} texts",
                where="matching of capabilities",
                todo=f"one of {size} numbers for each text",
            )
        return vectors


def blended(words: Mapping[str, float], near: Mapping[str, float], share: float) -> dict[str, float]:
    """`share` of what is near in meaning, and the rest of what words say. Scores that are all alike say nothing."""
    by_words, by_meaning = _standard(words), _standard(near)
    return {id: (1 - share) * by_words[id] + share * by_meaning[id] for id in words}


def _standard(scores: Mapping[str, float]) -> dict[str, float]:
    mean, deviation = fmean(scores.values()), pstdev(scores.values())
    return {id: (score - mean) / deviation if deviation > 1e-12 else 0.0 for id, score in scores.items()}


def _unit(vector: Sequence[float]) -> array[float]:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise BadInputError(
            f"the encoder gave a vector of length {length}",
            where="matching of capabilities",
            todo="one of finite numbers, not all zero",
        )
    return array("f", (number / length for number in vector))
