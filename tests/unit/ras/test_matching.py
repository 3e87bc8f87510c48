"""An index of capabilities finds those that a request means."""

from __future__ import annotations

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.matching import ranking as its
from ioi_dagster.ras.matching.entry import MAX_EXAMPLES, MOST, Entry, entry_of, word_weights
from ioi_dagster.ras.matching.index import CapabilityIndex
from ioi_dagster.ras.matching.postings import UNIT, kept_words, term_key, units_at
from ioi_dagster.ras.matching.query import MAX_OWN, read_request
from ioi_dagster.ras.matching.words import split_names, terms

WEATHER = Entry("weather", "getWeather", "Forecast of rain and wind for a town.", ("weather",))
OCR = Entry("ocr", "page.ocr", "Reads the text of a scanned page.", ("documents",))
SPEECH = Entry("speech", "transcribeCall", "Writes down what is said in a recording.", ("audio",))
HOMES = Entry("homes", "property_search", "Houses for sale.", ("real estate",))
ALL = (WEATHER, OCR, SPEECH, HOMES)


def ids(index: CapabilityIndex, query: str, k: int = 5) -> list[str]:
    return [match.id for match in index.rank(query, k)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Will it be raining tomorrow?", "weather"),
        ("I have scans of old letters, please read them", "ocr"),
        ("audio recordings", "speech"),
        ("we are searching for properties", "homes"),
    ],
)
def test_words_are_compared_by_their_stems_and_names_by_their_parts(query: str, first: str) -> None:
    assert ids(CapabilityIndex(ALL), query)[0] == first


def test_an_everyday_word_finds_what_the_catalogue_calls_otherwise() -> None:
    assert ids(CapabilityIndex(ALL), "a flat with two bedrooms") == ["homes"]


def test_the_requests_own_words_count_more_than_those_that_stand_for_them() -> None:
    index = CapabilityIndex([Entry("film", "film"), Entry("movie", "movie"), *ALL])
    assert ids(index, "movie") == ["movie", "film"]
    assert ids(index, "film") == ["film", "movie"]


def test_nothing_is_found_by_filler_alone_or_in_an_empty_index() -> None:
    index = CapabilityIndex(ALL)
    assert [index.rank(query, 5) for query in ("", "   ", "Could you please help me?", "?!")] == [[], [], [], []]
    assert CapabilityIndex().rank("rain", 5) == []
    assert index.rank("rain", 0) == []


def test_what_is_removed_is_found_no_more_and_its_words_are_gone() -> None:
    index = CapabilityIndex(ALL)
    without = CapabilityIndex(entry for entry in ALL if entry is not OCR)
    index.remove("ocr")
    assert ("ocr" in index, len(index), index.different_words) == (False, 3, without.different_words)
    assert index.rank("scanned page", 5) == without.rank("scanned page", 5)
    with pytest.raises(BadInputError, match="'ocr' is not in the index"):
        index.remove("ocr")


def test_an_entry_that_is_added_again_takes_the_place_of_the_one_before() -> None:
    index = CapabilityIndex(ALL)
    index.add(Entry("ocr", "colourPicker", "Colours of a picture."))
    assert (ids(index, "scanned"), ids(index, "colours"), len(index)) == ([], ["ocr"], 4)


def test_equal_ones_come_by_id() -> None:
    index = CapabilityIndex(Entry(id, "rain") for id in "dacb")
    assert ids(index, "rain", 3) == ["a", "b", "c"]


def test_only_those_that_filters_have_left_are_given() -> None:
    index = CapabilityIndex(Entry(f"rain-{number}", "rain radar") for number in range(its.MAX_CANDIDATES * 2))
    few, many = {"rain-7", "rain-3", "unknown"}, {f"rain-{number}" for number in range(5, its.MAX_CANDIDATES + 50)}
    assert [match.id for match in index.rank("rain", 9, few)] == ["rain-3", "rain-7"]
    assert {match.id for match in index.rank("rain", 1000, many)} == many
    assert index.rank("rain", 9, set()) == []


def test_fit_is_how_much_of_the_request_is_covered_and_what_covers_little_does_not_fit() -> None:
    index = CapabilityIndex(ALL)
    whole, part, stray = (
        index.rank(query, 1)[0] for query in ("rain and wind", "rain zebra", "zebra quilt violin harp moss town")
    )
    assert 1 > whole.fit > part.fit > stray.fit > 0
    assert [match.fits for match in (whole, part, stray)] == [True, True, False]


def test_the_budget_leaves_common_words_to_order_what_rare_ones_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry(f"{number:03}", "image", "model" if number % 3 else "model zebra image") for number in range(300)]
    entries.append(Entry("x", "image zebra model"))
    index = CapabilityIndex(entries)
    unbounded = index.rank("zebra model image", 5)
    monkeypatch.setattr(its, "BUDGET", 150)
    bounded = index.rank("zebra model image", 5)
    assert [match.id for match in bounded] == [match.id for match in unbounded]
    assert [match.score for match in bounded] == pytest.approx([match.score for match in unbounded])


def test_a_huge_request_is_looked_at_as_far_as_its_bound_only() -> None:
    words = [f"w{number}" for number in range(MAX_OWN * 3)]
    request = read_request(" ".join(words))
    assert list(request.own) == terms(" ".join(words))[:MAX_OWN]
    index = CapabilityIndex([Entry("first", words[0]), Entry("last", words[-1])])
    assert ids(index, " ".join(words) * 100) == ["first"]


def test_words_of_a_contract_are_those_of_its_schemas_too() -> None:
    properties = {"page_image": {"type": "string", "description": "A scanned sheet"}}
    contract = Contract("page.ocr", "OCR", inputs={"type": "object", "properties": properties})
    assert set(word_weights(entry_of(contract))) == {*terms("ocr page image scanned sheet")}


def test_many_examples_weigh_no_more_than_few() -> None:
    few = Entry("few", "notes", examples=("write a memo", "keep a memo"))
    many = Entry("many", "notes", examples=few.examples * (MAX_EXAMPLES // 2))
    assert word_weights(few) == word_weights(many)


def test_examples_are_found_and_take_nothing_from_those_that_have_none() -> None:
    plain = Entry("plain", "rain radar", "Rain of the next hour.")
    asked = (
        "do I need an umbrella",
        "is a storm near",
        "will the rain stop",
        "is the rain radar right",
        "one hour of rain",
    )
    without, shown = (Entry("shown", "sky", "Tells of the sky.", examples=examples) for examples in ((), asked))
    question = "shall I take an umbrella for the storm"
    assert ids(CapabilityIndex([plain, without, *ALL]), question) == []
    assert ids(CapabilityIndex([plain, shown, *ALL]), question) == ["shown"]
    assert ids(CapabilityIndex([plain, shown, *ALL]), "rain radar of the next hour")[0] == "plain"


def test_no_word_counts_more_than_a_posting_can_hold() -> None:
    weights = word_weights(Entry("rain", "rain " * 500, "rain " * 500, ("rain",) * 50))
    assert all(0 < weight <= MOST for weight in weights.values())
    most = kept_words({"rain": MOST, "least": 1e-9})
    assert (units_at(most, term_key("rain")) * UNIT, units_at(most, term_key("least"))) == (pytest.approx(MOST), 1)


def test_names_are_split_where_their_parts_meet() -> None:
    assert split_names("getHealth_data-now/v2.1:x") == "get Health data now v2 1 x"


def test_languages_without_spaces_have_a_term_for_each_sign() -> None:
    assert terms("天気 Wetter погода") == ["天", "気", "wetter", "погода"]
    index = CapabilityIndex([Entry("tenki", "天気予報"), *ALL])
    assert ids(index, "明日の天気") == ["tenki"]
