"""`ioi ras`: what a domain's registry says, what its owner says of it, and how he keeps it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.cli import app
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.local.gateway_main import register
from ioi_dagster.local.home import home_domain_of
from ioi_dagster.ras.difference import ABSENT, Change, callers, changes
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import SigningKey
from tests.realms import owned

TEXT = {"type": "string"}
READER = "urn:ioi:lab.example:service:reader"


def reader(version: str, **contract: Any) -> dict[str, Any]:
    its = {"id": "text.read", "name": "Reader", "description": "Reads letters aloud.", "tags": ["speech"]} | contract
    return {"kind": "service", "name": "reader", "version": version, "spec": {"contracts": [its]}}


@pytest.fixture
def home(tmp_path) -> Path:
    root = tmp_path / "home"
    owned(root, "lab.example")
    return root


@pytest.fixture
def lab(home) -> DomainHome:
    return home_domain_of(home)


def ioi(home: Path, *arguments: object, piped: str = "") -> tuple[int, str]:
    told = CliRunner().invoke(app, ["ras", *map(str, arguments), "--home", str(home)], input=piped)
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    return told.exit_code, told.stdout


def told(home: Path, *arguments: object, piped: str = "", code: int = 0) -> Any:
    its, text = ioi(home, *arguments, "--json", piped=piped)
    assert its == code, text
    return json.loads(text)


def put(home: Path, *documents: dict[str, Any]) -> list[str]:
    return [row["state"] for row in told(home, "register", "-", piped=json.dumps(documents))]


def offered(home: Path, *more: str) -> list[tuple[str, str]]:
    return [(row["version"], row["status"]) for row in told(home, "list", "--kind", "service", *more)]


def test_the_main_example_finds_who_reads_a_scanned_page_and_a_start_of_its_gateway_withdraws_nothing_of_the_owners(
    home, lab
):
    (lab.root / "blocks.json").write_bytes(msgspec.json.encode(BLOCKS))
    assert put(home, reader("1")) == ["registered"]
    register(lab, lab.config(), SqlRecordStore(lab.registry, lab.trusted()), "revision")
    found = told(home, "find", "read the text of a scanned page")
    assert found["options"][0]["urn"] == "urn:ioi:lab.example:block:page-ocr"
    assert offered(home) == [("1", "active")]
    assert "page-ocr" in ioi(home, "find", "read the text of a scanned page", "-k", "1")[1]
    why = told(home, "why-not", "read the text of a scanned page", READER)
    assert why["verdict"] in ("refused", "outranked")
    nothing = told(home, "find", "book a flight to the moon for my hamster", code=1)
    assert nothing["options"] == []
    assert "nothing fits" in ioi(home, "find", "book a flight to the moon for my hamster")[1]
    assert told(home, "verify") == {"rebuilt": None, "differences": []}


def test_documents_are_registered_all_or_none_and_again_changes_nothing(home):
    assert put(home, reader("1"), reader("2")) == ["registered", "registered"]
    assert put(home, reader("2"), reader("3")) == ["known", "registered"]
    with pytest.raises(FinalError, match="exists with other content"):
        put(home, reader("4"), reader("1", name="Another"))
    assert offered(home, "--all-versions") == [("1", "active"), ("2", "active"), ("3", "active")]


BAD_DOCUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "ghost"}, "'ghost' is no kind"),
    ({"urn": "urn:ioi:other.example:service:reader"}, "it is a name of other.example, and this is lab.example"),
    ({"versoin": "1"}, "a record has no such field"),
    ({"spec": []}, "of the wrong type: list"),
    ({"version": "\u0661"}, "U\\+0661 is not allowed"),
    ({"scheme": "roman"}, "no scheme of versions"),
    ({"provenance": ["x"]}, "is no list of objects"),
    ({"spec": {"contracts": [{"id": 1}]}}, "a contract that is none"),
    ({"valid_until": -1}, "valid_until is no time"),
]


def test_a_document_that_is_no_record_is_refused_and_nothing_of_its_file_registered(home):
    for change, why in BAD_DOCUMENTS:
        with pytest.raises(BadInputError, match=why):
            put(home, reader("1"), reader("2") | change)
    assert told(home, "list", code=1) == []


def test_an_owner_says_how_versions_stand_and_what_stood_is_known(home, lab):
    put(home, reader("1"), reader("2"), reader("3"))
    told(home, "alias", READER, "production", "1")
    first = told(home, "show", READER, "--alias", "production")
    assert (first["record"]["version"], first["aliases"]) == ("1", ["production"])
    event = told(home, "alias", READER, "production", "2")
    assert told(home, "show", READER, "--alias", "production")["record"]["version"] == "2"
    before = str(event["at"] - 1e-6)
    assert told(home, "show", READER, "--alias", "production", "--as-of", before)["record"]["version"] == "1"

    told(home, "yank", READER, "3", "--reason", "squatted")
    assert offered(home) == [("2", "active")]
    told(home, "deprecate", READER, "1", "--successor", "2")
    assert told(home, "show", READER, "1")["status"] == {
        "status": "deprecated",
        "successor": READER,
        "successor_version": "2",
        "reason": "",
    }
    assert offered(home, "--status", "yanked") == [("3", "yanked")]
    told(home, "activate", READER, "3")
    assert offered(home) == [("3", "active")]
    assert ioi(home, "delete", READER, "3", piped="n\n")[0] == 1
    assert offered(home) == [("3", "active")]
    told(home, "delete", READER, "3", "--yes")
    assert offered(home) == [("2", "active")]
    with pytest.raises(FinalError, match="was deleted by its owner"):
        put(home, reader("3"))
    rows = [(row["what"], row["version"], row["told"]) for row in told(home, "history", READER)]
    assert [row for row in rows if row[0] != "registered"] == [
        ("alias", "1", "production"),
        ("alias", "2", "production"),
        ("status", "3", "yanked: squatted"),
        ("status", "1", f"deprecated for {READER} 2"),
        ("status", "3", "active"),
        ("status", "3", "deleted"),
    ]
    assert [row[1] for row in rows if row[0] == "registered"] == ["1", "2", "3"]
    assert "deprecated for" in ioi(home, "history", READER)[1]


def test_a_deprecated_one_is_refused_with_its_reason_and_found_by_who_asks_for_it(home):
    put(home, reader("1"))
    told(home, "deprecate", READER, "1")
    refused = told(home, "find", "read a letter aloud", code=1)
    assert [row["code"] for row in refused["rejected"]] == ["ras.deprecated"]
    assert len(told(home, "find", "read a letter aloud", "--deprecated", "--tag", "speech")["options"]) == 1
    why = told(home, "why-not", "--capability", "text.write", READER)
    assert [one["code"] for one in why["refusals"]] == ["ras.no_capability", "ras.deprecated"]
    assert told(home, "why-not", "--capability", "x", "urn:ioi:lab.example:tool:x", code=1)["verdict"] == "absent"


BAD_COMMANDS = [
    (("yank", READER), "no version is given"),
    (("yank", READER, "1", "--all-versions"), "a version and --all-versions are given"),
    (("yank", READER, "9"), f"has no {READER} 9 — it has 1"),
    (("deprecate", READER, "1", "--successor", "9"), f"has no {READER} 9 — it has 1"),
    (("alias", READER, "production"), "neither a version nor --remove"),
    (("alias", READER, "Bad Name", "1"), "alias is 'Bad Name'"),
    (("alias", READER, "production", "--remove"), "has no alias 'production'"),
    (("show", "urn:nothing"), "is no"),
    (("show", READER, "--as-of", "yesterday"), "'yesterday' is no time"),
    (("list", "--kind", "ghost"), "'ghost' is no kind"),
    (("why-not", READER), "nothing is asked for"),
    (("go-on", "x"), "was not restored"),
]


def test_what_cannot_be_meant_says_so_and_changes_nothing(home):
    put(home, reader("1"))
    for arguments, why in BAD_COMMANDS:
        with pytest.raises(BadInputError, match=why):
            ioi(home, *arguments)
    assert [row["what"] for row in told(home, "history", READER)] == ["registered"]


def test_what_differs_is_told_and_whether_callers_may_change(home):
    one = {"inputs": {"type": "object", "properties": {"a": TEXT}}, "outputs": TEXT}
    other = {"inputs": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, "outputs": TEXT}
    put(home, reader("1", **one), reader("2", **other, tags=["speech", "new"]))
    its = told(home, "diff", READER, "1", "2", code=1)
    assert its["changes"] == [
        {"path": "spec.contracts[0].inputs.required", "after": ["a"]},
        {"path": "spec.contracts[0].tags[1]", "after": "new"},
    ]
    assert [(row["side"], row["answer"]) for row in its["callers"]] == [("inputs", "no"), ("outputs", "yes")]
    assert "say the same" in ioi(home, "diff", READER, "1", "1")[1]


def test_values_that_only_look_alike_differ():
    key = SigningKey.generate("lab.example")
    one, other = (
        make_record(key, Kind.TOOL, "t", "1", spec) for spec in ({"a": 1, "b": 0, "c": [1]}, {"a": True, "c": [1, 2]})
    )
    assert changes(one, other) == [
        Change("spec.a", 1, True),
        Change("spec.b", 0, ABSENT),
        Change("spec.c[1]", ABSENT, 2),
    ]
    assert callers(one, other) == []


def test_an_older_version_is_found_where_it_is_asked_for(home, lab):
    put(home, reader("1"), reader("2"))
    store = SqlRecordStore(lab.registry, lab.trusted())
    for versions, chosen in (("", "2"), ("<2", "1")):
        intent = Intent(capability="text.read", versions=versions, asker="lab.example")
        found = SqlRegistry(store, "here").discover(intent, {}).chosen
        assert found is not None and found.summary.version == chosen


def test_a_registry_that_was_altered_is_told_of_and_mended(home, lab):
    put(home, reader("1"), reader("2"))
    with sqlite3.connect(lab.registry) as connection:
        connection.execute("UPDATE record SET offered = 1, status = 'yanked'")
    code, text = ioi(home, "verify")
    assert code == 1 and "not as what is signed has it" in text and "--rebuild" in text
    assert told(home, "verify", "--rebuild") == {"rebuilt": 2, "differences": []}
    assert offered(home) == [("2", "active")]


def test_a_registry_that_was_lost_is_no_good_one_and_a_damaged_one_is_told_with_what_mends_it(home, lab):
    (lab.root / "blocks.json").write_bytes(msgspec.json.encode(BLOCKS))
    store = SqlRecordStore(lab.registry, lab.trusted())
    register(lab, lab.config(), store, "revision")
    urn = "urn:ioi:lab.example:block:page-ocr"
    gone = next(record.version for record in store.all_of("lab.example") if record.urn == urn)
    told(home, "delete", urn, gone, "--yes")
    assert told(home, "verify")["differences"] == []
    stated = len(store.all_of("lab.example"))
    store.close()
    for path in lab.root.glob("registry.sqlite*"):
        path.unlink()
    lost = told(home, "verify", code=1)["differences"]
    assert len(lost) == stated + 1 and all("it is not there" in one["text"] for one in lost)
    for path in lab.root.glob("registry.sqlite*"):
        path.unlink()
    lab.registry.write_bytes(b"no database " * 1_000)
    with pytest.raises(BadInputError, match=r"the registry is damaged.*ioi ras restore"):
        ioi(home, "verify")


def test_a_restored_registry_signs_nothing_until_its_owner_says_how_it_goes_on(home, lab, tmp_path):
    put(home, reader("1"))
    told(home, "backup", tmp_path / "saved")
    put(home, reader("2"))
    with pytest.raises(BadInputError, match="there is a registry already"):
        ioi(home, "restore", tmp_path / "saved")
    for file in lab.root.glob("registry.sqlite*"):
        file.unlink()
    told(home, "restore", tmp_path / "saved")
    assert offered(home) == [("1", "active")]
    (tmp_path / "n.json").write_text(json.dumps({"id": "n-1", "vcpus": {"count": 1}}))
    for refused in (("yank", READER, "1"), ("register", "-"), ("import", tmp_path / "n.json")):
        with pytest.raises(BadInputError, match="go-on"):
            ioi(home, *refused)
    told(home, "go-on", "nobody had seen it")
    told(home, "yank", READER, "1")
