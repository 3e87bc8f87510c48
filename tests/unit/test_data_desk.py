"""What a gateway says of data: to whom, for how long, and what it keeps to itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ioi_dagster.adapters.http.data import LASTS, DataDesk
from ioi_dagster.adapters.http.protocol import CopiesOf, Held
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.clock import ManualClock
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset, AssetSpec, Part, asset_of, asset_record
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.record import LOCAL, PARTNER, PUBLIC
from ioi_dagster.signing import SigningKey, TrustedKeys, digest_bytes
from tests.unit.ras.data.made import copy

LIBRARY = SigningKey.generate("library.example")
NO = Refusal("test.no", "not to the cloud", "test")


@dataclass
class Shelf:
    copies_now: list[Copy] = field(default_factory=list)
    everywhere: bool = True

    def copies(self) -> tuple[tuple[Copy, ...], bool]:
        return tuple(self.copies_now), self.everywhere


class Desk:
    """Of the library, before a registry with versions of one asset."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.shelf = ManualClock(), Shelf()
        self.records = SqlRecordStore(folder / "registry.db", TrustedKeys({LIBRARY.key_id: LIBRARY.public_bytes}))
        self.desk = DataDesk("library.example", self.records, self.clock, self.shelf, self._may_have, 10.0)

    def _may_have(self, asset: Asset, domain: str) -> tuple[Refusal, ...]:
        return (NO,) if domain == "cloud.example" else ()

    def version(self, version: str, audience: str = PUBLIC) -> Copy:
        """Registered, and what its original is."""
        part = Part("a", 1, digest_bytes(version.encode()))
        record = asset_record(LIBRARY, "scans", version, AssetSpec((part,)), audience=audience)
        self.records.put(record.signed)
        return copy(asset_of(record), "library.example", f"file:///shelf/{version}", original=True)

    def looks(self) -> None:
        asyncio.run(self.desk.survey())

    def tells(self, asker: str) -> CopiesOf:
        return asyncio.run(self.desk.copies(asker, "urn:ioi:library.example:asset:scans"))

    def urls(self, asker: str = "library.example") -> list[str]:
        return [one["url"] for one in self.tells(asker).copies]


@pytest.fixture
def its(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_copy_is_told_of_to_who_may_see_its_record_and_to_nobody_else(its: Desk) -> None:
    its.shelf.copies_now = [its.version("1", LOCAL)]
    its.looks()
    assert (len(its.urls()), its.tells("lab.example")) == (1, CopiesOf())
    its.shelf.copies_now.append(its.version("2", f"{PARTNER}lab.example"))
    its.looks()
    # Of the version before it, which is not for the lab, it hears nothing.
    assert (its.urls("lab.example"), its.tells("far.example")) == (["file:///shelf/2"], CopiesOf())
    assert its.tells("lab.example").earlier == ()
    assert its.urls() == ["file:///shelf/1", "file:///shelf/2"]
    assert len(its.tells("library.example").earlier) == 1


def test_who_may_not_have_it_hears_that_it_is_there_and_why_not_but_not_where(its: Desk) -> None:
    its.shelf.copies_now = [its.version("1")]
    its.looks()
    assert (its.urls("cloud.example"), its.tells("cloud.example").against) == ([""], (NO,))
    assert (its.urls("lab.example"), its.tells("lab.example").against) == (["file:///shelf/1"], ())


def test_what_is_gone_with_the_next_look_is_not_told_of_and_what_cannot_be_looked_into_only_until_its_lease_ends(
    its: Desk,
) -> None:
    its.shelf.copies_now = [its.version("1"), its.version("2")]
    its.looks()
    its.shelf.copies_now = its.shelf.copies_now[1:]
    its.looks()
    assert its.urls() == ["file:///shelf/2"]
    its.shelf.copies_now, its.shelf.everywhere = [], False
    its.looks()
    assert its.urls() == ["file:///shelf/2"]
    its.clock.advance(10.0 * LASTS)
    assert its.urls() == []


def test_what_a_command_has_made_or_dropped_counts_at_once_and_only_of_the_domain_itself(its: Desk) -> None:
    made = its.version("1")
    assert its.desk.held(Held((made,))) is None
    assert its.urls() == ["file:///shelf/1"]
    other = its.desk.held(Held((replace(made, domain="lab.example"),)))
    assert other is not None
    assert other.code == "data.not_its_own"
    assert its.desk.held(Held(withdrawn=(made,))) is None
    assert its.urls() == []
