"""Is the project's code on disk still what this process has loaded? Asked when a run first reaches it.

A file is remembered as it was when its code was read, by whatever imported it and whenever: what is edited while a long import
or a long step goes on has changed too. The project's is every file outside the standard library and the folders that packages
are installed in; what is installed editable lies elsewhere and so belongs to it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import sysconfig
import threading
from collections.abc import Mapping
from typing import Any

Stamp = tuple[float, int]
"""When a file was modified (Unix seconds), and its bytes."""
NONE: Stamp = (0.0, 0)
"""Of a file that is not there."""
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_paths = sysconfig.get_paths()
_NOT_PROJECT = tuple({os.path.join(_paths[name], "") for name in _LIBRARIES})


class ProjectCode:
    """One per process. Thread-safe. It knows nothing before it is told to `watch`."""

    def __init__(self) -> None:
        self._read: dict[str, Stamp] = {}
        self._elsewhere: dict[str, dict[str, Stamp]] = {}
        self._looked_at: set[str] = set()
        self._watching = False
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Remember what is loaded, and from now on each file of the project as it is read."""
        with self._lock:
            if self._watching:
                return
            self._watching = True
        stock, note = importlib.machinery.SourceFileLoader.path_stats, self._note

        def path_stats(self: Any, path: str) -> Mapping[str, Any]:
            # The import system asks for them before it reads the file, to tell whether its bytecode is good.
            stats = stock(self, path)
            note(path, (stats["mtime"], stats["size"]))
            return stats

        importlib.machinery.SourceFileLoader.path_stats = path_stats
        self._note_modules()

    def changed(self) -> str:
        """A file that is not what it was when it was loaded; empty where there is none."""
        self._note_modules()
        with self._lock:
            known = [*self._read.items(), *(item for its in self._elsewhere.values() for item in its.items())]
        return next((file for file, stamp in known if _stamp(file) != stamp), "")

    def loaded(self) -> dict[str, Stamp]:
        """File → what it was when this process read it."""
        self._note_modules()
        with self._lock:
            return dict(self._read)

    def elsewhere(self, process: str, files: Mapping[str, Stamp]) -> None:
        """A process of this one's has loaded `files`."""
        with self._lock:
            self._elsewhere[process] = dict(files)

    def ended(self, process: str) -> None:
        with self._lock:
            self._elsewhere.pop(process, None)

    def _note(self, file: str, stamp: Stamp) -> None:
        file = os.path.abspath(file)
        if _of_project(file):
            with self._lock:
                self._read[file] = stamp

    def _note_modules(self) -> None:
        """What nobody was seen to read: loaded before the watch began, or native code."""
        if not self._watching:
            return
        for module in list(sys.modules.values()):
            file = getattr(module, "__dict__", {}).get("__file__")
            if not isinstance(file, str) or file in self._looked_at:
                continue
            self._looked_at.add(file)
            if os.path.abspath(file) not in self._read:
                self._note(file, _stamp(file))


def _of_project(file: str) -> bool:
    return not file.startswith(_NOT_PROJECT) and not any(part in file for part in _INSTALLED)


def _stamp(file: str) -> Stamp:
    try:
        seen = os.stat(file)
    except OSError:
        return NONE
    return seen.st_mtime, seen.st_size


project_code = ProjectCode()
