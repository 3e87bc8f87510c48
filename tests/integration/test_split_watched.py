"""What `ioi status --watch` says at both sides while the line between two sites is cut, and when it is whole again."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.netns import TwoSites, possible
from ioi_dagster.cli_status import render
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.home import POLICIES, PROJECT
from ioi_dagster.local.joining import init
from ioi_dagster.local.member_book import FolderBook, meet
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec
from tests.conftest import Child, eventually

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not possible(), reason="network namespaces need root and ip(8)"),
]
TITLE = "members that do not see each other"


class Side:
    """A domain's gateway on a machine of its own site, and what a watch there prints. Nobody has started its cluster."""

    def __init__(self, folder: Path, name: str, machine: Any) -> None:
        self.root, self.name, self._machine = folder / name, f"{name}.example", machine
        self.home = DomainHome(self.root / "domains" / self.name)
        spec = DomainSpec(self.name, name, (ClusterSpec(f"{name}-main", (NodeSpec(f"{name}-1"),)),))
        init(self.home, "book", spec, f"{machine.address}:7443", POLICIES, (), time.time())
        self.lines: list[dict[str, Any]] = []

    def starts(self, module: str, *arguments: str, **options: Any) -> Child:
        command = self._machine.command([sys.executable, "-m", module, *arguments])
        own = {"IOI_HOME": str(self.root), "IOI_DOMAIN_HOME": str(self.home.root)}
        environment = {**os.environ, **own, "PYTHONPATH": str(PROJECT)}
        return Child(command, cwd=PROJECT, env=environment, **options)

    def watches(self, stack: ExitStack) -> None:
        watch = self.starts("ioi_dagster.cli", "status", "--watch", "--json", stdout=subprocess.PIPE, text=True)
        stack.enter_context(watch)
        stack.callback(watch.terminate)
        reads = threading.Thread(target=lambda: [self.lines.append(json.loads(line)) for line in watch.stdout or ()])
        reads.start()

    def sees(self, peer: str, since: int = 0) -> list[dict[str, Any]]:
        """How the peer stood in each line from that one on."""
        told = (line[self.name].get("peers", {}).get(peer) for line in self.lines[since:])
        return [row for row in told if row is not None]

    def now(self, peer: str) -> str:
        return (self.sees(peer) or [{"state": ""}])[-1]["state"]


def shown(line: dict[str, Any]) -> str:
    text = io.StringIO()
    Console(file=text, width=300).print(render(line))
    return text.getvalue()


def in_order(states: list[str]) -> list[str]:
    return [state for before, state in zip(["", *states], states, strict=False) if state != before]


def test_both_sides_name_each_other_while_the_line_is_cut_and_then_no_more(tmp_path: Path) -> None:
    with ExitStack() as stack:
        net = stack.enter_context(TwoSites(machines=1))
        ash, cedar = sides = [
            Side(tmp_path, name, machine) for name, machine in zip(("ash", "cedar"), net.machines, strict=True)
        ]
        others = {ash: cedar.name, cedar: ash.name}
        records = {side.name: FolderBook(side.home).records()[side.name] for side in sides}
        for side in sides:
            meet(side.home, records)
            gateway = stack.enter_context(side.starts("ioi_dagster.local.gateway_main", stderr=subprocess.DEVNULL))
            stack.callback(gateway.terminate)
            side.watches(stack)

        def both(state: str) -> bool:
            return all(side.now(other) == state for side, other in others.items())

        eventually(lambda: both("alive"), 120, "both see each other")
        since = {side: len(side.lines) - 1 for side in sides}
        net.split()
        eventually(lambda: both("suspect"), 60, "neither sees the other")
        net.heal()
        eventually(lambda: both("alive"), 60, "both see each other again")
        # Before one of them is ended, which the other sees.
        seen = {side: side.sees(other, since[side]) for side, other in others.items()}

    for side, other in others.items():
        rows = seen[side]
        assert in_order([row["state"] for row in rows]) == ["alive", "suspect", "alive"]
        cut = [row for row in rows if row["state"] == "suspect"]
        assert all(row["why"] for row in cut)
        assert [row["seen_s_ago"] for row in cut] == sorted(row["seen_s_ago"] for row in cut)
        # A person is shown who is away while he is, and no such table before and after.
        for line in side.lines:
            its = line[side.name].get("peers", {}).get(other)
            away = its is not None and its["state"] != "alive"
            assert (TITLE in shown(line)) is away
            assert not away or (other in shown(line) and its["why"] in " ".join(shown(line).split()))
