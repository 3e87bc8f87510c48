"""`python -m benchmarks.conformance_page FILE`: writes `docs/reference/conformance.md` from a file of
`python -m benchmarks.conformance --out FILE`. What a case covers is taken from the table of cases, the rest from the file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.conformance import RIGHT
from definitions.conformance.cases import CASES
from ioi_dagster.local.home import PROJECT

PAGE = PROJECT / "docs" / "reference" / "conformance.md"
COLUMNS = {
    "dask": "dagster-dask",
    "in_process": "in_process",
    "multiprocess": "multiprocess",
    "governed": "governed_executor",
}
INTRODUCTION = """# What each executor makes of each case

As `python -m benchmarks.conformance --out FILE` measured it with {versions}; `python -m benchmarks.conformance_page FILE`
writes this page. `definitions/conformance/cases.py` says how each case is run and what is right, which is what `multiprocess`
leaves unless the case names another oracle. What is compared is the final status and the multiset of (event type, step, what it
is about); of a case with several runs, each run's facts begin with its number. Of the facts that an executor lacks, and of
those that it has too much, the first three are named.
[What stock executors do](../concepts/execution.md#what-stock-executors-do) is a selection in plain words.

Right: {right}, of {count} cases.
"""


def page(found: Mapping[str, Any]) -> str:
    cases: Mapping[str, Mapping[str, str]] = found["cases"]
    right = {title: sum(case[name] == RIGHT for case in cases.values()) for name, title in COLUMNS.items()}
    versions = {"Python": found["python"], **found["versions"]}
    introduction = INTRODUCTION.format(
        versions=_listed(f"{name} {number}" for name, number in versions.items()),
        right=", ".join(f"{title} {number}" for title, number in right.items()),
        count=len(cases),
    )
    rows = [["case", "what it is", *COLUMNS.values()], ["---"] * (2 + len(COLUMNS))]
    for name in sorted(cases):
        rows.append([f"`{name}`", _text(CASES[name].covers), *(_text(cases[name][column]) for column in COLUMNS)])
    return introduction + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _listed(words: Any) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"


def _text(words: str) -> str:
    """As Markdown shows it: what an executor said holds brackets, stars and the like."""
    return re.sub(r"([\\|*_\[\]`])", r"\\\1", words.replace("<", "&lt;"))


def main() -> int:
    found = json.loads(Path(sys.argv[1]).read_text())
    if found["cases"].keys() != CASES.keys():
        print(f"these are not measured, or no cases: {sorted(found['cases'].keys() ^ CASES.keys())}", file=sys.stderr)
        return 1
    PAGE.write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
