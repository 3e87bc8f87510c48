"""A step that waits for a place keeps nobody out of its pool."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance

from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def test_a_step_without_a_place_leaves_its_pool_to_another_run(
    tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    dagster_home(tmp_path, monkeypatch)
    monkeypatch.setenv("IOI_TEST_FOLDER", str(tmp_path))
    with DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots("scarce", 1)

    def start(job: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{job}.log").open("wb")
        command = [sys.executable, "-m", "tests.integration.pooled_defs", job]
        return subprocess.Popen(
            command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=log, stderr=subprocess.STDOUT
        )

    crowded = start("crowded")
    others: list[subprocess.Popen[bytes]] = []
    try:
        eventually((tmp_path / "held").exists, 120, "the step that holds the node")
        others.append(start("idle"))
        eventually(lambda: others[0].poll() is not None, 180, "the end of the run whose step has a place")
        assert others[0].returncode == 0, (tmp_path / "idle.log").read_text()[-2000:]
        assert crowded.poll() is None, "its step has no place still"
        assert len((tmp_path / "pooled").read_text().split()) == 1
        (tmp_path / "over").touch()
        assert crowded.wait(120) == 0, (tmp_path / "crowded.log").read_text()[-2000:]
    finally:
        (tmp_path / "over").touch()
        for process in (crowded, *others):
            process.kill()
            process.wait()
    assert len((tmp_path / "pooled").read_text().split()) == 2
