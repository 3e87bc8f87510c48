"""Whose federation it is."""

from __future__ import annotations

import os
import pathlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.cli_doctor import examine
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import (
    POLICIES,
    TOPOLOGY,
    domains_in,
    home_domain_of,
    open_federation,
    policies_in,
    topology_in,
)


def test_no_federation_is_none(tmp_path):
    assert domains_in(tmp_path) == []
    with pytest.raises(BadInputError, match="no federation was ever started here"):
        home_domain_of(tmp_path)


def test_somebody_elses_federation_is_called_that(tmp_path, monkeypatch):
    (tmp_path / "domains" / "a").mkdir(parents=True)
    stat = pathlib.Path.stat

    def refusing(path, **options):
        if path.name == "domain.json":
            raise PermissionError(13, os.strerror(13))
        return stat(path, **options)

    monkeypatch.setattr(pathlib.Path, "stat", refusing)
    with pytest.raises(BadInputError, match="belongs to another user"):
        domains_in(tmp_path)


def topology(folder: Path, tenants: str = "[]", price: float = 0.8) -> Path:
    file = folder / "ours.yaml"
    cluster = f"{{name: lab-main, price: {price}, nodes: [{{name: lab-1}}], tenants: {tenants}}}"
    domain = f"{{name: lab.example, authority: ours, clusters: [{cluster}]}}"
    file.write_text(f"network: book\nhome: lab.example\ndomains:\n  - {domain}\n")
    return file


def started(folder: Path) -> tuple[Path, Path]:
    """A home in which a federation was started by a file that is not the shipped one, and that file."""
    file = topology(folder)
    federation = open_federation(folder / "home", file, ())
    federation.prepare()
    federation.stop()
    return folder / "home", file


def test_quotas_go_by_the_file_that_the_federation_was_started_with_and_it_is_named(tmp_path):
    home, file = started(tmp_path)
    topology(tmp_path, "[{name: ann, guarantee: 1}]")
    told = CliRunner().invoke(app, ["quota", "--home", str(home)])
    assert told.exit_code == 0, told.output
    first, *table = told.output.splitlines()
    assert first == f"quotas of {file}"
    assert [cell.strip() for cell in table[2].split("│")] == [
        *("lab-main", "all", "ann", "–", "not named", "weight 1, guarantee 1 slot")
    ]
    assert (
        CliRunner().invoke(app, ["quota", "--home", str(home)]).output == f"quotas of {file}: they are as they were\n"
    )


def test_the_doctor_examines_the_file_that_the_federation_was_started_with(tmp_path):
    home, file = started(tmp_path)
    finding = next(one for one in examine(home) if one.what == "topology")
    assert (finding.state, finding.found) == ("ok", f"{file}: 1 domain, home lab.example")
    file.write_text("network: ours")
    finding = next(one for one in examine(home) if one.what == "topology")
    assert (finding.state, finding.remedy) == ("mend", f"edit {file}")


def test_a_quota_file_that_differs_in_more_is_named(tmp_path):
    home, file = started(tmp_path)
    topology(tmp_path, price=0.9)
    told = CliRunner().invoke(app, ["quota", "--home", str(home)])
    assert isinstance(told.exception, BadInputError)
    assert str(told.exception).startswith(f"{file}: lab.example is not what was started")


def test_where_nothing_was_started_it_is_the_shipped_file(tmp_path):
    assert (topology_in(tmp_path), policies_in(tmp_path)) == (TOPOLOGY, POLICIES)
