"""What goes wrong is one line and an exit code, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.local.home import PROJECT
from ioi_dagster.model.story import Chapter, Entry


def ioi(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IOI_", "DAGSTER_HOME"))}
    return subprocess.run(
        [sys.executable, "-c", "from ioi_dagster.cli import main; main()", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
    )


def test_a_database_that_cannot_be_used_is_named_with_what_to_do(tmp_path):
    ledger = tmp_path / "storage" / "ioi" / "ledger.sqlite"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"not a database " * 500)
    ended = ioi(tmp_path, "runs", DAGSTER_HOME=str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr == (
        "error a database of the home folder cannot be used: file is not a database — "
        "it is damaged: a registry is made of a backup by `ioi ras restore`; one of runs is moved away, with their stories\n"
    )


@pytest.mark.parametrize("out", ["/sys", "/sys/new", "file", "file/below"])
def test_a_folder_that_takes_no_results_is_refused_before_anything_starts(tmp_path, out):
    (tmp_path / "file").touch()
    ended = ioi(tmp_path, "run", "documents", "--out", out)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error {out}: results cannot be written there: ")
    assert ended.stderr.endswith(" — give another --out\n")


@pytest.mark.parametrize(("home", "todo"), [("/sys/new", "right to write"), ("file", "that is a file: give a folder")])
def test_a_home_that_cannot_be_made_is_named_with_what_to_do(tmp_path, home, todo):
    (tmp_path / "file").touch()
    ended = ioi(tmp_path, "run", "documents", "--home", home)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error {tmp_path / home}")
    assert todo in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ("no.such:BLOCKS", "no blocks at 'no.such:BLOCKS': ModuleNotFoundError: No module named 'no'"),
        ("broken:BLOCKS", "no blocks at 'broken:BLOCKS': ZeroDivisionError: division by zero"),
        ("loud:BLOCKS", "no blocks at 'loud:BLOCKS': ValueError: two"),
        ("given:NONE", "no blocks at 'given:NONE': AttributeError: module 'given' has no attribute 'NONE'"),
        ("given:BLOCKS", "what stands at 'given:BLOCKS' is no list of blocks"),
        ("given", "'given' does not name blocks"),
    ],
)
def test_a_module_without_blocks_is_named_with_what_to_do_and_makes_no_domain(tmp_path, blocks, why):
    (tmp_path / "broken.py").write_text("BLOCKS = 1 / 0\n")
    (tmp_path / "loud.py").write_text("raise ValueError('two\\nlines')\n")
    (tmp_path / "given.py").write_text("BLOCKS = ['ocr']\n")
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    ended = ioi(tmp_path, "domain", "init", "lab.example", "--blocks", blocks, "--home", "home", PYTHONPATH=path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            f"error {why} — name a module that can be imported here and what in it lists the blocks, "
            "as in `--blocks package.module:BLOCKS`"
        ],
    )
    assert not (tmp_path / "home").exists()


def test_a_step_that_is_not_there_is_named_with_what_to_do(tmp_path):
    ledger = Ledger(tmp_path / "storage" / "ioi" / "ledger.sqlite")
    ledger.take_over("b367a1f4-6703", "documents", 1.0)
    ledger.close()
    ended = ioi(tmp_path, "explain", "run", "last", "nowhere", DAGSTER_HOME=str(tmp_path))
    assert (ended.returncode, ended.stderr) == (
        2,
        "error run b367a1f4 has no step 'nowhere' — see all with `ioi explain run b367a1f4`\n",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "documents", "--input", ""), "the name of the folder is empty"),
        (("quota",), "no federation was ever started here — run `ioi up`"),
        (("simulate", "1x1", "tree:2x2"), "there is no shape 'tree' and no file 'tree:2x2' — shapes are bag, chain,"),
        (("quota", "--topology", "none.yaml"), "error none.yaml: cannot be read: No such file or directory"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(tmp_path, arguments, words):
    ended = ioi(tmp_path, *arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_how_each_run_ended_is_told(tmp_path):
    ledger = Ledger(tmp_path / "storage" / "ioi" / "ledger.sqlite")
    for number, facts in enumerate((None, {"failed": 0}, {"failed": 2}, {"failed": 1, "interrupted": True})):
        epoch = ledger.take_over(f"run-{number}", "job", float(number))
        if facts is not None:
            ledger.write(f"run-{number}", epoch, [], [], [Entry(f"run-{number}", "", Chapter.DONE, "", 9.0, facts)])
            ledger.end(f"run-{number}", epoch, 10.0)
    ledger.close()
    ended = ioi(tmp_path, "runs", DAGSTER_HOME=str(tmp_path))
    last = [line.split("│")[-1].strip() for line in ended.stdout.splitlines()[2:]]
    assert last == ["interrupted", "2 steps failed", "well", "running, or ended without a word"]


def test_a_home_that_is_a_file_is_to_mend(tmp_path):
    (tmp_path / "file").touch()
    ended = ioi(tmp_path, "doctor", "--home", "file", "--json")
    (finding,) = [finding for finding in json.loads(ended.stdout) if finding["what"] == "home"]
    assert (finding["state"], finding["found"]) == ("mend", f"{tmp_path / 'file'} is a file")


@pytest.mark.parametrize(
    ("number", "expected"), [("SIGINT", "heard KeyboardInterrupt"), ("SIGTERM", "heard SystemExit")]
)
def test_a_signal_that_comes_within_a_destructor_is_heard_all_the_same(number, expected):
    code = f"""
import signal, sys
from ioi_dagster.cli import hear_lost_interruptions
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
hear_lost_interruptions()
class Late:
    def __del__(self):
        signal.raise_signal(signal.{number})
        for _ in range(1000): pass
try:
    late = Late()
    del late
    signal.pause()
except BaseException as error:
    print("heard", type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == (expected, "")
