"""The same functions in a plain loop: what the graph is measured against, and the quickest way to try a change."""

from __future__ import annotations

from pathlib import Path

from definitions.documents.facing_page import trim_facing_page
from definitions.documents.file_type import name_types, page_refs
from definitions.documents.inventory import take_inventory
from definitions.documents.language import name_languages
from definitions.documents.load import load_page
from definitions.documents.reading import read_lines
from definitions.documents.results import COLUMNS, Pile, decide, expectations, key_phrases, rows_of
from definitions.documents.upright import set_upright
from definitions.documents.values import Page
from ioi_dagster.adapters.gx.suite import judge


def read_page(page: Page) -> Page:
    """All stages of one page."""
    for stage in (set_upright, read_lines, trim_facing_page, name_languages):
        page = stage(page) if page.ok else page
    return page


def run_plain(folder: Path, only: tuple[str, ...] = ()) -> Pile:
    """The pile of `folder`, read one page after the other in this process."""
    inventory = name_types(take_inventory(folder, only))
    pages = [read_page(load_page(ref, folder)) for ref in page_refs(inventory)]
    readable = [page for page in pages if page.ok]
    judgement = judge(rows_of(readable), COLUMNS, expectations()["each_page"])
    judged = [page.ref.id for page in readable]
    return decide(pages, judgement, judged, key_phrases(readable), inventory.problems, only)
