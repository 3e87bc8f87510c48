"""Shares of a real cluster's slots: a guarantee that others had borrowed, and a limit that is lowered while steps run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from typer.testing import CliRunner

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli import app
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.story import Chapter
from tests.conftest import eventually
from tests.integration.federations import federation_of, topology_of
from tests.integration.reviewed import policies_that_know
from tests.integration.standing import MODULE, Runs

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(240)]

TOPOLOGY = topology_of(
    "[{name: library-1}, {name: library-2}, {name: library-3}]",
    "[{name: partners, tenants: [{name: owner, guarantee: 1}]}, {name: others, tenants: [%s]}]",
)
ANYBODY = '{name: "*"}'


GIVEN_BACK = "owner is within its guarantee (0 of 1 slot) and needs the room that guests has borrowed"
LOWERED = "guests uses more than its quota now allows"


def test_a_guarantee_is_given_back_and_a_lowered_limit_is_enforced(tmp_path: Path) -> None:
    topology, home, runs = tmp_path / "topology.yaml", tmp_path / "home", Runs(tmp_path)
    with federation_of(tmp_path, MODULE, TOPOLOGY % ANYBODY) as federation:

        def books() -> dict:
            told = CliRunner().invoke(app, ["status", "--home", str(home), "--json"])
            return json.loads(told.output)["library.example"]["clusters"]["library-main"]

        def slots(tenant: str) -> float:
            return books()["tenants"].get(tenant, {"used": {"slots": 0.0}})["used"]["slots"]

        try:
            flood = runs.start("flood", "guests")
            eventually(lambda: slots("guests") == 3, 60, "a flood that has the whole cluster")
            eventually(lambda: len(list(tmp_path.glob("came *"))) == 3, 60, "its steps at work")
            cohorts = books()["cohorts"]
            assert (cohorts["partners"]["lent"]["slots"], cohorts["others"]["borrowed"]["slots"]) == (1.0, 3.0)
            assert runs.start("one", "owner").wait(60) == 0, (tmp_path / "one.log").read_text()
            eventually(lambda: slots("guests") == 3, 60, "the slot lent again")

            topology.write_text(TOPOLOGY % f"{{name: guests, borrows: 1}}, {ANYBODY}")
            told = CliRunner().invoke(app, ["quota", "--topology", str(topology), "--home", str(home), "--json"])
            assert told.exit_code == 0, told.output
            (change,) = json.loads(told.output)
            assert (change["cohort"], change["tenant"], change["before"]) == ("others", "guests", None)
            assert change["after"]["quota"]["borrows"] == {"slots": 1.0}
            eventually(lambda: slots("guests") == 1, 60, "the limit")
            assert flood.poll() is None

            (tmp_path / "go").touch()
            assert flood.wait(60) == 0, (tmp_path / "flood.log").read_text()
        finally:
            runs.end()
        with DagsterInstance.get() as instance:
            assert {run.status for run in instance.get_runs()} == {DagsterRunStatus.SUCCESS}
            ids = {run.job_name: run.run_id for run in instance.get_runs()}
        ledger = Ledger(federation.home_domain.ledger)
        try:
            steps, story = ledger.steps(ids["flood"]), ledger.story(ids["flood"])
        finally:
            ledger.close()
    assert {(step.commits, step.state) for step in steps} == {(1, "DONE")}
    assert not (tmp_path / "hooked").exists(), "a step that is stopped has not failed"
    left = [path.name.split()[1:] for path in tmp_path.glob("left *")]
    done = {path.name.split()[1]: int(path.name.split()[2]) for path in tmp_path.glob("done *")}
    assert len(left) >= 3, "one for the guarantee, two for the limit"
    assert done == {str(n): sum(name == str(n) for name, _ in left) for n in range(4)}, "each went on from what it left"
    told = [entry.text for entry in story if entry.chapter is Chapter.LOSS]
    kept = [text for text in told if text.startswith("it left a checkpoint of ")]
    assert len(kept) == len(left)
    losses = [text for text in told if text not in kept]
    assert len(losses) >= 3
    reasons = [
        next((why for why in (GIVEN_BACK, LOWERED, "no longer holds the lease") if why in text), text)
        for text in losses
    ]
    assert set(reasons) <= {GIVEN_BACK, LOWERED, "no longer holds the lease"}
    assert {GIVEN_BACK, LOWERED} & set(reasons), "who is stopped is told why"


@pytest.mark.parametrize(
    ("quotas", "node", "says"),
    [
        ("{name: owner2, weight: 2}", "library-4", "only `quotas` and `tenants` may change while it runs"),
        ("{name: owner}", "library-3", "tenant 'owner' is in two cohorts, 'partners' and 'others'; it must be in one"),
        ("{name: a, guarantee: 3}", "library-3", "the cohorts are guaranteed 4 slots, but the cluster has 3"),
        ("{name: a, guarantee: {gpu: 1}}", "library-3", "names 'gpu', which no node offers"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_whole(tmp_path: Path, quotas: str, node: str, says: str) -> None:
    topology, home = tmp_path / "topology.yaml", tmp_path / "home"
    topology.write_text(TOPOLOGY % ANYBODY)
    federation = Federation(load_topology(topology), home, policies_that_know(MODULE, tmp_path / "policies"), BLOCKS)
    federation.prepare()
    before = federation.home_domain.config()
    topology.write_text((TOPOLOGY % f"{quotas}, {ANYBODY}").replace("library-3", node))
    told = CliRunner().invoke(app, ["quota", "--topology", str(topology), "--home", str(home)])
    federation.stop()
    assert told.exit_code != 0
    assert says in str(told.exception)
    assert federation.home_domain.config() == before
