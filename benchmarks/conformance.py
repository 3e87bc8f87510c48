"""What each executor makes of the conformance jobs, beside what is right: the table "what stock executors do", reproduced.

`python -m benchmarks.conformance [--quick] [--expect] [--only CASE,…] [--out FILE]`: a table of case by executor, a line for
whatever went wrong, and one JSON line. Right is what Dagster's multiprocess executor does, or the oracle that the row of
`definitions/conformance/cases.py` names. `--quick` runs the cases in `QUICK`; `--expect` runs the oracles alone and writes
what they did as the expectation of the tests. `--out` writes what each executor makes of each case to a file, of which
`python -m benchmarks.conformance_page FILE` makes the page `docs/reference/conformance.md`; with `--only`, a file of the same
versions keeps its other cases.

Each executor runs in a process of its own, since some cases kill it or hang in it; each case has a Dagster instance of its own.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.frame import Report, quick
from definitions.conformance.cases import CASES
from definitions.conformance.observe import Observed
from ioi_dagster.local.home import PROJECT

QUICK = ("empty_fan_out", "fan_out_selected", "blocking_check_of_the_asset", "skipped_branch", "retry_policy", "pools")
EXECUTORS = ("governed", "dask", "in_process", "multiprocess")
RIGHT = "right"
RECORD = PROJECT / "tests" / "contract" / "executor" / "expected.json"
MODULE = "benchmarks.conformance_defs"
LIMIT_S = 180.0
"""A case that takes longer hangs; the longest needs about half of it."""
SETTINGS = {"multiprocess": {"start_method": {"forkserver": {"preload_modules": [MODULE]}}}}
"""Its quickest way to start processes, since what is compared is what happens."""
TOO_LONG = {"multiprocess": ("fan_out_of_1000", "chain_of_200")}
"""A process a step: minutes for what the others do in seconds."""


def main() -> int:
    if "--child" in sys.argv:
        return _child(sys.argv[sys.argv.index("--child") + 1])
    from rich.console import Console

    names = list(QUICK if quick() else CASES)
    if "--only" in sys.argv:
        names = sys.argv[sys.argv.index("--only") + 1].split(",")
    oracles = {"multiprocess": "multiprocess", "in_process": "in_process", "undisturbed": "multiprocess"}
    if "--expect" in sys.argv:
        made: dict[str, Any] = {}
        for executor in ("multiprocess", "in_process"):
            asked = [name for name in names if oracles[CASES[name].oracle] == executor]
            for name, seen in _run(executor, asked, oracle=True).items():
                made[name] = _plain(seen)
        known = (json.loads(RECORD.read_text()) if "--only" in sys.argv else {}) | made
        rows = (f' "{name}": {json.dumps(known[name], ensure_ascii=False)}' for name in CASES if name in known)
        RECORD.write_text("{\n" + ",\n".join(rows) + "\n}\n")
        return 0
    found = {executor: _run(executor, names) for executor in EXECUTORS}
    right: dict[str, Observed] = {}
    for name in names:
        oracle = CASES[name].oracle
        if oracle != "multiprocess":
            right |= _run(oracles[oracle], [name], oracle=True)
        else:
            right[name] = found[oracle][name]
    words = {
        executor: {name: _word(executor, name, found[executor].get(name), right[name]) for name in names}
        for executor in EXECUTORS
    }
    _print(Console(stderr=True, width=150), names, words)
    if "--out" in sys.argv:
        _write(Path(sys.argv[sys.argv.index("--out") + 1]), names, words)
    same = {executor: sum(word == "" for word in words[executor].values()) for executor in EXECUTORS}
    report = Report("conformance")
    report.figures = {"cases": len(names), "governed_right": same["governed"]}
    report.peers = {f"{name}_right": same[name] for name in EXECUTORS if name != "governed"}
    report.ratios = {"governed_conforms": same["governed"] / len(names)}
    report.floors = {"governed_conforms": (1.0, "min")}
    return report.finish()


def _write(file: Path, names: Sequence[str], words: Mapping[str, Mapping[str, str]]) -> None:
    """Case by case, so that the page can be made of it."""
    cases = {
        name: {"covers": CASES[name].covers, **{executor: words[executor][name] or RIGHT for executor in EXECUTORS}}
        for name in names
    }
    versions = {name: version(name) for name in ("dagster", "dagster-dask", "distributed")}
    found = {"versions": versions, "python": platform.python_version(), "cases": cases}
    if "--only" in sys.argv and file.exists():
        known = json.loads(file.read_text())
        if (known["versions"], known["python"]) != (found["versions"], found["python"]):
            raise SystemExit(f"{file} is of other versions: {known['versions']}, Python {known['python']}")
        found["cases"] = known["cases"] | cases
    file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def _print(console: Any, names: Sequence[str], words: Mapping[str, Mapping[str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("covers", "case", *EXECUTORS, show_edge=False)
    for name in names:
        marks = ["[green]right[/]" if not (word := words[e][name]) else _mark(word) for e in EXECUTORS]
        table.add_row(CASES[name].covers, name, *marks)
    console.print(table)
    for name in names:
        for executor in EXECUTORS:
            if word := words[executor][name]:
                console.print(f"[bold]{name}[/], {executor}: {escape(word)}", highlight=False)


def _mark(word: str) -> str:
    return "[dim]not run[/]" if word.startswith("not run") else "[red]wrong[/]"


# A process that runs cases -----------------------------------------------------------------------------------------


def _run(executor: str, names: Sequence[str], oracle: bool = False) -> dict[str, Observed]:
    """What `executor` makes of the cases. A case that ends or hangs the process says so, and the next gets a new process."""
    found: dict[str, Observed] = {}
    left = [name for name in names if oracle or name not in TOO_LONG.get(executor, ())]
    while left:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.conformance", "--child", executor]
        command += ["--oracle"] if oracle else []
        with subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
            lines.get(timeout=60)
            while left:
                name = left.pop(0)
                print(f"{executor}: {name}", file=sys.stderr, flush=True)
                child.stdin.write(f"{name}\n")
                child.stdin.flush()
                try:
                    line = lines.get(timeout=LIMIT_S)
                except queue.Empty:
                    found[name] = Observed(f"hangs: not over after {LIMIT_S:g} s", {})
                    child.kill()
                    break
                if not line:
                    found[name] = Observed(f"the run process dies with {child.wait()}, the run stays STARTED", {})
                    break
                found[name] = observed(json.loads(line))
            child.stdin.close()
    return found


def _read(stream: Any, lines: queue.Queue[str]) -> None:
    for line in stream:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def _child(executor: str) -> int:
    """Cases by name on stdin, what was observed on stdout."""
    from dagster import DagsterInstance
    from dask import config as dask_config
    from distributed import LocalCluster

    from definitions.conformance.ways import INSTANCE, Where, observe, undisturbed

    warnings.simplefilter("ignore")
    oracle = "--oracle" in sys.argv
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what steps print is no answer
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ioi-conformance-")))
        settings: dict[str, Any] = SETTINGS.get(executor, {})
        if executor in ("governed", "dask"):
            # A `LocalCluster` gives up a worker for good that is starting again 15 s after it was lost once: the cases that
            # crash workers would leave none to those after them.
            dask_config.set({"distributed.deploy.lost-worker-timeout": "1 hour"})
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)  # pyright: ignore[reportArgumentType]
            stack.callback(cluster.close)
            address = str(cluster.scheduler_address)
            settings = (
                {"address": address} if executor == "governed" else {"cluster": {"existing": {"address": address}}}
            )
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            name = line.strip()
            folder = home / name
            folder.mkdir()
            (folder / "dagster.yaml").write_text(INSTANCE)
            os.environ["DAGSTER_HOME"] = str(folder)
            # An oracle of many steps needs no files, and is there in seconds without them.
            files = not (oracle and CASES[name].oracle == "in_process")
            with DagsterInstance.get() if files else DagsterInstance.ephemeral() as instance:
                where = Where(executor, instance, PROJECT, MODULE, settings)
                run = undisturbed if oracle and CASES[name].oracle == "undisturbed" else observe
                print(json.dumps(_plain(run(name, where))), file=answers, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    return 0


# Values ------------------------------------------------------------------------------------------------------------


def observed(row: Mapping[str, Any]) -> Observed:
    return Observed(row["status"], {(kind, step, about): count for kind, step, about, count in row["facts"]})


def _plain(seen: Observed) -> dict[str, Any]:
    return {"status": seen.status, "facts": sorted([*key, count] for key, count in seen.facts.items())}


def _word(executor: str, name: str, seen: Observed | None, right: Observed) -> str:
    """Empty where it is right, else what differs."""
    if seen is None:
        return "not run: a process for each of so many steps"
    if seen == right:
        return ""
    found = [f"ends {seen.status}, should end {right.status}"] if seen.status != right.status else []
    if seen.facts:
        keys = sorted(seen.facts.keys() | right.facts.keys())
        more = [(key, seen.facts.get(key, 0) - right.facts.get(key, 0)) for key in keys]
        lacks, adds = [k for k, n in more if n < 0], [k for k, n in more if n > 0]
        for word, some in (("lacks", lacks), ("has too much", adds)):
            if some:
                told = ", ".join(" ".join(filter(None, (kind, step, about))) for kind, step, about in some[:3])
                found.append(f"{word} {told}" + (f" and {len(some) - 3} more" if len(some) > 3 else ""))
    return "; ".join(found)


if __name__ == "__main__":
    sys.exit(main())
