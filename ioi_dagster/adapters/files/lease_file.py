"""Run-time state on disk, so that a gateway that starts again does not begin with nothing.

All of it is written at once, now and then: each renewal on its own would cost more than it is worth, as what is lost is told anew
within seconds.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from ioi_dagster.decoding import from_msgpack
from ioi_dagster.private_file import write_private
from ioi_dagster.ras.leases import Lease, LeasedState

log = logging.getLogger("ioi.gateway")
VERSION = 1
MAX_BYTES = 512 * 2**20


class _Written(msgspec.Struct, frozen=True, array_like=True):
    version: int
    at: float
    leases: list[Lease]


class LeaseFile:
    """Checkpoints of `state` at `path`, every `every_s` seconds at most. `now`: monotonic, `wall`: of the epoch; in seconds."""

    def __init__(self, path: Path, state: LeasedState, every_s: float = 5.0) -> None:
        self._path, self._state, self._every = path, state, every_s
        self._next = 0.0

    def save(self, now: float, wall: float) -> bool:
        """Whole or not at all. False: it is not time yet, or the disk takes nothing, which is logged. Values are of JSON."""
        if now < self._next:
            return False
        self._next = now + self._every
        written = msgspec.msgpack.encode(_Written(VERSION, wall, self._state.leases(now)))
        try:
            write_private(self._path, written)
        except OSError as error:
            log.warning("run-time state was not written to %s: %s", self._path, error.strerror)
            return False
        return True

    def load(self, now: float, wall: float) -> int:
        """Give the state what is there and has not ended since, marked as from before. Returns how many; what cannot be read is
        none, and logged."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            written = from_msgpack(self._path.read_bytes(), _Written)
            if written.version != VERSION:
                raise ValueError(f"it is of version {written.version}")
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:  # msgspec's errors are values'
            log.warning("run-time state was not read from %s: %s", self._path, error)
            return 0
        return self._state.load(written.leases, wall - written.at, now)
