"""JSON from others, bounded, with its canonical bytes (RFC 8785)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.record import MAX_DEPTH, MAX_RECORD
from ioi_dagster.signing import canonical

MAX_BODY = MAX_RECORD + 4 * 2**10
"""Bytes of what one entry says: a record with its signature."""


def read_text(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The object that `raw` says, and its canonical bytes. Raises `BadInputError`.

    What is canonical already, which is the rule, is seen to be so without writing it anew by the slow way: an encoder that sorts
    keys gives the same bytes where there are no fractions, no escapes, no large numbers and plain ASCII alone."""
    if len(raw) > MAX_BODY:
        raise BadInputError(f"{len(raw)} bytes; an entry says {MAX_BODY} at most", where="feeds", todo=_TODO)
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise BadInputError(f"nested deeper than {MAX_DEPTH}", where="feeds", todo=_TODO)
    try:
        value = from_json(raw)
        if not isinstance(value, dict):
            raise BadInputError("an entry says a JSON object", where="feeds", todo=_TODO)
        if raw.isascii() and not _DOUBTFUL.search(raw) and msgspec.json.encode(value, order="sorted") == raw:
            return value, raw
        return value, canonical(value)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadInputError(f"no canonical JSON: {str(error)[:200]}", where="feeds", todo=_TODO) from error


_DOUBTFUL = re.compile(rb"[0-9][.eE]|[:,\[]-0|[0-9]{16}|\\u")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_TODO = "its owner corrects it and signs it anew"


def _depth(raw: bytes) -> int:
    """Of brackets outside of strings."""
    deep = most = 0
    for letter in _STRING.sub(b"", raw):
        if letter in b"{[":
            deep += 1
            most = max(most, deep)
        elif letter in b"}]":
            deep -= 1
    return most
