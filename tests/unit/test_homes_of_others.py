"""A federation in a home where others have made domains, or run some: it says so and changes nothing there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.local import federation as federations
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.local.identity import locked
from ioi_dagster.local.joining import init
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology

TOPOLOGY = Topology(
    "book", "one.example", (DomainSpec("one.example", "own", (ClusterSpec("main", (NodeSpec("n"),)),)),)
)


def lies_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def domain(home: Path, name: str) -> DomainHome:
    return DomainHome(home / "domains" / name)


@pytest.mark.parametrize("name", ["one.example", "other.example"])
def test_a_domain_that_its_owner_has_made_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    """Called as one of the topology, or as none of it."""
    owned = domain(tmp_path, name)
    spec = DomainSpec(name, "theirs", (ClusterSpec("other-main", (NodeSpec("n"),)),))
    init(owned, "book", spec, "127.0.0.1:0", POLICIES, [], time.time())
    (owned.work / "of-a-worker").touch()
    before = lies_in(owned.root)
    with pytest.raises(BadInputError, match=f"{name} was made by `ioi domain init`") as error:
        Federation(TOPOLOGY, tmp_path, POLICIES, ()).__enter__()
    assert "another --home" in str(error.value)
    assert lies_in(owned.root) == before
    assert [path.name for path in (tmp_path / "domains").iterdir()] == [name]


@pytest.fixture
def prepared(tmp_path: Path) -> DomainHome:
    """A domain of a federation that has ended."""
    federation = Federation(TOPOLOGY, tmp_path, POLICIES, ())
    federation.prepare()
    federation.stop()
    return federation.home_domain


def test_a_domain_that_runs_is_left_as_it_is(
    tmp_path: Path, prepared: DomainHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prepared.work / "of-a-worker").touch()
    before = lies_in(prepared.root) | {"supervisor.lock": b""}
    monkeypatch.setattr(federations, "ENDING_S", 0.0)
    with locked(prepared.root / "supervisor.lock"), pytest.raises(BadInputError, match=r"one\.example runs already"):
        Federation(TOPOLOGY, tmp_path, POLICIES, ()).__enter__()
    assert lies_in(prepared.root) == before


def test_a_supervisor_that_ends_is_waited_for(
    tmp_path: Path, prepared: DomainHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a federation that was killed."""
    lock = locked(prepared.root / "supervisor.lock")
    lock.__enter__()
    monkeypatch.setattr(federations.time, "sleep", lambda _: lock.__exit__(None, None, None))
    federation = Federation(TOPOLOGY, tmp_path, POLICIES, ())
    federation.prepare()
    federation.stop()


def test_a_second_federation_leaves_the_work_of_the_first(tmp_path: Path) -> None:
    first = Federation(TOPOLOGY, tmp_path, POLICIES, ())
    first.prepare()
    (first.home_domain.work / "of-a-worker").touch()
    before = lies_in(first.home_domain.root)
    with pytest.raises(BadInputError, match="another federation runs on this home"):
        Federation(TOPOLOGY, tmp_path, POLICIES, ()).__enter__()
    assert lies_in(first.home_domain.root) == before
    first.stop()
