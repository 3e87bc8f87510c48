"""What is shown after a run leads on: each command that it names finds something."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from ioi_dagster.cli_documents import next_commands, show


def placed(step: str, data_class: str = "public") -> dict[str, object]:
    return {"step": step, "data_class": data_class, "node": "n"}


def summary(*placements: dict[str, object]) -> dict:
    run = {"id": "7f887bb2-aed4", "status": "success", "seconds": 2.0, "start_seconds": 1.0}
    return {"run": run, "pages": [], "placements": list(placements)}


def test_the_step_to_look_at_is_one_that_was_there():
    made = summary(
        placed("pages.read_lines[p00000]", "restricted"), placed("pages.read_lines[p00001]"), placed("inventory")
    )
    assert next_commands(made, Path("out"), None, True) == [
        "find foundation cards --out out",
        "explain run 7f887bb2 'pages.read_lines[p00000]'",
        "up",
    ]


def test_nothing_that_only_the_example_has_is_named_for_ones_own_pile():
    assert next_commands(summary(placed("inventory")), Path("my out"), Path("a home"), False) == [
        "find WORDS --out 'my out'",
        "explain run 7f887bb2 --home 'a home'",
        "up --home 'a home'",
    ]


def test_the_command_is_named_as_it_was_called_where_a_shell_does_not_find_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/ioi", "run", "documents"])
    text = io.StringIO()
    show(summary(), Path("out"), None, True, Console(file=text, width=80))
    assert "  .venv/bin/ioi up\n" in text.getvalue()
    (tmp_path / "ioi").touch(0o755)
    show(summary(), Path("out"), None, True, Console(file=text, width=80))
    assert text.getvalue().endswith("  ioi up\n")
