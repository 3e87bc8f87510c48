"""Whether a node's process has the code that is on disk, with real files and imports."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask import config as dask_config

from ioi_dagster.adapters.dask.project_code import ProjectCode
from ioi_dagster.adapters.dask.replacing import Outdated, looked_for_s


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> ProjectCode:
    # What is patched into the import system is put back, and what was patched into it before this test hears nothing of it: in
    # this process others may be nodes.
    monkeypatch.setattr(importlib.machinery.SourceFileLoader, "path_stats", _path_stats)
    code = ProjectCode()
    code.watch()
    return code


def _path_stats(_: object, path: str) -> dict[str, float]:
    its = os.stat(path)
    return {"mtime": its.st_mtime, "size": its.st_size}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "outdated_module.py"
    sys.modules.pop("outdated_module", None)


def test_a_file_is_what_it_was_when_it_was_read(code, module):
    """What edits itself while it is imported stands for a person who edits meanwhile."""
    module.write_text(f"open({str(module)!r}, 'a').write('# edited')\n")
    importlib.import_module("outdated_module")
    assert code.changed() == str(module)


def test_what_is_loaded_anew_is_not_outdated_any_more(code, module):
    module.write_text("A = 1\n")
    loaded = importlib.import_module("outdated_module")
    assert code.changed() == ""
    module.write_text("A = 1 + 1\n")
    assert code.changed() == str(module)
    importlib.reload(loaded)
    assert code.changed() == ""
    module.unlink()
    assert code.changed() == str(module)


def test_what_is_installed_is_not_looked_at(code):
    files = code.loaded()
    assert any(file.endswith(os.path.join("ioi_dagster", "errors.py")) for file in files), (
        "editable: it is the project's"
    )
    assert not [file for file in files if "site-packages" in file or file == os.__file__]


def test_files_of_another_process_count_until_it_ends(code, module):
    module.write_text("A = 1\n")
    code.elsewhere("replica", {str(module): (0.0, 1)})
    assert code.changed() == str(module)
    code.ended("replica")
    assert code.changed() == ""


class Changing(ProjectCode):
    file, looks = "", 0

    def changed(self) -> str:
        self.looks += 1
        return self.file


def test_the_code_is_looked_at_when_a_run_comes_first():
    code = Changing()
    node, asked = Outdated("n", code=code), []
    node.replace = lambda: asked.append(1)
    assert [node.refusal("old", "a"), node.refusal("old", "b")] == [None, None]
    code.file = "ops.py"
    assert node.refusal("old", "c") is None
    assert code.looks == 1
    refusal = node.refusal("new", "a")
    assert refusal is not None
    assert (refusal.code, asked) == ("node.replaced", [1])
    assert "ops.py has changed" in refusal.text
    assert node.refusal("old", "d") is not None, "its process takes nothing new"
    assert asked == [1]


def test_chunks_of_a_map_begin_where_their_step_waits():
    code = Changing()
    node = Outdated("n", code=code)
    node.refusal("old", "map")
    node.begins("old", "map")
    code.file = "ops.py"
    assert node.refusal("new", "map#1.1/0") is not None
    assert node.refusal("old", "map#1.1/0") is None
    assert node.refusal("old", "other#1.1/0") is not None
    assert not node.leave()
    node.ends("old", "map")
    assert node.leave()
    assert node.refusal("old", "map#1.1/1") is not None


def test_where_nobody_starts_the_process_again_it_is_said_and_what_runs_goes_on():
    code = Changing()
    node = Outdated("n", restarts=False, code=code)
    node.refusal("old", "a")
    code.file = "ops.py"
    for _ in range(2):
        refusal = node.refusal("new", "a")
        assert refusal is not None
        assert (refusal.code, refusal.remedy) == ("node.old_code", "restart the workers of the cluster")
    assert node.refusal("old", "b") is None


HOUR = 3_600.0
WAITS = [
    ("15s", 0.0, 16.0), ("15s", 10.0, 6.0), ("15s", 60.0, 0.0), ("15s", -HOUR, 16.0),
    ("1h", 0.0, 0.0), ("1h", HOUR - 61, 0.0), ("1h", HOUR - 59, 60.0), ("1h", HOUR + 2, 0.0), ("1h", -HOUR, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("patience", "age_s", "waits_s"), WAITS)
def test_a_worker_is_not_away_when_its_cluster_looks_for_the_one_before(patience, age_s, waits_s):
    """Dask's `LocalCluster` looks so long after a worker left; clocks may have been set meanwhile."""
    with dask_config.set({"distributed.deploy.lost-worker-timeout": patience}):
        assert looked_for_s(age_s) == waits_s
