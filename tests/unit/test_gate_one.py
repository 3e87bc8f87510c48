"""What gate 1 says of a run before anything of it starts."""

from __future__ import annotations

import pytest
from dagster import DagsterRun

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.host import tags
from ioi_dagster.host.governance import gate_one
from ioi_dagster.local.gate import open_gate
from ioi_dagster.local.home import home_domain_of, open_federation
from ioi_dagster.model.decision import Verdict


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> DomainHome:
    """Of a federation that was prepared and does not run."""
    folder = tmp_path_factory.mktemp("gate-one")
    file = folder / "topology.yaml"
    cluster = "{name: lab-main, nodes: [{name: lab-1}]}"
    file.write_text(
        f"network: book\nhome: lab.example\ndomains: [{{name: lab.example, authority: ours, clusters: [{cluster}]}}]"
    )
    federation = open_federation(folder / "home", file, ())
    federation.prepare()
    federation.stop()
    return home_domain_of(folder / "home")


def story(home: DomainHome, run: str) -> list[str]:
    ledger = Ledger(home.ledger)
    try:
        return [entry.text for entry in ledger.story(run)]
    finally:
        ledger.close()


@pytest.mark.parametrize(
    ("tag", "says", "right"),
    [
        (tags.TENANT, " ", "give a name of at most 100 letters, or no tag"),
        (tags.OBJECTIVE, "quickest", ""),
        (tags.BUDGET, "lots", "give a number of credits, as in '90'"),
        (tags.DEADLINE, "soon", "give a date and time with its zone"),
        (tags.PRIORITY, "high", "give a whole number"),
    ],
)
def test_tags_that_make_no_sense_are_denied_with_what_would_be_right(home: DomainHome, tag: str, says: str, right: str):
    run = DagsterRun("job", tags={tag: says})
    decision, permit = gate_one(home, open_gate(home), run, 3)
    (refusal,) = decision.refusals
    assert (decision.verdict, refusal.code, permit) == (Verdict.DENY, "launch.unfit_tags", "")
    assert says.strip() in refusal.text and right in refusal.remedy
    assert story(home, run.run_id)[-1] == f"gate 1: launch deny: {refusal}"


def test_tags_that_make_sense_are_allowed(home: DomainHome):
    its = {tags.TENANT: "ann", tags.OBJECTIVE: "cheapest", tags.BUDGET: "0", tags.DEADLINE: "60", tags.PRIORITY: "-1"}
    decision, permit = gate_one(home, open_gate(home), DagsterRun("job", tags=its), 3)
    assert (decision.verdict, decision.refusals, bool(permit)) == (Verdict.ALLOW, (), True)
