"""Can every value that one capability gives be given to another? Yes, no or unknown, and never a yes that is not proved.

- *yes*: proved for every value of the giver's schema.
- *no*: there is a value that the giver's schema allows and the taker's refuses; it is the `witness`.
- *unknown*: neither. `reason` says where the proof ended.

Formats and what texts hold (`format`, `contentEncoding`, `contentMediaType`) count as limits, although validators may pass
them by: a yes holds either way, and a no never rests on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ioi_dagster.ras.compatibility.branches import TooManyError
from ioi_dagster.ras.compatibility.document import Budget, Node, SpentError, UnreadableError, read_document
from ioi_dagster.ras.compatibility.proof import Prover
from ioi_dagster.ras.compatibility.validity import Finding
from ioi_dagster.ras.compatibility.witness import Limits, Seeker

PROOF_STEPS = 20_000
SEARCH_STEPS = 20_000
"""Steps that one question may cost, some tens of milliseconds each way."""


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Compatibility:
    """`path` in the value (`$` is all of it), `reason` in words. `witness` is there where the answer is no."""

    answer: Answer
    path: str = ""
    reason: str = ""
    witness: Any = None

    def __str__(self) -> str:
        return f"{self.answer}: {self.path} {self.reason}" if self.reason else str(self.answer)


YES = Compatibility(Answer.YES)


def compatible(gives: Any, takes: Any) -> Compatibility:
    """Of two JSON Schemas as plain JSON. Raises nothing: what cannot be read is unknown, and says why."""
    try:
        giver, taker = read_document(gives), read_document(takes)
    except UnreadableError as error:
        return Compatibility(Answer.UNKNOWN, error.where, error.why)
    given, wanted = Node(giver.root, giver), Node(taker.root, taker)
    found = _proved(given, wanted)
    if found.ok:
        return YES
    try:
        refused = Seeker(Budget(SEARCH_STEPS), Limits(giver, taker)).refused(given, wanted)
    except (SpentError, TooManyError, RecursionError, OverflowError):
        refused = None
    if refused is not None:
        value, why = refused
        return Compatibility(Answer.NO, why.path, why.reason, value)
    return Compatibility(Answer.UNKNOWN, found.path, found.reason)


def _proved(given: Node, wanted: Node) -> Finding:
    try:
        return Prover(Budget(PROOF_STEPS)).covers((given,), wanted)
    except SpentError:
        return Finding(None, "$", "more to look at than one question may cost")
    except TooManyError:
        return Finding(None, "$", "more alternatives than are looked at")
    except (RecursionError, OverflowError):
        return Finding(None, "$", "nested too deep")


def media_compatible(gives: Sequence[str], takes: Sequence[str]) -> Compatibility:
    """Of media types (RFC 6838); `*/*`, `image/*` and a structured suffix (`+json`, RFC 6839) take what is of them. Who gives
    several may give any of them."""
    if not takes:
        return YES
    if not gives:
        return Compatibility(Answer.UNKNOWN, "$", f"it does not say what it gives; {', '.join(takes)} is taken")
    refused = [media for media in gives if not any(_takes(media, taken) for taken in takes)]
    if not refused:
        return YES
    shown = f"{', '.join(refused)} ({modality(refused[0])}) is given where {', '.join(takes)} is taken"
    unsure = any(media.endswith("*") for media in refused)
    return Compatibility(Answer.UNKNOWN if unsure else Answer.NO, "$", shown, None if unsure else refused[0])


def _takes(media: str, taken: str) -> bool:
    own, own_subtype = _parts(media)
    its, its_subtype = _parts(taken)
    if its == "*":
        return True
    if own != its:
        return False
    return its_subtype in ("*", own_subtype) or own_subtype.endswith("+" + its_subtype)


def _parts(media: str) -> tuple[str, str]:
    kind, _, subtype = media.partition(";")[0].strip().lower().partition("/")
    return kind, subtype


def modality(media: str) -> str:
    """What a media type is to people: text, image, audio, video, structured data, document or binary."""
    kind, subtype = _parts(media)
    if kind in ("text", "image", "audio", "video"):
        return kind
    for endings, name in _MODALITIES:
        if subtype.endswith(endings):
            return name
    return "binary"


_MODALITIES = (
    (("json", "xml", "yaml", "cbor", "msgpack", "parquet", "x-ndjson"), "structured data"),
    (("pdf", "msword", "opendocument.text", "wordprocessingml.document", "epub+zip"), "document"),
)
