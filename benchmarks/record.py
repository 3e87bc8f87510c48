"""Results that are kept: `python -m benchmarks.NAME --record` writes `benchmarks/results/NAME.json`, and the page of all of them.

A file holds a run for each set of options that the benchmark was given (values of options that are no numbers are left out, for
they name folders). A later run takes the place of an earlier one; a quick one never that of a full one. `python -m
benchmarks.record` writes the page anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ioi_dagster.local.home import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PROJECT / "docs" / "reference" / "benchmarks.md"
OURS = ("--record", "--quick")
INTRODUCTION = """# What was measured

Each figure is of a run that was made: `python -m benchmarks.NAME --record` wrote it to `benchmarks/results/NAME.json`, and
this page from there. A floor is what must hold, an aim what is wanted. Absolute figures are read by the machine that they were
measured on: `loop` is the seconds that two million multiplications took there, `fsync` the milliseconds of one write to disk,
`load` that of the last minute before and after. `uncommitted`: the code was not wholly that of the commit. What is marked *quick*
ran with small sizes: it shows that the benchmark works, no more.
"""


def options(argv: Sequence[str]) -> str:
    """Those that the run is told apart by."""
    return " ".join(word for word in argv if word not in OURS and (word.startswith("--") or _is_number(word)))


def record(line: Mapping[str, Any], argv: Sequence[str], folder: Path = RESULTS, now: datetime | None = None) -> bool:
    """Keep the result. False where a full one is there and this one is quick."""
    file, key, quick = folder / f"{line['benchmark']}.json", options(argv), "--quick" in argv
    runs = json.loads(file.read_text())["runs"] if file.exists() else {}
    if quick and key in runs and not runs[key]["quick"]:
        return False
    its = {name: value for name, value in line.items() if name != "benchmark"}
    passed = all(floor["holds"] for floor in line["floors"].values())
    date = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    runs[key] = {"quick": quick, "date": date, "commit": _commit(), "passed": passed, **its}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"benchmark": line["benchmark"], "runs": dict(sorted(runs.items()))}, indent=1)
    part = file.with_suffix(".part")
    part.write_text(text + "\n")
    os.replace(part, file)
    return True


def page(folder: Path = RESULTS) -> str:
    """What the files of the folder hold, as Markdown."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    parts = [INTRODUCTION, *(_section(its) for its in found)]
    missing = sorted(set(benchmarks()) - {its["benchmark"].partition(".")[0] for its in found})
    if missing:
        parts.append(f"## Not recorded yet\n\n{', '.join(f'`{name}`' for name in missing)}.\n")
    return "\n".join(parts)


def benchmarks() -> list[str]:
    """Modules that report what they measured."""
    files = sorted((PROJECT / "benchmarks").glob("*.py"))
    return [
        file.stem for file in files if re.search(r"^from benchmarks\.frame import .*\bReport\b", file.read_text(), re.M)
    ]


def _section(its: Mapping[str, Any]) -> str:
    name = its["benchmark"]
    spec = importlib.util.find_spec(f"benchmarks.{name.partition('.')[0]}")
    about = ""
    if spec is not None and spec.origin is not None:
        about = Path(spec.origin).read_text().removeprefix('"""').partition("\n")[0].removesuffix('"""')
    parts = [f"## {name}\n\n{_text(about)}\n"]
    for key, run in its["runs"].items():
        parts.append(_run(f"python -m benchmarks.{name.partition('.')[0]} {key}".strip(), run))
    return "\n".join(parts)


def _run(command: str, run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    calibration, load = machine["calibration"], f"{machine['load_before'][0]} and {machine['load'][0]}"
    holds = "every floor that was measured holds" if run["passed"] else "**a floor does not hold**"
    head = f"`{command}`{', *quick*' if run['quick'] else ''}: {holds if run['floors'] else 'no floor was measured'}"
    where = (
        f"{run['date']}, commit {run['commit']}, {machine['cores']} cores, load {load}, "
        f"loop {calibration['loop_s']} s, fsync {calibration['fsync_ms']} ms, Python {machine['python']}, {versions}."
    )
    rows = [["what", "measured", "floor", "aim"], ["---"] * 4]
    for group in ("figures", "ratios", "peers"):
        for name, value in run[group].items():
            label = f"`{name}`, peer" if group == "peers" else f"`{name}`"
            rows.append([label, f"{value:,.6g}", _limit(run["floors"], name), _limit(run["aims"], name)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{head}.\n\n{where}\n\n{table}"


def _limit(limits: Mapping[str, Mapping[str, Any]], name: str) -> str:
    if name not in limits:
        return ""
    return f"{limits[name]['floor']:,.6g}, {'held' if limits[name]['holds'] else '**missed**'}"


def _text(words: str) -> str:
    """As Markdown shows it."""
    return re.sub(r"([\\|*_\[\]`])", r"\\\1", words.replace("<", "&lt;"))


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    paths = (f":(exclude){path.relative_to(PROJECT)}" for path in (RESULTS, PAGE))
    changed = git("status", "--porcelain", "--", ".", *paths)
    return f"{head or 'unknown'}{' (uncommitted)' if changed else ''}"


def _is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


def write_page() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    write_page()
    sys.exit(0)
