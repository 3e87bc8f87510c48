"""A gateway's process over its own sockets: the examples of the documentation by curl with a token, and a member's client."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.http.ras_client import RasClient, RasProblemError
from ioi_dagster.adapters.http.tls import tls_to
from ioi_dagster.cli import app
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.home import POLICIES, PROJECT
from ioi_dagster.ports import free_ports
from ioi_dagster.ras.asking import Finding, Registration
from ioi_dagster.ras.pointers import set_alias
from ioi_dagster.ras.record import Kind, make_record
from tests.conftest import eventually
from tests.realms import owned

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PAGE = PROJECT / "docs" / "reference" / "ras-api.md"
READER = "urn:ioi:lab.example:service:reader"


class Lab:
    """`people`: the address of its listener without certificates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home: DomainHome = owned(root, "lab.example").home
        port, people = free_ports(2)
        self.url, self.people = f"https://127.0.0.1:{port}", f"127.0.0.1:{people}"
        config = self.home.config()
        spec = replace(config.spec, clusters=())
        changed = replace(config, spec=spec, gateway=self.url, policies=str(POLICIES), scopes=("book",))
        self.home.save_config(changed)
        self.told("token", "listen", self.people)

    def told(self, *arguments: str) -> Any:
        done = CliRunner().invoke(app, ["ras", *arguments, "--home", str(self.root), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def member(self) -> RasClient:
        return RasClient(
            self.url,
            self.home.name,
            key=self.home.signing_key(),
            tls=tls_to(self.home, self.home.name),
            timeout_s=120.0,
        )

    def register(self) -> list[str]:
        """A record and an alias of it, by the domain's own key."""
        key = self.home.signing_key()
        contract = {"id": "text.read", "name": "Reader", "description": "Reads letters aloud.", "tags": ["speech"]}
        record = make_record(key, Kind.SERVICE, "reader", "1.0", {"contracts": [contract]})
        alias = set_alias(key, READER, 1, time.time(), "production", "1.0")
        with self.member() as owner:
            done = owner.register(Registration((record.signed,), (alias.signed,)))
            assert [one.urn for one in owner.find(Finding("read letters aloud")).options] == [READER]
        return [one.state for one in (*done.records, *done.events)]

    def there(self) -> bool:
        """Both listeners are."""
        for port in (int(self.url.rpartition(":")[2]), int(self.people.rpartition(":")[2])):
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
            except OSError:
                return False
        return True


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    its = Lab(tmp_path / "home")
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.local.gateway_main"],
            cwd=PROJECT,
            env={**os.environ, "IOI_DOMAIN_HOME": str(its.home.root)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: process.poll() is not None or its.there(), 240, "the gateway")
        assert process.poll() is None, (tmp_path / "gateway.log").read_text()
        yield its
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_the_examples_of_the_documentation_are_answered_and_a_token_that_is_revoked_no_more(lab: Lab) -> None:
    port = lab.people.rpartition(":")[2]
    made = lab.told("token", "new", "ann", "--scope", "ras:read", "--ttl", "1h")
    (asking,) = re.findall(r"## Asking\n\n```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    authority = lab.home.authority_certificate
    environment = {
        **os.environ,
        "TOKEN": made["token"],
        "CA": str(authority),
        "AT": f"lab.example:{port}:{lab.people}",
    }

    def run() -> list[Any]:
        script = asking.replace("8443", port)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert lab.register() == ["registered", "registered"]
    find, discover, select, by_range, by_alias, history, health = run()
    assert [one["urn"] for one in find["options"]] == [READER]
    assert [one["urn"] for one in discover["options"]] == [READER]
    assert select["record"]["body"]["urn"] == READER
    assert (by_range["version"], by_alias["version"], by_alias["aliases"]) == ("1.0", "1.0", ["production"])
    assert [event["body"]["alias"] for event in history["events"]] == ["production"]
    assert (health["ready"], health["records"]["service"]) == (True, {"active": 1})

    shown = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(verify=shown, trust_env=False, timeout=120.0) as nobody:
        bearer = {"authorization": f"Bearer {made['token']}"}

        def asked(door: str, **headers: str) -> tuple[int, str]:
            its = {"sni_hostname": "lab.example"}
            answer = nobody.get(f"https://{lab.people}/v1/{door}", headers=headers, extensions=its)
            return answer.status_code, "" if answer.status_code == 200 else answer.json()["error"]["code"]

        assert asked("openapi.json") == (200, "")
        assert asked("members", **bearer) == (403, "gateway.no_certificate")
        assert asked("registry/records") == (403, "gateway.no_certificate")
        assert asked("ras/health") == (401, "gateway.nobody")
        assert asked("ras/health", authorization=f"Bearer {lab.home.token()}") == (401, "token.unknown")
        assert asked("ras/health", **bearer) == (200, "")
    with RasClient(
        f"https://{lab.people}", "lab.example", key=lab.home.signing_key(), tls=shown, timeout_s=120.0
    ) as signed:
        with pytest.raises(RasProblemError) as refused:
            signed.health()
        assert refused.value.code == "tls.no_domain", "a signature counts over its own domain's connection alone"

    lab.told("token", "revoke", made["id"])
    assert {one["error"]["code"] for one in run()} == {"token.revoked"}
    assert [(one["name"], one["state"]) for one in lab.told("token", "list")["tokens"]] == [("ann", "revoked")]
