"""`flow.map` where the nodes are several owners': items run beside their step, and nowhere else."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from dagster import DagsterInstance

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of, why_failed
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import PROJECT, TOPOLOGY, prepare_dagster
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.story import Chapter
from tests.asking import status_of
from tests.conftest import eventually
from tests.integration.reviewed import policies_that_know

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(180)]


def test_items_run_at_the_cluster_of_their_step(tmp_path: Path) -> None:
    """More steps wait than a cluster has nodes, and a node is killed: all items are answered, each where its step is."""
    home = tmp_path / "home"
    job = job_of("tests.integration.mapping_defs", "mapping", PROJECT)
    ops = {name: {"config": {"folder": str(tmp_path)}} for name in ("at_home", "told")}
    policies = policies_that_know("tests.integration.mapping_defs", tmp_path / "policies")
    with Federation(load_topology(TOPOLOGY), home, policies, BLOCKS) as federation:
        os.environ.update(federation.environment(), DAGSTER_HOME=str(prepare_dagster(home)))
        with DagsterInstance.get() as instance:
            run_id, _ = create_governed_run(instance, job, {"ops": ops}, {})
            federation.wait_ready(60)
            assert execute_governed_run(instance, job, run_id), why_failed(instance, run_id)
            told = [entry.message for entry in instance.all_logs(run_id) if entry.step_key == "at_the_partner"]
        ledger = Ledger(federation.home_domain.ledger)
        try:
            steps, story = ledger.steps(run_id), ledger.story(run_id)
        finally:
            ledger.close()
        assert (tmp_path / "result").read_text() == "8 [0, 1, 4, 9, 16]"
        assert {(step.commits, step.state) for step in steps} <= {(1, "DONE"), (0, "DROPPED")}
        chunks = Counter(
            (one.step.partition("#")[0], one.domain, one.data_class) for one in steps if "#" in one.step and one.commits
        )
        at_lab, at_home = (
            chunks.pop(("at_the_partner", "lab.example", "internal")),
            chunks.pop(("at_home", "library.example", "restricted")),
        )
        assert (at_lab, chunks) == (14, {})
        assert at_home >= 5, "more where the lost node was the step's own"
        assert any("flow.map" in text and "2 items" in text for text in told)
        assert [entry for entry in story if entry.chapter is Chapter.LOSS and entry.step.startswith("at_home")]
        eventually(lambda: _is_free(federation), 40, "all slots free again")


def _is_free(federation: Federation) -> bool:
    """No lease is held any more, waiting ones among them."""
    for domain in ("library.example", "lab.example"):
        home = federation.domain(domain)
        if any(status_of(home, number)["leases"] for number in range(len(home.config().clusters))):
            return False
    return True
