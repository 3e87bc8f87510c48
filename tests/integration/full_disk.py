"""A run whose ledger's disk is full in the middle. Run as `unshare --user --map-root-user --mount python -m … FOLDER`, since it
mounts a disk of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from dagster import DagsterInstance

from ioi_dagster.adapters.sql.ledger import Ledger
from tests.conftest import eventually
from tests.integration.resume_defs import FREE
from tests.integration.test_ledger_away import GATED, count, said, start_gated

SIZE = "1m"


def main(home: Path) -> None:
    disk = home / "storage" / "ioi"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    with DagsterInstance.get() as instance:
        run, process = start_gated(instance, home)
        eventually(lambda: count(instance, run, "STEP_SUCCESS").total() == 1 + FREE, what="the steps that do not wait")
        filling = disk / "filling"
        with filling.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * 4096)
            except OSError as error:
                print("full:", error)
        before = count(instance, run, "STEP_SUCCESS")
        (home / "go").touch()
        eventually(lambda: said(instance, run, "cannot be written"), what="an event that says so")
        assert count(instance, run, "STEP_SUCCESS") == before, "nothing is told that is not committed"
        filling.unlink()
        eventually(lambda: process.poll() is not None, 120, "the run's end")
        assert said(instance, run, "can be written again")
        assert count(instance, run, "STEP_SUCCESS") == Counter(GATED)
        ledger = Ledger(disk / "ledger.sqlite")
        assert {row.step: row.commits for row in ledger.steps(run)} == dict.fromkeys(GATED, 1)
        for number in range(8):
            assert len(list(home.glob(f"same?n{number}? *"))) == 1, "no step ran again"
        found = instance.get_run_by_id(run)
        assert found is not None and found.status.value == "SUCCESS"


if __name__ == "__main__":
    os.environ["DAGSTER_HOME"] = sys.argv[1]
    main(Path(sys.argv[1]))
