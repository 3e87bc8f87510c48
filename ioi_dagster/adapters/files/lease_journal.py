"""The journal of one cluster's leases: what was granted and what ended, written before the answer to an award goes out.

A line is the CRC-32 of its text in hex, a space, and a JSON object. The first one says what the file is, of which version, and
the epoch of the governor that wrote it. Opening replays what is there and begins the next epoch with a new file, which takes the
place of the old one at once (rename(2)): at any moment there is a whole one on the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.adapters.files.only_one import only_one
from ioi_dagster.decoding import converted, from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.negotiation import Lease

log = logging.getLogger("ioi.cluster")
KIND, VERSION = "leases", 1
MAX_LINE = 64 * 2**10
COMPACT_AT = 8 * 2**20
"""Bytes from which a journal is written anew when less than half of it is still of use."""


class Header(msgspec.Struct, frozen=True):
    """The first line of a journal."""

    journal: str
    version: int
    cluster: str
    epoch: int


class JournalFullError(Exception):
    """Nothing of what was to be written is in the journal, since the disk does not take it. `why` is the system's word."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.why = error.strerror or str(error)
        super().__init__(f"{path}: {self.why}")


class LeaseJournal:
    """`epoch` is this governor's: one more than that of any before it, also where the journal itself was removed. `found`: leases
    that were held when the last one ended, as far as that can be read; they end with this opening. `damage`: what could not be
    read, in words; the damaged file is kept beside the new one.

    Raises `BadInputError` for a journal of a newer version or of another cluster, or one that another process writes, which stays
    as it is, and `JournalFullError` where the new one cannot be written.
    """

    def __init__(self, path: Path, cluster: str) -> None:
        self._path, self._cluster = path, cluster
        self._lock = only_one(path.with_suffix(".lock"), f"a governor of cluster {cluster}")
        self.damage: list[str] = []
        self._live: dict[str, Lease] = {}
        self._epoch_path = path.with_suffix(".epoch")
        try:
            last = self._replay()
        except BaseException:
            self._lock.close()
            raise
        self.epoch = max(last, self._kept_epoch()) + 1
        self.found: tuple[Lease, ...] = tuple(self._live.values())
        # Workers end with their scheduler, so nothing that an older governor granted runs any more.
        self._live.clear()
        self._begin()

    def granted(self, leases: Sequence[Lease]) -> None:
        """One write and one wait for the disk (fdatasync) for all of them. Raises `JournalFullError`, and then nothing of it is
        there."""
        if leases:
            self._append([{"granted": msgspec.to_builtins(lease)} for lease in leases], wait=True)
            self._live |= {lease.id: lease for lease in leases}

    def ended(self, ended: Sequence[tuple[str, str]]) -> None:
        """(lease, why) of leases that are over. One that the disk does not take is only looked after in vain after a restart."""
        for identity, _ in ended:
            self._live.pop(identity, None)
        if ended:
            with contextlib.suppress(JournalFullError):
                self._append([{"ended": identity, "why": why} for identity, why in ended], wait=False)

    def close(self) -> None:
        self._file.close()
        self._lock.close()

    # ------------------------------------------------------------------------------------------------------------------

    def _append(self, lines: list[dict[str, Any]], wait: bool) -> None:
        data = b"".join(map(_line, lines))
        try:
            # Unbuffered, and cut off again where it did not fit: a reader never meets half of it.
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            if wait:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise JournalFullError(self._path, error) from error
        self._size += len(data)
        if self._size > COMPACT_AT and len(self._live) * 512 < self._size:
            with contextlib.suppress(JournalFullError):
                self._begin()

    def _kept_epoch(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(self._epoch_path.read_text())
        return 0

    def _begin(self) -> None:
        """A new file with what is held, in the place of the old one."""
        header = msgspec.to_builtins(Header(KIND, VERSION, self._cluster, self.epoch))
        data = b"".join(map(_line, [header, *({"granted": msgspec.to_builtins(one)} for one in self._live.values())]))
        try:
            _replace(self._epoch_path, b"%d" % self.epoch)
            _replace(self._path, data)
            self._file = self._path.open("r+b", buffering=0)
        except OSError as error:
            raise JournalFullError(self._path, error) from error
        self._size = self._file.seek(0, os.SEEK_END)

    def _replay(self) -> int:
        """Takes in what can be read; returns the newest epoch that is known."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        lines = data.split(b"\n")
        whole, torn = lines[:-1], lines[-1]
        header = self._header(whole[0] if whole else b"")
        epoch = header.epoch if header is not None else 0
        for number, line in enumerate(whole[1:], start=2):
            said = _said(line)
            if said is None:
                self.damage.append(f"line {number} is not what was written there (its checksum differs)")
            else:
                epoch = max(epoch, self._take(said))
        if torn:
            # It was being written when the process or the machine ended: nobody was answered.
            log.info("%s: the last line was not written to its end and is left out", self._path)
        if self.damage:
            self._keep_aside(data)
        return epoch

    def _header(self, line: bytes) -> Header | None:
        said = _said(line)
        try:
            header = converted(said, Header)
        except msgspec.ValidationError:
            self.damage.append("line 1 does not say what the file is: the epoch is taken from its leases")
            return None
        if header.journal != KIND or header.version > VERSION:
            raise BadInputError(
                f"a journal of {header.journal}, version {header.version}; this program reads version {VERSION}",
                where=str(self._path),
                todo="start the version that wrote it, or move the file away: its leases end by themselves in 30 s",
            )
        if header.cluster != self._cluster:
            raise BadInputError(
                f"the journal of cluster {header.cluster}, and not of {self._cluster}",
                where=str(self._path),
                todo="give each cluster a folder of its own, or move the file to where it belongs",
            )
        return header

    def _take(self, said: dict[str, Any]) -> int:
        """What one line says; returns its epoch, 0 where it has none. What a later version adds is left out."""
        if "granted" in said:
            try:
                lease = converted(said["granted"], Lease)
            except msgspec.ValidationError:
                return 0
            self._live[lease.id] = lease
            return lease.epoch
        self._live.pop(said.get("ended", ""), None)
        return 0

    def _keep_aside(self, data: bytes) -> None:
        kept = self._path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            kept.write_bytes(data)
        for text in self.damage:
            log.error("%s: %s; the file is kept as %s, and what else it says counts", self._path, text, kept.name)


def _replace(path: Path, data: bytes) -> None:
    """Afterwards the file at `path` holds `data`, also when the machine loses power; at no moment it holds anything else than
    that or what it held before."""
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _line(said: dict[str, Any]) -> bytes:
    text = msgspec.json.encode(said)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _said(line: bytes) -> dict[str, Any] | None:
    """What the line says; None where its checksum is not that of its text."""
    checksum, _, text = line.partition(b" ")
    if len(line) > MAX_LINE or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        said = from_json(text)
    except msgspec.DecodeError:
        return None
    return said if isinstance(said, dict) else None
