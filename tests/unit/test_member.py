"""What a domain may say of itself: nothing that is another's."""

from __future__ import annotations

from typing import Any

import pytest

from ioi_dagster.model.member import claims_others, first_record
from ioi_dagster.model.refusal import Refusal
from tests.members import author, namesake

LAB, CLOUD = author("lab"), author("cloud")


def claimed(**changes: Any) -> str:
    """What is said of such a record of the cloud, where the lab's is known; empty where it is taken."""
    refusal = claims_others(CLOUD.record(**changes), [LAB.record()])
    assert refusal is None or (isinstance(refusal, Refusal) and refusal.code == "member.not_its_own")
    return refusal.text if refusal is not None else ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"authority": "lab-authority", "authorities": (LAB.trusted,)}, ""),
        ({"clusters": ("cloud-c", "lab-c")}, "cloud claims lab-c, which lab has"),
        (
            {"authority": "lab-authority"},
            "cloud calls its authority lab-authority, as lab does, and it is another one",
        ),
        (
            {"authority": "lab-authority", "authorities": (LAB.trusted, CLOUD.trusted)},
            "cloud calls its authority lab-authority, as lab does, and it is another one",
        ),
        (
            {"authorities": (LAB.trusted,)},
            "cloud calls its authority cloud-authority, and it is the one that lab calls lab-authority",
        ),
        (
            {"authorities": (CLOUD.trusted, LAB.trusted)},
            "cloud calls its authority cloud-authority, and it is the one that lab calls lab-authority",
        ),
    ],
)
def test_nobody_claims_what_another_member_has(changes, text):
    assert claimed(**changes) == text


@pytest.mark.parametrize("louder", [False, True])
def test_no_authority_has_the_subject_of_another_members(louder):
    """OpenSSL goes by it, and would take one for the other: neither would be let in."""
    other = namesake(LAB.trusted, louder)
    other.check()
    text = "cloud's authority has the subject of another one, which is lab's"
    assert claimed(authorities=(other,)) == text
    assert claimed(authority="lab-authority", authorities=(other,)) != ""
    assert first_record(CLOUD.signed(authorities=(CLOUD.trusted, namesake(CLOUD.trusted, louder)))) == Refusal(
        "member.malformed", "the record of cloud is not valid: its authorities have one subject", "membership"
    )


def test_what_a_member_that_has_left_had_is_free():
    assert claims_others(CLOUD.record(clusters=("lab-c",)), [LAB.record(2, left=True)]) is None
