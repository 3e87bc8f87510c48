"""Owners of domains, for tests in which each does everything by its own commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distributed import Client
from distributed.security import Security

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.home import PROJECT, prepare_dagster


class Owner:
    """One domain in a home of its own below `folder`, by its owner's commands. `topology`: YAML that tells of it; `machine`
    makes a command one of the machine that it is on, where that is another than this."""

    def __init__(
        self,
        folder: Path,
        name: str,
        topology: str,
        machine: Callable[[Sequence[str]], list[str]] = list,
        listen: str = "",
        blocks: str = "tests.integration.joining_project:BLOCKS",
    ) -> None:
        self.root, self.name = folder / name, f"{name}.example"
        self.folder, self._topology, self._machine = folder, topology, machine
        self._listen, self._blocks = listen, blocks
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "COLUMNS": "300",
            "IOI_HOME": str(self.root),
            "IOI_TEST_FOLDER": str(folder),
        }

    @property
    def home(self) -> DomainHome:
        return DomainHome(self.root / "domains" / self.name)

    def command(self, module: str, *arguments: object) -> list[str]:
        return self._machine([sys.executable, "-m", module, *map(str, arguments)])

    def does(self, *arguments: object, code: int = 0) -> str:
        """What an `ioi` command prints."""
        command = self.command("ioi_dagster.cli", *arguments)
        done = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def init(self) -> None:
        topology = self.folder / "topology.yaml"
        topology.write_text(self._topology)
        listen = ("--listen", self._listen) if self._listen else ()
        self.does("domain", "init", self.name, "--topology", topology, "--blocks", self._blocks, *listen)

    @contextmanager
    def up(self, code: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        """`code`: by which the command ends."""
        command = self.command("ioi_dagster.cli", "domain", "up")
        with (self.folder / f"{self.name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == code, self.said()

    def said(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def sees(self) -> dict[str, tuple[str, int, str]]:
        """Member → state, the serial of its record, who told of it."""
        rows = json.loads(self.does("domain", "show", "--json"))["members"]
        return {name: (row["state"], row["serial"], row["told_by"]) for name, row in rows.items()}

    def run(
        self, text: str, by: str = "governed_run", job: str = "saying", highest: str = "public"
    ) -> subprocess.Popen[bytes]:
        """A job of the project, as its run process, by a module of the tests; `text` is the word that is said."""
        config = json.dumps({"ops": {"word": {"config": text}}} if text else {})
        arguments = ["tests.integration.joining_project", job, config, json.dumps({"ioi/highest": highest})]
        with (self.folder / "run.log").open("ab") as log:
            return subprocess.Popen(
                self.command(f"tests.integration.{by}", *arguments),
                cwd=PROJECT,
                env=self.run_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run_environment(self) -> dict[str, str]:
        """Of a process of a run."""
        return {
            **self.environment,
            "IOI_DOMAIN": self.name,
            "DAGSTER_HOME": str(prepare_dagster(self.root)),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }

    def told_run(self) -> str:
        return (self.folder / "run.log").read_text()

    def steps(self) -> dict[str, tuple[str, str]]:
        """Of the newest run: step → (domain, state)."""
        ledger = Ledger(self.home.ledger)
        try:
            return {step.step: (step.domain or "", step.state) for step in ledger.steps(ledger.runs()[0][0])}
        finally:
            ledger.close()


def answers(scheduler: str, authority: Path | None = None, certificate: Path | None = None) -> bool:
    """Does the Dask scheduler at that address take this client?"""
    security = None
    if authority is not None:
        shown = str(certificate)
        security = Security(
            tls_ca_file=str(authority), tls_client_cert=shown, tls_client_key=shown, require_encryption=True
        )
    try:
        with Client(scheduler, timeout=10, security=security, set_as_default=False):
            return True
    except OSError:
        return False
