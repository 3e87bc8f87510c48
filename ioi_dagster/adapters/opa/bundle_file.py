"""A built bundle on disk as the engine of a gate: one that is built anew counts from the next decision on."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from ioi_dagster.adapters.opa.wasm import WasmEngine

log = logging.getLogger("ioi.gate")
_Stamp = tuple[int, int, int]


class BundleFile:
    """Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: WasmEngine | None = None
        self._read: _Stamp | None = None
        """None where it was not there."""
        self._lock = threading.Lock()

    def engine(self) -> WasmEngine:
        """Of the bundle as it is now. One that cannot be read leaves the engine that there was, and is read again when it has
        changed; raises what is wrong with it where there was none."""
        with self._lock:
            stamp = self._stamp()
            try:
                if self._engine is None or stamp != self._read:
                    self._read = stamp
                    self._engine = WasmEngine.load(self._path)
            except Exception as error:  # whatever is wrong with a module, and WebAssembly's own errors, is no engine
                if self._engine is None:
                    raise
                log.warning("the policies stay as they are: %s", error)
            return self._engine

    def _stamp(self) -> _Stamp | None:
        try:
            seen = self._path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_size, seen.st_ino
