"""Seeds that have failed once: each line of `seeds.txt` is tried with all other tests.

`python -m tests.scenario.seeds 'swarm 89' 'what was wrong'` adds one; what fails says which command to give.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from ioi_dagster.cli import app
from tests.scenario.mixed import mixed
from tests.scenario.mixed import wrong_with as wrong_of
from tests.scenario.swarm import wrong_with

TABLE = Path(__file__).with_name("seeds.txt")
SPLIT = "  # "


@dataclass(frozen=True, slots=True)
class Recorded:
    """`command`: `swarm SEED`, `mixed SEED`, or `simulate` with the arguments of `ioi simulate`; `why`: what was wrong once."""

    command: str
    why: str

    @property
    def line(self) -> str:
        return f"{self.command}{SPLIT}{self.why}"


def recorded(table: Path = TABLE) -> list[Recorded]:
    lines = [line for line in table.read_text().splitlines() if line and not line.startswith("#")]
    return [Recorded(*line.split(SPLIT, 1)) for line in lines]


def keep(its: Recorded, table: Path = TABLE) -> None:
    """Raises `ValueError` for what is there already, or is no command."""
    if "\n" in its.line or SPLIT in its.command or not its.why.strip() or _kind(its) not in TRY:
        raise ValueError(f"{its.line!r} is no line of {table.name}: give 'swarm 89' and what was wrong")
    if its.command in [one.command for one in recorded(table)]:
        raise ValueError(f"{its.command!r} is in {table.name} already")
    with table.open("a") as file:
        file.write(its.line + "\n")


def wrong_again(its: Recorded) -> str:
    """What is wrong when it is tried now; empty where nothing is."""
    return TRY[_kind(its)](its.command.partition(" ")[2])


def _kind(its: Recorded) -> str:
    return its.command.partition(" ")[0]


def _simulate(arguments: str) -> str:
    result = CliRunner().invoke(app, ["simulate", *shlex.split(arguments)])
    return "" if result.exit_code == 0 else result.output or repr(result.exception)


def _mixed(seed: str) -> str:
    return "; ".join(wrong_of(mixed(int(seed))))


TRY = {"swarm": lambda seed: wrong_with(int(seed)), "mixed": _mixed, "simulate": _simulate}


if __name__ == "__main__":
    keep(Recorded(*sys.argv[1:3]))
