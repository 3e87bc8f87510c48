"""`ioi ras images`, `template` and `policies`, by an owner at his prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.cli import app
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import home_domain_of
from ioi_dagster.ras.policies import BundleSpec
from ioi_dagster.ras.record import Kind, Record, make_record
from tests.realms import owned
from tests.unit.ras.test_other_planes import layout

GRID = {
    "network": "n",
    "home": "a",
    "domains": [
        {
            "name": "a",
            "authority": "x",
            "clusters": [{"name": "c", "price": {"$parameter": "price"}, "nodes": [{"name": "n1"}]}],
        }
    ],
}
TEMPLATE = "urn:ioi:lab.example:template:grid"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    owned(tmp_path / "home", "lab.example")
    return tmp_path / "home"


def put(home: Path, kind: Kind, name: str, spec: Any) -> Record:
    lab = home_domain_of(home)
    record = make_record(lab.signing_key(), kind, name, "1.0.0", spec)
    return SqlRecordStore(lab.registry, lab.trusted()).put(record.signed)


def ioi(home: Path, *arguments: object, code: int = 0) -> str:
    told = CliRunner().invoke(app, ["ras", *map(str, arguments), "--home", str(home)])
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    assert told.exit_code == code, told.output
    return told.stdout


def test_images_of_a_folder_are_shown_and_registered_by_their_digests(home: Path, tmp_path: Path) -> None:
    digest = layout(tmp_path / "images")["digest"]
    told = ("images", tmp_path / "images", "--register", "lab/ocr", "--json")
    (image,) = json.loads(ioi(home, *told))
    urn, version = image["urn"].split()
    assert (urn, version) == ("urn:ioi:lab.example:image:lab/ocr", digest.replace(":", "-"))
    assert json.loads(ioi(home, *told)) == [image]  # again changes nothing
    shown = json.loads(ioi(home, "show", urn, version, "--json"))["record"]["spec"]
    assert (shown["reference"], len(shown["platforms"])) == (f"lab/ocr:1.0@{digest}", 2)
    with pytest.raises(BadInputError, match="names one image"):
        ioi(home, "images", tmp_path / "images", "--register", "lab/ocr:1.0")


def test_a_template_becomes_a_topology_that_can_be_started_or_nothing(home: Path, tmp_path: Path) -> None:
    assert "no template is registered" in ioi(home, "template", code=1)
    parameters = {"properties": {"price": {"type": "number"}}}
    put(home, Kind.TEMPLATE, "grid", {"makes": "topology", "parameters": parameters, "body": GRID})
    assert json.loads(ioi(home, "template", "--json"))[0]["parameters"] == parameters
    assert "price: 0.5" in ioi(home, "template", TEMPLATE, "--set", "price=0.5")
    with pytest.raises(BadInputError, match=r"could be started: line \d+: price must be from 0"):
        ioi(home, "template", TEMPLATE, "--set", "price=-1", "--out", tmp_path / "grid.yaml")
    with pytest.raises(BadInputError, match="not given: price"):
        ioi(home, "template", TEMPLATE)
    assert not (tmp_path / "grid.yaml").exists()


def test_which_policies_a_domain_states_is_told_also_where_it_is_asked_alone(home: Path) -> None:
    assert json.loads(ioi(home, "policies", "--json", code=1))["bundles"] == []
    put(home, Kind.POLICY, "bundle", BundleSpec("sha256:a", ("n", "n/lab")))
    told = json.loads(ioi(home, "policies", "--json"))
    assert [(one["domain"], one["spec"]["revision"]) for one in told["bundles"]] == [("lab.example", "sha256:a")]
    assert (told["differing"], told["away"]) == ([], {})
