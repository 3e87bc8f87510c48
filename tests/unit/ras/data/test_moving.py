"""Parts go from real folders into real folders."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from ioi_dagster.adapters.fsspec.folder import INCOMING, Door, Doors, Folder
from ioi_dagster.adapters.fsspec.mover import TOLD, Mover, PartUnavailableError, drop, survey, version_url
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.data.copies import Copy, Worth, standing, standings
from ioi_dagster.ras.data.routing import route
from tests.unit.ras.data.made import SCANS, asset, contents, copy, doors, fill, network

NETWORK = network("library.example", "lab.example", "cloud.example")
ASSET = asset()
HALF = threading.Event()


def moved(tmp_path: Path, *copies: Copy, its=ASSET, **urls: str):
    """To the lab, from these copies."""
    opened = doors(lab=(tmp_path / "lab").as_uri(), **urls)
    way = route(its, standings(its, copies), "lab.example", NETWORK)
    url = version_url((tmp_path / "lab").as_uri(), its)
    return Mover(opened).move(way, url, 7.0), Path(url.removeprefix("file://"))


def codes(outcome) -> list[tuple[str, str]]:
    return sorted((one.domain, one.refusal.code) for one in outcome.refused)


def test_a_copy_is_whole_told_and_found_again(tmp_path):
    home = fill(tmp_path / "home")
    outcome, folder = moved(tmp_path, copy(ASSET, "library.example", home), library=home)
    assert (outcome.whole, outcome.refused, outcome.kept) == (True, (), ())
    assert {name: data for name, data in contents(folder).items() if name != TOLD} == SCANS
    opened = doors(lab=(tmp_path / "lab").as_uri())
    found = survey(opened, ASSET, "lab.example", outcome.copy.url, 7.0)
    assert found == outcome.copy
    assert standing(ASSET, found).worth is Worth.WHOLE
    drop(opened, found)
    assert contents(tmp_path / "lab") == {}


def test_what_is_whole_is_not_moved_again_and_what_is_not_is(tmp_path):
    home = fill(tmp_path / "home")
    source = copy(ASSET, "library.example", home)
    _, folder = moved(tmp_path, source, library=home)
    (folder / "c.bin").write_bytes(b"x" * len(SCANS["c.bin"]))
    (folder / TOLD).unlink()
    (folder / f"{INCOMING}0").write_bytes(b"half")
    outcome, _ = moved(tmp_path, source, library=home)
    assert [one.part for one in outcome.taken] == ["c.bin"]
    assert outcome.kept == ("2024/a.txt", "2024/b.txt")
    assert outcome.whole
    assert {name: data for name, data in contents(folder).items() if name != TOLD} == SCANS


def test_a_corrupted_source_is_named_left_alone_and_replaced(tmp_path):
    home = fill(tmp_path / "home")
    bad = fill(tmp_path / "bad", {name: b"?" * len(data) for name, data in SCANS.items()})
    copies = (copy(ASSET, "cloud.example", bad), copy(ASSET, "library.example", home))
    opened = doors(lab=(tmp_path / "lab").as_uri(), library=home, cloud=bad)
    way = route(ASSET, standings(ASSET, copies), "lab.example", NETWORK)
    outcome = Mover(opened, workers=1).move(way, version_url((tmp_path / "lab").as_uri(), ASSET), 7.0)
    assert outcome.whole
    assert codes(outcome) == [("cloud.example", "data.corrupt")]
    assert {one.domain for one in outcome.taken} == {"library.example"}


def test_nothing_of_it_is_seen_where_no_source_gives_what_was_signed(tmp_path):
    short = {name: data[:-1] for name, data in SCANS.items()}
    long = {name: data + b"!" for name, data in SCANS.items()}
    first, second = fill(tmp_path / "short", short), fill(tmp_path / "long", long)
    outcome, folder = moved(
        tmp_path,
        copy(ASSET, "library.example", first),
        copy(ASSET, "cloud.example", second),
        library=first,
        cloud=second,
    )
    assert (outcome.whole, outcome.taken, outcome.copy.held) == (False, (), {})
    assert {code for _, code in codes(outcome)} == {"data.cut_off", "data.corrupt"}
    assert contents(folder) == {}


def test_parts_come_from_several_copies_and_what_nobody_has_is_missing(tmp_path):
    home = fill(tmp_path / "home", {"2024/a.txt": SCANS["2024/a.txt"]})
    away = fill(tmp_path / "away", {"c.bin": SCANS["c.bin"]})
    outcome, _ = moved(
        tmp_path,
        copy(ASSET, "library.example", home, ["2024/a.txt"]),
        copy(ASSET, "cloud.example", away, ["c.bin"]),
        library=home,
        cloud=away,
    )
    assert {(one.part, one.domain) for one in outcome.taken} == {
        ("2024/a.txt", "library.example"),
        ("c.bin", "cloud.example"),
    }
    assert not outcome.whole
    assert standing(ASSET, outcome.copy).worth is Worth.PARTIAL


def test_only_urls_that_are_allowed_of_a_domain_are_opened(tmp_path):
    home = fill(tmp_path / "home")
    opened = Doors({"library.example": [Door(home)]})
    for url in (
        tmp_path.as_uri(),
        home + "/../other",
        home + "-beside",
        f"simplecache::{home}",
        home + "/%2e%2e/x",
        "http://127.0.0.1/",
    ):
        with pytest.raises(BadInputError, match="none of the URLs"):
            opened.open("library.example", url)
    with pytest.raises(BadInputError, match=r"of lab\.example"):
        opened.open("lab.example", home)
    outcome, _ = moved(tmp_path, copy(ASSET, "library.example", home))
    assert codes(outcome) == [("library.example", "data.no_door")] * len(outcome.refused)
    assert not outcome.whole


def test_memory_as_a_store_shows_no_half_file(tmp_path):
    home = fill(tmp_path / "home")
    folder = Folder("memory://half")
    begun = folder.begin("a/b")
    begun.write(b"half")
    assert folder.size("a/b") is None
    begun.publish()
    assert b"".join(folder.chunks("a/b")) == b"half"
    opened = Doors({"library.example": [Door(home)], "lab.example": [Door("memory://lab")]})
    way = route(ASSET, standings(ASSET, [copy(ASSET, "library.example", home)]), "lab.example", NETWORK)
    outcome = Mover(opened).move(way, version_url("memory://lab", ASSET), 7.0)
    assert outcome.whole
    assert survey(opened, ASSET, "lab.example", outcome.copy.url, 7.0) == outcome.copy
    drop(opened, outcome.copy)
    assert fsspec.filesystem("memory").find("/lab") == []


@pytest.fixture
def served(tmp_path) -> Iterator[str]:
    fill(tmp_path / "home")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.path = self.path.replace("/half", "")
            super().do_HEAD()

        def do_GET(self) -> None:
            if "moved" in self.path:
                self.send_response(302)
                self.send_header("Location", self.path.replace("moved", ""))
                self.end_headers()
            elif "half" in self.path:
                data = SCANS[self.path.removeprefix("/half/")]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.path.endswith("c.bin"):
                    self.wfile.write(data[:1000])
                    HALF.set()
                    self.connection.recv(1)  # ends with the mover
                else:
                    self.wfile.write(data)
            else:
                super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "home"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_over_http(tmp_path, served):
    outcome, folder = moved(tmp_path, copy(ASSET, "library.example", served), library=served)
    assert outcome.whole, outcome.refused
    assert {name: data for name, data in contents(folder).items() if name != TOLD} == SCANS


def test_a_server_that_sends_its_readers_elsewhere_is_not_followed(tmp_path, served):
    outcome, _ = moved(tmp_path, copy(ASSET, "library.example", f"{served}/moved"), library=served)
    assert (outcome.whole, outcome.taken) == (False, ())


def test_a_reader_gets_checked_parts_only(tmp_path):
    home = fill(tmp_path / "home")
    bad = fill(tmp_path / "bad", {name: b"?" * len(data) for name, data in SCANS.items()})
    mover = Mover(doors(library=home, cloud=bad))
    copies = [copy(ASSET, "cloud.example", bad), copy(ASSET, "library.example", home)]
    leg = route(ASSET, standings(ASSET, copies), "lab.example", NETWORK).legs[0]
    with mover.reading(leg) as file:
        assert file.read() == SCANS[leg.part.name]
    alone = route(ASSET, standings(ASSET, copies[:1]), "lab.example", NETWORK).legs[0]
    with pytest.raises(PartUnavailableError, match=r"data\.corrupt"), mover.reading(alone):
        pass


def test_more_than_may_be_moved_is_refused_before_anything_is(tmp_path):
    home = fill(tmp_path / "home")
    way = route(ASSET, standings(ASSET, [copy(ASSET, "library.example", home)]), "lab.example", NETWORK)
    outcome = Mover(doors(library=home, lab=(tmp_path / "lab").as_uri()), most=10).move(
        way, (tmp_path / "lab/x").as_uri(), 7.0
    )
    assert codes(outcome) == [("lab.example", "data.too_large")]
    assert not (tmp_path / "lab").exists()


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path):
    home = fill(tmp_path / "home")
    # No disk of a test is full; a file that may not grow fails in the same place.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); import signal; "
    limit += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    result = subprocess.run(
        [sys.executable, "-c", limit + _MOVE, str(tmp_path), home], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "data.no_room"]
    left = contents(tmp_path / "lab")
    assert {name.rpartition("/")[2] for name in left} <= {"c.bin", "b.txt"}
    assert not any(INCOMING in name for name in left)


_MOVE = """
import sys
from pathlib import Path
from dataclasses import replace
from ioi_dagster.adapters.fsspec.mover import Mover, version_url
from ioi_dagster.ras.data.copies import standings
from ioi_dagster.ras.data.routing import route
from tests.unit.ras.data.made import asset, copy, doors, network
ASSET, NETWORK = asset(), network("library.example", "lab.example")
home, lab = sys.argv[2], (Path(sys.argv[1]) / "lab").as_uri()
held = {p.name: p.digest for p in ASSET.parts}
source = replace(copy(ASSET, "library.example", home), of=sys.argv[3] if len(sys.argv) > 3 else ASSET.digest)
its = replace(ASSET, digest=source.of)
way = route(its, standings(its, [source]), "lab.example", NETWORK)
outcome = Mover(doors(library=home, lab=lab), workers=1).move(way, version_url(lab, its), 7.0)
print(outcome.whole, *[one.refusal.code for one in outcome.refused])
"""


def test_a_mover_that_is_killed_in_the_middle_leaves_whole_parts_and_the_next_goes_on(tmp_path, served):
    # The server gives half of the last part and then no more: there the mover waits, and is killed.
    HALF.clear()
    mover = subprocess.Popen([sys.executable, "-c", _MOVE, str(tmp_path), f"{served}/half", ASSET.digest])
    assert HALF.wait(60)
    mover.send_signal(signal.SIGKILL)
    mover.wait()
    home = (tmp_path / "home").as_uri()
    folder = Path(version_url((tmp_path / "lab").as_uri(), ASSET).removeprefix("file://"))
    left = contents(folder)
    assert [name for name in left if name.startswith(INCOMING)]
    assert TOLD not in left
    assert {name: data for name, data in left.items() if not name.startswith(INCOMING)} == {
        name: SCANS[name] for name in ("2024/a.txt", "2024/b.txt")
    }
    outcome, _ = moved(tmp_path, copy(ASSET, "library.example", home), library=home)
    assert (outcome.whole, [one.part for one in outcome.taken]) == (True, ["c.bin"])
    assert sorted(contents(folder)) == sorted([*SCANS, TOLD])


def test_movers_of_one_asset_do_not_harm_each_other(tmp_path):
    home = fill(tmp_path / "home")
    source = copy(ASSET, "library.example", home)
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(moved(tmp_path, source, library=home)[0])) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.whole, one.refused) for one in outcomes] == [(True, ())] * 6
    _, folder = moved(tmp_path, source, library=home)
    assert sorted(contents(folder)) == sorted([*SCANS, TOLD])
