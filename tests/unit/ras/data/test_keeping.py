"""Assets are spread, folded and kept in sync in real folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.fsspec.folder import Folder
from ioi_dagster.adapters.fsspec.folding import fold
from ioi_dagster.adapters.fsspec.keeping import Keeper
from ioi_dagster.adapters.fsspec.mover import Mover, survey
from ioi_dagster.errors import BadInputError, RetryableError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.data.asset import asset_of, asset_record
from ioi_dagster.ras.data.copies import Copy, standings
from ioi_dagster.ras.data.fold import BYTES, LINES, plan_fold
from ioi_dagster.ras.data.routing import route
from ioi_dagster.ras.data.sync import Wanted, plan_sync
from ioi_dagster.signing import digest_bytes
from tests.unit.ras.data.made import LIBRARY, SCANS, asset, contents, copy, doors, fill, network

HOME, LAB, CLOUD, EDGE = "library.example", "lab.example", "cloud.example", "edge.example"
NETWORK = network(HOME, LAB, CLOUD, EDGE)
ASSET = asset()


def keeper(tmp_path: Path, home: str):
    roots = {f"{name}.example": (tmp_path / name).as_uri() for name in ("lab", "cloud", "edge")}
    opened = doors(library=home, **{name.partition(".")[0]: url for name, url in roots.items()})
    return Keeper(Mover(opened), opened, roots)


def test_one_copy_becomes_many_each_read_from_few(tmp_path):
    home = fill(tmp_path / "home")
    known = standings(ASSET, [copy(ASSET, HOME, home)])
    kept = keeper(tmp_path, home).spread(ASSET, known, [LAB, CLOUD, EDGE], NETWORK, 7.0, fan_out=1)
    assert kept.refused == ()
    assert sorted(one.domain for one in kept.copies) == [CLOUD, EDGE, LAB]
    for name in ("lab", "cloud", "edge"):
        assert set(SCANS.values()) < set(contents(tmp_path / name).values())


def test_a_holder_that_gives_something_else_is_left_and_the_rest_is_planned_anew(tmp_path):
    home = fill(tmp_path / "home")
    bad = fill(tmp_path / "cloud/old", dict.fromkeys(SCANS, b"?"))
    known = standings(ASSET, [copy(ASSET, CLOUD, bad), copy(ASSET, HOME, home)])
    kept = keeper(tmp_path, home).spread(ASSET, known, [LAB, EDGE], NETWORK, 7.0)
    assert {one.domain for one in kept.copies} >= {LAB, EDGE}
    assert {(one.domain, one.refusal.code) for one in kept.refused} == {(CLOUD, "data.cut_off")}


def test_copies_come_in_sync_with_a_new_version_and_the_old_one_goes(tmp_path):
    home = fill(tmp_path / "home")
    its = keeper(tmp_path, home)
    copies: list[Copy] = list(
        its.sync(
            plan_sync(Wanted(ASSET, frozenset({LAB})), standings(ASSET, [copy(ASSET, HOME, home)]), NETWORK), 7.0
        ).copies
    )
    new = asset({**SCANS, "c.bin": b"new"}, "1.1.0")
    fill(tmp_path / "home", {"c.bin": b"new"})
    copies.append(copy(new, HOME, home, original=True))
    goal = Wanted(new, frozenset({HOME, LAB}))
    for _ in range(3):
        kept = its.sync(plan_sync(goal, standings(new, copies, [ASSET]), NETWORK), 8.0)
        copies = [one for one in copies if one not in kept.dropped] + list(kept.copies)
    assert [(one.domain, one.version) for one in copies] == [(HOME, "1.1.0"), (LAB, "1.1.0")]
    assert sorted(contents(tmp_path / "lab").values(), key=len)[0] == b"new"
    assert len(contents(tmp_path / "lab")) == len(SCANS) + 1
    gone = its.sync(plan_sync(Wanted(new, frozenset(), True), standings(new, copies), NETWORK), 9.0)
    assert [one.refusal.code for one in gone.refused] == ["data.original"]
    assert contents(tmp_path / "lab") == {}


def test_a_copy_that_was_corrupted_is_mended_where_it_lies(tmp_path):
    home = fill(tmp_path / "home")
    its, goal = keeper(tmp_path, home), Wanted(ASSET, frozenset({HOME, LAB}))
    (made,) = its.sync(plan_sync(goal, standings(ASSET, [copy(ASSET, HOME, home)]), NETWORK), 7.0).copies
    path = Path(made.url.removeprefix("file://")) / "c.bin"
    path.write_bytes(b"?" * len(SCANS["c.bin"]))
    opened = doors(lab=(tmp_path / "lab").as_uri())
    found = survey(opened, ASSET, LAB, made.url, 8.0)
    kept = its.sync(plan_sync(goal, standings(ASSET, [copy(ASSET, HOME, home), found]), NETWORK), 9.0)
    assert (path.read_bytes(), kept.dropped) == (SCANS["c.bin"], ())
    assert survey(opened, ASSET, LAB, made.url, 9.0) == kept.copies[0]


def longest_first(pieces):
    yield from sorted((file.read() for _, file in pieces), key=len, reverse=True)


def folded(
    tmp_path: Path, files: dict[str, bytes], how: str = BYTES, cut: int = 1, partial: bool = False, lost: str = ""
):
    """`files` as two assets of two domains."""
    names = list(files)
    mine = asset({name: files[name] for name in names[:cut]}, data_class=DataClass.RESTRICTED, regions=["EU", "US"])
    theirs = asset({name: files[name] for name in names[cut:]}, "2.0.0", regions=["EU"])
    its = network(HOME, LAB)
    places = {name: type(place)(place.domain, place.handles, "EU") for name, place in its.places.items()}
    its = type(its)(places, its.policy, {})
    home, lab = (
        fill(tmp_path / "a", {n: files[n] for n in names[:cut]}),
        fill(tmp_path / "b", {n: files[n] for n in names[cut:]}),
    )
    held = [name for name in names[cut:] if name != lost]
    routes = [
        route(mine, standings(mine, [copy(mine, HOME, home)]), HOME, its),
        route(theirs, standings(theirs, [copy(theirs, LAB, lab, held)]), HOME, its),
    ]
    mover = Mover(doors(library=home, lab=lab))
    done = fold(plan_fold(routes, how), mover, Folder((tmp_path / "out").as_uri()), "all", [__name__], partial)
    return done, (tmp_path / "out/all").read_bytes(), (mine, theirs)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.integers(0, 5))
def test_folded_parts_equal_the_whole(tmp_path_factory, pieces, cut):
    files = {f"{number}": data for number, data in enumerate(pieces)}
    done, data, used = folded(tmp_path_factory.mktemp("fold"), files, cut=min(cut, len(files)))
    assert data == b"".join(pieces)
    assert (done.complete, done.spec.parts[0].digest) == (True, digest_bytes(data))
    assert [digest for entry in done.provenance for digest in entry["parts"].values()] == [*map(digest_bytes, pieces)]
    assert (done.spec.data_class, done.spec.regions) == (DataClass.RESTRICTED, ("EU",))
    assert {entry["digest"] for entry in done.provenance} <= {one.digest for one in used}
    again = asset_of(asset_record(LIBRARY, "all", "1.0.0", done.spec, done.provenance))
    assert again.parts == done.spec.parts


def test_lines_stay_lines_and_a_function_folds_as_it_likes(tmp_path):
    files = {"a": b"one", "b": b"two\n", "c": b"", "d": b"three"}
    assert folded(tmp_path / "1", files, LINES)[1] == b"one\ntwo\nthree\n"
    assert folded(tmp_path / "2", files, f"{__name__}:longest_first")[1] == b"threetwo\none"
    for odd in ("os:system", f"{__name__}:nothing", "sum"):
        with pytest.raises(BadInputError):
            folded(tmp_path / "3", files, odd)
    assert not (tmp_path / "3/out/all").exists()


def test_what_a_domain_that_is_away_would_have_given_is_said(tmp_path):
    files = {"a": b"one", "b": b"two", "c": b"three"}
    with pytest.raises(RetryableError, match="b cannot be had now"):
        folded(tmp_path / "1", files, lost="b")
    assert not (tmp_path / "1/out").exists()
    done, data, (_, theirs) = folded(tmp_path / "2", files, lost="b", partial=True)
    assert (data, done.complete, done.spec.lacks) == (b"onethree", False, (f"{theirs.urn} b",))
