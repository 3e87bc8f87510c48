"""What a cluster governor has granted is known after its end, whatever became of the file; and nothing is half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.files import lease_journal
from ioi_dagster.adapters.files.lease_journal import LeaseJournal
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.negotiation import OWN_STEP, Lease


def lease(number: int, epoch: int = 1) -> Lease:
    return Lease(f"c/{epoch}/{number}", "run", f"step[{number}]", 1, 0, OWN_STEP, "c", "d", "n", epoch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases-c.jsonl"


def left_behind(path: Path, count: int = 5) -> bytes:
    """The journal of a governor that granted `count` leases, of which the second ended."""
    journal = LeaseJournal(path, "c")
    journal.granted([lease(number) for number in range(count)])
    journal.ended([(lease(1).id, "released")])
    journal.close()
    return path.read_bytes()


def found(path: Path) -> tuple[list[str], int, list[str]]:
    journal = LeaseJournal(path, "c")
    journal.close()
    return [one.step for one in journal.found], journal.epoch, journal.damage


def test_what_was_held_is_found_and_the_epoch_rises_with_each_opening(path: Path) -> None:
    assert found(path) == ([], 1, [])
    left_behind(path)
    assert found(path) == (["step[0]", "step[2]", "step[3]", "step[4]"], 3, [])
    assert found(path) == ([], 4, []), "they are told once"
    path.unlink()
    assert found(path) == ([], 5, []), "an epoch is never used again"


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_wherever_it_was_cut_off_all_whole_lines_before_count(path: Path, data: st.DataObject) -> None:
    for old in (path, path.with_suffix(".epoch"), path.with_suffix(".damaged")):
        old.unlink(missing_ok=True)
    whole = left_behind(path)
    cut = data.draw(st.integers(whole.index(b"\n") + 1, len(whole)))
    path.write_bytes(whole[:cut])
    grants = whole[:cut].count(b"\n") - 1
    steps, epoch, damage = found(path)
    ended = grants > 5
    assert steps == [f"step[{number}]" for number in range(min(grants, 5)) if not (ended and number == 1)]
    assert (epoch, damage) == (2, [])


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)
def test_a_flipped_bit_is_told_with_its_line_and_costs_that_line_alone(path: Path, data: st.DataObject) -> None:
    for old in (path, path.with_suffix(".epoch"), path.with_suffix(".damaged")):
        old.unlink(missing_ok=True)
    whole = bytearray(left_behind(path))
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    line = whole[:at].count(b"\n") + 1
    whole[at] ^= 1 << bit
    path.write_bytes(whole)
    steps, epoch, damage = found(path)
    assert epoch == 2
    all_held = {0: "step[0]", 2: "step[2]", 3: "step[3]", 4: "step[4]"}
    assert set(steps) >= {step for number, step in all_held.items() if number + 2 not in (line, line + 1)}
    assert set(steps) <= {f"step[{number}]" for number in range(5)}
    if whole[-1:] == b"\n":
        assert damage
        assert all(f"line {number} " in text for number, text in zip((line, line + 1), damage, strict=False))
        assert path.with_suffix(".damaged").read_bytes() == bytes(whole)
        assert found(path)[2] == [], "told once"


def test_a_newer_version_is_refused_and_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lease_journal, "VERSION", 2)
        before = left_behind(path)
    with pytest.raises(BadInputError, match="version 2; this program reads version 1"):
        LeaseJournal(path, "c")
    assert path.read_bytes() == before


def test_another_clusters_journal_is_refused_and_left_alone(path: Path) -> None:
    before = left_behind(path)
    with pytest.raises(BadInputError, match="of cluster c, and not of other"):
        LeaseJournal(path, "other")
    assert path.read_bytes() == before


FULL = """
import resource, signal, sys
from pathlib import Path
from ioi_dagster.adapters.files.lease_journal import JournalFullError, LeaseJournal
from tests.unit.test_lease_journal import lease
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
journal = LeaseJournal(path, "c")
journal.granted([lease(1)])
size = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300, resource.RLIM_INFINITY))
try:
    journal.granted([lease(number) for number in range(2, 12)])
except JournalFullError as error:
    print("full:", error.why)
assert path.stat().st_size == size, "nothing half-written"
journal.ended([("c/1/1", "released")])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.granted([lease(20)])
"""


def test_what_does_not_fit_is_not_there_at_all_and_later_grants_are(path: Path) -> None:
    """In a process of its own, whose files may not grow beyond a limit: the kernel's EFBIG in the middle of a write."""
    said = subprocess.run([sys.executable, "-c", FULL, str(path)], check=True, capture_output=True, text=True)
    assert said.stdout == "full: File too large\n"
    assert found(path) == (["step[20]"], 2, [])


def test_a_journal_that_is_mostly_of_the_past_is_written_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_journal, "COMPACT_AT", 4_096)
    journal = LeaseJournal(path, "c")
    for number in range(200):
        journal.granted([lease(number)])
        if number:
            journal.ended([(lease(number - 1).id, "released")])
    journal.close()
    assert path.stat().st_size < 8_192
    assert found(path) == (["step[199]"], 2, [])


def test_an_award_that_cannot_be_written_down_is_refused_with_the_reason_and_leaks_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.award_on_a_full_disk", str(tmp_path / "home")]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    full, after = json.loads(said.stdout)
    assert full == {
        "leased": 0,
        "refused": ["cluster.journal", "cluster.journal"],
        "why": ["the cluster's lease journal cannot be written: File too large"],
        "held": 0,
        "lines": 0,
    }
    assert after == {"leased": 2, "refused": [], "why": [], "held": 2, "lines": 2}
