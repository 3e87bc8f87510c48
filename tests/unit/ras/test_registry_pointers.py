"""What signed events come to, and which version is given where none is asked for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError, FinalError, SignatureError
from ioi_dagster.ras.pointers import (
    PointerState,
    Stand,
    Status,
    accept_transfer,
    read_pointer,
    refused,
    set_alias,
    set_status,
    state_of,
    transfer,
)
from ioi_dagster.ras.urn import Scheme
from ioi_dagster.ras.versions import Known, last, order
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys

LAB, CLOUD, EVE = (SigningKey.generate(name) for name in ("lab.example", "cloud.example", "eve.example"))
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, CLOUD, EVE)})
URN = "urn:ioi:lab.example:model:ocr"
HISTORY = [
    set_alias(LAB, URN, 1, 100, "production", "1.0"),
    set_alias(LAB, URN, 2, 300, "production", "2.0"),
    # The owner's clock was set back.
    set_status(LAB, URN, 5, 200, Status.YANKED, "2.0", reason="it leaks"),
    transfer(LAB, accept_transfer(CLOUD, URN, 6, 400)),
    set_alias(CLOUD, URN, 9, 500, "production", ""),
    set_status(CLOUD, URN, 10, 600, Status.DEPRECATED, successor="urn:ioi:cloud.example:model:ocr"),
]
MOVED = Stand(Status.DEPRECATED, "urn:ioi:cloud.example:model:ocr")


@given(st.randoms(use_true_random=False))
def test_the_state_is_the_same_in_whatever_order_events_came(chance: random.Random):
    events = [*HISTORY, *chance.sample(HISTORY, 2)]
    chance.shuffle(events)
    assert state_of(URN, events) == PointerState(
        ("lab.example", "cloud.example"), {}, MOVED, {"2.0": Stand(Status.YANKED, reason="it leaks")}, 10
    )


@pytest.mark.parametrize(
    ("until", "production", "sequence"),
    [
        (99, None, 0),
        (100, "1.0", 1),
        (250, "1.0", 1),
        (300, "2.0", 5),
        (499, "2.0", 6),
        (500, None, 9),
        (None, None, 10),
    ],
)
def test_history_tells_what_was_production_when(until, production, sequence):
    state = state_of(URN, HISTORY, until)
    assert (state.aliases.get("production"), state.sequence) == (production, sequence)


def test_only_who_owns_the_name_at_that_number_counts():
    late = set_alias(LAB, URN, 7, 450, "production", "1.0")
    early = set_alias(CLOUD, URN, 3, 310, "production", "1.0")
    never = set_status(EVE, URN, 8, 460, Status.DELETED)
    events = [*HISTORY, late, early, never]
    assert state_of(URN, events) == state_of(URN, HISTORY)
    assert refused(URN, events) == [early, late, never]


def test_deleted_is_for_ever_and_one_version_stands_as_badly_as_all():
    events = [
        set_status(LAB, URN, 1, 1, Status.DELETED, "1.0"),
        set_status(LAB, URN, 2, 1, Status.ACTIVE, "1.0"),
        set_status(LAB, URN, 3, 1, Status.YANKED, "2.0"),
        set_status(LAB, URN, 4, 1, Status.DEPRECATED),
    ]
    state = state_of(URN, events)
    stands = [state.stand(version).status for version in ("1.0", "2.0", "3.0")]
    assert stands == [Status.DELETED, Status.YANKED, Status.DEPRECATED]


def test_a_number_that_is_used_twice_is_told():
    with pytest.raises(FinalError, match="two events of number 1"):
        state_of(URN, [HISTORY[0], set_alias(LAB, URN, 1, 100, "production", "3.0")])


def test_a_transfer_needs_the_word_of_both_sides():
    assert [read_pointer(event.signed, TRUSTED) for event in HISTORY] == HISTORY
    body = HISTORY[3].signed.body
    eve = EVE.sign({key: value for key, value in body.items() if key != "accepted"})
    for accepted, error in (
        ({"key_id": CLOUD.key_id, "signature": eve.signature}, SignatureError),
        ({"key_id": eve.key_id, "signature": eve.signature}, FinalError),
        ({"key_id": 5, "signature": ""}, BadInputError),
    ):
        with pytest.raises(error):
            read_pointer(LAB.sign({**body, "accepted": accepted}), TRUSTED)
    with pytest.raises(SignatureError):
        read_pointer(Signed({**body, "to": "eve.example"}, LAB.key_id, HISTORY[3].signed.signature), TRUSTED)


SEMVER = (
    "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1+b 1.10.0"
)


def test_versions_are_in_the_order_of_their_scheme():
    for scheme, versions in (
        (Scheme.SEMVER, ["v1", *SEMVER.split()]),
        (Scheme.PEP440, ["x", "1.9", "1.10rc1", "1.10"]),
    ):
        shuffled = random.Random(5).sample(versions, len(versions))
        assert sorted(shuffled, key=lambda version: order(version, scheme)) == versions


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([Known("1.9", Scheme.PEP440), Known("1.10", Scheme.PEP440), Known("2.0rc1", Scheme.PEP440)], "1.10"),
        ([Known("1.0.0-rc.1", Scheme.SEMVER), Known("1.0.0-rc.2", Scheme.SEMVER)], "1.0.0-rc.2"),
        ([Known("z", Scheme.OPAQUE, "one"), Known("a", Scheme.OPAQUE, "two", "one")], "a"),
        ([Known("z", Scheme.OPAQUE, "one"), Known("a", Scheme.OPAQUE, "two")], None),
        ([], None),
    ],
)
def test_the_last_version_is_not_guessed(versions, expected):
    found = last(versions)
    assert (found.version if found else None) == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "999"),
        ([set_status(LAB, URN, 1, 1, Status.YANKED, "999")], "2"),
        ([set_alias(LAB, URN, 1, 1, "latest", "1")], "1"),
        ([set_alias(LAB, URN, 1, 1, "latest", "1"), set_status(LAB, URN, 2, 1, Status.YANKED, "1")], "999"),
        ([set_alias(LAB, URN, 1, 1, "latest", "77")], "999"),
        ([set_status(LAB, URN, 1, 1, Status.DEPRECATED, version) for version in ("999",)], "2"),
        ([set_status(LAB, URN, 1, 1, Status.DEPRECATED)], "999"),
        ([set_status(LAB, URN, 1, 1, Status.DELETED)], None),
    ],
)
def test_what_is_offered_is_what_latest_names_or_the_last_that_stands_best(events, expected):
    versions = [Known(version, Scheme.PEP440) for version in ("1", "2", "999")]
    assert state_of(URN, events).offered(versions) == expected
