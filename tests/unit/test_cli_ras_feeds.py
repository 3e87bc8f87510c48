"""`ioi ras feeds`, `go-on` and `new-epoch`: how a domain's feeds go on after a mishap."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ioi_dagster.adapters.sql.feed_records import FeedRecords
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_backup import backup, restore
from ioi_dagster.adapters.sql.registry_tables import feeds as tables
from ioi_dagster.cli import app
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import home_domain_of
from ioi_dagster.ras.feeds.head import Head, read_head
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import Signed, SigningKey
from tests.realms import owned

LAB, FEED = "lab.example", Feed("lab.example")
PARTNERS = "partner:cloud.example"


def ioi(home: Path, *arguments: object, code: int = 0) -> Any:
    ended = CliRunner().invoke(app, ["ras", *map(str, arguments), "--home", str(home), "--json"])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == code, ended.output
    return json.loads(ended.stdout)


class Lab:
    """The registry of lab.example, whose gateway does not run: what that would tell is told here."""

    def __init__(self, root: Path) -> None:
        owned(root, LAB)
        self.home, self.its = root, home_domain_of(root)
        self.root = SigningKey.generate(LAB)
        self.root.save(self.its.root / "keys" / "feeds.root")
        self.open()

    def open(self) -> None:
        self.store = SqlRecordStore(self.its.registry, self.its.trusted())
        self.feeds = SqlFeeds(self.store.engine, tables, FeedRecords(self.store, LAB))

    @property
    def key(self) -> SigningKey:
        return self.its.signing_key()

    def tells(self, *names: str, audience: str = "public", key: SigningKey | None = None) -> None:
        key = key or self.key
        records = [make_record(key, Kind.TOOL, name, "1", {}, audience=audience).signed for name in names]
        Owner(key, self.feeds, self.root).state(records, time.time())

    def goes_back_to(self, copy: Path) -> None:
        self.store.close()
        for file in self.its.root.glob("registry.sqlite*"):
            file.unlink()
        restore(copy, self.its.registry)
        self.open()

    def stated(self, feed: Feed = FEED) -> list[str]:
        return [one.item.split(":")[-1] for one in self.feeds.stated(feed)]

    def head(self) -> Signed:
        [kept] = [one for one in self.feeds.kept(LAB) if one.at.feed == FEED]
        assert kept.head is not None
        return kept.head


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "home")


def test_a_restored_registry_does_not_go_on_while_others_are_known_to_have_more(lab: Lab, tmp_path: Path) -> None:
    lab.tells("a")
    backup(lab.store.engine, tmp_path / "copy")
    lab.tells("b")
    later = lab.head()
    lab.goes_back_to(tmp_path / "copy")
    # As its gateway hears it from another member.
    head = read_head(later, lab.its.trusted(), time.time())
    assert isinstance(head, Head)
    lab.feeds.keep_head("cloud.example", head, later)
    [row] = ioi(lab.home, "feeds")
    assert (row["epoch"], row["seq"], row["told"], row["standing"]) == (1, 2, [1, 3], "stale")
    with pytest.raises(BadInputError, match="others have entry 1/3 of"):
        ioi(lab.home, "go-on", "it will do")
    assert lab.store.restored is not None

    assert ioi(lab.home, "new-epoch", "the disk was lost", "--yes") == [{"audience": "public", "epoch": 2, "seq": 2}]
    assert (lab.store.restored, lab.stated()) == (None, ["a 1"])
    lab.tells("c")
    assert lab.stated() == ["a 1", "c 1"]
    assert [row["standing"] for row in ioi(lab.home, "feeds")] == ["fresh"]


def test_a_restored_registry_of_which_nothing_is_missing_goes_on(lab: Lab, tmp_path: Path) -> None:
    lab.tells("a")
    backup(lab.store.engine, tmp_path / "copy")
    lab.goes_back_to(tmp_path / "copy")
    assert ioi(lab.home, "go-on", "nothing was told since") == {"domain": LAB}
    assert lab.store.restored is None


def test_what_a_stolen_key_has_told_is_told_no_longer(lab: Lab) -> None:
    thief = lab.key
    lab.tells("a", "b")
    lab.tells("p", audience=PARTNERS)
    last = next(one.at.seq for one in lab.feeds.kept(LAB) if one.at.feed == FEED)
    lab.tells("forged", key=thief)
    with pytest.raises(BadInputError, match="it is the key that signs now"):
        ioi(lab.home, "new-epoch", "stolen", "--stolen", thief.key_id, "--last", last, "--audience", "public", "--yes")
    new = SigningKey.generate(LAB)
    new.save(lab.its.root / "keys" / "domain.key")
    with pytest.raises(BadInputError, match="another one in each feed"):
        ioi(lab.home, "new-epoch", "stolen", "--stolen", thief.key_id, "--last", last, "--yes")
    ioi(lab.home, "new-epoch", "stolen", "--stolen", thief.key_id, "--last", last, "--audience", "public", "--yes")
    assert lab.stated() == ["a 1", "b 1"]
    assert lab.stated(Feed(LAB, PARTNERS)) == ["p 1"]
    assert lab.store.get(f"urn:ioi:{LAB}:tool:forged", "1") is None


def test_without_its_root_or_a_reason_no_epoch_begins(lab: Lab) -> None:
    lab.tells("a")
    with pytest.raises(BadInputError, match="it is not said why"):
        ioi(lab.home, "new-epoch", " ", "--yes")
    with pytest.raises(BadInputError, match="no such feed"):
        ioi(lab.home, "new-epoch", "why", "--audience", PARTNERS, "--yes")
    key = lab.its.root / "keys" / "feeds.root"
    elsewhere = key.rename(lab.home / "root")
    with pytest.raises(BadInputError, match="is not at"):
        ioi(lab.home, "new-epoch", "why", "--yes")
    ioi(lab.home, "new-epoch", "why", "--root", elsewhere, "--yes")
    assert [(one.at.epoch, one.at.seq) for one in lab.feeds.kept(LAB)] == [(2, 2)]
