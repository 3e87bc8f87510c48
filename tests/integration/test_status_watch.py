"""`ioi status --watch` goes on until it is told to stop, and ends well then."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES, PROJECT, TOPOLOGY
from ioi_dagster.local.topology_file import load_topology
from tests.conftest import Child

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A federation that was prepared, and whose gateways are not up."""
    federation = Federation(load_topology(TOPOLOGY), tmp_path / "home", POLICIES, BLOCKS)
    federation.prepare()
    federation.stop()
    return tmp_path / "home"


def command(home: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "ioi_dagster.cli", "status", "--watch", "--home", str(home), *more]


def test_one_line_of_json_each_time_until_it_is_interrupted(home: Path) -> None:
    with Child(command(home, "--json"), cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 0
    assert [sorted(line) for line in lines] == [["cloud.example", "lab.example", "library.example"]] * 2
    assert all("does not answer" in facts["error"] or "unreachable" in facts["error"] for facts in lines[0].values())
    assert all(json.loads(line) for line in rest.splitlines())


def test_who_reads_no_longer_ends_it(home: Path) -> None:
    with Child(
        command(home, "--json"), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def readable(file: int, within_s: float) -> bool:
    """Is there something to read? By poll(2): select(2) knows no descriptor above 1,023."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(within_s * 1_000))


def test_a_terminal_has_its_screen_back_with_what_was_shown_last(home: Path) -> None:
    main, terminal = pty.openpty()
    with Child(
        command(home),
        cwd=PROJECT,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        shown, until = "", time.monotonic() + 60
        while "no domain answers" not in shown:
            assert time.monotonic() < until, shown
            if readable(main, 1.0):
                shown += os.read(main, 65_536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        # This end of the terminal stays open: what was written last may be lost when nobody has it any more.
        while process.poll() is None or readable(main, 1.0):
            if readable(main, 0.1):
                shown += os.read(main, 65_536).decode(errors="replace")
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(main)
    os.close(terminal)
    assert "\x1b[?1049l" in shown, (shown[:300], shown[-300:])
    left = shown.index("\x1b[?1049l")
    assert "\x1b[?1049h" in shown[:left]
    assert "no domain answers" in shown[left:]
