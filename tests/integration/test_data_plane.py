"""Three domains with gateways of their own: data is registered, found, moved as policy allows, and kept by commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.cli import app
from ioi_dagster.errors import IoiError
from ioi_dagster.local.home import PROJECT, TOPOLOGY, open_federation

NAMES = ("library.example", "lab.example", "cloud.example")
GATEWAYS = """
import sys, threading
from pathlib import Path
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.gateway_main import serve
gateways = [threading.Thread(target=serve, args=(DomainHome(Path(folder)),)) for folder in sys.argv[1:]]
for gateway in gateways:
    gateway.start()
for gateway in gateways:
    gateway.join()
"""
SCANS, NOTES = "urn:ioi:library.example:asset:scans", "urn:ioi:library.example:asset:notes"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The shipped three domains; of their processes the gateways alone, in one process."""
    federation = open_federation(tmp_path / "home", TOPOLOGY, _blocks())
    federation.prepare()
    for name in NAMES:  # databases are not made by several threads of one process
        SqlRecordStore(federation.domain(name).registry, federation.domain(name).trusted()).close()
    folders = [str(federation.domain(name).root) for name in NAMES]
    gateways = subprocess.Popen([sys.executable, "-c", GATEWAYS, *folders], cwd=PROJECT, env={**os.environ})
    try:
        for name in NAMES:
            _answers(federation.domain(name), gateways)
        yield tmp_path / "home"
    finally:
        gateways.kill()
        gateways.wait()
        federation.stop()


def _blocks() -> Any:
    from definitions.documents.catalogue import BLOCKS

    return BLOCKS


def _answers(domain: Any, gateways: subprocess.Popen[bytes]) -> None:
    client, until = own_gateway(domain), time.monotonic() + 300
    try:
        while time.monotonic() < until:
            assert gateways.poll() is None
            with suppress(IoiError):
                client.health(20.0)
                return
            time.sleep(0.05)
        pytest.fail(f"the gateway of {domain.name} does not answer")
    finally:
        client.close()


def data(home: Path, *arguments: object, code: int = 0) -> Any:
    told = CliRunner().invoke(app, ["data", *map(str, arguments), "--home", str(home), "--json"])
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    assert told.exit_code == code, told.output
    return json.loads(told.stdout)


def held(home: Path, urn: str, domain: str = "library.example", code: int = 0) -> dict[str, str]:
    return {one["domain"]: one["worth"] for one in data(home, "where", urn, "--domain", domain, code=code)["copies"]}


def codes(answer: dict[str, Any]) -> set[str]:
    return {one["code"] for one in answer["refused"]}


def test_data_goes_where_policy_lets_it_and_every_refusal_names_its_rule(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "year=1900").mkdir(parents=True)
    (folder / "year=1900" / "a.txt").write_bytes(b"one\n")
    (folder / "year=1900" / "b.txt").write_bytes(b"two\n")
    register = ("register", folder, "--name", "scans", "--class", "internal", "--partitions", "year")
    made = data(home, *register)
    assert (made["state"], made["version"], made["parts"], made["audience"]) == ("registered", "1", 2, "public")
    assert data(home, *register)["state"] == "known"
    assert held(home, SCANS, "lab.example") == {"library.example": "whole"}

    # A partner may have internal data, a stranger may not; nothing of it lies anywhere before a byte was allowed.
    moved = data(home, "move", SCANS, "--domain", "lab.example")
    assert (moved["whole"], {one["domain"] for one in moved["taken"]}) == (True, {"library.example"})
    assert held(home, SCANS) == {"library.example": "whole", "lab.example": "whole"}
    refused = data(home, "move", SCANS, "--domain", "cloud.example", code=1)
    network = {"data.class", "data.class_too_high", "data.internal_leaves_authority"}
    assert codes(refused) == {*network, "lab.not_a_partner"}  # as who holds a copy adds
    rule = "the rule is policies/domains/book/data_move.rego:"
    assert any(rule in one["remedy"] for one in refused["refused"])

    # Restricted data is nobody's to see, and where its owner tells a partner of it, it still does not go there.
    (tmp_path / "note.txt").write_bytes(b"secret\n")
    named = ("register", tmp_path / "note.txt", "--name", "notes", "--class", "restricted")
    assert data(home, *named)["audience"] == "local"
    with pytest.raises(IoiError, match=r"nobody tells lab\.example of such an asset"):
        data(home, "where", NOTES, "--domain", "lab.example")
    data(home, *named, "--audience", "partner:lab.example")
    refused = data(home, "move", NOTES, "--domain", "lab.example", code=1)
    assert {"data.class", "data.restricted_leaves_home"} <= codes(refused)

    # A new version: the copy is stale until its owner has it refreshed, and then the old one goes.
    (folder / "year=1900" / "c.txt").write_bytes(b"three\n")
    assert data(home, *register)["version"] == "2"
    assert held(home, SCANS)["lab.example"] == "stale"
    wanted = ("sync", SCANS, "--at", "library.example", "--at", "lab.example")
    assert [(one["deed"], one["domain"]) for one in data(home, *wanted, code=1)[0]["actions"]] == [
        ("refresh", "lab.example")
    ]
    assert data(home, "sync", "--apply")[0]["copies"] == ["lab.example"]
    assert data(home, "sync", "--apply")[0]["dropped"] == ["lab.example"]
    assert {one["worth"] for one in data(home, "where", SCANS)["copies"] if one["domain"] == "lab.example"} == {"whole"}

    # Of parts one is made, by who may have them; a byte that a disk has changed is found when all is read again.
    data(home, "fold", SCANS, "--name", "all", "--how", "lines", "--domain", "lab.example")
    out = tmp_path / "all.txt"
    read = ["data", "read", "urn:ioi:lab.example:asset:all", "--out", str(out), "--home", str(home)]
    assert CliRunner().invoke(app, read).exit_code == 0
    assert out.read_bytes() == b"one\ntwo\nthree\n"
    copied = Path(data(home, "where", SCANS, "--domain", "lab.example")["copies"][0]["url"].removeprefix("file://"))
    (copied / "year=1900" / "a.txt").write_bytes(b"two\n")
    worth = {one["asset"]: one["worth"] for one in data(home, "survey", "--domain", "lab.example", code=1)}
    assert worth == {SCANS: "diverged", "urn:ioi:lab.example:asset:all": "whole"}
    assert held(home, SCANS)["lab.example"] == "diverged"
