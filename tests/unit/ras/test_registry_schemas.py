"""Published schemas are those of the code, and take what it takes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.pointers import Status, accept_transfer, event_of, set_alias, set_status, transfer
from ioi_dagster.ras.record import Kind, make_record, record_of
from ioi_dagster.ras.schemas import documents
from ioi_dagster.signing import SigningKey

FOLDER = Path(__file__).parents[3] / "docs" / "reference" / "schemas"
LAB, CLOUD = SigningKey.generate("lab.example"), SigningKey.generate("cloud.example")
RECORD = make_record(LAB, Kind.MODEL, "ocr/big:v", "1.0+b", {"any": [1]}, audience="partner:cloud.example")
URN = RECORD.urn
BODIES = {
    "record.v1.json": [RECORD.signed.body],
    "pointer.v1.json": [
        set_alias(LAB, URN, 1, 5.5, "production", "1.0").signed.body,
        set_alias(LAB, URN, 2, 6, "production", "").signed.body,
        set_status(LAB, URN, 3, 7, Status.DEPRECATED, "1.0", successor=URN, successor_version="2").signed.body,
        transfer(LAB, accept_transfer(CLOUD, URN, 4, 8)).signed.body,
    ],
}
ODD = {
    "schema": "ioi.record/2",
    "urn": "urn:ioi:lab.example:modell:x",
    "kind": "x",
    "version": " 1",
    "scheme": "x",
    "spec": [],
    "audience": "all",
    "valid_until": -1,
    "supersedes": "sha256:1",
    "provenance": ["x"],
    "sequence": 0,
    "at": 1e12,
    "op": "x",
    "alias": "Prod",
    "status": "gone",
    "successor": "x",
    "successor_version": " ",
    "reason": "x" * 1001,
    "to": "Cloud",
    "accepted": {"key_id": "x"},
    "more": 1,
}


def test_what_is_published_is_current():
    """Else: `python -m ioi_dagster.ras.schemas docs/reference/schemas`."""
    assert {file.name: json.loads(file.read_text()) for file in FOLDER.iterdir()} == documents()


@pytest.mark.parametrize("name", BODIES)
def test_the_schema_takes_what_the_registry_takes_and_nothing_that_is_odd(name):
    check = jsonschema.Draft202012Validator(documents()[name])
    read = record_of if name.startswith("record") else event_of
    for body in BODIES[name]:
        assert list(check.iter_errors(body)) == []
        for field in {*body, "more"}:
            changed = {**body, field: ODD[field]}
            assert not check.is_valid(changed), field
            with pytest.raises(BadInputError):
                read(LAB.sign(changed))
            assert not check.is_valid({key: value for key, value in body.items() if key != field} | {"odd": 1})


def test_the_schema_of_contracts_takes_contracts():
    check = jsonschema.Draft202012Validator(documents()["contract.v1.json"])
    good = json.loads(msgspec.json.encode(Contract("page.ocr", "Reader", tags=("ocr",))))
    assert check.is_valid(good)
    assert not check.is_valid({**good, "effect": "magic"})
    assert not check.is_valid({**good, "tags": "ocr"})
    assert not check.is_valid({"name": "no id"})
