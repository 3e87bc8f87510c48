"""`ioi import` registers what files describe, each whole or not at all, and `ioi ras export` writes it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.cli import app
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.record import Kind, make_record
from tests.realms import owned

FOREIGN = Path(__file__).parents[1] / "fixtures" / "foreign"
CARD = FOREIGN / "others" / "a2a__weather_agent_card.json"


@pytest.fixture
def home(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("home")
    owned(root, "lab.example")
    return root


def ioi(home: Path, *arguments: object, piped: bytes = b"") -> tuple[int, str]:
    told = CliRunner().invoke(app, [*map(str, arguments), "--home", str(home)], input=piped)
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    return told.exit_code, told.stdout


def rows(told: str) -> list[tuple[str, str, str]]:
    return [(row["state"], row["urn"], row["version"]) for row in json.loads(told)]


def test_all_that_is_in_folders_is_registered_and_again_changes_nothing(home):
    code, told = ioi(home, "import", FOREIGN / "aigrid", FOREIGN / "others", "--json")
    first = json.loads(told)
    assert code == 0 and {row["state"] for row in first} == {"registered"}
    assert len(first) > 25 and all(row["urn"].startswith("urn:ioi:lab.example:") for row in first)
    code, told = ioi(home, "ras", "import", FOREIGN / "others", CARD, "--json")
    assert code == 0 and {row["state"] for row in json.loads(told)} == {"known"}


def test_what_was_imported_is_exported_as_it_was(home, tmp_path):
    ioi(home, "import", CARD)
    code, told = ioi(home, "import", CARD, "--json")
    ((_, urn, version),) = rows(told)
    assert (code, version) == (0, "3.0.0")
    assert json.loads(ioi(home, "ras", "export", urn)[1]) == json.loads(CARD.read_text())
    other = json.loads(ioi(home, "ras", "export", urn, "--format", "mcp-server", "--json")[1])
    assert other["document"]["tools"][0]["name"] == "current-weather" and "kind" in other["lost"]
    with pytest.raises(BadInputError, match=r"the registry of lab\.example has no urn:ioi:lab\.example:agent:nobody"):
        ioi(home, "ras", "export", "urn:ioi:lab.example:agent:nobody")


def test_a_file_is_registered_whole_or_not_at_all_and_others_all_the_same(home, tmp_path):
    good, bad = {"id": "n-good", "vcpus": {"count": 1}}, {"id": 5, "vcpus": {"count": 1}}
    (tmp_path / "a.json").write_text(json.dumps([good | {"id": "n-half"}, bad]))
    (tmp_path / "b.json").write_text(json.dumps(good))
    (tmp_path / "c.yaml").write_text("")
    code, told = ioi(home, "import", tmp_path, tmp_path / "nowhere.json", "--json")
    assert code == 1
    assert rows(told) == [
        ("refused", "", ""),
        ("registered", "urn:ioi:lab.example:node:n-good", rows(told)[1][2]),
        ("refused", "", ""),
        ("refused", "", ""),
    ]
    why = [row["why"] for row in json.loads(told)]
    assert why[0] == f"{tmp_path}/a.json:1: id: a text is needed, it is a number"
    assert why[2:] == [
        f"{tmp_path}/c.yaml: nothing is in it",
        f"{tmp_path}/nowhere.json: cannot be read: No such file or directory",
    ]
    with pytest.raises(BadInputError, match="has no urn:ioi:lab.example:node:n-half"):  # noqa: RUF043
        ioi(home, "ras", "export", "urn:ioi:lab.example:node:n-half")


def test_of_a_file_of_which_the_registry_takes_something_no_more_nothing_is_registered(home, tmp_path):
    first, second = ({"id": name, "version": "1", "vcpus": {"count": 1}} for name in ("n-new", "n-old"))
    (tmp_path / "old.json").write_text(json.dumps([second]))
    _, told = ioi(home, "import", tmp_path / "old.json", "--json")
    urn, version = rows(told)[0][1:]
    ioi(home, "ras", "delete", urn, version, "--yes")
    (tmp_path / "both.json").write_text(json.dumps([first, second]))
    code, told = ioi(home, "import", tmp_path / "both.json", "--json")
    assert (code, [state for state, _, _ in rows(told)]) == (1, ["refused"])
    with pytest.raises(BadInputError, match="n-new"):
        ioi(home, "ras", "export", "urn:ioi:lab.example:node:n-new")


def test_content_without_versions_gets_a_higher_number_when_it_changes(home):
    numbers = []
    for cpus in (1, 2, 2, 1):
        piped = json.dumps({"id": "n-counted", "vcpus": {"count": cpus}}).encode()
        ((state, urn, version),) = rows(ioi(home, "import", "-", "--json", piped=piped)[1])
        numbers.append((state, version.partition("+")[0]))
    assert numbers == [("registered", "0"), ("registered", "1"), ("known", "1"), ("registered", "2")]
    assert json.loads(ioi(home, "ras", "export", urn)[1])["vcpus"] == {"count": 1}


def test_another_content_of_a_version_and_a_name_of_the_domain_itself_are_refused(home):
    ioi(home, "import", CARD)
    changed = json.loads(CARD.read_text()) | {"description": "otherwise"}
    code, told = ioi(home, "import", "-", "--json", piped=json.dumps(changed).encode())
    assert code == 1 and "this version is there with other content" in told
    lab = owned_home(home)
    store = SqlRecordStore(lab.registry, lab.trusted())
    store.put(make_record(lab.signing_key(), Kind.CLUSTER, "lab-main", "0+1", {"price": 1}).signed)
    code, told = ioi(home, "import", "-", piped=b'{"id": "lab-main", "regionId": "x"}')
    assert code == 1 and "the domain states a record of this name itself" in told


def owned_home(home: Path):
    from ioi_dagster.local.home import home_domain_of

    return home_domain_of(home)


def test_a_dry_run_shows_drafts_and_needs_no_domain(tmp_path):
    code, told = ioi(tmp_path, "import", CARD, "--dry-run", "--json")
    assert code == 0
    assert rows(told) == [("draft", "urn:ioi:this.domain:agent:Weather-Agent~499675dcb4ef", "3.0.0")]
    with pytest.raises(BadInputError, match="is no format — one of ai-catalog"):
        ioi(tmp_path, "import", CARD, "--dry-run", "--format", "card")
