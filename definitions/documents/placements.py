"""Where each page was read, out of the run's ledger and story."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from definitions.documents.book import write_text
from definitions.documents.report import run_summary
from definitions.documents.results import Pile
from ioi_dagster.adapters.sql.ledger import StepRow
from ioi_dagster.model.story import Chapter, Entry

READING = "page.ocr"
_KEY = re.compile(r"\[p(\d+)\]$")


def placements_by_page(
    steps: Sequence[StepRow], story: Sequence[Entry], order: Sequence[str], pile: Pile
) -> dict[str, dict[str, Any]]:
    """Page → where its text was read, and why there. `order`: the run's pages as they were listed."""
    why = {entry.step: entry.text for entry in story if entry.chapter is Chapter.BID and entry.step}
    lost: dict[str, list[str]] = {}
    for entry in story:
        if entry.chapter is Chapter.LOSS:
            lost.setdefault(entry.step, []).append(entry.text)
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        match = _KEY.search(step.step)
        if match is None or step.capability != READING or not step.node:
            continue
        number = int(match.group(1))
        if number < len(order):
            reasons = [*lost.get(step.step, []), why.get(step.step, "")]
            found[order[number]] = {
                "domain": step.domain,
                "cluster": step.cluster,
                "node": step.node,
                "why": "; ".join(filter(None, reasons)),
            }
    return found


def steps_for_json(steps: Sequence[StepRow]) -> list[dict[str, Any]]:
    names = (
        "step",
        "capability",
        "data_class",
        "domain",
        "cluster",
        "node",
        "fence",
        "attempt",
        "commits",
        "started",
        "ended",
    )
    return [{name: getattr(step, name) for name in names} for step in steps]


def write_summary(
    out: Path,
    pile: Pile,
    places: Mapping[str, Mapping[str, Any]],
    steps: Sequence[StepRow],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `run.json` and return it."""
    summary = run_summary(pile.results, places, steps_for_json(steps), {**run, "problems": list(pile.problems)})
    write_text(out / "run.json", json.dumps(summary, indent=1))
    return summary
