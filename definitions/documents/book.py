"""`book.md`: the accepted pages in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from definitions.documents.folder import written_whole
from definitions.documents.results import PageResult


def assemble(results: Sequence[PageResult]) -> str:
    """Markdown, one section a page; hyphens at line ends are joined, other line breaks become spaces."""
    parts = ["# The book\n"]
    for result in results:
        if result.status == "indexed":
            parts.append(f"\n## {_plain(result.page)}\n\n{_plain(_flow(result.lines))}\n")
    return "".join(parts)


def write_text(path: Path, text: str) -> None:
    """The whole file or none of it. Raises `OSError` naming it."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _flow(lines: Sequence[str]) -> str:
    text = ""
    for line in lines:
        line = line.strip()
        if text.endswith("-") and line[:1].islower():
            text = text[:-1] + line
        elif not text or text.endswith("\n\n"):
            text += line
        elif line.isupper() or (line.istitle() and len(line) < 40):
            text += f"\n\n{line}\n\n"
        else:
            text += f" {line}"
    return text.strip()


def _plain(text: str) -> str:
    """What Markdown would take for markup at a line's start is not meant so."""
    return "\n".join(
        f"\\{line}" if line.startswith(("#", ">", "+", "*")) else line for line in text.replace("\r", " ").split("\n")
    )
