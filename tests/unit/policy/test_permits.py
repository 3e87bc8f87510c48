from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.permit import RunPermit, StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import (
    KEY_REMEDY,
    MAX_KNOWN,
    ReadPermits,
    check_run_permit,
    check_step_permit,
    decode,
    encode,
    issue,
    read_run_permit,
)
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, key_id

LIBRARY, LAB = SigningKey.generate("library.example"), SigningKey.generate("lab.example")
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (LIBRARY, LAB)})
EXPECTED = {"run": "r1", "job": "j", "job_snapshot": "js", "plan": "p", "config": "c", "selection": "s"}
RUN = RunPermit(
    **EXPECTED,
    subject="ann",
    code="defs",
    highest=DataClass.RESTRICTED,
    domains=("library.example", "lab.example"),
    decision_ids=("d",),
    revision="sha256:1",
    not_before=100.0,
    expires=200.0,
    nonce="n",
    issuer="library.example",
)
LEASE = Lease("l1", "r1", "step", 2, 0, "page.ocr", "lab-main", "lab.example", "lab-1", 1)
STEP = StepPermit(
    run="r1",
    step="step",
    fence=2,
    copy=0,
    lease="l1",
    capability="page.ocr",
    data_class=DataClass.PUBLIC,
    audience="lab.example",
    cluster="lab-main",
    node="lab-1",
    payload="sha256:x",
    not_before=100.0,
    expires=200.0,
    nonce="n",
    issuer="library.example",
)


def check_run(signed: Signed, now: float = 150.0, **changes: str) -> RunPermit | Refusal:
    return check_run_permit(signed, TRUSTED, issuer="library.example", expected={**EXPECTED, **changes}, now=now)


def check_step(signed: Signed, now: float = 150.0, lease: Lease = LEASE) -> StepPermit | Refusal:
    return check_step_permit(signed, TRUSTED, lease=lease, payload="sha256:x", audience="lab.example", now=now)


def test_a_good_permit_survives_its_way_through_a_tag():
    signed = decode(encode(issue(LIBRARY, RUN)))
    assert isinstance(signed, Signed)
    assert check_run(signed) == RUN
    assert check_step(issue(LIBRARY, STEP)) == STEP


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_run_that_is_not_the_permitted_one_is_refused_by_the_field_that_differs(name):
    found = check_run(issue(LIBRARY, RUN), **{name: "other"})
    assert isinstance(found, Refusal)
    assert found.code == f"permit.{name}_mismatch"


@pytest.mark.parametrize("name", list(RunPermit.__dataclass_fields__))
def test_no_field_can_be_altered_after_signing(name):
    signed = issue(LIBRARY, RUN)
    value = signed.body[name]
    altered = value + 1 if isinstance(value, float) else [*value, "x"] if isinstance(value, list) else value + "x"
    found = check_run(replace(signed, body={**signed.body, name: altered}))
    assert isinstance(found, Refusal)
    assert found.code == "permit.signature"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"run": "r2"}, "permit.run_mismatch"),
        ({"step": "other"}, "permit.step_mismatch"),
        ({"fence": 3}, "permit.fence_mismatch"),
        ({"copy": 1}, "permit.copy_mismatch"),
        ({"id": "l2"}, "permit.lease_mismatch"),
        ({"capability": "page.trim"}, "permit.capability_mismatch"),
        ({"cluster": "other"}, "permit.cluster_mismatch"),
        ({"node": "lab-2"}, "permit.node_mismatch"),
    ],
)
def test_a_step_permit_is_good_for_its_own_lease_only(change, code):
    found = check_step(issue(LIBRARY, STEP), lease=replace(LEASE, **change))
    assert isinstance(found, Refusal)
    assert found.code == code


DAY = 86_400.0


@pytest.mark.parametrize(("now", "code"), [(99.0 - DAY, "permit.not_yet_valid"), (200.0, "permit.expired")])
def test_a_permit_has_its_time(now, code):
    for found in (read_run_permit(issue(LIBRARY, RUN), TRUSTED, now=now), check_step(issue(LIBRARY, STEP), now=now)):
        assert isinstance(found, Refusal)
        assert found.code == code


def test_a_permit_of_a_clock_that_is_a_day_ahead_is_good():
    assert read_run_permit(issue(LIBRARY, RUN), TRUSTED, now=101.0 - DAY) == RUN
    assert check_step(issue(LIBRARY, STEP), now=101.0 - DAY) == STEP


def test_a_sibling_domain_cannot_sign_for_the_owner():
    forged = LAB.sign(RUN.claims())
    found = read_run_permit(forged, TRUSTED, now=150.0)
    assert isinstance(found, Refusal)
    assert found.code == "permit.foreign_issuer"
    with pytest.raises(BadInputError):
        issue(LAB, RUN)


def test_a_peer_that_signs_in_its_own_name_is_not_the_owner():
    found = check_run(issue(LAB, replace(RUN, issuer="lab.example")))
    assert isinstance(found, Refusal)
    assert found.code == "permit.foreign_issuer"


def test_an_unknown_key_is_refused_also_under_a_known_name():
    stranger = SigningKey.generate("library.example")
    assert key_id("library.example", stranger.public_bytes) not in TRUSTED.keys
    found = check_run(issue(stranger, RUN))
    assert isinstance(found, Refusal)
    assert found.code == "permit.signature"


def test_a_step_permit_is_not_a_run_permit():
    found = check_run(issue(LIBRARY, STEP))
    assert isinstance(found, Refusal)
    assert found.code == "permit.kind"


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_rubbish_is_a_refusal_never_an_exception(text):
    assert isinstance(decode(text), Refusal)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x)
    )
)
def test_rubbish_bodies_are_refusals(body):
    text = base64.urlsafe_b64encode(
        json.dumps({"body": {"x": body}, "key_id": LIBRARY.key_id, "signature": ""}).encode()
    )
    signed = decode(text.decode())
    if isinstance(signed, Signed):
        assert isinstance(read_run_permit(signed, TRUSTED, now=150.0), Refusal)


@pytest.mark.parametrize(
    ("name", "value"), [("expires", "inf"), ("expires", "nan"), ("not_before", True), ("fence", True)]
)
def test_a_trusted_signer_cannot_make_a_permit_endless_by_its_types(name, value):
    body = {**(STEP if name == "fence" else RUN).claims(), name: value}
    signed = LIBRARY.sign(body)
    found = check_step(signed, lease=replace(LEASE, fence=1)) if name == "fence" else check_run(signed, now=1e12)
    assert isinstance(found, Refusal)
    assert found.code == "permit.malformed"


def test_a_permit_that_was_good_lasts_as_long_as_it_had_left_whatever_the_clock_is_set_to():
    permits, text = ReadPermits(TRUSTED), encode(issue(LIBRARY, RUN))
    assert permits.read(text, 150.0, 1_000.0) == RUN
    for wall, passed, expected in (
        (199.0, 49.0, RUN),
        (-3_450.0, 49.9, RUN),
        (3_750.0, 49.9, RUN),
        (150.0, 50.0, "permit.expired"),
    ):
        for _ in range(2):
            found = permits.read(text, wall, 1_000.0 + passed)
            assert (found.code if isinstance(found, Refusal) else found) == expected


def test_what_was_refused_is_read_anew_and_a_changed_text_is_another_permit():
    permits, signed = ReadPermits(TRUSTED), issue(LIBRARY, RUN)
    early = permits.read(encode(signed), -DAY, 0.0)
    assert isinstance(early, Refusal) and early.code == "permit.not_yet_valid"
    assert permits.read(encode(signed), 150.0, 0.0) == RUN
    forged = encode(replace(signed, body={**signed.body, "highest": "public"}))
    refused = permits.read(forged, 150.0, 0.0)
    assert isinstance(refused, Refusal) and refused.code == "permit.signature"
    assert isinstance(permits.read("no permit", 150.0, 0.0), Refusal)


def test_what_a_domain_has_signed_itself_is_not_early_to_it_when_its_clock_was_set_back():
    signed = issue(LIBRARY, RUN)
    assert check_run_permit(signed, TRUSTED, issuer=LIBRARY.domain, expected={}, now=-3_000.0) == RUN
    late = check_run_permit(signed, TRUSTED, issuer=LIBRARY.domain, expected={}, now=200.0)
    assert isinstance(late, Refusal) and late.code == "permit.expired"


def test_a_permit_that_was_read_well_is_refused_once_its_key_counts_no_more():
    keys = dict(TRUSTED.keys)
    permits, text = ReadPermits(TrustedKeys(keys)), encode(issue(LIBRARY, RUN))
    assert [permits.read(text, 150.0, at) for at in (0.0, 1.0)] == [RUN, RUN]
    del keys[LIBRARY.key_id]
    why = f"no trusted key {LIBRARY.key_id!r}"
    assert permits.read(text, 150.0, 2.0) == Refusal("permit.signature", why, "permit check", KEY_REMEDY)
    keys[LIBRARY.key_id] = LIBRARY.public_bytes
    assert permits.read(text, 150.0, 3.0) == RUN


def test_so_many_read_permits_are_kept_and_no_more():
    permits, signed = ReadPermits(TRUSTED), issue(LIBRARY, RUN)
    texts = [" " * number + json.dumps({"body": signed.body, "key_id": signed.key_id, "signature": signed.signature})
             for number in range(MAX_KNOWN + 10)]  # fmt: skip
    for text in texts:
        assert permits.read(base64.urlsafe_b64encode(text.encode()).decode(), 150.0, 0.0) == RUN
    assert len(permits._known) == MAX_KNOWN
