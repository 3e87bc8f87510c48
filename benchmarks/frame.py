"""What every benchmark shares: the machine's description, floors, and the closing JSON line."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

LOAD_BEFORE = [round(value, 2) for value in os.getloadavg()]
"""When the benchmark began."""


@dataclass
class Report:
    """Figures by name; `floors` and `aims` map a figure's name to (limit, "min" or "max")."""

    benchmark: str
    figures: dict[str, float] = field(default_factory=dict)
    peers: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    floors: dict[str, tuple[float, str]] = field(default_factory=dict)
    aims: dict[str, tuple[float, str]] = field(default_factory=dict)

    def finish(self) -> int:
        """Print the line, and keep it where `--record` is given; 0 only if every floor whose figure was measured holds."""
        values = {**self.figures, **self.ratios}
        floors, aims = _judged(self.floors, values), _judged(self.aims, values)
        line: dict[str, Any] = {
            "benchmark": self.benchmark,
            "figures": _rounded(self.figures),
            "peers": _rounded(self.peers),
            "ratios": _rounded(self.ratios),
            "floors": floors,
            "aims": aims,
            "machine": machine(),
        }
        print(json.dumps(line))
        if "--record" in sys.argv[1:]:
            self._record(line)
        return 0 if all(floor["holds"] for floor in floors.values()) else 1

    def _record(self, line: dict[str, Any]) -> None:
        from benchmarks.record import record, write_page

        if record(line, sys.argv[1:]):
            write_page()
        else:
            print(f"{self.benchmark}: not kept, since a full result is there and this one is quick", file=sys.stderr)


def machine() -> dict[str, Any]:
    """Cores, load, versions, and two calibration figures to read absolute floors by."""
    started = time.perf_counter()
    total = 0
    for number in range(2_000_000):
        total += number * number
    loop = time.perf_counter() - started
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        started = time.perf_counter()
        for _ in range(20):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        fsync = (time.perf_counter() - started) / 20
    return {
        "cores": os.cpu_count(),
        "load_before": LOAD_BEFORE,
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("dagster", "distributed", "onnxruntime")},
        "calibration": {"loop_s": round(loop, 4), "fsync_ms": round(1000 * fsync, 3)},
    }


def quick() -> bool:
    return "--quick" in sys.argv[1:]


def _judged(limits: dict[str, tuple[float, str]], values: dict[str, float]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, (limit, kind) in limits.items():
        if name in values:
            holds = values[name] <= limit if kind == "max" else values[name] >= limit
            found[name] = {"floor": limit, "value": round(values[name], 3), "holds": holds}
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
