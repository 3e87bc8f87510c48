"""Every decision, one JSON line each, chained by hash so that a missing or altered line is seen."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import IO, Any

from ioi_dagster.model.decision import Decision
from ioi_dagster.signing import digest

MAX_LINE = 64 * 1024
_START = "sha256:" + "0" * 64


class DecisionLog:
    """Appends to `path`. The input stays out: its digest says which it was, the documents hold no secrets anyway."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, kind: str, document: dict[str, Any], decision: Decision) -> None:
        row = {
            "kind": kind,
            "at": document.get("now", 0),
            "id": decision.id,
            "verdict": str(decision.verdict),
            "codes": [refusal.code for refusal in decision.refusals],
            "revision": decision.revision,
            "input": decision.input_digest,
            "evaluated": list(decision.evaluated),
        }
        # Gateway, daemon and run processes of a domain write to one chain, each after the line that is last then.
        with self._lock, self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            row["previous"], torn = _last_hash(file)
            row["hash"] = digest(row)
            file.write(b"\n" * torn + json.dumps(row, sort_keys=True).encode() + b"\n")


def verify(path: Path) -> str | None:
    """None when the chain holds, else where it breaks (`line N: why`)."""
    last = _START
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            stated = row.pop("hash")
        except (ValueError, KeyError, AttributeError):
            return f"line {number}: not a decision"
        if row.get("previous") != last:
            return f"line {number}: a line before it is missing or was altered"
        if digest(row) != stated:
            return f"line {number}: it was altered"
        last = stated
    return None


def _last_hash(file: IO[bytes]) -> tuple[str, bool]:
    """(hash in the last line, whether that line was cut off). A line that is none (by a full disk or an end in the middle of
    it) starts a new chain below it, which `verify` shows."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_LINE))
    tail = file.read()
    lines, torn = tail.splitlines(), bool(tail) and not tail.endswith(b"\n")
    try:
        return (json.loads(lines[-1])["hash"] if lines and not torn else _START), torn
    except (ValueError, KeyError, TypeError):
        return _START, torn
