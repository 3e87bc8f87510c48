"""The failure matrix of the simulator, in the page of failures: `python -m tests.scenario.matrix_page` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from ioi_dagster.simulate.matrix import BESIDES, MATRIX, Row

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "failures.md"
BEGIN, END = "<!-- the matrix on virtual time -->\n", "<!-- its end -->\n"


def table() -> str:
    lines = ["| # | fault | kinds | again, or whole, within | what that is |", "|---|---|---|---|---|"]
    lines += [f"| {row.number} | {row.fault} | {_kinds(row)} | {_bound(row)} | {row.follows} |" for row in MATRIX]
    left = [f"- Row {row.number}: {row.not_here}." for row in MATRIX if row.not_here]
    besides = ", ".join(f"`{kind}`" for kind in BESIDES)
    return "\n".join(
        [*lines, "", f"Of no row, and among them all the same: {besides}. Not on virtual time:", "", *left, ""]
    )


def _kinds(row: Row) -> str:
    return ", ".join(f"`{kind}`" for kind in row.kinds)


def _bound(row: Row) -> str:
    if row.bound_s is None:
        return "–"
    return f"{row.bound_s:.1f} s" + (" of its end" if row.from_end else "")


def written() -> str:
    """The page with the table as it is now."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", PAGE.read_text(), flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written())
