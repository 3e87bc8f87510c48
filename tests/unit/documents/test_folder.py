"""Results are there whole or not at all, whatever ends the one who writes them."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from definitions.documents.book import write_text
from definitions.documents.folder import reserved, written_whole
from definitions.documents.index import read_pile, write_index
from definitions.documents.results import Pile
from ioi_dagster.errors import BadInputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_what_was_there_and_names_the_file(tmp_path):
    write_text(tmp_path / "book.md", "the old one")

    def fill() -> None:
        with written_whole(tmp_path / "book.md") as temporary:
            temporary.write_text("half of the ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"book\.md") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "book.md").read_text() == "the old one"
    assert names(tmp_path) == ["book.md"]


def test_what_a_killed_process_had_begun_is_cleared_by_the_next(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (tmp_path / f".index.sqlite.{gone.pid}").write_text("half an index")
    (tmp_path / f".index.sqlite.{os.getppid()}").write_text("one that is being written")
    (tmp_path / ".index.sqlite.backup").write_text("somebody else's")
    write_index(tmp_path, Pile((), {}))
    assert names(tmp_path) == [f".index.sqlite.{os.getppid()}", ".index.sqlite.backup", "index.sqlite"]
    assert read_pile(tmp_path) == Pile((), {})


def test_an_index_for_which_there_is_no_room_names_itself(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"(full|I/O error): '.*/index\.sqlite'"):
            write_index(tmp_path, Pile((), {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_two_commands_do_not_fill_one_folder(tmp_path):
    refused = pytest.raises(BadInputError, match="another run writes its results there")
    with reserved(tmp_path / "out"), refused, reserved(tmp_path / "out"):
        pass
    with reserved(tmp_path / "out"):
        assert names(tmp_path / "out") == []
