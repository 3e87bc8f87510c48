"""`book.md`: the accepted pages in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from definitions.documents.results import PageResult


def assemble(results: Sequence[PageResult]) -> str:
    """Markdown, one section a page; hyphens at line ends are joined, other line breaks become spaces."""
    parts = ["# The book\n"]
    for result in results:
        if result.status == "indexed":
            parts.append(f"\n## {_plain(result.page)}\n\n{_plain(_flow(result.lines))}\n")
    return "".join(parts)


def write_text(path: Path, text: str) -> None:
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # A write that fails for want of room does not say of itself which file it was.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
