"""Which code locations `ioi up` has Dagster load: those that are meant by Dagster's own options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dagster_webserver.cli import dagster_webserver
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.cli_up import code_locations
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import PROJECT


def as_dagster_reads(options: list[str]) -> dict[str, Any]:
    read = dagster_webserver.make_context("dagster-webserver", options).params
    return {name: read[name] for name in ("workspace", "module_name", "working_directory") if read[name]}


@pytest.mark.parametrize(
    ("workspaces", "modules", "read"),
    [
        ([], [], {"workspace": (str(PROJECT / "workspace.yaml"),)}),
        (["mine.yaml", "more.yaml"], [], {"workspace": ("{here}/mine.yaml", "{here}/more.yaml")}),
        ([], ["sums"], {"module_name": ("sums",), "working_directory": "{here}"}),
        ([], ["sums", "more"], {"module_name": ("sums", "more"), "working_directory": "{here}"}),
    ],
)
def test_code_is_found_from_where_the_command_was_given(tmp_path, monkeypatch, workspaces, modules, read):
    for name in ("mine.yaml", "more.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    placed = lambda its: tuple(map(placed, its)) if isinstance(its, tuple) else its.format(here=tmp_path)
    assert as_dagster_reads(code_locations([Path(one) for one in workspaces], modules, Path())) == {
        name: placed(its) for name, its in read.items()
    }


def test_what_dagster_would_not_take_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(BadInputError, match="at once"):
        code_locations([tmp_path], ["sums"], tmp_path)
    told = CliRunner().invoke(app, ["up", "-w", str(tmp_path / "none.yaml"), "--home", str(tmp_path / "home")])
    assert isinstance(told.exception, BadInputError)
    assert "there is no such workspace file" in str(told.exception)
    assert not (tmp_path / "home").exists()
