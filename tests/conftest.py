"""Shared by all tests: small piles, and commands whose end is waited for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from definitions.documents.command import SHIPPED

os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout_s: float = 60.0, what: str = "it") -> T:
    """The first true value of `look`, asked again until then; fails naming `what` when it never comes."""
    until = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"{what} did not come about within {timeout_s:g} s"
        time.sleep(0.05)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No federation and no Dagster home around the test, and none left after it."""
    for name in ("IOI_HOME", "IOI_DOMAIN", "IOI_DOMAIN_HOME", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def small_pile(tmp_path: Path) -> Path:
    """Four quick pages of three classes; the last is a page that the model cannot read."""
    folder = tmp_path / "pile"
    folder.mkdir()
    for name in ("phototest.tif", "phototest-rotated-180.png", "eurotext.tif", "devatest.png"):
        shutil.copy(SHIPPED / "pages" / name, folder / name)
    (folder / "manifest.yaml").write_text(
        "pages:\n  phototest.tif: restricted\n  phototest-rotated-180.png: internal\n"
        "  eurotext.tif: public\n  devatest.png: public\n"
    )
    return folder
