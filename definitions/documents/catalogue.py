"""The blocks that domains may offer, as they register them."""

from __future__ import annotations

from typing import Any

from ioi_dagster.compound.version import version_of
from ioi_dagster.model.capability import BlockSpec, Contract

_OCR = ("rapidocr", "onnxruntime", "pillow")
_PAGE: dict[str, Any] = {
    "type": "object",
    "required": ["ref", "lines", "status"],
    "properties": {
        "ref": {"type": "object"},
        "lines": {"type": "array"},
        "status": {"enum": ["ok", "refused", "failed"]},
        "reason": {"type": "string"},
    },
}


def _block(
    name: str,
    capability: str,
    entrypoint: str,
    title: str,
    description: str,
    examples: tuple[str, ...],
    model: str,
    licence: str,
    memory_mb: int,
    module: str,
    distributions: tuple[str, ...] = (),
) -> BlockSpec:
    """`module` of this folder does the work; it and `distributions` decide the result, and so make the version."""
    contract = Contract(
        id=capability,
        name=title,
        description=description,
        tags=("page",),
        examples=examples,
        inputs=_PAGE,
        outputs=_PAGE,
    )
    return BlockSpec(
        name=name,
        version=version_of("1.0.0", f"definitions.documents.{module}", distributions),
        capability=capability,
        entrypoint=f"definitions.documents.blocks:{entrypoint}",
        contract=contract,
        model=model,
        licence=licence,
        memory_mb=memory_mb,
    )


UPRIGHT = _block(
    "page-upright",
    "page.upright",
    "SetUpright",
    "Set a page upright",
    "Turns a picture of a page so that its text runs from left to right.",
    ("turn this scan the right way up", "the photograph lies on its side"),
    "PP-OCRv6 small (RapidOCR)",
    "Apache-2.0",
    700,
    "upright",
    _OCR,
)
READ = _block(
    "page-ocr",
    "page.ocr",
    "ReadLines",
    "Read a page",
    "Reads the lines of an upright page with their boxes and confidences.",
    ("what is written on this page", "OCR this scan"),
    "PP-OCRv6 small (RapidOCR)",
    "Apache-2.0",
    300,
    "reading",
    _OCR,
)
TRIM = _block(
    "page-trim",
    "page.trim",
    "TrimFacingPage",
    "Leave out the facing page",
    "Drops lines that belong to a facing page in view, by the geometry of the text boxes.",
    ("remove the text of the other page",),
    "geometry",
    "Apache-2.0",
    50,
    "facing_page",
)
LANGUAGE = _block(
    "text-language",
    "text.language",
    "NameLanguages",
    "Name the languages",
    "Names the languages of a page with their shares.",
    ("which language is this in",),
    "lingua 2",
    "Apache-2.0",
    300,
    "language",
    ("lingua-language-detector",),
)
BLOCKS = (UPRIGHT, READ, TRIM, LANGUAGE)
