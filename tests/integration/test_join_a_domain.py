"""Three domains, each made by hand in a home of its own: they join, work together, change keys and leave. Real
processes all along."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.netns import TwoSites, possible
from ioi_dagster.certificates import Authority, Role
from ioi_dagster.local.home import PROJECT
from tests.conftest import eventually
from tests.owners import Owner, answers
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
    blocks: [loud, spelling]
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


def on_machines_of_their_own(stack: ExitStack, folder: Path, *names: str) -> list[Owner]:
    """Each owner in a network namespace, where this process may make some; else all on this machine."""
    if not possible():
        return [Owner(folder, name, TOPOLOGY) for name in names]
    machines = stack.enter_context(TwoSites()).machines
    return [
        Owner(folder, name, TOPOLOGY, machine.command, f"{machine.address}:7443")
        for name, machine in zip(names, machines, strict=False)
    ]


def test_domains_made_by_hand_join_work_together_change_keys_and_leave(tmp_path: Path) -> None:
    with ExitStack() as stack:
        desk, shop, club = owners = on_machines_of_their_own(stack, tmp_path, "desk", "shop", "club")
        for owner in owners:
            owner.init()
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

        # A result in pieces, of a block of the shop's; what is said of it on the way is in the wire's files too.
        run = desk.run("abc", by="sniffed_run", job="spelled")
        assert run.wait(240) == 0, desk.told_run()[-4_000:]
        assert "heard A-B-C" in desk.told_run()
        assert desk.steps()["spell"] == ("shop.example", "DONE")
        check_wire(tmp_path / "wire", sent=b'"abc"', heard=b'"C"')

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
            shop.command("ioi_dagster.cli", "domain", "leave"),
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
        alone = "the two that stay go on without who brought them together"
        eventually(lambda: desk.sees()["club.example"][0] == "alive", 60, alone)

        # Another authority is known to the others before anything is shown that it has issued.
        before = club.home.members()["club.example"]
        assert "the old ones are revoked" in club.does("domain", "rotate", "--revoke")
        assert club.home.members()["club.example"].fingerprints.isdisjoint(before.fingerprints)
        newest = ("alive", before.serial + 2)
        eventually(lambda: desk.sees()["club.example"][:2] == newest, 60, "the desk has the club's newest record")
        eventually(lambda: club.sees()["desk.example"][0] == "alive", 60, "the club sees the desk")


def test_domains_of_one_authority_take_each_others_code_over_tls_and_nobody_elses(tmp_path: Path) -> None:
    """Two homes with the folder of one authority in common."""
    desk, twin = owners = [Owner(tmp_path, name, TOPOLOGY) for name in ("desk", "twin")]
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
