"""A folder behind a URL. What is written there has its name only once it is whole; which URLs may be opened is said here, by
whoever runs this, and never by those who tell of copies."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import fsspec

from ioi_dagster.errors import BadInputError, FinalError

CHUNK = 2**20
INCOMING = ".incoming-"
"""Before the names of files that are being written. No part's name begins with a dot."""
_READING: dict[str, dict[str, Any]] = {"http": {"block_size": 0}, "https": {"block_size": 0}}
"""One request a file, streamed. Other file systems read ahead in blocks of a few MiB."""
_OPTIONS: dict[str, dict[str, Any]] = {
    # Where a server sends its readers on to is nothing that was allowed here.
    scheme: {"allow_redirects": False}
    for scheme in ("http", "https")
}


@dataclass(frozen=True, slots=True)
class Door:
    """URLs that begin with `prefix` may be opened, with fsspec's `options`; these may be secret, and are told to nobody."""

    prefix: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Doors:
    """By domain, which of its URLs may be opened. A URL from elsewhere could name any file and any host that this machine
    reaches."""

    of: Mapping[str, Sequence[Door]]

    def open(self, domain: str, url: str) -> Folder:
        """Raises `BadInputError` for what no door leads to, and `FinalError` where fsspec lacks what it needs."""
        plain = url.isprintable() and not any(odd in url for odd in _ODD) and ".." not in url.split("/")
        door = next((one for one in self.of.get(domain, ()) if plain and _below(url, one.prefix)), None)
        if door is None:
            raise BadInputError(
                f"{url[:200]!r} is none of the URLs that may be opened of {domain}",
                where="data",
                todo=f"allow a prefix of it as a door of {domain}, or have its copies told of with a URL that is allowed",
            )
        return Folder(url, door.options)


_ODD = ("::", "\\", "%", "?", "#", "@", "*", "[")
"""Chained file systems, ways to write dots and slashes otherwise, queries, credentials and patterns."""


def _below(url: str, prefix: str) -> bool:
    return url == prefix or url.startswith(prefix.rstrip("/") + "/")


class Folder:
    """Below `url`. Names are relative and were checked (`check_parts`). Methods may raise whatever its file system does."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        scheme = url.partition("://")[0] if "://" in url else "file"
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **{**_OPTIONS.get(scheme, {}), **(options or {})})
        except (ValueError, ImportError) as error:
            raise FinalError(f"{url!r} cannot be opened: {error} — install what fsspec needs for it") from error
        self.url, self._root = url, root.rstrip("/")
        self._reading = _READING.get(scheme, {})
        self._local = scheme in ("file", "local")

    def chunks(self, name: str) -> Iterator[bytes]:
        """All of it, in pieces of `CHUNK` bytes at most."""
        with self._fs.open(self._path(name), "rb", **self._reading) as file:
            while chunk := cast(bytes, file.read(CHUNK)):
                yield chunk

    def size(self, name: str) -> int | None:
        """None where there is no such file."""
        try:
            return int(self._fs.info(self._path(name))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, below: str = "") -> list[str]:
        """Of what lies directly in it, or in a folder below it, sorted; of what is being written nothing."""
        found = (path.rstrip("/").rpartition("/")[2] for path in self._listed(self._path(below).rstrip("/")))
        return sorted(name for name in found if not name.startswith("."))

    def mark(self, name: str) -> object:
        """Differs once the file was changed, as far as its file system tells; None where there is no such file."""
        try:
            return self._fs.ukey(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def room(self) -> int | None:
        """Free bytes; None where that is not known beforehand."""
        if not self._local:
            return None
        path = Path(self._root)
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def begin(self, name: str) -> Incoming:
        """A file that will be there as `name` once it is published. Any number may write the same name at once; each has a file
        of its own, and the last that is published stays."""
        self._fs.makedirs(self._parent(self._path(name)), exist_ok=True)
        return Incoming(self._fs, self._path(f"{INCOMING}{os.urandom(8).hex()}"), self._path(name), self._local)

    def put(self, name: str, data: bytes) -> None:
        incoming = self.begin(name)
        try:
            incoming.write(data)
            incoming.publish()
        except BaseException:
            incoming.discard()
            raise

    def tidy(self) -> int:
        """Remove what writers left that ended in the middle; how many files. One that still writes finds its file gone."""
        left = [path for path in self._listed(self._root) if path.rpartition("/")[2].startswith(INCOMING)]
        for path in left:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(path)
        return len(left)

    def remove(self, names: Sequence[str]) -> None:
        """These files, and folders that are empty then. One that is not there is no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))
        folders = {folder for name in names for folder in _folders(name)}
        for folder in sorted(folders, key=len, reverse=True):
            # One that is not empty stays, as does one where nobody may remove any: an empty folder harms nobody.
            with contextlib.suppress(OSError, NotImplementedError):
                self._fs.rmdir(f"{self._root}/{folder}".rstrip("/"))

    def _listed(self, path: str) -> list[str]:
        try:
            return [str(one) for one in self._fs.ls(path, detail=False, refresh=True)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _parent(self, path: str) -> str:
        return path.rpartition("/")[0]


class Incoming:
    """A file under a name of its own. `publish` gives it its name; on a disk of this machine it is there for good before that."""

    def __init__(self, fs: Any, temporary: str, path: str, local: bool) -> None:
        self._fs, self._temporary, self._path, self._local = fs, temporary, path, local
        self._file = fs.open(temporary, "wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def publish(self) -> None:
        """Raises `FileNotFoundError` where another has tidied it away since."""
        self._file.flush()
        if not self._local:
            self._file.close()
            self._fs.mv(self._temporary, self._path)
            return
        os.fsync(self._file.fileno())
        self._file.close()
        Path(self._temporary).replace(self._path)
        folder = os.open(Path(self._path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Never raises: what is left is tidied by the next that succeeds."""
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(Exception):
            self._fs.rm_file(self._temporary)


def _folders(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition("/")[0]
        yield name
