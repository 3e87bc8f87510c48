"""What an owner has written down as drained: by whom it is read, and what becomes of a file that is wrong."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.dask.draining import Draining
from ioi_dagster.adapters.files.drains import ALL, Drain, DrainFile
from ioi_dagster.cli import app
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

SOON, LATER = Drain("new kernel", 1.0, within_s=10.0), Drain("", 2.0)


def test_draining_and_rejoining_may_be_asked_twice(tmp_path: Path) -> None:
    file = DrainFile(tmp_path)
    assert file.read() == {}
    assert [file.drain("c", "n", SOON), file.drain("c", "n", LATER)] == [True, False]
    assert file.read() == {"c": {"n": LATER}}
    assert [file.rejoin("c", "n"), file.rejoin("c", "n"), file.rejoin("never", "there")] == [True, False, False]
    assert file.read() == {}


def test_a_cluster_rejoins_with_its_nodes(tmp_path: Path) -> None:
    file = DrainFile(tmp_path)
    for cluster, node in (("c", "n"), ("c", ALL), ("d", "m")):
        file.drain(cluster, node, LATER)
    assert file.rejoin("c", ALL)
    assert file.read() == {"d": {"m": LATER}}


def test_what_many_write_at_once_is_all_there(tmp_path: Path) -> None:
    threads = [threading.Thread(target=DrainFile(tmp_path).drain, args=("c", f"n{one}", LATER)) for one in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert DrainFile(tmp_path).read() == {"c": {f"n{one}": LATER for one in range(20)}}


@pytest.mark.parametrize("content", [b"", b"{", b'{"c": {"n": {"why": 3, "since": 0}}}', b'{"c": {"n": {"why": ""}}}'])
def test_a_file_that_is_wrong_is_told_and_changes_nothing(tmp_path: Path, content: bytes, caplog) -> None:
    file = DrainFile(tmp_path)
    file.drain("c", "n", SOON)
    draining = Draining(file, "c")
    assert draining.look(0.0)
    (tmp_path / "drained.json").write_bytes(content)
    with pytest.raises(BadInputError, match=r"drained\.json: not a list of what is drained"):
        file.read()
    assert not draining.look(1.0)
    assert draining.why("n") == "new kernel"
    assert "what is drained stays as it is" in caplog.text


def test_a_drain_that_could_not_be_read_is_read_at_the_next_look(tmp_path: Path) -> None:
    file = Unreadable(tmp_path)
    draining = Draining(file, "c")
    file.drain("c", "n", SOON)
    file.fails = True
    assert not draining.look(0.0)
    file.fails = False
    assert draining.look(1.0)
    assert draining.why("n") == "new kernel"


class Unreadable(DrainFile):
    """While it `fails` its process may open no more files."""

    fails = False

    def read(self) -> Any:
        if self.fails:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().read()


def test_a_node_is_drained_by_itself_or_with_its_cluster_and_overdue_after_its_time(tmp_path: Path) -> None:
    file = DrainFile(tmp_path)
    draining = Draining(file, "c")
    assert draining.look(0.0)
    assert not draining.look(0.1), "told once"
    assert (draining.why("n"), draining.overdue("n", 1e9)) == ("", False)
    file.drain("c", "n", SOON)
    file.drain("other", "m", SOON)
    assert draining.look(100.0)
    assert [draining.overdue("n", now) for now in (100.0, 109.9, 110.0)] == [False, False, True]
    assert draining.why("m") == ""
    file.drain("c", ALL, LATER)
    assert draining.look(105.0)
    assert (draining.why("m"), draining.overdue("m", 1e9)) == ("by its owner", False)
    assert draining.overdue("n", 110.0), "its time goes on"
    file.rejoin("c", ALL)
    assert draining.look(120.0)
    assert (draining.why("n"), draining.overdue("n", 1e9)) == ("", False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of two domains, both with a node of the same name; nothing runs."""
    domains = tuple(
        DomainSpec(f"{name}.example", "own", (ClusterSpec(f"{name}-main", (NodeSpec("n1"), NodeSpec(f"{name}-2"))),))
        for name in ("a", "b")
    )
    federation = Federation(Topology("book", "a.example", domains), tmp_path / "home", POLICIES, ())
    federation.prepare()
    federation.stop()
    return tmp_path / "home"


def said(home: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    return (
        result.stdout.strip() if result.exception is None else f"{type(result.exception).__name__}: {result.exception}"
    )


def test_the_commands_say_what_changed_and_refuse_what_is_not_known(home: Path) -> None:
    assert said(home, "drain", "a-2", "--why", "a new disk") == "a-2 of a-main is drained"
    assert said(home, "drain", "a-2") == "a-2 of a-main was drained already"
    assert said(home, "drain", "b-main") == "b-main of b.example is drained"
    assert "`ioi rejoin b-main`" in said(home, "rejoin", "b-2")
    assert said(home, "rejoin", "b-main") == "b-main of b.example takes steps again"
    assert said(home, "rejoin", "b-main") == "b-main of b.example was not drained"
    assert "may be a-main/n1, b-main/n1" in said(home, "drain", "n1")
    assert said(home, "drain", "b-main/n1") == "n1 of b-main is drained"
    assert "known: a-2, a-main, b-2, b-main, n1" in said(home, "drain", "c-9")
    assert DrainFile(home / "domains" / "a.example").read()["a-main"]["a-2"].within_s is None
