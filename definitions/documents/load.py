"""From a page's reference to its picture: opened with care, bounded in pixels, in one colour space."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from definitions.documents.values import Page, PageRef

MAX_PIXELS = 80_000_000
"""Decoded RGB stays under 240 MB, which leaves a worker of 2 GB room for the models."""
LONG_SIDE = 2_400
THUMBNAIL_WIDTH = 360


def load_page(ref: PageRef, folder: Path) -> Page:
    """The page's picture as JPEG, at most `LONG_SIDE` pixels long. What cannot be opened is a failed page, not an error."""
    page = Page(ref)
    if ref.problem:
        return page.failed(ref.problem)
    if ref.duplicate_of:
        return page.failed(f"it has the same content as {ref.duplicate_of!r}, which is read instead")
    try:
        image = _render(folder / ref.file, ref.number) if ref.kind == "pdf" else _open(folder / ref.file, ref.number)
        image.thumbnail((LONG_SIDE, LONG_SIDE))
    except _TooLargeError as error:
        return page.failed(str(error))
    except Exception as error:  # decoders raise many things on hostile input; the page says which
        return page.failed(f"the page cannot be opened: {str(error) or type(error).__name__}")
    return Page(ref, image=encode_jpeg(image, 92), width=image.width, height=image.height)


def decode(page: Page) -> Any:
    """The page's picture as an RGB `PIL.Image`."""
    from PIL import Image

    return Image.open(io.BytesIO(page.image)).convert("RGB")


def encode_jpeg(image: Any, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def thumbnail(image: Any) -> bytes:
    """A small JPEG for the report."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_WIDTH, 4 * THUMBNAIL_WIDTH))
    return encode_jpeg(small, 70)


@contextmanager
def any_size() -> Iterator[None]:
    """Opening a picture of any size raises nothing: its size is for the caller to judge, from the header."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = previous


class _TooLargeError(Exception):
    pass


def _open(path: Path, number: int) -> Any:
    from PIL import Image, ImageOps

    with any_size(), Image.open(path) as image:
        # The header tells the size; nothing of an oversized picture is ever decoded.
        _check(image.width, image.height)
        if number > 1:
            image.seek(number - 1)
            _check(image.width, image.height)
        image.load()
        upright = ImageOps.exif_transpose(image) or image
        return _flat(upright)


def _flat(image: Any) -> Any:
    """RGB; what is transparent becomes white paper."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        paper = Image.new("RGB", rgba.size, "white")
        paper.paste(rgba, mask=rgba.getchannel("A"))
        return paper
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_bytes(image)
    return image.convert("RGB")


def _to_bytes(image: Any) -> Any:
    """Grey levels of more than eight bits as eight: over 16 bits where they go beyond 8, else as they are."""
    import numpy
    from PIL import Image

    values = numpy.asarray(image).astype("float32")
    top = float(numpy.nanmax(values)) if values.size else 0.0
    scale = 255 if top <= 1.0 and image.mode == "F" else 1 if top <= 255 else 1 / 257 if top <= 65_535 else 255 / top
    return Image.fromarray(numpy.nan_to_num(values * scale).clip(0, 255).astype("uint8"), "L")


def _check(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _TooLargeError(
            f"the page has {width:,} × {height:,} pixels; at most {MAX_PIXELS // 1_000_000} million are taken"
        )


def _render(path: Path, number: int) -> Any:
    import pypdfium2

    with pypdfium2.PdfDocument(path) as document:
        page = document[number - 1]
        long_side = max(page.get_size())
        if not long_side > 0:
            raise _TooLargeError("the PDF page has no size")
        return page.render(scale=LONG_SIDE / long_side).to_pil().convert("RGB")
