"""Three domains, each made by hand in a home of its own: they join, work together, change keys and leave. Real
processes all along."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.security import Security

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.certificates import Authority, Role
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.home import PROJECT, prepare_dagster
from tests.conftest import eventually
from tests.pickles import pickles_in

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(540)]

TOPOLOGY = """
network: book
home: desk.example
domains:
  - name: desk.example
    authority: desk
    handles: restricted
    clusters: [{name: desk-main, nodes: [{name: desk-1}]}]
  - name: shop.example
    authority: shop
    handles: public
    blocks: [loud]
    clusters: [{name: shop-main, nodes: [{name: shop-1}]}]
  - name: club.example
    authority: club
    handles: public
    clusters: [{name: club-main, nodes: [{name: club-1}]}]
  - name: twin.example
    authority: desk
    handles: internal
    clusters: [{name: twin-main, nodes: [{name: twin-1}]}]
"""


class Owner:
    """One domain in a home of its own, by its owner's commands."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root / name, f"{name}.example"
        self.folder = root
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "COLUMNS": "300",
            "IOI_HOME": str(self.root),
            "IOI_TEST_FOLDER": str(root),
        }

    @property
    def home(self) -> DomainHome:
        return DomainHome(self.root / "domains" / self.name)

    def does(self, *arguments: object, code: int = 0) -> str:
        """What an `ioi` command prints."""
        command = [sys.executable, "-m", "ioi_dagster.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def init(self) -> None:
        topology = self.folder / "topology.yaml"
        topology.write_text(TOPOLOGY)
        blocks = "tests.integration.joining_project:BLOCKS"
        self.does("domain", "init", self.name, "--topology", topology, "--blocks", blocks)

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "ioi_dagster.cli", "domain", "up"]
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
            assert process.wait(60) == 0, self.said()

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
        environment = {
            **self.environment,
            "IOI_DOMAIN": self.name,
            "DAGSTER_HOME": str(prepare_dagster(self.root)),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }
        config = json.dumps({"ops": {"word": {"config": text}}} if text else {})
        arguments = ["tests.integration.joining_project", job, config, json.dumps({"ioi/highest": highest})]
        with (self.folder / "run.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"tests.integration.{by}", *arguments],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told_run(self) -> str:
        return (self.folder / "run.log").read_text()

    def steps(self) -> dict[str, tuple[str, str]]:
        """Of the newest run: step → (domain, state)."""
        ledger = Ledger(self.home.ledger)
        try:
            return {step.step: (step.domain, step.state) for step in ledger.steps(ledger.runs()[0][0])}
        finally:
            ledger.close()


def said_in(owner: Owner, text: str, by: str = "governed_run") -> None:
    run = owner.run(text, by)
    assert run.wait(240) == 0, owner.told_run()[-4_000:]
    assert f"heard {text.upper()}" in owner.told_run()
    assert owner.steps()["shout"] == ("shop.example", "DONE")


def check_wire(folder: Path, sent: bytes, heard: bytes) -> None:
    """What the run said to other domains and heard from them: the call and its answer are in it, and no pickle."""
    said = {path.name: path.read_bytes() for path in folder.iterdir()}
    foreign = {name: data for name, data in said.items() if "desk.example" not in name}
    assert sent in b"".join(data for name, data in foreign.items() if name.startswith("to shop.example"))
    assert heard in b"".join(data for name, data in foreign.items() if name.startswith("from shop.example"))
    assert [name for name, data in foreign.items() if pickles_in(data)] == []


def test_domains_made_by_hand_join_work_together_change_keys_and_leave(tmp_path: Path) -> None:
    desk, shop, club = owners = [Owner(tmp_path, name) for name in ("desk", "shop", "club")]
    for owner in owners:
        owner.init()
    with ExitStack() as stack:
        processes: dict[str, Any] = {owner.name: stack.enter_context(owner.up()) for owner in owners}
        for owner in owners:
            eventually(lambda owner=owner: "is up" in owner.said(), 180, f"{owner.name}")

        # The desk and the shop meet by an invitation, the shop and the club by another: then all three are one network.
        for host, guest in ((desk, shop), (shop, club)):
            invitation = tmp_path / f"{guest.name}.json"
            host.does("domain", "invite", invitation, "--to", guest.name)
            guest.does("domain", "join", invitation)
        by_word = ("alive", 1, "shop.example")
        eventually(lambda: desk.sees().get("club.example") == by_word, 60, "the desk knows the club")
        eventually(lambda: club.sees().get("desk.example") == by_word, 60, "the club knows the desk")
        stranger = club.does("domain", "join", tmp_path / "shop.example.json", code=2)
        assert "the invitation is for shop.example, not for club.example" in stranger

        said_in(desk, "hello", by="sniffed_run")
        check_wire(tmp_path / "wire", sent=b'"hello"', heard=b'"HELLO"')

        # Keys change on both sides while the domains work.
        before = shop.home.signing_key().key_id
        for owner in (shop, desk):
            owner.does("domain", "rotate")
        assert shop.home.signing_key().key_id != before
        eventually(lambda: desk.sees()["shop.example"] == ("alive", 3, ""), 60, "the desk has the shop's newest record")
        eventually(lambda: shop.sees()["desk.example"] == ("alive", 3, ""), 60, "the shop has the desk's newest record")
        said_in(desk, "again")

        # A run that is interrupted has its call stopped where it runs: nobody lets it go on.
        run = desk.run("slowly")
        eventually((tmp_path / "came").exists, 120, "the call in the shop")
        run.send_signal(signal.SIGINT)
        eventually((tmp_path / "over").exists, 60, "the end of the call in the shop")
        assert run.wait(120) != 0
        (tmp_path / "came").unlink()

        # Who leaves finishes what he has begun, and takes nothing new.
        run = desk.run("slowly")
        eventually((tmp_path / "came").exists, 120, "the call in the shop")
        leaving = subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.cli", "domain", "leave"],
            cwd=PROJECT,
            env=shop.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert leaving.stdout is not None
        assert leaving.stdout.readline() == "1 step runs here still\n"
        (tmp_path / "go").touch()
        assert run.wait(240) == 0, desk.told_run()[-4_000:]
        rest, _ = leaving.communicate(timeout=120)
        assert leaving.returncode == 0
        assert rest == "shop.example has left book\n"
        assert processes["shop.example"].wait(60) == 0
        eventually(lambda: "shop.example" not in desk.sees(), 60, "the desk trusts the shop no longer")
        assert "shop.example" not in club.sees()
        assert desk.sees()["club.example"][0] == "alive", "the two that stay go on without who brought them together"


def test_domains_of_one_authority_take_each_others_code_over_tls_and_nobody_elses(tmp_path: Path) -> None:
    """Two homes with the folder of one authority in common."""
    desk, twin = owners = [Owner(tmp_path, name) for name in ("desk", "twin")]
    desk.init()
    shutil.copytree(desk.root / "authorities", twin.root / "authorities")
    twin.init()
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(owner.up())
        for owner in owners:
            eventually(lambda owner=owner: "is up" in owner.said(), 180, f"{owner.name}")
        invitation = tmp_path / "twin.invitation"
        desk.does("domain", "invite", invitation, "--give", "internal")
        twin.does("domain", "join", invitation, "--give", "internal")
        run = desk.run("", job="counting", highest="internal")
        assert run.wait(240) == 0, desk.told_run()[-4_000:]
        assert "it is 42" in desk.told_run()
        assert desk.steps() == {"counted": ("twin.example", "DONE"), "more": ("desk.example", "DONE")}

        (cluster,) = twin.home.config().clusters
        assert cluster.scheduler.startswith("tls://")
        stranger = tmp_path / "stranger.pem"
        stranger.write_bytes(Authority.make("x", time.time()).issue("desk.example", Role.CLIENT, time.time()))
        assert answers(cluster.scheduler, twin.home.authority_certificate, desk.home.client_certificate)
        assert not answers(cluster.scheduler, twin.home.authority_certificate, stranger)
        assert not answers(cluster.scheduler.replace("tls", "tcp"))


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
