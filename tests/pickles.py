"""Finds pickles in bytes: as they are, or in base64."""

from __future__ import annotations

import base64
import pickletools
import re

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")
_PROTOCOL = re.compile(rb"\x80[\x02-\x05]")


def pickles_in(data: bytes) -> list[bytes]:
    """The first bytes of each run of opcodes that begins with a protocol and ends with STOP. Those of protocols 0 and
    1, which nothing writes by itself any more, have no mark by which to find them."""
    texts = [text for run in _BASE64.findall(data) for text in (run[start:] for start in range(4))]
    plain = [data, *map(_decoded, texts)]
    found = [piece[at.start() :] for piece in plain for at in _PROTOCOL.finditer(piece)]
    return [piece[:40] for piece in found if _runs(piece)]


def _decoded(text: bytes) -> bytes:
    """What goes before it may have letters of base64 too, so a text is read from each of its first four."""
    text = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    text = text[:-1] if len(text) % 4 == 1 else text
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def _runs(data: bytes) -> bool:
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except ValueError:
        return False
