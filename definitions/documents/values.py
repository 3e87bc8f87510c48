"""Frozen values of the pile: typed, as JSON with binary parts, so that any domain can read them without our code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal

GAVE_UP = frozenset({"flow.poison_step", "flow.at_most_once"})
"""Refusals that say that the machinery gave up, not that somebody said no."""

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the pile. `listed`: the manifest names its class. `problem`: why no page comes of it."""

    file: str
    digest: str
    size: int
    data_class: DataClass
    listed: bool
    kind: str = ""
    pages: int = 1
    duplicate_of: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything in the folder, in name order, and what was odd about it."""

    folder: str
    files: tuple[SourceFile, ...]
    problems: tuple[str, ...]
    only: tuple[str, ...] = ()

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> Inventory:
        values = dict(payload.document)
        values["files"] = tuple(
            SourceFile(**{**item, "data_class": DataClass(item["data_class"])}) for item in values["files"]
        )
        values["problems"], values["only"] = tuple(values["problems"]), tuple(values["only"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class PageRef:
    """One page to be: `id` is the file's name, with `#page=N` where the file has several."""

    id: str
    file: str
    number: int
    kind: str
    digest: str
    data_class: DataClass
    listed: bool
    duplicate_of: str = ""
    problem: str = ""

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> PageRef:
        return cls(**{**payload.document, "data_class": DataClass(payload.document["data_class"])})


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text as read: `confidence` 0..1, `box` four corners in pixels of the upright page."""

    text: str
    confidence: float
    box: Box


@dataclass(frozen=True, slots=True)
class Page:
    """A page on its way. `image` is the encoded picture until it has been read, `thumbnail` what stays of it.

    `status`: `ok` so far, `refused` (policy said no) or `failed` (could not be read); the last two pass through.
    """

    ref: PageRef
    image: bytes = b""
    thumbnail: bytes = b""
    width: int = 0
    height: int = 0
    turn: int = 0
    lines: tuple[Line, ...] = ()
    trimmed: tuple[Line, ...] = ()
    languages: tuple[tuple[str, float], ...] = ()
    status: str = "ok"
    reason: str = ""

    @property
    def data_class(self) -> DataClass:
        return self.ref.data_class

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    @property
    def confidence(self) -> float:
        """Mean over the lines, weighted by their length; 0 without text."""
        length = sum(len(line.text) for line in self.lines)
        return sum(line.confidence * len(line.text) for line in self.lines) / length if length else 0.0

    def failed(self, reason: str) -> Page:
        return replace(self, status="failed", reason=reason, image=b"")

    def refused(self, refusal: Refusal) -> Page:
        """What no place may take is refused; what was lost too often has failed."""
        if refusal.code in GAVE_UP:
            return self.failed(f"{refusal.text} [{refusal.code}]")
        return replace(self, status="refused", reason=f"{refusal.text} [{refusal.code}]", image=b"")

    def to_payload(self) -> Payload:
        document: dict[str, Any] = {
            "ref": self.ref.to_payload().document,
            "width": self.width,
            "height": self.height,
            "turn": self.turn,
            "lines": [asdict(line) for line in self.lines],
            "trimmed": [asdict(line) for line in self.trimmed],
            "languages": [list(item) for item in self.languages],
            "status": self.status,
            "reason": self.reason,
        }
        parts = {name: data for name, data in (("image", self.image), ("thumbnail", self.thumbnail)) if data}
        return Payload(document, parts)

    @classmethod
    def from_payload(cls, payload: Payload) -> Page:
        values = dict(payload.document)
        values["ref"] = PageRef.from_payload(Payload(values["ref"]))
        values["lines"] = tuple(_line(item) for item in values["lines"])
        values["trimmed"] = tuple(_line(item) for item in values["trimmed"])
        values["languages"] = tuple((str(name), float(share)) for name, share in values["languages"])
        values["image"] = payload.parts.get("image", b"")
        values["thumbnail"] = payload.parts.get("thumbnail", b"")
        return cls(**values)


def _line(item: dict[str, Any]) -> Line:
    corners = tuple((float(x), float(y)) for x, y in item["box"])
    return Line(str(item["text"]), float(item["confidence"]), corners)  # pyright: ignore[reportArgumentType]
