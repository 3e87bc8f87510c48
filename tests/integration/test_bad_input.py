"""The whole run over a pile as people leave it: everything odd is named, the rest is read, nothing is left behind."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import psutil
import pytest
from PIL import Image
from pypdf import PdfWriter

from definitions.documents.command import SHIPPED, run
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.federation import Federation
from tests.unit.documents.test_pile import huge_png

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(400)]

GOOD = SHIPPED / "pages" / "phototest.tif"
ODD_NAME = "a \"page\",\n with 'quotes' & 📖.tif"
MEMORY = 2 * 2**30


def high_water(pid: int) -> int:
    """The most bytes that a process ever held (VmHWM of proc(5)), so that no short peak goes unseen; 0 for one that ends."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


class Peak(threading.Thread):
    """The most memory that any process of a federation held, by its role, and every process that there was."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.by_role: dict[str, int] = {}
        self.pids: set[int] = set()
        self._federation = federation

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for process in self._federation.processes():
                if process.pid is None:
                    continue
                self.pids.add(process.pid)
                try:
                    held = high_water(process.pid)
                except OSError:
                    continue
                self.by_role[process.role] = max(held, self.by_role.get(process.role, 0))


def test_every_odd_page_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    pile, out = tmp_path / "pile", tmp_path / "out"
    pile.mkdir()
    shutil.copy(GOOD, pile / ODD_NAME)
    shutil.copy(GOOD, pile / "twin.tif")
    (pile / "empty.png").write_bytes(b"")
    (pile / "cut.jpg").write_bytes((SHIPPED / "book" / "0001.jpg").read_bytes()[:20_000])
    (pile / "misnamed.jpg").write_text("not a picture but some words in a row, " * 40)
    huge_png(pile / "huge.png", 35_000)
    Image.effect_noise((1_700, 2_200), 120).save(pile / "noise.png")
    Image.new("L", (9_000, 8_800), 255).save(pile / "large but allowed.png")
    locked = PdfWriter(clone_from=str(SHIPPED / "pages" / "c02-22.pdf"))
    locked.encrypt("secret")
    locked.write(str(pile / "locked.pdf"))
    (pile / "manifest.yaml").write_text("pages: {absent.png: public, noise.png: public}")

    peaks: list[Peak] = []

    def watch(federation: Federation) -> None:
        peaks.append(Peak(federation))
        peaks[0].start()

    summary = run(pile, out, (), tmp_path / "home", lambda *_: None, started=watch)
    peaks[0].ended.set()
    peaks[0].join()

    assert summary["run"]["status"] == "success"
    reasons = {page["file"]: (page["status"], page["reason"]) for page in summary["pages"]}
    assert {name: status for name, (status, _) in reasons.items()} == {
        ODD_NAME: "indexed",
        "twin.tif": "failed",
        "empty.png": "failed",
        "cut.jpg": "failed",
        "misnamed.jpg": "failed",
        "huge.png": "failed",
        "noise.png": "refused",
        "large but allowed.png": "refused",
        "locked.pdf": "failed",
    }
    for name, words in {
        "twin.tif": "same content",
        "empty.png": "empty",
        "cut.jpg": "cannot be opened",
        "misnamed.jpg": "not a page but",
        "huge.png": "35,000 × 35,000",
        "locked.pdf": "password",
    }.items():
        assert words in reasons[name][1]
    assert all(reason for name, (status, reason) in reasons.items() if status != "indexed")
    problems = " ".join(summary["run"]["problems"])
    assert "'absent.png', which does not exist" in problems
    assert "not in the manifest" in problems

    assert max(peaks[0].by_role.values()) < MEMORY, peaks[0].by_role
    assert sorted(path.name for path in out.iterdir()) == ["book.md", "index.sqlite", "report.html", "run.json"]
    assert json.loads((out / "run.json").read_text()) == summary
    assert [pid for pid in peaks[0].pids if psutil.pid_exists(pid)] == []


def test_a_pile_without_a_single_good_page_still_tells_why_and_leaves_the_book_alone(tmp_path: Path) -> None:
    pile, out = tmp_path / "pile", tmp_path / "out"
    pile.mkdir()
    out.mkdir()
    (out / "book.md").write_text("an earlier book")
    (out / "run.json").write_text('{"run": {"id": "an earlier run"}, "pages": []}')
    (pile / "words.png").write_text("not a picture but some words in a row, " * 40)
    Image.new("L", (300, 200), 255).save(pile / "blank.png")
    summary = run(pile, out, (), tmp_path / "home", lambda *_: None)
    assert summary["run"]["status"] == "failed"
    first, why = summary["run"]["why"]
    assert first == "no page was accepted; the table says of each why"
    assert "accepted_set" in why
    assert {page["file"]: (page["status"], bool(page["reason"])) for page in summary["pages"]} == {
        "blank.png": ("refused", True),
        "words.png": ("failed", True),
    }
    assert "left as they were" in " ".join(summary["run"]["problems"])
    assert "not a page but" in (out / "report.html").read_text()
    assert json.loads((out / "run.json").read_text()) == summary
    assert sorted(path.name for path in out.iterdir()) == ["book.md", "report.html", "run.json"]
    assert (out / "book.md").read_text() == "an earlier book"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no pages"),
        (lambda folder: folder.write_text("a file"), "does not exist or is not a folder"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused_before_anything_starts(tmp_path, prepare, words):
    prepare(tmp_path / "pile")
    with pytest.raises(BadInputError, match=words):
        run(tmp_path / "pile", tmp_path / "out", (), tmp_path / "home", lambda *_: None)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "out").exists()


def test_a_run_over_pages_none_of_which_is_there_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "pile").mkdir()
    shutil.copy(GOOD, tmp_path / "pile" / "there.tif")
    with pytest.raises(BadInputError, match=r"none of the pages asked for is there: 'absent\.tif'"):
        run(tmp_path / "pile", tmp_path / "out", ("absent.tif",), tmp_path / "home", lambda *_: None)
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "out").exists()
