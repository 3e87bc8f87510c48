"""Whoever starts nodes for a cluster keeps the same promises: a plain one in memory, and the supervisor of a domain."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ioi_dagster.adapters.dask.scaling import Scaling, source_of
from ioi_dagster.adapters.files.wanted import Wanted, WantedFile
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.autoscale import WantNodes
from ioi_dagster.governors.cluster import WantedFound
from ioi_dagster.local.supervisor import ProcessSpec, Supervisor
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.topology import NodeSpec
from tests.conftest import eventually

NAMES = ("g-1", "g-2", "g-3")
SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


class InMemory:
    """A `NodeSource` whose nodes are numbers that say how often each was started."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self._started = 0

    def want(self, nodes: Sequence[str]) -> None:
        for name in set(self.running) - set(nodes):
            del self.running[name]
        for name in set(nodes) - set(self.running):
            self._started += 1
            self.running[name] = self._started

    def tick(self) -> None: ...

    def dies(self, name: str) -> None:
        self._started += 1
        self.running[name] = self._started


class Supervised:
    """The same by the file that a scheduler writes, and real processes."""

    def __init__(self, folder: Path) -> None:
        specs = [ProcessSpec(name, "worker", SLEEPS, {}, "", "wanted-c.json", "g") for name in NAMES]
        self._folder, self._file = folder, WantedFile(folder, "c")
        self._supervisor, self._now = Supervisor(specs, folder), 0.0

    def want(self, nodes: Sequence[str]) -> None:
        self._file.write({"g": Wanted(tuple(nodes))})

    def tick(self) -> None:
        self._now += 1.0
        self._supervisor.tick(self._now)

    @property
    def running(self) -> dict[str, int]:
        path = self._folder / "supervisor.json"
        rows = json.loads(path.read_text())["processes"] if path.exists() else []
        return {row["name"]: row["pid"] for row in rows if row["pid"] and psutil.pid_exists(row["pid"])}

    def dies(self, name: str) -> None:
        os.kill(self.running[name], signal.SIGKILL)

    def stop(self) -> None:
        self._supervisor.stop()


@pytest.fixture(params=["in memory", "supervised"])
def source(request, tmp_path: Path) -> Iterator[InMemory | Supervised]:
    if request.param == "in memory":
        yield InMemory()
        return
    supervised = Supervised(tmp_path)
    yield supervised
    supervised.stop()


def runs(source: InMemory | Supervised, *names: str) -> dict[str, int]:
    def there() -> bool:
        source.tick()
        return set(source.running) == set(names)

    eventually(there, 30, f"{names} and no others")
    return dict(source.running)


def test_just_those_run_that_are_wanted(source):
    assert runs(source) == {}
    source.want(["g-1", "g-2"])
    runs(source, "g-1", "g-2")
    source.want(["g-2", "g-3"])
    runs(source, "g-2", "g-3")
    source.want([])
    runs(source)


def test_saying_it_again_changes_nothing(source):
    source.want(["g-1", "g-2"])
    before = runs(source, "g-1", "g-2")
    source.want(["g-2", "g-1"])
    assert runs(source, "g-1", "g-2") == before
    source.want(["g-1"])
    assert runs(source, "g-1")["g-1"] == before["g-1"]


def test_one_that_ends_by_itself_is_started_again_and_one_that_was_ended_is_not(source):
    source.want(["g-1"])
    before = runs(source, "g-1")
    source.dies("g-1")
    eventually(
        lambda: source.tick() or source.running.get("g-1", before["g-1"]) != before["g-1"], 30, "another process"
    )
    source.want([])
    for _ in range(5):
        runs(source)


def test_a_file_that_is_no_list_of_nodes_starts_and_ends_nothing(tmp_path):
    supervised = Supervised(tmp_path)
    try:
        supervised.want(["g-1"])
        before = runs(supervised, "g-1")
        for text in ("{", "[]", '{"g": 3}', '{"g": {"nodes": 3}}'):
            (tmp_path / "wanted-c.json").write_text(text)
            assert runs(supervised, "g-1") == before
    finally:
        supervised.stop()


# What a scheduler does with them ------------------------------------------------------------------------------------


class Unwilling(InMemory):
    """It cannot be reached at first."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    def want(self, nodes: Sequence[str]) -> None:
        if not self.refused:
            self.refused += 1
            raise OSError("no route")
        super().want(nodes)


GROUP = NodeSpec("g", slots=2, resources=(("gpu", 1.0),), autoscale=Autoscale(max=3, launcher="cloud:nodes"))


def test_a_launcher_that_cannot_be_reached_is_told_again(tmp_path):
    source = Unwilling()
    scaling = Scaling(WantedFile(tmp_path, "c"), ManualClock(), [GROUP], lambda _: source)
    scaling.want(WantNodes("g", ("g-1",), "why"))
    eventually(lambda: scaling.look() or source.running, 30, "what is wanted")
    assert (source.refused, set(source.running)) == (1, {"g-1"})
    scaling.close()


def test_a_scheduler_that_is_started_anew_knows_what_is_wanted_and_says_it_again(tmp_path):
    clock = ManualClock(100.0)
    first = Scaling(WantedFile(tmp_path, "c"), clock, [GROUP], lambda _: InMemory())
    first.want(WantNodes("g", ("g-1", "g-2"), "why", ((40.0, 0.5),)))
    source = InMemory()
    clock.advance(10.0)
    again = Scaling(WantedFile(tmp_path, "c"), clock, [GROUP], lambda _: source)
    assert again.found() == [WantedFound("g", ("g-1", "g-2"), ((50.0, 0.5),), 10.0)]
    again.look()
    eventually(lambda: set(source.running) == {"g-1", "g-2"}, 30, "both nodes")
    again.close()


def test_what_cannot_be_written_is_heard_by_nobody_until_it_can(tmp_path):
    source, folder = InMemory(), tmp_path / "away"
    scaling = Scaling(WantedFile(folder, "c"), ManualClock(), [GROUP], lambda _: source)
    scaling.want(WantNodes("g", ("g-1",), "why"))
    scaling.look()
    assert source.running == {}
    folder.mkdir()
    eventually(lambda: scaling.look() or source.running, 30, "what is wanted")
    scaling.close()


def test_what_could_not_be_read_again_is_not_written_and_heard_by_nobody(tmp_path, caplog):
    source = InMemory()
    scaling = Scaling(WantedFile(tmp_path, "c"), ManualClock(), [GROUP], lambda _: source)
    scaling.want(WantNodes("g", ("g-1",), "why"))
    scaling.want(WantNodes("g", ("g" * 101,), "why"))
    assert WantedFile(tmp_path, "c").read()["g"].nodes == ("g-1",)
    assert "it could not be read again" in caplog.text
    scaling.close()
    assert set(source.running) <= {"g-1"}


def test_nodes_of_a_group_that_is_no_more_are_ended_by_who_started_them(tmp_path):
    clock, source, made = ManualClock(100.0), InMemory(), []
    first = Scaling(WantedFile(tmp_path, "c"), clock, [GROUP], lambda _: source)
    first.want(WantNodes("g", ("g-1", "g-2"), "why", ((40.0, 0.5),)))
    eventually(lambda: first.look() or len(source.running) == 2, 30, "both nodes")
    first.close()

    def again(*groups: NodeSpec) -> Scaling:
        return Scaling(WantedFile(tmp_path, "c"), clock, groups, lambda group: made.append(group) or source)

    away = again()
    assert away.found() == []
    away.close()  # it ends before it could say so
    assert (made, set(source.running)) == ([GROUP], {"g-1", "g-2"})
    back = again()
    assert back.found() == []
    eventually(lambda: back.look() or not source.running, 30, "the end of both")
    eventually(lambda: back.look() or list(WantedFile(tmp_path, "c").read()) == ["g"], 30, "that nobody need be told")
    back.close()
    assert made == [GROUP, GROUP]
    last = again(GROUP)
    (kept,) = last.found()
    last.close()
    assert (kept.nodes, kept.spent) == ((), ((40.0, 0.5),))  # what it cost counts, should it come again


def test_a_group_that_comes_back_before_its_launcher_heard_that_it_was_gone_keeps_its_nodes(tmp_path):
    source = InMemory()

    def started(*groups: NodeSpec) -> Scaling:
        return Scaling(WantedFile(tmp_path, "c"), ManualClock(), groups, lambda _: source)

    first = started(GROUP)
    first.want(WantNodes("g", ("g-1",), "why"))
    first.close()
    away = started()
    assert away.found() == []
    away._file.write(away._wanted)
    away.close()
    back = started(GROUP)
    assert [one.nodes for one in back.found()] == [()]
    back.want(WantNodes("g", ("g-2",), "why"))
    eventually(lambda: back.look() or not (back._calls or back._unheard), 30, "all that is to be said")
    assert set(source.running) == {"g-2"}
    assert list(WantedFile(tmp_path, "c").read()) == ["g"]
    back.close()


def test_a_group_that_gets_another_launcher_leaves_no_nodes_at_the_one_before(tmp_path):
    other = replace(GROUP, autoscale=Autoscale(max=3, launcher="other:nodes"))
    sources = {"cloud:nodes": InMemory(), "other:nodes": InMemory()}

    def source_for(group: NodeSpec) -> InMemory:
        assert group.autoscale is not None
        return sources[group.autoscale.launcher]

    first = Scaling(WantedFile(tmp_path, "c"), ManualClock(), [GROUP], source_for)
    first.want(WantNodes("g", ("g-1",), "why"))
    eventually(lambda: first.look() or sources["cloud:nodes"].running, 30, "its node")
    first.close()
    again = Scaling(WantedFile(tmp_path, "c"), ManualClock(), [other], source_for)
    assert [one.nodes for one in again.found()] == [("g-1",)]
    eventually(lambda: again.look() or sources["other:nodes"].running, 30, "its node elsewhere")
    eventually(lambda: again.look() or not sources["cloud:nodes"].running, 30, "the end of the one before")
    again.close()


def made(cluster: str, scheduler: str, group: NodeSpec) -> tuple[str, str, str]:
    return cluster, scheduler, group.name


def test_a_launcher_is_made_by_the_function_that_is_named(tmp_path):
    group = NodeSpec("g", autoscale=Autoscale(launcher=f"{__name__}:made"))
    assert source_of("c", "tcp://1.2.3.4:5", group) == ("c", "tcp://1.2.3.4:5", "g")
    absent = NodeSpec("g", autoscale=Autoscale(launcher="no.such:thing"))
    with pytest.raises(BadInputError, match="of group g is not there"):
        source_of("c", "", absent)
