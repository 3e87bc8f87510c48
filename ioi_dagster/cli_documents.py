"""What `ioi run documents` shows in the end: a row a page, where the results are and what to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

READING = ".read_lines["


def show(summary: dict[str, Any], results: Path, home: Path | None, shipped: bool, out: Console) -> None:
    """`summary`: the content of `run.json`; `results`: the folder that it is in; `home`: the federation's folder, where it was
    given; `shipped`: the pile is the example's."""
    table = Table("page", "class", "status", "where it was read", "confidence", "why not", show_edge=False)
    for page in summary["pages"]:
        colour = {"indexed": "green", "refused": "yellow", "failed": "red"}[page["status"]]
        where = f"{page['node']} ({page['domain']})" if page["node"] else "–"
        table.add_row(
            escape(repr(page["file"])[1:-1] if not page["file"].isprintable() else page["file"]),
            page["class"] + ("" if page["listed"] else " (unlisted)"),
            f"[{colour}]{page['status']}[/]",
            where,
            f"{page['confidence']:.2f}" if page["chars"] else "–",
            escape(page["reason"]),
        )
    out.print(table)
    for problem in summary["run"].get("problems", []):
        out.print(f"[yellow]note[/] {escape(problem)}")
    run = summary["run"]
    if run["status"] == "interrupted":
        out.print(f"run {run['id']} was interrupted; what it had not written yet is as it was")
        return
    if run["status"] != "success":
        out.print(f"[bold red]run {run['id']} failed[/]: {escape('; '.join(why[:300] for why in run.get('why', ())))}")
        out.print(f"Why: [bold]{_ioi()} explain run {run['id'][:8]}[/]")
        return
    domains: dict[str, int] = {}
    for page in summary["pages"]:
        if page["domain"] and page["status"] != "failed":
            domains[page["domain"]] = domains.get(page["domain"], 0) + 1
    places = ", ".join(f"{count} in {name}" for name, count in sorted(domains.items()))
    out.print(
        f"\nread {places or 'none'}; {run['seconds']:.0f} s ({run['start_seconds']:.0f} s of them to start the domains)"
    )
    for name in ("book.md", "index.sqlite", "report.html", "run.json"):
        out.print(f"  {results / name}", highlight=False)
    out.print("\nTry next:")
    for command in next_commands(summary, results, home, shipped):
        out.print(f"  {_ioi()} {command}", highlight=False, markup=False, soft_wrap=True)


def next_commands(summary: dict[str, Any], results: Path, home: Path | None, shipped: bool) -> list[str]:
    """Arguments of `ioi` that find something after this run."""
    run = summary["run"]["id"][:8]
    at = f" --home {shlex.quote(str(home))}" if home else ""
    # A step on restricted data has the most to tell: who may not take it, and why.
    read = [(step["data_class"] == "restricted", step["step"]) for step in summary["placements"] if step["node"]]
    step = f" {shlex.quote(max(its)[1])}" if (its := [row for row in read if READING in row[1]]) else ""
    return [
        f"find {'foundation cards' if shipped else 'WORDS'} --out {shlex.quote(str(results))}",
        f"explain run {run}{step}{at}",
        f"up{at}",
    ]


def _ioi() -> str:
    """How this command was called, where a shell does not find it by its name alone."""
    called = Path(sys.argv[0])
    return "ioi" if shutil.which("ioi") or called.name != "ioi" else str(called)
