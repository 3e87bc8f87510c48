"""What other registries tell in their feeds is found in this one, and goes when they take it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ioi_dagster.adapters.sql import feed_own
from ioi_dagster.adapters.sql.feed_own import OwnRecords
from ioi_dagster.adapters.sql.feed_records import FeedRecords
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_checking import verify
from ioi_dagster.adapters.sql.registry_listing import versions_of
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.adapters.sql.registry_tables import feeds as tables
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.feeds.memory import MemoryFeeds
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.reader import Position, Taken, read_entries
from ioi_dagster.ras.feeds.roster import Revoked, public_text
from ioi_dagster.ras.feeds.store import FeedStore, News, Pointed
from ioi_dagster.ras.pointers import Status, set_alias, set_status
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys
from tests.contract.postgres import new_database, server

LAB, ROOT, CLOUD = (SigningKey.generate(name) for name in ("lab.example", "lab.example", "cloud.example"))
NOW = 1_800_000_000.0
FEED, PARTNERS = Feed("lab.example"), Feed("lab.example", "partner:cloud.example")


class Told:
    """The registry of cloud.example, and what lab.example tells it."""

    def __init__(self, store: SqlRecordStore, keys: dict[str, bytes]) -> None:
        self.store, self.keys = store, keys
        self.kept = SqlFeeds(store.engine, tables, FeedRecords(store, CLOUD.domain))
        self.theirs: FeedStore = MemoryFeeds()
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


class Lab:
    """The registry of lab.example itself, and its gateway, which looks now and then what commands have put there."""

    def __init__(self, store: SqlRecordStore, keys: dict[str, bytes]) -> None:
        self.store, self.keys = store, keys
        self.kept = SqlFeeds(store.engine, tables, FeedRecords(store, LAB.domain))
        self.own, self.mark = OwnRecords(store, LAB.domain), None

    def follow(self, key: SigningKey = LAB) -> int:
        """How many feeds have gone on."""
        owner, since = Owner(key, self.kept, ROOT), self.mark
        if since is not None and self.own.mark() == since:
            return 0
        news, self.mark = self.own.news(since)
        return len(owner.tell_all(news, NOW) if since is None else owner.tell(news, NOW))

    def says(self, urn: str, number: int, status: Status, version: str = "", **fields: str) -> None:
        self.store.point(set_status(LAB, urn, number, NOW, status, version, **fields).signed)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Path]:
    with server() as socket:
        yield socket


@pytest.fixture(params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    store, keys = store_of(request, tmp_path, "cloud")
    yield Told(store, keys)
    store.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest, told: Told, tmp_path: Path) -> Iterator[Lab]:
    store, keys = store_of(request, tmp_path, "lab", told.store.engine.dialect.name)
    lab = Lab(store, keys)
    told.theirs = lab.kept
    yield lab
    store.close()


def store_of(
    request: pytest.FixtureRequest, folder: Path, name: str, kind: str = ""
) -> tuple[SqlRecordStore, dict[str, bytes]]:
    sqlite = (kind or request.param) == "sqlite"
    its = f"{folder.name}-{name}"
    where = folder / f"{its}.db" if sqlite else new_database(request.getfixturevalue("postgres"), its)
    keys = {key.key_id: key.public_bytes for key in (LAB, CLOUD)}
    return SqlRecordStore(where, TrustedKeys(keys), wall=lambda: NOW), keys


def reader(name: str, audience: str = "public", key: SigningKey = LAB, version: str = "1.0") -> Record:
    contract = {"id": "read", "name": "page reader", "description": "Reads the text of scanned pages."}
    return make_record(key, Kind.TOOL, name, version, {"contract": contract}, audience=audience)


def signed(*records: Record) -> Sequence[Signed]:
    return [one.signed for one in records]


def test_what_is_told_is_found_by_whom_it_is_for_until_it_is_taken_back(told: Told) -> None:
    a, b, partners = reader("a"), reader("b"), reader("c", PARTNERS.audience)
    told.owner.state(signed(a, b, partners), NOW)
    told.pull()
    assert told.names() == ["a", "b", "c"]
    assert told.names("edge.example") == ["a", "b"]
    yanked = set_status(LAB, a.urn, 1, NOW, Status.YANKED)
    told.owner.tell(News(pointed=(Pointed(yanked, frozenset({"public"})),)), NOW)
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


def stands(store: SqlRecordStore, urn: str) -> dict[str, str]:
    return {one.version: str(one.stand.status) for one in versions_of(store, urn)}


def test_what_an_owner_registers_and_says_while_his_gateway_runs_is_told(told: Told, lab: Lab) -> None:
    old, new, secret = reader("a"), reader("a", version="2.0"), reader("c", PARTNERS.audience)
    lab.store.put(old.signed)
    assert (lab.follow(), lab.follow()) == (1, 0)
    lab.store.put_many(signed(new, secret))
    lab.says(old.urn, 1, Status.DEPRECATED, "1.0", successor=old.urn, successor_version="2.0")
    lab.store.point(set_alias(LAB, old.urn, 2, NOW, "production", "2.0").signed)
    lab.says(secret.urn, 1, Status.DEPRECATED, "1.0", reason="for partners alone")
    assert lab.follow() == 2
    told.pull()
    assert stands(told.store, old.urn) == {"1.0": "deprecated", "2.0": "active"}
    assert told.store.pointers(old.urn) == lab.store.pointers(old.urn)
    assert told.store.pointers(secret.urn) == lab.store.pointers(secret.urn)
    assert not any("#" in one.item and secret.urn in one.item for one in lab.kept.stated(FEED))

    # Nothing is left of what is deleted, where it was told too, but that it was.
    lab.says(old.urn, 3, Status.DELETED, "2.0")
    lab.says(secret.urn, 2, Status.YANKED)
    assert lab.follow() == 2
    told.pull()
    for store in (lab.store, told.store):
        assert stands(store, old.urn) == {"1.0": "deprecated", "2.0": "deleted"}
        assert stands(store, secret.urn) == {"1.0": "yanked"}
    assert record_item(old.urn, "2.0") not in {one.item for one in lab.kept.stated(FEED)}
    lab.store.keep_only([], {(old.urn, "1.0")})
    assert (lab.follow(), lab.follow()) == (1, 0)
    told.pull()
    assert stands(told.store, old.urn) == {"2.0": "deleted"}
    assert (list(verify(told.store)), list(verify(lab.store))) == ([], [])


def test_a_start_tells_what_was_registered_meanwhile_and_nothing_twice(told: Told, lab: Lab) -> None:
    a = reader("a")
    lab.store.put(a.signed)
    lab.says(a.urn, 1, Status.DEPRECATED, "1.0")
    news, _ = lab.own.news(None)
    assert (news.records, [one.event.sequence for one in news.pointed], news.gone) == ((a.signed,), [1], ())
    lab.follow()
    lab.mark = None
    assert lab.follow() == 0
    lab.store.put(reader("b").signed)
    lab.mark = None
    assert lab.follow() == 1
    told.pull()
    assert stands(told.store, a.urn) == {"1.0": "deprecated"}


def test_news_beyond_what_is_looked_at_at_once_comes_piece_by_piece(
    told: Told, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_own, "AT_ONCE", 2)
    lab.follow()
    lab.store.put_many(signed(*(reader(name) for name in "abcde")))
    for number, name in enumerate("abc"):
        lab.says(reader(name).urn, number + 1, Status.YANKED)
    turns = 0
    while lab.follow():
        turns += 1
    assert turns == 3
    told.pull()
    assert told.names() == ["d", "e"]


def test_what_was_left_out_for_want_of_a_key_comes_when_it_is_known(told: Told) -> None:
    newer, keys = SigningKey.generate("lab.example"), told.keys
    a = reader("a")
    told.owner.state(signed(a, reader("b", key=newer)), NOW)
    told.pull()
    # The same record, signed anew, is known by the older signature until then.
    told.owner.state([newer.sign(a.signed.body)], NOW)
    yanked = set_status(newer, reader("c").urn, 1, NOW, Status.YANKED)
    told.owner.tell(News(tuple(signed(reader("c"))), (Pointed(yanked, frozenset({"public"})),)), NOW)
    told.pull()
    assert told.names() == ["a", "c"]
    keys[newer.key_id] = newer.public_bytes
    told.kept.again("lab.example")
    assert told.names() == ["a", "b"]
    del keys[LAB.key_id]
    assert [found.urn for found in told.store.all_of("lab.example")] == [a.urn, reader("b").urn]


def test_what_a_stolen_key_has_said_is_undone_everywhere(told: Told, lab: Lab) -> None:
    a = reader("a")
    lab.store.put_many(signed(a, reader("b")))
    lab.follow()
    lab.says(reader("b").urn, 1, Status.DEPRECATED)
    lab.follow()
    told.pull()
    [last] = [one.at.seq for one in lab.kept.kept()]
    new, keys = SigningKey.generate("lab.example"), lab.keys
    lab.says(a.urn, 1, Status.DELETED, reason="by a thief")
    lab.store.put(reader("forged").signed)
    lab.follow()
    told.pull()
    assert stands(told.store, a.urn) == {"1.0": "deleted"}
    for trusted in (keys, told.keys):
        trusted[new.key_id] = new.public_bytes
    owner = Owner(new, lab.kept, ROOT)
    owner.new_epoch(FEED, NOW, [Revoked(LAB.key_id, 1, last)])
    told.pull()
    for store in (lab.store, told.store):
        assert stands(store, a.urn) == {}
        assert stands(store, reader("b").urn) == {"1.0": "deprecated"}
        assert (store.pointers(a.urn).sequence, stands(store, reader("forged").urn)) == (0, {})
        assert list(verify(store)) == []
    # Its content went with the deletion, so its owner states it again, by the same version; and numbers are given again.
    lab.store.put(a.signed)
    lab.says(a.urn, 1, Status.DEPRECATED)
    lab.follow(new)
    told.pull()
    assert stands(told.store, a.urn) == {"1.0": "deprecated"}


def test_of_a_domain_that_takes_part_no_longer_nothing_is_found_until_it_comes_back(told: Told) -> None:
    own = reader("own", key=CLOUD)
    told.store.put(own.signed)
    told.owner.state(signed(reader("a"), reader("p", PARTNERS.audience)), NOW)
    yanked = set_status(LAB, reader("p").urn, 1, NOW, Status.YANKED)
    told.owner.tell(News(pointed=(Pointed(yanked, frozenset({PARTNERS.audience})),)), NOW)
    told.pull()
    told.kept.forget("lab.example")
    assert (told.names(), told.kept.kept(), told.store.history(yanked.urn)) == (["own"], [], [])
    told.pull()
    assert told.names() == ["a", "own"]
