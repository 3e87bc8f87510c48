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
from ioi_dagster.model.quota import TenantQuota
from ioi_dagster.model.topology import DomainSpec


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


# Domains that their owners have made ----------------------------------------------------------------------------------


def made(home: Path, *options: str, name: str = "lab.example") -> None:
    words = ["domain", "init", name, "--home", str(home), *options]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def quota(home: Path, *options: str) -> str:
    """What it says; raises what it raises."""
    result = CliRunner().invoke(app, ["quota", "--home", str(home), *options])
    if result.exception is not None:
        raise result.exception
    return result.output


def guaranteed(home: Path, domain: str = "lab.example") -> dict[str, float]:
    """Slots, by tenant of its only cluster."""
    spec = next(one for one in domains_in(home) if one.name == domain).config().spec
    return {tenant.name: tenant.quota.guarantee["slots"] for tenant in _tenants(spec) if tenant.quota.guarantee}


def _tenants(spec: DomainSpec) -> list[TenantQuota]:
    (cluster,) = spec.clusters
    return [tenant for cohort in cluster.quotas.cohorts for tenant in cohort.tenants]


def test_quotas_of_a_domain_made_by_hand_go_by_the_file_that_it_was_made_from(tmp_path, monkeypatch):
    home, file = tmp_path / "home", topology(tmp_path)
    monkeypatch.chdir(tmp_path)
    made(home, "--topology", file.name)
    topology(tmp_path, "[{name: ann, guarantee: 1}]")
    monkeypatch.chdir("/")
    assert quota(home).splitlines()[0] == f"quotas of {file}"
    assert guaranteed(home) == {"ann": 1.0}
    finding = next(one for one in examine(home) if one.what == "topology")
    assert (finding.state, finding.found) == ("ok", f"{file}: 1 domain, home lab.example")


def test_such_a_domain_keeps_the_authority_that_it_was_given(tmp_path):
    home, file = tmp_path / "home", topology(tmp_path)
    made(home, "--topology", str(file), "--authority", "shared")
    topology(tmp_path, "[{name: ann, guarantee: 1}]")
    quota(home)
    assert guaranteed(home) == {"ann": 1.0}
    assert domains_in(home)[0].config().spec.authority == "shared"
    topology(tmp_path, price=0.9)
    with pytest.raises(BadInputError, match=r"lab\.example is not what was started"):
        quota(home)


def test_a_domain_without_a_file_is_told_what_to_begin_with_and_keeps_to_that(tmp_path):
    home = tmp_path / "home"
    made(home, "--nodes", "2", "--authority", "shared")
    finding = next(one for one in examine(home) if one.what == "topology")
    assert (finding.state, finding.found) == ("ok", "none: its domains were made of nodes alone")
    with pytest.raises(BadInputError, match=r"lab\.example was made without a topology file") as told:
        quota(home)
    yaml = told.value.what.split("\n\n")[1].strip()
    assert yaml == (
        "network: book\nhome: lab.example\ndomains:\n  - name: lab.example\n    authority: shared\n    clusters:\n"
        "      - name: lab-main\n        nodes:\n          - {name: lab-1}\n          - {name: lab-2}"
    )
    file = tmp_path / "begun.yaml"
    file.write_text(f"{yaml}\n")
    assert quota(home, "--topology", str(file)) == f"quotas of {file}: they are as they were\n"
    file.write_text(f"{yaml}\n        tenants: [{{name: ann, guarantee: 2}}]\n")
    assert quota(home).splitlines()[0] == f"quotas of {file}"
    assert guaranteed(home) == {"ann": 2.0}


def test_each_domain_of_one_home_has_its_own_file(tmp_path):
    home = tmp_path / "home"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = topology(tmp_path / name)
        file.write_text(file.read_text().replace("lab", name))
        made(home, "--topology", str(file), name=f"{name}.example")
        file.write_text(file.read_text().replace("[]", f"[{{name: ann-{name}, guarantee: 1}}]"))
    files = [tmp_path / name / "ours.yaml" for name in ("one", "two")]
    assert quota(home, "--topology", str(files[1])).splitlines()[0] == f"quotas of {files[1]}"
    assert (guaranteed(home, "one.example"), guaranteed(home, "two.example")) == ({}, {"ann-two": 1.0})
    assert quota(home).splitlines()[0] == f"quotas of {files[0]}, {files[1]}"
    assert guaranteed(home, "one.example") == {"ann-one": 1.0}
    with pytest.raises(BadInputError, match=r"it has none of the domains in .* \(one\.example, two\.example\)"):
        quota(home, "--topology", str(topology(tmp_path)))
