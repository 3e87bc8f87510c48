"""How clusters stand with a domain, in a file that outlives its gateway: a digest, and below it what it is of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.model.standing import MAX_STANDINGS, Standing
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import digest_bytes

MAX_BYTES = 4 * 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Saved:
    """`at`: Unix seconds."""

    at: float
    standings: Annotated[tuple[Standing, ...], msgspec.Meta(max_length=MAX_STANDINGS)]


class StandingFile:
    """Soft state: one that cannot be read is left out with a line in the log, and written anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, now: float) -> tuple[tuple[Standing, ...], float]:
        """What was saved last, and how many seconds ago by a wall clock that is `now` (Unix seconds)."""
        try:
            with self._path.open("rb") as file:
                digest, _, body = file.read(MAX_BYTES).partition(b"\n")
            if digest.decode() != digest_bytes(body):
                raise ValueError("its digest is another's")
            saved = from_json(body, _Saved)
        except FileNotFoundError:
            return (), 0.0
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("%s is left out, and how clusters stood is forgotten: %s", self._path, error)
            return (), 0.0
        return saved.standings, max(0.0, now - saved.at)

    def save(self, standings: tuple[Standing, ...], now: float) -> None:
        """Raises `OSError`."""
        body = msgspec.json.encode(_Saved(now, standings))
        write_private(self._path, digest_bytes(body).encode() + b"\n" + body)
