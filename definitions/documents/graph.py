"""The graph of the pile: each node names a capability or is the library's own code; no node names a machine."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    Config,
    ConfigurableResource,
    DynamicOut,
    DynamicOutput,
    In,
    MetadataValue,
    OpExecutionContext,
    Out,
    Output,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
    graph_asset,
    op,
)

from definitions.documents import catalogue
from definitions.documents.book import assemble, write_text
from definitions.documents.file_type import name_types, page_refs
from definitions.documents.folder import one_at_a_time
from definitions.documents.index import NAME, read_pile, write_index
from definitions.documents.inventory import take_inventory
from definitions.documents.load import load_page
from definitions.documents.placements import placements_by_page, write_summary
from definitions.documents.report import render_report
from definitions.documents.results import COLUMNS, Pile, decide, expectations, key_phrases, merged, rows_of
from definitions.documents.values import Inventory, Page, PageRef
from ioi_dagster import GovernorsResource, block_op
from ioi_dagster.host import tags
from ioi_dagster.quality.outcomes import Judgement

GROUP = "documents"
HOME = {tags.PLACE_IN: "home"}
OWN = {**HOME, tags.DATA_CLASS: "restricted"}
"""The library's own steps over the whole pile: they see every page, so they stay."""


class Folders(ConfigurableResource):
    """Where the pile lies and where the results go. Empty: the shipped pile, and `out` beside `$IOI_HOME`."""

    source: str = ""
    out: str = ""

    def source_path(self) -> Path:
        return Path(self.source) if self.source else Path(__file__).parent / "input"

    def out_path(self) -> Path:
        return Path(self.out) if self.out else Path(os.environ.get("IOI_HOME", ".ioi")).resolve().parent / "out"


class Selection(Config):
    """`pages`: names (`0001.jpg`, `a.pdf`, `a.pdf#page=2`) to limit the run to; empty means all."""

    pages: list[str] = []


@asset(group_name=GROUP, kinds={"python"}, owners=["team:library"], op_tags=OWN)
def inventory(context: AssetExecutionContext, config: Selection, folders: Folders) -> Inventory:
    """Every file of the pile with its digest and data class, and what is odd about it."""
    found = take_inventory(folders.source_path(), tuple(config.pages))
    for problem in found.problems:
        context.log.warning(problem)
    context.add_output_metadata(
        {
            "files": len(found.files),
            "classes": _table(
                ("class", "files"),
                [
                    (name, sum(f.data_class == name for f in found.files))
                    for name in ("public", "internal", "restricted")
                ],
            ),
            "worth_knowing": MetadataValue.md("\n".join(f"- {problem}" for problem in found.problems) or "nothing"),
        }
    )
    return found


@asset(group_name=GROUP, kinds={"magika"}, owners=["team:library"], op_tags=OWN)
def file_types(context: AssetExecutionContext, inventory: Inventory) -> Inventory:
    """What each file is by its content, and how many pages it has (Magika, pypdfium2)."""
    typed = name_types(inventory)
    rows = [(file.file, file.kind or "–", str(file.pages), file.problem or "–") for file in typed.files]
    context.add_output_metadata({"types": _table(("file", "kind", "pages", "problem"), rows)})
    return typed


@op(out=DynamicOut(), tags={**OWN, tags.ASSIGNS_CLASS: "true"})
def list_pages(file_types: Inventory) -> Iterator[DynamicOutput[PageRef]]:
    """One output a page, each with the page's own data class: from here on every page goes its own way."""
    for number, ref in enumerate(page_refs(file_types)):
        yield DynamicOutput(ref, mapping_key=f"p{number:05d}")


@op(ins={"ref": In()}, out=Out(), tags=HOME)
def open_page(ref: PageRef, folders: Folders) -> Page:
    """The page's picture, opened with care; PDF pages are rendered."""
    return load_page(ref, folders.source_path())


def _needs_block(page: Page) -> bool:
    return page.ok


_BLOCKS: dict[str, Any] = {"value_type": Page, "on_refusal": Page.refused, "needs_block": _needs_block}
set_upright = block_op(catalogue.UPRIGHT, name="set_upright", **_BLOCKS)
read_lines = block_op(catalogue.READ, name="read_lines", **_BLOCKS)
trim_facing_page = block_op(catalogue.TRIM, name="trim_facing_page", **_BLOCKS)
name_languages = block_op(catalogue.LANGUAGE, name="name_languages", **_BLOCKS)


@op(out=Out(), tags=HOME)
def gather(context: OpExecutionContext, pages: list[Page]) -> list[Page]:
    """All pages of the run, read or not."""
    context.add_output_metadata({"pages": len(pages), "read": sum(page.ok for page in pages)})
    return pages


@graph_asset(group_name=GROUP, kinds={"onnx", "dask"}, owners=["team:library"])
def pages(file_types: Inventory) -> list[Page]:
    """Every page read: set upright, read, facing page left out, languages named. Pages are independent steps."""
    read = (
        list_pages(file_types).map(open_page).map(set_upright).map(read_lines).map(trim_facing_page).map(name_languages)
    )
    return gather(read.collect())


@asset(group_name=GROUP, kinds={"sklearn"}, owners=["team:library"], op_tags=OWN, name="key_phrases")
def phrases(pages: list[Page]) -> dict[str, list[str]]:
    """What sets each page apart from the pile (TF-IDF)."""
    return {page: list(found) for page, found in key_phrases([page for page in pages if page.ok]).items()}


@asset(
    group_name=GROUP,
    kinds={"greatexpectations"},
    owners=["team:library"],
    op_tags=OWN,
    check_specs=[
        AssetCheckSpec(
            "each_page", asset="judged_pages", description="Each page looks like text; others are left out."
        ),
        AssetCheckSpec("accepted_set", asset="judged_pages", blocking=True, description="Not empty, unique, all good."),
    ],
)
def judged_pages(
    context: AssetExecutionContext,
    pages: list[Page],
    key_phrases: dict[str, list[str]],
    file_types: Inventory,
    folders: Folders,
    governors: GovernorsResource,
) -> Iterator[Output[Pile] | AssetCheckResult]:
    """Which pages go into the book, by what their text looks like (Great Expectations)."""
    from ioi_dagster.adapters.gx.suite import judge

    suites = expectations()
    readable = [page for page in pages if page.ok]
    judgement = judge(rows_of(readable), COLUMNS, suites["each_page"])
    judged = [page.ref.id for page in readable]
    found = {name: tuple(texts) for name, texts in key_phrases.items()}
    pile = decide(pages, judgement, judged, found, file_types.problems, file_types.only)
    refused = [(r.page, r.status, r.reason) for r in pile.results if r.status != "indexed"]
    yield Output(
        pile,
        metadata={
            "accepted": len(pile.accepted()),
            "left_out": _table(("page", "status", "reason"), refused),
        },
    )
    yield each_page_check(len(judged), judgement, refused)
    accepted = {result.page for result in pile.accepted()}
    rows = rows_of([page for page in readable if page.ref.id in accepted])
    whole = judge(rows, COLUMNS, [*suites["accepted_set"], *suites["each_page"]])
    if not whole.passed:
        # The check ends the run here: why no page was good enough must be told all the same.
        kept = "the book and the index are left as they were: the accepted pages do not meet the expectations"
        _tell(context.run_id, replace(pile, problems=(*pile.problems, kept)), folders.out_path(), governors)
    yield AssetCheckResult(
        check_name="accepted_set",
        passed=whole.passed,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "expectations": _table(
                ("expectation", "column", "passed", "observed"),
                [(o.expectation, o.column or "–", str(o.passed), o.observed or "–") for o in whole.outcomes],
            )
        },
    )
    context.log.info(f"{len(accepted)} of {len(pages)} pages accepted")


def each_page_check(judged: int, judgement: Judgement, left_out: Sequence[tuple[str, str, str]]) -> AssetCheckResult:
    """The check on single pages. Where there was none to judge it warns: that no page was bad says nothing then.

    `left_out`: (page, status, reason) of every page that is not accepted, also of those that never came to be judged.
    """
    refused = len(judgement.reasons())
    text = f"{judged} judged, {refused} refused" if judged else "no page was judged: none could be read"
    return AssetCheckResult(
        check_name="each_page",
        passed=bool(judged) and judgement.passed,
        severity=AssetCheckSeverity.WARN,
        description=text,
        metadata={
            "judged": judged,
            "refused": refused,
            "left_out": _table(("page", "status", "reason"), list(left_out)),
        },
    )


@asset(group_name=GROUP, kinds={"markdown"}, owners=["team:library"], op_tags=OWN)
def book(context: AssetExecutionContext, judged_pages: Pile, folders: Folders) -> Pile:
    """`book.md`: the accepted pages in order. A run over some pages is merged into what is there."""
    out = folders.out_path()
    pile = merged(read_pile(out), judged_pages)
    text = assemble(pile.results)
    write_text(out / "book.md", text)
    context.add_output_metadata(
        {"path": MetadataValue.path(str(out / "book.md")), "pages": len(pile.accepted()), "characters": len(text)}
    )
    return pile


@asset(group_name=GROUP, kinds={"sqlite"}, owners=["team:library"], op_tags=OWN)
def index(context: AssetExecutionContext, book: Pile, folders: Folders) -> Pile:
    """`index.sqlite`: full text of the accepted pages; `ioi find` searches it."""
    out = folders.out_path()
    pile = take_in(out, book)
    lines = sum(len(result.lines) for result in pile.accepted())
    context.add_output_metadata({"path": MetadataValue.path(str(out / NAME)), "lines": lines})
    return pile


def take_in(out: Path, book: Pile) -> Pile:
    """Write the index. What another run has written since this one read the old results is kept, in the book too."""
    with one_at_a_time(out):
        pile = merged(read_pile(out), replace(book, results=tuple(_of_run(book))))
        if pile.results != book.results:
            write_text(out / "book.md", assemble(pile.results))
        write_index(out, pile)
    return pile


@asset(group_name=GROUP, kinds={"html"}, owners=["team:library"], op_tags=OWN)
def report(context: AssetExecutionContext, index: Pile, folders: Folders, governors: GovernorsResource) -> None:
    """`report.html` and `run.json`: every page with where it was read and why there."""
    out = folders.out_path()
    _tell(context.run_id, index, out, governors)
    context.add_output_metadata(
        {"report": MetadataValue.path(str(out / "report.html")), "summary": MetadataValue.path(str(out / "run.json"))}
    )


def _tell(run: str, pile: Pile, out: Path, governors: GovernorsResource) -> None:
    steps = governors.steps(run)
    places = placements_by_page(steps, governors.story(run), [r.page for r in _of_run(pile)], pile)
    write_text(out / "report.html", render_report(pile.results, pile.thumbnails, places, pile.problems))
    write_summary(out, pile, places, steps, {"id": run, "status": "running"})


def _of_run(pile: Pile) -> list[Any]:
    return [r for r in pile.results if not pile.only or r.page in pile.only or r.file in pile.only]


def _table(columns: tuple[str, ...], rows: list[Any]) -> Any:
    schema = TableSchema(columns=[TableColumn(name, "string") for name in columns])
    records = [TableRecord({name: str(value) for name, value in zip(columns, row, strict=True)}) for row in rows]
    return MetadataValue.table(records=records, schema=schema)


ASSETS = [inventory, file_types, pages, phrases, judged_pages, book, index, report]
