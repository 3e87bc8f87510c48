"""What a file is by its content (Magika), and how many pages it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from definitions.documents.load import any_size
from definitions.documents.values import Inventory, PageRef, SourceFile

IMAGES = frozenset({"jpeg", "png", "tiff", "bmp", "webp", "gif", "jp2"})
_SEVERAL = frozenset({"tiff", "gif", "webp", "png"})
"""Kinds whose frames are pages, as a PDF's pages are."""
_ALBUM = "jpeg"
"""A camera's JPEG may carry a preview or a second view behind its picture: no page of its own, and the report says so."""
MAX_PAGES = 5_000


def name_types(inventory: Inventory) -> Inventory:
    """Each file's kind and page count; what is not a page gets a problem that says what it is instead.

    Each frame of a TIFF, GIF, WebP or PNG is a page. Of a JPEG with several pictures the first is read, and the
    inventory's problems say so.
    """
    folder = Path(inventory.folder)
    files = tuple(_typed(folder, file) for file in inventory.files)
    more = [
        f"{file.file!r} holds {count} pictures: the first is read"
        for file in files
        if (count := _album(folder, file)) > 1
    ]
    return replace(inventory, files=files, problems=(*inventory.problems, *more))


def page_refs(inventory: Inventory) -> Iterator[PageRef]:
    """Every page of every file, in order; a file with a problem is one page that says so."""
    for file in inventory.files:
        several = file.pages > 1 or file.kind == "pdf"
        for number in range(1, file.pages + 1):
            page = f"{file.file}#page={number}" if several and not file.problem else file.file
            if inventory.only and page not in inventory.only and file.file not in inventory.only:
                continue
            yield PageRef(
                page,
                file.file,
                number,
                file.kind,
                file.digest,
                file.data_class,
                file.listed,
                file.duplicate_of,
                file.problem,
            )


def _typed(folder: Path, file: SourceFile) -> SourceFile:
    if file.problem:
        return file
    path = folder / file.file
    try:
        with path.open("rb") as stream:
            found = _magika().identify_stream(stream).output
    except Exception as error:  # whatever a hostile file does to the identifier, the others go on
        return replace(file, problem=f"its type cannot be told: {error}")
    kind = str(found.label)
    if kind == "pdf":
        return _pdf(path, replace(file, kind=kind))
    if kind in _SEVERAL:
        return _frames(path, replace(file, kind=kind))
    if kind in IMAGES:
        return replace(file, kind=kind)
    return replace(file, kind=kind, problem=f"it is not a page but: {found.description}")


def _pdf(path: Path, file: SourceFile) -> SourceFile:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        why = "it is protected by a password" if "assword" in str(error) else f"it is damaged ({error})"
        return replace(file, problem=f"the PDF cannot be opened: {why}")
    with document:
        count = len(document)
    if not 0 < count <= MAX_PAGES:
        return replace(file, problem=f"the PDF has {count} pages; 1 to {MAX_PAGES} are taken")
    return replace(file, pages=count)


def _frames(path: Path, file: SourceFile) -> SourceFile:
    try:
        count = _pictures_in(path)
    except Exception as error:  # a damaged file makes the decoder raise nearly anything
        return replace(file, problem=f"the image cannot be opened: {error}")
    if count > MAX_PAGES:
        return replace(file, problem=f"the image has {count} frames; at most {MAX_PAGES} are taken")
    return replace(file, pages=count)


def _album(folder: Path, file: SourceFile) -> int:
    """How many pictures a JPEG holds; 0 for other files and for one that cannot be opened, which its page will say."""
    if file.kind != _ALBUM or file.problem:
        return 0
    try:
        return _pictures_in(folder / file.file)
    except Exception:
        return 0


def _pictures_in(path: Path) -> int:
    from PIL import Image

    with any_size(), Image.open(path) as image:
        return getattr(image, "n_frames", 1)


@lru_cache(maxsize=1)
def _magika() -> Any:
    from magika import Magika

    return Magika()
