"""What an encoder says of meanings and an index says of words are blended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching import encoder as its
from ioi_dagster.ras.matching.encoder import BlendedIndex, blended
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex

MEANINGS = (("dusk", "sunset", "evening"), ("bread", "loaf", "bakery"), ("harbour", "quay", "port"))
"""Words that no thesaurus of ours has for each other."""
ENTRIES = (Entry("sunset", "sunset"), Entry("loaf", "loaf"), Entry("quay", "quay"), Entry("evening", "evening", "dusk"))


class ByMeaning:
    """A dimension for each group of words, and one for what is in none."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(len(texts))
        return [[float(sum(word in group for word in text.split())) for group in MEANINGS] + [0.1] for text in texts]


def ids(index: BlendedIndex | CapabilityIndex, query: str, k: int = 1) -> list[str]:
    return [match.id for match in index.rank(query, k)]


def test_what_shares_no_word_with_the_request_is_found_by_its_meaning() -> None:
    assert ids(CapabilityIndex(ENTRIES), "harbour") == []
    index = BlendedIndex(ByMeaning(), ENTRIES)
    assert (ids(index, "harbour"), index.rank("harbour", 1)[0].fit) == (["quay"], 0.0)


def test_words_decide_between_those_that_mean_the_same() -> None:
    assert ids(BlendedIndex(ByMeaning(), ENTRIES), "dusk", 2) == ["evening", "sunset"]


def test_of_many_entries_only_those_that_words_found_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(its, "WHOLE", 2)
    index = BlendedIndex(ByMeaning(), ENTRIES)
    assert (ids(index, "harbour"), ids(index, "quay", 4)) == ([], ["quay"])


def test_filters_and_removal_hold_for_meanings_too() -> None:
    index = BlendedIndex(ByMeaning(), ENTRIES)
    assert [match.id for match in index.rank("harbour", 9, {"loaf", "sunset", "unknown"})] == ["loaf", "sunset"]
    index.remove("quay")
    assert ("quay" in ids(index, "harbour", 9), len(index)) == (False, 3)
    assert index.rank("harbour", 9, {"quay"}) == []


def test_entries_that_are_added_together_are_encoded_together() -> None:
    encoder = ByMeaning()
    BlendedIndex(encoder, ENTRIES)
    assert encoder.asked == [len(ENTRIES)]


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_request_has_no_answer_and_asks_no_encoder(query: str) -> None:
    encoder = ByMeaning()
    index = BlendedIndex(encoder, ENTRIES)
    assert (index.rank(query, 5), index.rank("quay", 0), len(encoder.asked)) == ([], [], 1)
    assert BlendedIndex(encoder).rank("quay", 5) == []


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        ([[0.0, 0.0]], "length 0.0"),
        ([[float("nan"), 1.0]], "length nan"),
        ([[1.0, 2.0]], r"\[2\] numbers, 1 for 1"),
        ([], "0 for 1"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused_and_nothing_is_added(
    vectors: list[list[float]], what: str
) -> None:
    class Once(ByMeaning):
        def encode(self, texts: Sequence[str]) -> list[list[float]]:
            return super().encode(texts) if len(texts) > 1 else vectors

    index = BlendedIndex(Once(), ENTRIES)
    with pytest.raises(BadInputError, match=what):
        index.add(Entry("new", "quay"))
    assert len(index) == len(ENTRIES)


def test_scores_are_standardised_before_they_are_added() -> None:
    words, near = {"a": 100.0, "b": 300.0}, {"a": 0.9, "b": 0.1}
    assert blended(words, near, 0.25) == pytest.approx({"a": -0.5, "b": 0.5})
    assert blended(words, {"a": 0.3, "b": 0.3}, 0.25) == pytest.approx({"a": -0.75, "b": 0.75})
