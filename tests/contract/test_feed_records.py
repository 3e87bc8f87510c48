"""What other registries tell in their feeds is found in this one, and goes when they take it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql.feed_records import FeedRecords, event_name, event_said
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_checking import verify
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.adapters.sql.registry_tables import feeds as tables
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Position, Taken, read_entries
from ioi_dagster.ras.feeds.roster import public_text
from ioi_dagster.ras.pointers import Status, set_status
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys
from tests.contract.postgres import new_database, server

LAB, ROOT, CLOUD = (SigningKey.generate(name) for name in ("lab.example", "lab.example", "cloud.example"))
NOW = 1_800_000_000.0
FEED, PARTNERS = Feed("lab.example"), Feed("lab.example", "partner:cloud.example")


class Told:
    """The registry of cloud.example, and what lab.example tells it."""

    def __init__(self, store: SqlRecordStore) -> None:
        self.store, self.kept = store, SqlFeeds(store.engine, tables, FeedRecords(store, CLOUD.domain))
        self.theirs = MemoryFeeds()
        self.owner = Owner(LAB, self.theirs, ROOT)
        self.registry = SqlRegistry(store, CLOUD.domain)

    def pull(self) -> None:
        for feed in (FEED, PARTNERS):
            there = {one.at.feed: one.at for one in self.kept.kept()}
            at = there.get(feed, Position(feed, root=public_text(ROOT)))
            page = self.theirs.page(feed, at.epoch, at.seq, 100)
            taken = read_entries(at, page.entries, page.roster)
            assert isinstance(taken, Taken), taken
            assert not taken.entries or self.kept.keep([taken])

    def names(self, asker: str = CLOUD.domain) -> list[str]:
        found = self.registry.discover(Intent(words="read scanned pages", asker=asker), {})
        assert list(verify(self.store)) == []
        return sorted(one.summary.urn.rsplit(":", 1)[1] for one in found.options)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    sqlite = request.param == "sqlite"
    where = tmp_path / "r.db" if sqlite else new_database(request.getfixturevalue("postgres"), tmp_path.name)
    keys = TrustedKeys({key.key_id: key.public_bytes for key in (LAB, CLOUD)})
    store = SqlRecordStore(where, keys, wall=lambda: NOW)
    yield Told(store)
    store.close()


def reader(name: str, audience: str = "public", key: SigningKey = LAB) -> Record:
    contract = {"id": "read", "name": "page reader", "description": "Reads the text of scanned pages."}
    return make_record(key, Kind.TOOL, name, "1.0", {"contract": contract}, audience=audience)


def signed(*records: Record) -> Sequence[Signed]:
    return [one.signed for one in records]


def test_what_is_told_is_found_by_whom_it_is_for_until_it_is_taken_back(told: Told) -> None:
    a, b, partners = reader("a"), reader("b"), reader("c", PARTNERS.audience)
    told.owner.state(signed(a, b, partners), NOW)
    told.pull()
    assert told.names() == ["a", "b", "c"]
    assert told.names("edge.example") == ["a", "b"]
    yanked = set_status(LAB, a.urn, 1, NOW, Status.YANKED)
    told.owner.point(a.urn, event_name(yanked), event_said(yanked), NOW)
    told.owner.withdraw([record_item(b.urn, b.version)], NOW)
    told.pull()
    assert told.names() == ["c"]
    told.owner.withdraw([record_item(partners.urn, partners.version)], NOW)
    told.pull()
    assert told.names() == []


def test_one_that_moves_to_another_audience_is_found_by_those_alone(told: Told) -> None:
    told.owner.state(signed(reader("a")), NOW)
    told.pull()
    told.owner.state(signed(reader("a", PARTNERS.audience)), NOW)
    told.pull()
    assert (told.names(), told.names("edge.example")) == (["a"], [])


def test_a_record_whose_own_signature_does_not_hold_is_left_out_and_the_feed_goes_on(told: Told) -> None:
    good, bad = reader("a"), reader("b").signed
    told.owner.state([Signed(bad.body, bad.key_id, good.signed.signature), good.signed], NOW)
    told.pull()
    assert told.names() == ["a"]


def test_what_a_snapshot_leaves_out_goes_and_what_is_ones_own_stays(told: Told) -> None:
    own = reader("own", key=CLOUD)
    told.store.put(own.signed)
    told.owner.state(signed(reader("a"), reader("b")), NOW)
    told.pull()
    # What it withdraws while nobody hears it is not even told of behind a snapshot.
    told.owner.withdraw([record_item(reader("a").urn, "1.0")], NOW)
    told.owner.snapshot(FEED, NOW)
    told.pull()
    assert told.names() == ["b", "own"]
    assert [one.urn for one in told.store.all_of(CLOUD.domain)] == [own.urn]


def test_a_process_that_ends_between_feed_and_records_leaves_neither(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.owner.state(signed(reader("a")), NOW)
    with monkeypatch.context() as patch:
        patch.setattr(told.store, "point_many", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            told.pull()
    assert (told.names(), told.kept.kept()) == ([], [])
    told.pull()
    assert told.names() == ["a"]
