"""A domain's own stores: with what they are opened, and what is found in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ioi_dagster.adapters.fsspec.folder import Door, Doors
from ioi_dagster.adapters.fsspec.mover import Mover, version_url
from ioi_dagster.adapters.fsspec.stores import REREAD_S, Original, Surveyor, doors_of, note_original, originals
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_stores import DataSpec, DoorSpec, StoreSpec
from ioi_dagster.ras.data.asset import Asset, AssetSpec, Part, asset_of, asset_record
from ioi_dagster.ras.data.copies import standings
from ioi_dagster.ras.data.routing import route
from ioi_dagster.signing import SigningKey, TrustedKeys, digest_bytes
from tests.unit.ras.data.made import copy, fill, network

LIBRARY = SigningKey.generate("library.example")


@pytest.fixture
def home(tmp_path: Path) -> DomainHome:
    (tmp_path / "lab.example" / "keys").mkdir(parents=True)
    return DomainHome(tmp_path / "lab.example")


def test_credentials_are_read_by_name_from_a_file_that_nobody_else_may_read(home: DomainHome) -> None:
    data = DataSpec((StoreSpec("shelf", "file:///x", "attic"),), (DoorSpec("far.example", "file:///y"),))
    with pytest.raises(BadInputError, match=r"stores\.json: it has no credentials 'attic'"):
        doors_of(home, data)
    home.store_credentials.write_text('{"attic": {"auto_mkdir": true}}')
    home.store_credentials.chmod(0o644)
    with pytest.raises(BadInputError, match="others may read the credentials"):
        doors_of(home, data)
    home.store_credentials.chmod(0o600)
    doors = doors_of(home, data)
    assert doors == Doors(
        {"lab.example": [Door("file:///x", {"auto_mkdir": True})], "far.example": [Door("file:///y")]}
    )
    assert "auto_mkdir" not in repr(doors)


def test_what_lies_in_a_store_is_found_and_read_again_only_where_it_may_have_changed(
    home: DomainHome, tmp_path: Path
) -> None:
    records = SqlRecordStore(tmp_path / "registry.db", TrustedKeys({LIBRARY.key_id: LIBRARY.public_bytes}))

    def version(number: str, files: dict[str, bytes]) -> Asset:
        parts = tuple(Part(name, len(data), digest_bytes(data)) for name, data in files.items())
        record = asset_record(LIBRARY, "scans", number, AssetSpec(parts))
        records.put(record.signed)
        return asset_of(record)

    store = StoreSpec("shelf", (tmp_path / "shelf").as_uri())
    surveyor = Surveyor(home, DataSpec((store,)), records)
    assert surveyor.look(0.0).copies == ()
    old, new = version("1", {"a": b"1"}), version("2", {"a": b"1", "b": b"2"})

    # One that was moved and is older, one of which a part is there, and an original where its owner has it.
    source = fill(tmp_path / "source", {"a": b"1"})
    doors = Doors({"library.example": [Door(source)], "lab.example": [Door(store.url)]})
    known = standings(old, [copy(old, "library.example", source)])
    way = route(old, known, "lab.example", network("library.example", "lab.example"))
    assert Mover(doors).move(way, version_url(store.url, old), 1.0).whole
    partial = tmp_path / version_url(store.url, new).removeprefix(f"{tmp_path.as_uri()}/")
    fill(partial, {"a": b"1"})
    made = fill(tmp_path / "shelf" / "mine", {"a": b"1", "b": b"2"})
    note_original(home, Original(old.digest, made))
    note_original(home, Original(new.digest, made))
    assert originals(home) == [Original(new.digest, made)]
    found = {one.url: one for one in surveyor.look(10.0).copies}
    assert {url: (one.of, sorted(one.held), one.original) for url, one in found.items()} == {
        version_url(store.url, old): (old.digest, ["a"], False),
        partial.as_uri().replace("%3D", "="): (new.digest, ["a"], False),
        made: (new.digest, ["a", "b"], True),
    }

    def read_at(now: float, anew: bool = False) -> float:
        return next(one.as_of for one in surveyor.look(now, anew).copies if one.original)

    assert (read_at(20.0), read_at(30.0, anew=True), read_at(40.0)) == (10.0, 30.0, 30.0)
    (tmp_path / "shelf" / "mine" / "b").write_bytes(b"3")
    assert (read_at(50.0), read_at(50.0 + REREAD_S)) == (50.0, 50.0 + REREAD_S)
