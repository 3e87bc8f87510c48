"""The guide's simulations: each block of it that shows a command and its answer.

`python -m tests.scenario.guide` writes the answers anew, which is to be done where governors decide otherwise than they did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from ioi_dagster.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "size-a-federation.md"


@dataclass(frozen=True, slots=True)
class Block:
    """`answer`: the lines below the command, of which the first is line `begins` of the guide."""

    command: str
    answer: tuple[str, ...]
    begins: int


def blocks(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("ioi simulate ") and lines[number - 1] == "```" and lines[number + 1][:1] == " ":
            end = lines.index("```", number)
            yield Block(line, tuple(lines[number + 1 : end]), number + 1)


def answered(command: str) -> list[str]:
    result = CliRunner().invoke(app, command.split()[1:], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.rstrip().splitlines()]


def main() -> None:
    lines = GUIDE.read_text().splitlines()
    for block in reversed(list(blocks(GUIDE.read_text()))):
        lines[block.begins : block.begins + len(block.answer)] = answered(block.command)
    GUIDE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
