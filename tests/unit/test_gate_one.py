"""What gate 1 says of a run before anything of it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRun

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome
from ioi_dagster.host import governance, tags
from ioi_dagster.host.governance import Checked, check_permit, gate_one
from ioi_dagster.local import joining
from ioi_dagster.local.gate import open_gate
from ioi_dagster.local.home import home_domain_of, open_federation
from ioi_dagster.model.decision import Verdict
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import KEY_REMEDY, decode, encode
from ioi_dagster.signing import Signed, SigningKey
from tests.realms import owned
from tests.registries import POLICIES


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


@pytest.fixture
def lab(tmp_path: Path) -> DomainHome:
    """Whose keys its owner changes."""
    its = owned(tmp_path, "lab").home
    its.save_config(replace(its.config(), policies=str(POLICIES), scopes=("book",)))
    return its


def allowed(home: DomainHome) -> tuple[DagsterRun, Signed]:
    """A run that gate 1 has let in, with its permit."""
    run = DagsterRun("job")
    _, permit = gate_one(home, open_gate(home), run, 3)
    signed = decode(permit)
    assert isinstance(signed, Signed)
    return run, signed


def showing(run: DagsterRun, permit: Signed) -> DagsterRun:
    return DagsterRun("job", run_id=run.run_id, tags={tags.PERMIT: encode(permit)})


def rotate(home: DomainHome, revoke: bool) -> None:
    joining.rotate(home, revoke, time.time(), 0.0, lambda _: None)


def test_a_run_that_waits_while_its_domain_takes_its_key_back_gets_its_permit_anew(lab: DomainHome):
    """Word for word, be it for the first time or after it had begun; while the old key counts there is no need."""
    run, permit = allowed(lab)
    its = showing(run, permit)
    found = check_permit(lab, its)
    rotate(lab, False)
    assert isinstance(found, Checked) and found == Checked(found.permit, permit) == check_permit(lab, its)
    rotate(lab, True)
    for _ in range(2):
        key = lab.signing_key()
        told = f"the permit of decision {found.permit.decision_ids[0]} is issued anew under {key.key_id}: "
        told += f"the domain has another key than {permit.key_id}"
        assert check_permit(lab, its) == Checked(found.permit, key.sign(permit.body), told)
        rotate(lab, True)


def altered(permit: Signed, key: SigningKey) -> Signed:
    return key.sign({**permit.body, "highest": "public"})


def of_another(permit: Signed, key: SigningKey) -> Signed:
    return key.sign({**permit.body, "run": "another"})


def in_anothers_name(permit: Signed, key: SigningKey) -> Signed:
    return replace(permit, key_id=f"cloud#{key.key_id[-16:]}")


def unsaid(permit: Signed, key: SigningKey) -> Signed:
    return replace(permit, body={**permit.body, "nonce": float("nan")})


@pytest.mark.parametrize("made", [altered, of_another, in_anothers_name, unsaid])
def test_what_a_key_that_was_taken_back_has_signed_is_no_permit(lab: DomainHome, made: Callable[..., Any]):
    """Whoever has stolen it can sign whatever he likes; what gate 1 gave is what the ledger says that it gave."""
    stolen = lab.signing_key()
    run, permit = allowed(lab)
    shown = made(permit, stolen)
    rotate(lab, True)
    why = f"no trusted key {shown.key_id!r}"
    assert check_permit(lab, showing(run, shown)) == Refusal("permit.signature", why, "permit check", KEY_REMEDY)


def test_a_permit_that_gate_one_gave_to_one_run_is_not_anothers(lab: DomainHome):
    (_, permit), (other, _) = allowed(lab), allowed(lab)
    rotate(lab, True)
    refused = check_permit(lab, showing(other, permit))
    assert isinstance(refused, Refusal) and refused.code == "permit.signature"


def test_a_permit_that_is_issued_anew_is_over_when_it_would_have_been(lab: DomainHome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(governance, "PERMIT_S", 0.0)
    run, permit = allowed(lab)
    rotate(lab, True)
    refused = check_permit(lab, showing(run, permit))
    assert isinstance(refused, Refusal) and refused.code == "permit.expired"
