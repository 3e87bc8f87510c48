"""What is said to a run is printed as it was said, and taken as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli import app

RUN = "3a231f03-0000"


@pytest.fixture(autouse=True)
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a federation, which has ended."""
    monkeypatch.delenv("IOI_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    ledger = Ledger(tmp_path / "storage" / "ioi" / "ledger.sqlite")
    ledger.end(RUN, ledger.take_over(RUN, "books", 1.0), 2.0)
    ledger.close()


def said(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_the_key_of_a_mapped_step_is_printed_with_it():
    assert said("pause", RUN, "ocr[page-7]").output == (
        "ocr[page-7] of run 3a231f03: gone: nothing to do; run 3a231f03 has ended\n"
    )


def test_a_priority_may_be_below_the_usual_one():
    assert said("prioritise", RUN, "-5", "ocr").output == (
        "ocr of run 3a231f03: gone: nothing to do; run 3a231f03 has ended\n"
    )


@pytest.mark.parametrize("steps", ["-1", "two", "9" * 5000, "1.5"])
def test_a_cap_that_is_no_number_of_steps_is_refused(steps: str):
    told = said("cap", RUN, steps)
    assert (told.exit_code, "is neither a number nor `none`" in told.output) == (2, True)
