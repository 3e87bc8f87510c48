"""A block's version follows the code that decides its results, and no other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from definitions.documents.catalogue import BLOCKS, LANGUAGE, READ, TRIM, UPRIGHT
from ioi_dagster.compound import version as module
from ioi_dagster.compound.version import version_of
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.gateway_main import record_version

FILES = {
    "__init__.py": "",
    "block.py": "from abook.words import split\n",
    "words.py": "def words():\n    from . import letters\n",
    "letters.py": "ABC = 'abc'\n",
    "other.py": "from abook.words import words\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "abook"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.delitem(sys.modules, "abook", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return folder


@pytest.mark.parametrize(
    ("changed", "raised"),
    [("block.py", True), ("words.py", True), ("letters.py", True), ("other.py", False), (None, False)],
)
def test_a_version_changes_with_the_code_behind_a_block_and_with_no_other(package, changed, raised):
    before = version_of("1.0.0", "abook.block")
    if changed:
        (package / changed).write_text(FILES[changed] + "CHANGED = True\n")
    after = version_of("1.0.0", "abook.block")
    assert (after != before) is raised
    assert after.startswith("1.0.0+")
    assert not any(name.startswith("abook.") for name in sys.modules), "a module was imported to be looked at"


def test_a_version_changes_with_the_models_that_a_distribution_brings(package, monkeypatch):
    before = version_of("1", "abook.block", ["rapidocr"])
    assert before != version_of("1", "abook.block") != version_of("1", "abook.block", ["no-such-thing"])
    assert "onnx=" in module._installed("rapidocr")
    monkeypatch.setattr(module, "_installed", lambda name: f"{name} with another model")
    assert version_of("1", "abook.block", ["rapidocr"]) != before


def test_a_module_without_source_is_refused():
    with pytest.raises(BadInputError, match="no source"):
        version_of("1", "definitions.documents.none")


def test_the_shipped_blocks_have_versions_of_their_own():
    assert len({block.version for block in BLOCKS}) == len(BLOCKS)
    assert version_of("1.0.0", "definitions.documents.facing_page") == TRIM.version
    assert all(block.version.startswith("1.0.0+") for block in (UPRIGHT, READ, TRIM, LANGUAGE))


def test_a_record_has_one_local_part_in_its_version():
    assert record_version("1.0.0", "sha256:0123456789ab") == "1.0.0+01234567"
    assert record_version("1.0.0+c0de", "sha256:0123456789ab") == "1.0.0+c0de.01234567"
