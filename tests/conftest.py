"""Shared by all tests: small piles, and commands whose end is waited for."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings

from definitions.documents.command import SHIPPED

os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in the background; all that tests start would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("ioi", deadline=None)
settings.load_profile("ioi")

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


class Child(subprocess.Popen[Any]):
    """Left by an error, a time limit among them, it is killed: what goes on for ever would be waited for."""

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *more)


@cache
def dagster_databases() -> Path:
    """A folder with the databases of a Dagster home; making them takes longer than many a test."""
    from dagster import DagsterInstance

    folder = Path(tempfile.mkdtemp(prefix="dagster-databases-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with DagsterInstance.from_config(str(folder)) as instance:
        instance.get_runs(limit=1)
        instance.get_asset_keys()
        instance.all_instigator_state()
    (folder / "dagster.yaml").unlink()
    return folder


def dagster_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`folder` is Dagster's home, with its databases there."""
    shutil.copytree(dagster_databases(), folder, dirs_exist_ok=True)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))


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
