"""The rules of the wire protocol, asked of real gateways before real clusters, as somebody with another implementation would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.cli import app
from ioi_dagster.local.home import TOPOLOGY, open_federation

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(180)]


def test_every_domain_keeps_every_rule_and_has_all_its_capacity_afterwards(tmp_path: Path) -> None:
    runner = CliRunner()
    with open_federation(tmp_path, TOPOLOGY, BLOCKS) as federation:
        federation.wait_ready(90)
        for name in ("library.example", "lab.example", "cloud.example"):
            result = runner.invoke(app, ["protocol", "check", name, "--home", str(tmp_path), "--json"])
            outcomes = json.loads(result.stdout)
            assert [outcome for outcome in outcomes if not outcome["holds"]] == []
            assert len(outcomes) == 71
            assert result.exit_code == 0
            client = own_gateway(federation.domain(name))
            clusters = client.status()["clusters"]
            client.close()
            assert [lease for cluster in clusters.values() for lease in cluster["leases"]] == []
        unknown = runner.invoke(app, ["protocol", "check", "nobody.example", "--home", str(tmp_path)])
        assert "knows no domain 'nobody.example'" in str(unknown.exception)
