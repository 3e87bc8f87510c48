"""Discovery over the registry's database, SQLite or PostgreSQL: by words, types and filters, with every reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql import registry_source
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.trust import TrustDemand
from ioi_dagster.ras.discovery import Found, Intent
from ioi_dagster.ras.filter_tree import read_filter
from ioi_dagster.ras.living import LivingState
from ioi_dagster.ras.lock import lock, read_lock, replay
from ioi_dagster.ras.pointers import Status, set_status
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.ras.summary import Liveness, Living
from ioi_dagster.ras.why_not import Verdict
from ioi_dagster.signing import SigningKey, TrustedKeys
from tests.contract.postgres import new_database, server

LAB, CLOUD = (SigningKey.generate(name) for name in ("lab.example", "cloud.example"))
NOW = 1_800_000_000.0
WORDS = {
    "ocr": ("page reader", "Reads the text of scanned pages."),
    "rain": ("rain radar", "Tells the rain of the next hour."),
    "sum": ("summary", "Shortens a long text to a few sentences."),
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlRecordStore]:
    sqlite = request.param == "sqlite"
    where = tmp_path / "r.db" if sqlite else new_database(request.getfixturevalue("postgres"), tmp_path.name)
    keys = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, CLOUD)})
    store = SqlRecordStore(where, keys, wall=lambda: NOW)
    yield store
    store.close()


def tool(name: str, version: str = "1.0", key: SigningKey = LAB, audience: str = "public", **spec: object) -> Record:
    words, about = WORDS[name.split("-")[0]]
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    number = {"type": "object", "properties": {"mm": {"type": "number"}}, "required": ["mm"]}
    contract = {"id": f"{name}.do", "name": words, "description": about, "inputs": {"type": "object"}}
    contract["outputs"] = number if name.startswith("rain") else text
    body = {"contract": contract, "handles": "internal", **spec}
    return make_record(key, Kind.TOOL, name, version, body, audience=audience)


def names(found: Found) -> list[str]:
    return [option.summary.urn.rsplit(":", 1)[1] for option in found.options]


def test_it_is_found_by_words_types_and_filters_and_each_other_is_told_with_its_reason(store: SqlRecordStore) -> None:
    for one in (tool("ocr", size=3), tool("rain", size=9), tool("sum", size=5, handles="public")):
        store.put(one.signed)
    registry = SqlRegistry(store, "lab.example")
    by_words = registry.discover(Intent(words="read a scanned page"), {})
    assert names(by_words) == ["ocr"]
    # What is public alone does not get internal data; the other shares no word with the request.
    assert sorted(one.refusal.code for one in by_words.rejected) == ["ras.data_class", "ras.not_relevant"]
    nothing = registry.discover(Intent(words="bake bread"), {})
    assert (nothing.options, len(nothing.closest)) == ((), 2)
    wants = {"type": "object", "properties": {"mm": {"type": "number"}}}
    assert names(registry.discover(Intent(outputs=wants), {})) == ["rain"]
    bigger = read_filter({"variable": "size", "operator": ">", "value": "4"})
    public = TrustDemand(DataClass.PUBLIC)
    assert sorted(names(registry.discover(Intent(filter=bigger, trust=public), {}))) == ["rain", "sum"]
    assert names(registry.discover(Intent(capability="sum.do", trust=public), {})) == ["sum"]


def test_what_who_asks_may_not_see_is_not_there_for_him(store: SqlRecordStore) -> None:
    store.put(tool("ocr", audience="local").signed)
    store.put(tool("ocr-partner", audience="partner:cloud.example").signed)
    registry = SqlRegistry(store, "lab.example")

    def seen(asker: str) -> tuple[list[str], int]:
        found = registry.discover(Intent(asker=asker, words="read scanned pages"), {})
        return sorted(names(found)), len(found.rejected)

    assert seen("lab.example") == (["ocr", "ocr-partner"], 0)
    assert seen("cloud.example") == (["ocr-partner"], 0)
    assert seen("") == seen("lab.exampl_") == ([], 0)
    why = registry.why_not(Intent(asker="cloud.example"), {}, tool("ocr").urn)
    assert why.verdict is Verdict.ABSENT


def test_why_not_names_what_was_withdrawn_or_is_not_given(store: SqlRecordStore) -> None:
    for version in ("1.0", "2.0", "3.0"):
        store.put(tool("ocr", version).signed)
    urn = tool("ocr").urn
    store.point(set_status(LAB, urn, 1, NOW, Status.YANKED, "3.0").signed)
    registry = SqlRegistry(store, "lab.example")
    asked = Intent(words="read scanned pages")
    assert registry.why_not(asked, {}, urn, "2.0").verdict is Verdict.CHOSEN
    assert [one.code for one in registry.why_not(asked, {}, urn, "3.0").refusals] == ["ras.yanked"]
    assert [one.code for one in registry.why_not(asked, {}, urn, "1.0").refusals] == ["ras.not_offered"]
    assert names(registry.discover(Intent(versions="<2"), {})) == ["ocr"]


def test_a_lock_of_it_replays_and_tells_what_has_become_of_its_records(store: SqlRecordStore) -> None:
    store.put(tool("ocr").signed)
    store.put(tool("ocr-other", key=CLOUD).signed)
    registry, intent = SqlRegistry(store, "lab.example"), Intent(words="read scanned pages")
    pinned = read_lock(lock(intent, registry.discover(intent, {}), "lab.example", NOW).document())
    assert replay(pinned, registry.standing, NOW).refusals == ()
    chosen, other = pinned.considered
    key = LAB if chosen.urn == tool("ocr").urn else CLOUD
    store.point(set_status(key, chosen.urn, 1, NOW, Status.YANKED).signed)
    again = replay(pinned, registry.standing, NOW)
    assert ([one.code for one in again.refusals], again.next_best) == (["lock.yanked"], other)


def test_what_ran_and_runs_no_more_is_dead_and_what_was_never_heard_of_is_unknown(store: SqlRecordStore) -> None:
    for name in ("ocr", "ocr-b"):
        store.put(tool(name).signed)
    registry, state, asked = SqlRegistry(store, "lab.example"), LivingState(), Intent(words="read scanned pages")
    assert state.report(tool("ocr").urn, "one", Living(load=0.5), 10.0, 0.0) is None
    assert state.report(tool("ocr").urn, "two", Living(load=0.1), 5.0, 0.0) is None
    assert state.of(tool("ocr").urn, 1.0) == Living(load=0.1)
    assert names(registry.discover(Intent(least=Liveness.ALIVE), state.at(6.0))) == ["ocr"]
    found = registry.discover(asked, state.at(10.1))
    assert names(found) == ["ocr-b"]
    assert [one.refusal.code for one in found.rejected] == ["ras.lease"]


def test_a_large_registry_is_narrowed_by_columns_then_by_words(
    store: SqlRecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_source, "MAX_CANDIDATES", 4)
    monkeypatch.setattr(registry_source, "FEW", 4)
    monkeypatch.setattr(registry_source, "DEPTHS", (2, 6))
    assert store.put_many([tool(f"ocr-{number}").signed for number in range(6)] + [tool("rain").signed])
    registry = SqlRegistry(store, "lab.example")
    assert names(registry.discover(Intent(words="will it rain"), {})) == ["rain"]
    assert len(names(registry.discover(Intent(words="read scanned pages"), {}))) == 2
    assert names(registry.discover(Intent(capability="ocr-3.do"), {})) == ["ocr-3"]
    nearest = [one.summary.urn for one in registry.discover(Intent(words="read scanned pages"), {}).options]
    only = Living(load=0.1)
    others = {tool(f"ocr-{number}").urn: only for number in range(6)}
    asked = Intent(words="read scanned pages", least=Liveness.ALIVE)
    alive = {urn: others[urn] for urn in others if urn not in nearest}
    assert len(names(registry.discover(asked, alive))) == 4, "where the nearest will not do, the next are looked at"
    with pytest.raises(BadInputError, match="more than 4 records"):
        registry.discover(Intent(), {})
    for odd in ('"rain" OR 1=1; --', "rain* NEAR(rain, 2)", "' rain"):
        assert names(registry.discover(Intent(words=odd), {})) == ["rain"]
