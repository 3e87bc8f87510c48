"""Runs of `quota_defs`, whose steps stand still until they are let go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ioi_dagster.host import tags
from ioi_dagster.local.home import PROJECT

MODULE = "tests.integration.quota_defs"


class Runs:
    """Each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._all = folder, []

    def start(self, job: str, tenant: str) -> subprocess.Popen[bytes]:
        config = {"ops": {"stands": {"config": {"folder": str(self._folder)}}}} if job == "flood" else {}
        with (self._folder / f"{job}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.integration.governed_run", MODULE, job),
                    *(json.dumps(config), json.dumps({tags.TENANT: tenant})),
                ],
                cwd=PROJECT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._all.append(process)
        return process

    def end(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()
