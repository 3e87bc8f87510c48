"""Stores of values: written under a name of the attempt's own, published by one atomic act, read whole or not at all.

On local disks publishing is a hard link that replaces the old one by `rename(2)`. Behind a URL (fsspec) it is a pointer: a
small object with the value's name, put at once. Object stores have no atomic rename, but each single put is atomic.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import fsspec
import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.errors import FinalError

STAGED = "staged"
"""Below it lies what attempts wrote; nobody looks there by himself."""


class StoreSpec(msgspec.Struct, frozen=True):
    """How to open a store elsewhere. `options` may hold credentials: it is sent to the run process and written nowhere."""

    url: str
    options: dict[str, Any] = {}

    def without_secrets(self) -> StoreSpec:
        return StoreSpec(self.url)


class ValueStore(Protocol):
    """Names are relative, with `/`. Every method may raise `OSError`."""

    shared: bool
    """Other processes see the same values."""

    def put(self, name: str, data: bytes) -> None:
        """Write under a name that nobody reads before it is published."""
        ...

    def publish(self, source: str, name: str) -> None:
        """From now on `name` gives what was put as `source`: the old value or the new one at any moment."""
        ...

    def get(self, name: str) -> bytes | None:
        """What was put or published under `name`; None where nothing was."""
        ...

    def tidy(self, folder: str, keep: frozenset[str]) -> int:
        """Remove what was put below `folder`, except `keep`; returns how many values went."""
        ...


class LocalStore:
    """Files below `root`."""

    shared = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        temporary = _beside(path)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def publish(self, source: str, name: str) -> None:
        path = self._path(name)
        temporary = _beside(path)
        try:
            try:
                os.link(self._root / source, temporary)
            except FileNotFoundError:
                raise
            except OSError:
                # A file system without hard links: a copy, which takes its name as one all the same.
                shutil.copyfile(self._root / source, temporary)
            # Renaming one link of a file to another of the same file does nothing and leaves both.
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def tidy(self, folder: str, keep: frozenset[str]) -> int:
        removed, top = 0, self._root / folder
        # What lies in a folder comes before it.
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_dir():
                _remove_empty(path)
            elif path.relative_to(self._root).as_posix() not in keep:
                path.unlink(missing_ok=True)
                removed += 1
        _remove_empty(top)
        return removed

    def _path(self, name: str) -> Path:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Pointer(msgspec.Struct):
    value: str


class FsspecStore:
    """Objects below a URL that fsspec knows."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise FinalError(
                f"the store {url!r} cannot be opened: {error} — install what fsspec needs for it"
            ) from error
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self.shared = "memory" not in protocols
        self._renames = bool({"file", "local"} & set(protocols))
        self._root = self._root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        if not self._renames:
            self._fs.pipe_file(path, data)
            return
        temporary = f"{path}.{os.urandom(4).hex()}.tmp"
        self._fs.pipe_file(temporary, data)
        self._fs.mv(temporary, path)

    def publish(self, source: str, name: str) -> None:
        if not self._fs.exists(f"{self._root}/{source}"):
            raise FileNotFoundError(f"{self._root}/{source}")
        self.put(name, msgspec.json.encode(_Pointer(source)))

    def get(self, name: str) -> bytes | None:
        if name.startswith(f"{STAGED}/"):
            return self._cat(name)
        for _ in range(2):
            # Twice: between pointer and value a newer one may have taken its place.
            pointer = self._cat(name)
            if pointer is None:
                return None
            data = self._cat(from_json(pointer, _Pointer).value)
            if data is not None:
                return data
        return None

    def tidy(self, folder: str, keep: frozenset[str]) -> int:
        gone = [path for path in self._fs.find(f"{self._root}/{folder}") if self._name(path) not in keep]
        for path in gone:
            self._fs.rm_file(path)
        return len(gone)

    def _cat(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> str:
        path = f"{self._root}/{name}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")


def open_store(spec: StoreSpec) -> ValueStore:
    """A path without a scheme is a local folder."""
    return FsspecStore(spec.url, spec.options) if "://" in spec.url else LocalStore(Path(spec.url))


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _beside(path: Path) -> Path:
    return path.with_name(f".{os.urandom(8).hex()}.tmp")
