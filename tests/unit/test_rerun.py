from __future__ import annotations

from pathlib import Path

import pytest
from dagster import build_sensor_context
from hypothesis import given
from hypothesis import strategies as st

from definitions.documents.graph import Folders
from definitions.documents.index import write_index
from definitions.documents.results import PageResult, Pile
from ioi_dagster.adaptive.rerun import Cursor, Item, recommend
from ioi_dagster.errors import UnreachableError

GOOD = Item("good", "d1", lost=False, poor=False)
LOST = Item("lost", "d2", lost=True, poor=False)
POOR = Item("poor", "d3", lost=False, poor=True)
OLD, NEW = {"page.ocr": "1.0"}, {"page.ocr": "2.0"}


def test_a_lost_item_is_recommended_once():
    found, cursor = recommend([GOOD, LOST], OLD, Cursor())
    assert found is not None
    assert found.items == ("lost",)
    assert recommend([GOOD, LOST], OLD, cursor)[0] is None


def test_a_poor_item_is_recommended_when_a_better_block_came_and_not_before():
    found, cursor = recommend([GOOD, POOR], OLD, Cursor())
    assert found is None
    assert recommend([GOOD, POOR], OLD, cursor)[0] is None
    found, cursor = recommend([GOOD, POOR], NEW, cursor)
    assert found is not None
    assert found.items == ("poor",)
    assert "page.ocr 2.0" in found.why
    assert recommend([GOOD, POOR], NEW, cursor)[0] is None


def test_a_registry_that_is_away_is_no_news_and_neither_is_its_return():
    _, cursor = recommend([POOR], OLD, Cursor())
    found, cursor = recommend([POOR], {}, cursor)
    assert found is None
    assert recommend([POOR], OLD, cursor)[0] is None


@given(
    st.lists(
        st.builds(Item, st.sampled_from("abcd"), st.just("d"), st.booleans(), st.booleans()), unique_by=lambda i: i.name
    )
)
def test_the_same_cause_has_the_same_key_and_nothing_good_is_run_again(items):
    _, cursor = recommend([], OLD, Cursor())
    first, _ = recommend(items, NEW, cursor)
    again, _ = recommend(list(reversed(items)), NEW, cursor)
    wanted = {item.name for item in items if item.lost or item.poor}
    assert (set(first.items) if first else set()) == wanted
    assert (first and first.key) == (again and again.key)


def result(page: str, status: str, reason: str) -> PageResult:
    return PageResult(page, page, 1, "digest" + page, "public", True, status, reason, (), 0.5, (), (), 0, 0)


class Registry:
    def __init__(self, version: str | None) -> None:
        self.version, self.asked = version, 0

    def records(self, kind: str) -> list[dict]:
        if self.version is None:
            raise UnreachableError("gateway", "away")
        # The record's own version also tells what the domain may be given: a change of that makes no block better.
        self.asked += 1
        spec = {"capability": "page.ocr", "version": self.version}
        return [{"spec": spec, "version": f"{self.version}.{self.asked}"}]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    pages = (
        result("a", "indexed", ""),
        result("b", "failed", "it was lost 3 times [flow.poison_step]"),
        result("c", "refused", "letters without words"),
        result("d", "refused", "the policy said no [flow.no_place]"),
        result("e", "failed", "the file is empty"),
    )
    write_index(tmp_path, Pile(pages, {}))
    return tmp_path


def tick(out: Path, version: str | None, cursor: str | None):
    from definitions.documents.defs import read_again

    context = build_sensor_context(cursor=cursor)
    return read_again(context, folders=Folders(out=str(out)), registry=Registry(version))


def test_the_sensor_asks_for_exactly_the_pages_with_a_cause(out):
    first = tick(out, "1.0.0", None)
    (request,) = first.run_requests
    assert request.run_config["ops"]["inventory"]["config"]["pages"] == ["b"]
    second = tick(out, "1.0.0", first.cursor)
    assert second.run_requests in (None, [])
    third = tick(out, "1.1.0", second.cursor)
    (better,) = third.run_requests
    assert better.run_config["ops"]["inventory"]["config"]["pages"] == ["c"]
    assert better.run_key != request.run_key
    assert tick(out, "1.1.0", second.cursor).run_requests[0].run_key == better.run_key
    assert tick(out, None, third.cursor).run_requests in (None, [])
