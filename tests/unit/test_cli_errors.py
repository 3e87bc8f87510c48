"""What goes wrong is one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ioi_dagster.local.home import PROJECT


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
    assert " ".join(ended.stderr.split()) == (
        "error a database of the home folder cannot be used: file is not a database — "
        "make room on the disk of the home folder, or give another --home"
    )
