"""Judging, book, index and report: what is accepted is found, what is not is explained."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import AssetCheckSeverity
from hypothesis import given
from hypothesis import strategies as st

from definitions.documents import folder as folder_module
from definitions.documents.book import assemble
from definitions.documents.graph import each_page_check, take_in
from definitions.documents.index import find, read_pile, write_index
from definitions.documents.quality import look
from definitions.documents.report import render_report, run_summary
from definitions.documents.results import COLUMNS, PageResult, Pile, decide, expectations, key_phrases, merged
from definitions.documents.values import Line, Page, PageRef
from ioi_dagster.adapters.gx.suite import judge
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass

BOX = ((0.0, 0.0), (9.0, 0.0), (9.0, 2.0), (0.0, 2.0))


def page(name: str, *texts: str, language: str | None = "en") -> Page:
    ref = PageRef(name, name, 1, "png", "d" + name, DataClass.PUBLIC, True)
    lines = tuple(Line(text, 0.95, BOX) for text in texts)
    return Page(ref, thumbnail=b"jpg", lines=lines, languages=((language, 1.0),) if language else ())


READABLE = {
    "english": "When the first series of games was issued it was supposed to fulfil all the requirements",
    "german": "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann in den Wald",
    "french": "Le renard brun et rapide saute par-dessus le chien qui est dans la maison avec nous",
    "spanish": "El zorro marrón salta sobre el perro que está muy cansado pero no se mueve de la casa",
    "polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw",
    "turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar",
    "names": "Anna Schmidt\nPeter Kowalski\nMaria Dubois\nCarlos Fernandez",
    "recipe": "200 g flour\n2 eggs\n1 tsp salt\n150 ml milk\nbutter\nvanilla",
    "title page": "THE FOUNDATION OF SOLITAIRE",
    "title": "THE ROYAL FAMILY. ONE ENTIRE PACK OF CARDS. RULES.",
}
UNREADABLE = {
    "hebrew": "SGLELUX UU LEL ULL ALE L C LUN L AULNCEL LGCTUX AC LEULLU LAN ALLL LAU",
    "devanagari": "CDAC-GISTYogesh Gargi 3市 JanaHindi 333市 Kalimati R市1",
    "georgian": "dbsmgrogob bbogo gsgogob ogmbo 8dgbs gogdb",
    "armenian": "n ηh ını  q\nni hup hpg upnnıjp\nn1 hpuni&p&tpnų",
    "capitals": "XQZR TKLW PVBN MSDF GHJK QWRT ZXCV NMLK THE RTPL KJHG",
    "noise": "l|I.,;: '' -- ~ rn ii .:",
    "nothing": "",
}


@pytest.fixture(scope="module")
def pile() -> Pile:
    pages = [page(name, *text.split(". ")) for name, text in {**READABLE, **UNREADABLE}.items()]
    judgement = judge([look(p) for p in pages], COLUMNS, expectations()["each_page"])
    return decide(pages, judgement, [p.ref.id for p in pages], key_phrases(pages), (), ())


def test_what_reads_like_text_is_accepted_and_what_does_not_is_refused_with_the_reason(pile):
    assert {result.page for result in pile.accepted()} == set(READABLE)
    assert all(result.reason for result in pile.results if result.status == "refused")


def test_the_accepted_set_must_be_something_and_unique(pile):
    suite = expectations()["accepted_set"]
    rows = [look(page("a", READABLE["english"]))]
    assert judge(rows, COLUMNS, suite).passed
    assert not judge([], COLUMNS, suite).passed
    assert not judge(rows * 2, COLUMNS, suite).passed
    with pytest.raises(BadInputError):
        judge(rows, COLUMNS, [{"type": "expect_miracles", "kwargs": {}}])


@pytest.mark.parametrize(
    ("texts", "passed", "judged", "words"),
    [
        (["english", "german"], True, 2, "2 judged, 0 refused"),
        (["english", "noise"], False, 2, "2 judged, 1 refused"),
        ([], False, 0, "no page was judged: none could be read"),
    ],
)
def test_the_check_on_single_pages_says_how_many_were_judged(texts, passed, judged, words):
    rows = [look(page(name, {**READABLE, **UNREADABLE}[name])) for name in texts]
    left_out = [("a.txt", "failed", "it is not a page")]
    check = each_page_check(len(rows), judge(rows, COLUMNS, expectations()["each_page"]), left_out)
    assert (check.passed, check.severity, check.description) == (passed, AssetCheckSeverity.WARN, words)
    assert check.metadata["judged"].value == judged
    table = check.metadata["left_out"].value
    assert [record.data for record in table.records] == [
        {"page": "a.txt", "status": "failed", "reason": "it is not a page"}
    ]


def result(name: str, *lines: str, status: str = "indexed", number: int = 1) -> PageResult:
    return PageResult(name, name.partition("#")[0], number, "d", "public", True, status, "", lines, 0.9, (), (), 0, 0)


@pytest.mark.parametrize("words", ['"', "a AND", "foo* OR", "near(", "col:x", "-", "'; DROP TABLE line", "über", "*"])
def test_whatever_is_searched_for_is_words_not_syntax(tmp_path, words):
    write_index(tmp_path, Pile((result("a", "nothing of the kind"),), {}))
    assert find(tmp_path, words) == []


def test_a_word_is_found_by_its_stem_and_shown_in_its_place(tmp_path):
    write_index(
        tmp_path,
        Pile(
            (result("a", "first line", "The Foundations follow suit"), result("b", "foundation", status="refused")), {}
        ),
    )
    (hit,) = find(tmp_path, "foundation")
    assert (hit.page, hit.line, hit.snippet) == ("a", 2, "The »Foundations« follow suit")


def test_an_index_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_index(tmp_path, Pile((result("a", "old"),), {}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_index(tmp_path, Pile((result("a", "new"),), {}))
    assert [hit.page for hit in find(tmp_path, "old")] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["index.sqlite"]


def test_no_index_and_a_broken_one_are_said_in_words(tmp_path):
    with pytest.raises(BadInputError, match="no index"):
        find(tmp_path, "x")
    (tmp_path / "index.sqlite").write_text("not a database, but long enough to be taken for one" * 30)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_pile(tmp_path)


def test_a_run_over_some_pages_replaces_these_and_keeps_the_rest():
    old = Pile(
        (result("a", "1"), result("b.pdf#page=1", "2"), result("b.pdf#page=2", "3"), result("c", "4")), {"c": b"x"}
    )
    new = Pile((result("b.pdf#page=1", "new"),), {}, (), ("b.pdf",))
    assert [(r.page, r.lines) for r in merged(old, new).results] == [
        ("a", ("1",)),
        ("b.pdf#page=1", ("new",)),
        ("c", ("4",)),
    ]
    assert merged(old, replace(new, only=())).results == new.results


def test_the_book_has_the_accepted_pages_in_order_with_hyphens_joined():
    text = assemble(
        [result("p2", "a founda-", "tion of cards"), result("p3", "no", status="refused"), result("p10", "# end")]
    )
    assert re.findall("^## .*$", text, re.MULTILINE) == ["## p2", "## p10"]
    assert "a foundation of cards" in text
    assert "\\# end" in text


@given(st.text(), st.text())
def test_no_name_or_text_gets_out_of_the_report_as_markup(name, text):
    html = render_report([result(f"<script>{name}", f"<b>{text}")], {}, {}, [f"<i>{name}"])
    assert "<script>" not in html
    assert f"<b>{text}" not in html or not text
    assert "http" not in html.split("</style>")[0]


def test_the_summary_is_what_machines_are_promised(tmp_path: Path):
    pile = [
        replace(result("a", "text"), data_class="restricted"),
        replace(result("b", status="refused"), reason="no words"),
    ]
    steps = [{"capability": "page.ocr", "started": 1.0, "ended": 3.5}]
    place = {"a": {"domain": "d", "cluster": "c", "node": "n"}}
    summary = json.loads(json.dumps(run_summary(pile, place, steps, {"id": "r"})))
    assert set(summary) == {"run", "pages", "placements", "refusals", "timings"}
    wanted = {"file", "class", "domain", "cluster", "node", "chars", "confidence", "status", "reason"}
    assert wanted <= set(summary["pages"][0])
    assert (summary["pages"][0]["class"], summary["pages"][0]["node"], summary["pages"][1]["node"]) == (
        "restricted",
        "n",
        None,
    )
    assert summary["refusals"] == [{"file": "b", "reason": "no words"}]
    assert summary["timings"] == {"page.ocr": {"steps": 1, "seconds": 2.5}}


def test_two_runs_over_some_pages_that_read_the_same_old_results_keep_each_others_pages(tmp_path):
    write_index(tmp_path, Pile((result("a", "old"), result("b", "old"), result("c", "old")), {}))
    old = read_pile(tmp_path)
    first = merged(old, Pile((result("a", "new"),), {}, (), ("a",)))
    second = merged(old, Pile((result("b", "newer"),), {}, (), ("b",)))
    take_in(tmp_path, first)
    taken = take_in(tmp_path, second)
    assert [(page.page, page.lines) for page in taken.results] == [("a", ("new",)), ("b", ("newer",)), ("c", ("old",))]
    assert read_pile(tmp_path).results == taken.results
    assert "newer" in (tmp_path / "book.md").read_text() and "new" in (tmp_path / "book.md").read_text().split()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.md", "index.sqlite"]


def test_runs_that_end_at_once_take_turns(tmp_path):
    names = [f"p{number}" for number in range(8)]
    write_index(tmp_path, Pile(tuple(result(name, "old") for name in names), {}))
    old = read_pile(tmp_path)
    piles = [merged(old, Pile((result(name, "new"),), {}, (), (name,))) for name in names]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pile: take_in(tmp_path, pile), piles))
    assert [page.lines for page in read_pile(tmp_path).results] == [("new",)] * 8
