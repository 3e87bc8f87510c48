"""One registry, whichever database it lies in: SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from ioi_dagster.adapters.sql import registry
from ioi_dagster.adapters.sql.migrating import migrate, open_migrated, revision_of
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_backup import backup, restore
from ioi_dagster.adapters.sql.registry_checking import rebuild, verify
from ioi_dagster.adapters.sql.registry_listing import Wish, listed
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.adapters.sql.registry_tables import HEAD, audit, meta, record
from ioi_dagster.errors import BadInputError, FinalError, SignatureError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.pointers import Status, accept_transfer, set_alias, set_status, transfer
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.ras.store import Wanted
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, canonical
from tests.contract.postgres import new_database, server

LAB, CLOUD, LATER = (SigningKey.generate(name) for name in ("lab.example", "cloud.example", "lab.example"))
LONGER = SigningKey.generate("lab.example.org")
TRUSTED = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, CLOUD, LATER, LONGER)})
NOW = 1_800_000_000.0
NAME = "urn:ioi:lab.example:block:reader"


class Words:
    """An index of words as simple as can be: a row a number, with the ids of its entries."""

    table = sa.Table("words", sa.MetaData(), sa.Column("number", sa.BigInteger), sa.Column("ids", sa.Text))

    def put_all(self, connection: Any, items: Sequence[tuple[int, tuple[Any, ...]]]) -> None:
        for number, entries in items:
            if any(entry.name == "breaks" for entry in entries):
                raise OSError("the disk is full")
            names = " ".join(entry.name for entry in entries)
            connection.execute(sa.insert(self.table).values(number=number, ids=names))

    def drop(self, connection: Any, number: int) -> None:
        connection.execute(sa.delete(self.table).where(self.table.c.number == number))

    def clear(self, connection: Any) -> None:
        connection.execute(sa.delete(self.table))

    def differences(self, connection: Any, records: Iterable[tuple[int, tuple[Any, ...]]]) -> Iterator[str]:
        wanted = {number: " ".join(entry.name for entry in entries) for number, entries in records}
        there = {row.number: row.ids for row in connection.execute(sa.select(self.table))}
        yield from (
            f"number {number}" for number in sorted(wanted.keys() | there) if wanted.get(number) != there.get(number)
        )

    def ids(self, store: SqlRecordStore) -> list[str]:
        with store.engine.connect() as connection:
            return sorted(connection.execute(sa.select(self.table.c.ids)).scalars())


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path | str]:
    """Gives places for databases, each of its own."""
    count = iter(range(9))

    def place() -> Path | str:
        if request.param == "sqlite":
            return tmp_path / f"registry-{next(count)}.db"
        return new_database(request.getfixturevalue("postgres"), f"{tmp_path.name}-{next(count)}")

    return place


@pytest.fixture
def store(new_place: Callable[[], Path | str]) -> Iterator[SqlRecordStore]:
    where = new_place()
    store = SqlRecordStore(where, TRUSTED, text=Words(), wall=lambda: NOW)
    Words.table.metadata.create_all(store.engine)
    yield store
    assert list(verify(store)) == []
    store.close()


def reader(version: str = "1.0", capability: str = "page.read", key: SigningKey = LAB, **fields: Any) -> Record:
    contract = {"id": capability, "name": capability, "tags": ["ocr", "page"], "skills": ["7/701"]}
    spec = {"capability": capability, "contract": contract, "handles": "internal", "note": fields.pop("note", "")}
    return make_record(key, Kind.BLOCK, fields.pop("name", "reader"), version, spec, **fields)


def status(sequence: int, status: Status, version: str = "", key: SigningKey = LAB, **fields: Any) -> Signed:
    return set_status(key, NAME, sequence, NOW, status, version, **fields).signed


def test_the_good_ones_of_a_batch_are_kept_and_each_other_one_is_told_why(store):
    good, other = reader(), reader("2.0", "breaks", note="x")
    forged = Signed(good.signed.body, good.signed.key_id, other.signed.signature)
    bad_contract = make_record(LAB, Kind.BLOCK, "odd", "1", {"contracts": [{"id": 5}]})
    changed = reader(note="changed")
    outcomes = store.put_many([forged, good.signed, bad_contract.signed, changed.signed, good.signed])
    assert [type(outcome) for outcome in outcomes] == [SignatureError, Record, BadInputError, FinalError, Record]
    assert store.records() == [good]
    assert Words().ids(store) == ["page.read"]


def test_nothing_of_a_batch_is_there_when_the_index_of_words_fails(store):
    with pytest.raises(OSError, match="full"):
        store.put_many([reader().signed, reader("2.0", "breaks").signed])
    assert (store.records(), store.find(Wanted("page.read")), Words().ids(store)) == ([], [], [])


def test_records_are_found_by_what_their_contracts_say(store):
    one, two = reader(), reader("1", "page.turn", name="turner")
    store.put_many([one.signed, two.signed, make_record(LAB, Kind.NODE, "n", "1", {"slots": 1}).signed])
    for wanted, expected in (
        (Wanted("page.read"), [one]),
        (Wanted(tags=("ocr", "page"), skills=("7/701",)), [one, two]),
        (Wanted(kind=Kind.BLOCK, data=DataClass.INTERNAL), [one, two]),
        (Wanted(data=DataClass.RESTRICTED), []),
        (Wanted(tags=("ocr", "nothing")), []),
        (Wanted("x'; DROP TABLE record; --"), []),
        (Wanted("\0"), []),
    ):
        assert store.find(wanted) == expected
    assert store.find(Wanted(kind=Kind.BLOCK), limit=1) == [one]


def test_the_records_of_one_owner_are_told_from_those_of_others(store):
    own, theirs, longer = reader(), reader(key=CLOUD), reader(key=LONGER)
    store.put_many([own.signed, theirs.signed, longer.signed])
    assert store.records(Kind.BLOCK, "lab.example") == store.records(domain="lab.example") == [own]
    assert (store.records(Kind.NODE, "lab.example"), store.records(domain="lab")) == ([], [])
    assert {one.urn for one in store.records()} == {own.urn, theirs.urn, longer.urn}


def test_what_is_given_without_a_version_follows_the_owner(store):
    old, new, squatted = (reader(version) for version in ("1.9", "1.10", "999"))
    store.put_many([version.signed for version in (old, new, squatted)])
    assert store.get(NAME) == squatted
    store.point(status(1, Status.YANKED, "999", reason="a mistake"))
    assert (store.get(NAME), store.records(), store.find(Wanted("page.read"))) == (new, [new], [new])
    assert store.get(NAME, "999") == squatted
    assert store.find(Wanted("page.read", any_version=True)) == [old, new]
    store.point(set_alias(LAB, NAME, 2, NOW, "latest", "1.9").signed)
    store.point(set_alias(LAB, NAME, 3, NOW, "production", "1.10").signed)
    assert (store.get(NAME), store.get(NAME, alias="production"), store.get(NAME, alias="no")) == (old, new, None)
    store.point(status(4, Status.ACTIVE, "999"))
    assert store.find(Wanted("page.read", any_version=True)) == [old, new, squatted]


def test_a_deleted_version_is_gone_and_does_not_come_back(store):
    store.put(reader().signed)
    store.point(status(1, Status.DELETED, "1.0"))
    store.point(status(2, Status.ACTIVE, "1.0"))
    assert (store.get(NAME), store.get(NAME, "1.0"), store.by_digest(reader().digest)) == (None, None, None)
    with pytest.raises(FinalError, match="deleted by its owner"):
        store.put(reader().signed)
    assert Words().ids(store) == []
    with store.engine.connect() as connection:
        assert [(row.what, row.urn, row.text) for row in connection.execute(sa.select(audit))] == [
            ("deleted", NAME, "1.0")
        ]


def test_pointers_that_come_before_their_record_count(store):
    store.point(status(1, Status.YANKED, "2.0"))
    store.put_many([reader("1.0").signed, reader("2.0").signed])
    assert store.get(NAME) == reader("1.0")


def test_a_name_goes_over_to_another_owner(store):
    store.put(reader().signed)
    accepted = accept_transfer(CLOUD, NAME, 2, NOW)
    outcomes = store.point_many(
        [
            status(1, Status.DEPRECATED, key=CLOUD),
            transfer(LAB, accepted).signed,
            status(3, Status.DEPRECATED),
            status(4, Status.DEPRECATED, key=CLOUD),
        ]
    )
    assert [isinstance(outcome, FinalError) for outcome in outcomes] == [True, False, True, False]
    body = {**reader("2.0").signed.body}
    assert store.put(CLOUD.sign(body)).version == "2.0"
    with pytest.raises(FinalError, match=r"prefix of cloud\.example"):
        store.put(reader("3.0").signed)
    assert store.put(reader().signed) == reader()
    assert (store.pointers(NAME).owners, store.get(NAME)) == (("lab.example", "cloud.example"), store.get(NAME, "2.0"))


def test_two_events_of_one_number_and_one_from_the_future_are_refused(store):
    first = set_alias(LAB, NAME, 1, NOW, "production", "1.0")
    store.point(first.signed)
    store.point(LATER.sign(first.signed.body))
    with pytest.raises(FinalError, match="another event of number 1"):
        store.point(set_alias(LAB, NAME, 1, NOW, "production", "2.0").signed)
    with pytest.raises(BadInputError, match="61 s from now"):
        store.point(set_alias(LAB, NAME, 2, NOW + 61, "production", "2.0").signed)
    assert [event.signed.key_id for event in store.history(NAME)] == [LATER.key_id]


def test_what_has_ended_is_given_only_to_who_names_it(store):
    ended, before = reader("2.0", valid_until=NOW), reader("1.0")
    store.put_many([ended.signed, before.signed])
    assert (store.get(NAME), store.records(), store.get(NAME, "2.0")) == (before, [before], ended)


def test_when_a_version_ends_every_answer_is_the_one_before(store):
    soon, before = reader("2.0", valid_until=NOW + 10), reader("1.0")
    store.put_many([soon.signed, before.signed])

    def answers() -> set[str]:
        found = SqlRegistry(store, "cloud.example").discover(Intent(capability="page.read"), {})
        given = [store.get(NAME), *store.records(), *store.find(Wanted("page.read"))]
        given += [one.record for one in listed(store, Wish(), 9)]
        return {one.version for one in given if one is not None} | {one.summary.version for one in found.options}

    assert answers() == {"2.0"}
    store.wall = lambda: NOW + 10
    assert answers() == {"1.0"}
    # What comes now is weighed as of now, and what follows from what is signed is made as of now.
    store.put(reader("3.0", valid_until=NOW + 5).signed)
    assert answers() == {"1.0"}
    rebuild(store)
    assert answers() == {"1.0"}


def test_what_has_ended_is_given_to_nobody_while_nothing_can_be_written(store, monkeypatch):
    soon, before, other = reader("2.0", valid_until=NOW + 10), reader("1.0"), reader(name="other")
    store.put_many([soon.signed, before.signed, other.signed])
    store.wall = lambda: NOW + 10

    def full(*_: Any) -> Any:
        raise OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr(registry, "writing", full)
        assert (store.records(), store.find(Wanted("page.read"))) == ([other], [other])
    assert {one.urn: one.version for one in store.records()} == {NAME: "1.0", other.urn: "1.0"}


def test_threads_that_put_at_once_all_get_their_record(store):
    records = [reader(str(number), name=f"r{number % 3}") for number in range(12)]
    got: list[Record] = []
    threads = [threading.Thread(target=lambda its: got.append(store.put(its.signed)), args=(its,)) for its in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.version for one in got) == sorted(one.version for one in records)
    assert [one.version for one in store.records()] == ["9", "10", "11"]


def test_what_was_read_as_one_record_is_not_given_as_another(store):
    its, other = reader(name="its"), reader(name="other")
    store.put_many([its.signed, other.signed])
    assert store.get(its.urn) == its

    def lies(there: Record) -> None:
        fields = {"body": canonical(there.signed.body).decode(), "signature": there.signed.signature}
        with store.engine.begin() as connection:
            connection.execute(sa.update(record).where(record.c.urn == other.urn).values(fields))

    lies(its)
    assert store.get(other.urn) is None
    lies(other)
    assert store.get(other.urn) == other


def test_what_was_altered_is_told_and_what_follows_is_made_anew(store):
    store.put_many([reader().signed, reader("1", "page.turn", name="turner").signed])
    store.point(status(1, Status.DEPRECATED))
    with store.engine.begin() as connection:
        for change in (
            "UPDATE record SET offered = 'f', status = 'yanked' WHERE version = '1.0'",
            "UPDATE capability SET capability = 'page.fly' WHERE capability = 'page.turn'",
            "INSERT INTO label VALUES ('tag', 'ghost', 77, 0)",
            "DELETE FROM words",
        ):
            connection.execute(sa.text(change.replace("'f'", "0" if "sqlite" in store.engine.dialect.name else "'f'")))
    turner = "urn:ioi:lab.example:block:turner"
    assert sorted(map(str, verify(store))) == [
        "capability number 77: there is no such record",
        f"capability {turner} 1: its rows are not what its contracts say",
        f"record {NAME} 1.0: status, offered not as what is signed has it",
        "text: number 1",
        "text: number 2",
    ]
    assert rebuild(store) == 2
    assert list(verify(store)) == []
    with store.engine.begin() as connection:
        before = connection.execute(sa.text("SELECT body FROM record WHERE number = 2")).scalar_one()
        connection.execute(sa.text("UPDATE record SET body = '[1' WHERE number = 2"))
        connection.execute(sa.text("UPDATE pointer_event SET body = replace(body, 'deprecated', 'active')"))
    assert {(one.what, one.name) for one in verify(store)} >= {("record", f"{turner} 1"), ("pointer", f"{NAME} 1")}
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE record SET body = :body WHERE number = 2"), {"body": before})
        connection.execute(sa.text("UPDATE pointer_event SET body = replace(body, 'active', 'deprecated')"))


def test_what_is_restored_is_the_same_and_signs_nothing_until_somebody_says_how(new_place, tmp_path):
    store = SqlRecordStore(new_place(), TRUSTED, wall=lambda: NOW)
    store.put_many([reader().signed, reader("2.0").signed])
    store.point(status(1, Status.YANKED, "2.0"))
    backup(store.engine, tmp_path / "backup")
    store.put(reader("3.0").signed)
    where = new_place()
    restore(tmp_path / "backup", where, now=NOW)
    again = SqlRecordStore(where, TRUSTED, wall=lambda: NOW)
    assert (again.records(), again.history(NAME)) == ([reader()], store.history(NAME))
    assert list(verify(again)) == []
    with pytest.raises(FinalError, match="restored at 2027"):
        again.check_may_sign()
    again.go_on("its peers have nothing newer")
    again.check_may_sign()
    store.check_may_sign()
    again.put(reader("4.0").signed)
    again.point(status(2, Status.ACTIVE, "2.0"))
    again.close()
    with pytest.raises(BadInputError, match="a registry already"):
        restore(tmp_path / "backup", where)
    with pytest.raises(BadInputError, match="a file already"):
        backup(store.engine, tmp_path / "backup")
    (tmp_path / "odd").write_bytes(b"no database" * 100)
    with pytest.raises(BadInputError, match="no backup"):
        restore(tmp_path / "odd", new_place())
    store.close()


def test_migrations_make_the_tables_and_take_them_away(new_place):
    where = new_place()
    engine = open_migrated(where)
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), meta) == []
    migrate(engine, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    migrate(engine)
    assert revision_of(engine) == HEAD
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadInputError, match="version 9999, and this program knows versions up to"):
        open_migrated(where)
    engine.dispose()


def test_several_that_open_a_new_database_at_once_all_work(new_place):
    where, stores = new_place(), []
    threads = [threading.Thread(target=lambda: stores.append(SqlRecordStore(where, TRUSTED))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, store in enumerate(stores):
        store.put(reader(str(number)).signed)
    assert [store.get(NAME).version for store in stores] == ["2", "2", "2"]
    for store in stores:
        store.close()
