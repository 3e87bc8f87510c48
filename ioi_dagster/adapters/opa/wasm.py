"""Policies compiled to WebAssembly, evaluated in this process by wasmtime.

Implements OPA's WebAssembly ABI 1.3 (https://www.openpolicyagent.org/docs/wasm): `opa_eval` with input and data as JSON
in the module's memory. Fuel stops a run-away policy; only the host builtins listed here exist.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import wasmtime

from ioi_dagster.adapters.opa.build import read_bundle
from ioi_dagster.errors import BadInputError, RetryableError
from ioi_dagster.signing import digest_bytes

FUEL = 200_000_000
MAX_INPUT_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ITEMS = 1_000
MAX_TEXT = 1_024


class WasmEngine:
    """One policy module in one store; calls are serialised by a lock, each takes a fraction of a millisecond."""

    name = "opa-wasm"

    def __init__(self, wasm: bytes, data: dict[str, Any]) -> None:
        self.revision = digest_bytes(wasm + json.dumps(data, sort_keys=True).encode())
        self._lock = threading.Lock()
        config = wasmtime.Config()
        config.consume_fuel = True
        engine = wasmtime.Engine(config)
        self._store = store = wasmtime.Store(engine)
        store.set_fuel(FUEL)
        module = wasmtime.Module(engine, wasm)
        self._memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(5, None)))
        self._instance = wasmtime.Instance(store, module, [self._import(item) for item in module.imports])
        self._exports = self._instance.exports(store)
        wanted = json.loads(self._text(self._call("opa_json_dump", self._call("builtins"))))
        if wanted:
            raise BadInputError(f"the policy needs host builtins that do not exist here: {', '.join(sorted(wanted))}")
        self._entrypoints: dict[str, int] = json.loads(
            self._text(self._call("opa_json_dump", self._call("entrypoints")))
        )
        self._data = self._write_json(json.dumps(data).encode())
        self._heap = self._call("opa_heap_ptr_get")

    @classmethod
    def load(cls, bundle: Path) -> WasmEngine:
        """Read a bundle made by `opa build -t wasm`; raises `BadInputError` when it is not one."""
        return cls(*read_bundle(bundle))

    @property
    def entrypoints(self) -> frozenset[str]:
        return frozenset(self._entrypoints)

    def evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any:
        """The entrypoint's value for `document`.

        Raises `BadInputError` for a document over the limits and `RetryableError` when the policy gives no value, traps
        or runs out of fuel: an engine that cannot say anything has not allowed anything.
        """
        if entrypoint not in self._entrypoints:
            raise BadInputError(f"the bundle has no entrypoint {entrypoint!r}")
        encoded = json.dumps(document, ensure_ascii=False).encode()
        check_limits(document, encoded)
        with self._lock:
            try:
                self._store.set_fuel(FUEL)
                address = self._heap
                self._reserve(address + len(encoded))
                self._memory.write(self._store, encoded, address)
                result = self._call(
                    "opa_eval",
                    0,
                    self._entrypoints[entrypoint],
                    self._data,
                    address,
                    len(encoded),
                    address + len(encoded),
                    0,
                )
                values = json.loads(self._text(result))
            except (wasmtime.WasmtimeError, wasmtime.Trap, ValueError) as error:
                raise RetryableError(f"policy {entrypoint} could not be evaluated: {error}") from error
        if len(values) != 1:
            raise RetryableError(f"policy {entrypoint} is undefined for this input")
        return values[0]["result"]

    def _reserve(self, size: int) -> None:
        # OPA's heap grows by itself, but the input is written before it runs.
        missing = size + 65_536 - self._memory.data_len(self._store)
        if missing > 0:
            self._memory.grow(self._store, missing // 65_536 + 1)

    def _write_json(self, encoded: bytes) -> int:
        address = self._call("opa_malloc", len(encoded))
        self._memory.write(self._store, encoded, address)
        parsed = self._call("opa_json_parse", address, len(encoded))
        self._call("opa_free", address)
        return parsed

    def _call(self, name: str, *arguments: int) -> int:
        function = self._exports[name]
        assert isinstance(function, wasmtime.Func)
        return function(self._store, *arguments)  # pyright: ignore[reportReturnType]

    def _text(self, address: int) -> bytes:
        end = self._memory.data_len(self._store)
        step, out = 4_096, bytearray()
        while address < end:
            chunk = bytes(self._memory.read(self._store, address, min(address + step, end)))
            zero = chunk.find(b"\0")
            if zero >= 0:
                return bytes(out + chunk[:zero])
            out += chunk
            address += len(chunk)
        return bytes(out)

    def _import(self, item: wasmtime.ImportType) -> Any:
        if item.name == "memory":
            return self._memory
        if item.name == "opa_abort":
            return wasmtime.Func(self._store, item.type, self._abort)  # pyright: ignore[reportArgumentType]
        return wasmtime.Func(self._store, item.type, lambda *_: 0)  # pyright: ignore[reportArgumentType]

    def _abort(self, address: int) -> None:
        raise wasmtime.WasmtimeError(f"policy aborted: {self._text(address).decode(errors='replace')}")


def check_limits(document: Any, encoded: bytes) -> None:
    """Raise `BadInputError` for a document that is too large, too deep, too long or holds too long a text."""
    if len(encoded) > MAX_INPUT_BYTES:
        raise BadInputError(f"policy input of {len(encoded)} bytes is over {MAX_INPUT_BYTES}")
    stack = [(document, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise BadInputError(f"policy input is nested deeper than {MAX_DEPTH}")
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise BadInputError(f"policy input holds a text of {len(value)} characters, over {MAX_TEXT}")
        if isinstance(value, dict):
            children = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            children = list(value)
        else:
            continue
        if len(value) > MAX_ITEMS:
            raise BadInputError(f"policy input holds {len(value)} items at one place, over {MAX_ITEMS}")
        stack += [(child, depth + 1) for child in children]
