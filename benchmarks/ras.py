"""A registry on disk: what it costs to register, to ask, to start, and to keep what is leased.

Records are signed by the owner, and each is verified and on the disk when `registered_per_s` counts it: `put_many`, as an import
or a feed gives them; `single_per_s` by eight threads that register one each and wait. A request is asked as `ioi ras find` asks,
by another domain: words and a filter (none, kind, kind and data class in turn), through columns and words to the records of what
is left, each of them verified, and to the options with their utility. `p50_ms`, `p99_ms`: of the requests, the median of its
times; `cpu`: without the time in which the machine did other things. `start_s`, `peak_mb`: a process of its own from opening the
database to its first answer, and its memory after all requests; start of the interpreter and imports are not in the time.
`words_*` and the peer `fts5_*`: the index of words alone (`benchmarks.ras_words`).

`renewals_per_s`: leases of run-time state by how many there are. `expired_late_s`: how long after its end an entry was given at
most, by one who asks as fast as can be.

`--records N` runs that size alone.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import ras_words
from benchmarks.frame import Report, quick
from benchmarks.ras_entries import KINDS, Drawn
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.trust import TrustDemand
from ioi_dagster.ras.discovery import Intent
from ioi_dagster.ras.leases import LeasedState
from ioi_dagster.ras.record import Kind, make_record
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys

FULL = {"records": (10_000, 100_000, 1_000_000), "requests": 300, "times": 5, "leases": (10_000, 1_000_000)}
QUICK = {"records": (10_000,), "requests": 60, "times": 2, "leases": (10_000,)}
FLOORS = {10_000: 5.0, 100_000: 15.0, 1_000_000: 50.0}
AIMS = {10_000: 1.0, 100_000: 5.0, 1_000_000: 20.0}
OWNER = "bench.example"
SINGLE, THREADS = 2_000, 8
RENEWALS = 300_000
EXPIRING_S = 3.0


def main() -> int:
    if "--serve" in sys.argv:
        at = sys.argv.index("--serve")
        return _serve(Path(sys.argv[at + 1]), json.loads(sys.argv[at + 2]))
    sizes: dict[str, Any] = QUICK if quick() else FULL
    if "--records" in sys.argv:
        sizes = sizes | {"records": (int(sys.argv[sys.argv.index("--records") + 1]),)}
    report = Report("ras")
    for count in sizes["records"]:
        with tempfile.TemporaryDirectory() as folder:
            _registry(report, Path(folder), count, sizes["requests"], sizes["times"])
        with tempfile.TemporaryDirectory() as folder:
            ras_words.compare(report, Path(folder), count, sizes["requests"], sizes["times"])
    for count in sizes["leases"]:
        report.figures[f"renewals_per_s@{count}"] = _renewals(count)
    report.figures["expired_late_s"] = _expired_late()
    report.floors = {f"p99_ms@{count}": (floor, "max") for count, floor in FLOORS.items()}
    report.floors |= {f"registered_per_s@{count}": (3_000.0, "min") for count in FLOORS}
    report.floors |= {f"renewals_per_s@{count}": (50_000.0, "min") for count in FULL["leases"]}
    report.floors |= {
        "start_s@1000000": (5.0, "max"),
        "peak_mb@1000000": (1_500.0, "max"),
        "expired_late_s": (1.0, "max"),
    }
    report.aims = {f"p99_ms@{count}": (aim, "max") for count, aim in AIMS.items()}
    report.aims |= {f"registered_per_s@{count}": (10_000.0, "min") for count in AIMS}
    report.aims |= {f"renewals_per_s@{count}": (300_000.0, "min") for count in FULL["leases"]}
    report.aims |= {"expired_late_s": (0.2, "max")}
    return report.finish()


def _registry(report: Report, folder: Path, count: int, requests: int, times: int) -> None:
    key = SigningKey.generate(OWNER)
    drawn = Drawn()
    store = _store(folder, key)
    took = 0.0
    for group in _groups(drawn, key, count):
        started = time.perf_counter()
        outcomes = store.put_many(group)
        took += time.perf_counter() - started
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert not failed, failed[0]
    report.figures[f"registered_per_s@{count}"] = count / took
    singles = [its for group in _groups(Drawn(seed=1), key, SINGLE, "single") for its in group]
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.put, singles))
    report.figures[f"single_per_s@{count}"] = SINGLE / (time.perf_counter() - started)
    store.close()
    report.figures[f"disk_mb@{count}"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    kinds = list(KINDS)
    filters = [((), (kinds[at % 3],), (kinds[at % 8], "restricted"))[at % 3] for at in range(requests)]
    asked = {
        "key": [key.key_id, key.public_bytes.hex()],
        "times": times,
        "requests": list(zip(drawn.requests(requests), filters, strict=True)),
    }
    command = [sys.executable, "-m", "benchmarks.ras", "--serve", str(folder), json.dumps(asked)]
    served = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    report.figures |= {f"{name}@{count}": figure for name, figure in served.items()}


def _groups(drawn: Drawn, key: SigningKey, count: int, prefix: str = "") -> Iterator[list[Signed]]:
    group: list[Signed] = []
    for _, kind, its_class, entry in drawn.entries(count):
        contract = {
            "id": f"{prefix}{entry.id}",
            "name": entry.name,
            "description": entry.description,
            "tags": list(entry.tags),
            "examples": list(entry.examples),
            "inputs": {"type": "object", "properties": dict(entry.inputs)},
        }
        spec = {"contracts": [contract], "handles": its_class}
        group.append(make_record(key, Kind(kind), f"{prefix}{entry.id}", "1.0.0", spec).signed)
        if len(group) == ras_words.GROUP:
            yield group
            group = []
    if group:
        yield group


def _store(folder: Path, key: SigningKey) -> SqlRecordStore:
    return SqlRecordStore(folder / "registry.sqlite", TrustedKeys({key.key_id: key.public_bytes}))


def _serve(folder: Path, asked: dict[str, Any]) -> int:
    """In a process of its own; prints the figures."""
    key_id, public = asked["key"]
    requests = [(text, tuple(its)) for text, its in asked["requests"]]
    started = time.perf_counter()
    store = SqlRecordStore(folder / "registry.sqlite", TrustedKeys({key_id: bytes.fromhex(public)}))
    registry = SqlRegistry(store, OWNER)
    registry.discover(_intent(*requests[0]), {})
    figures = {"start_s": time.perf_counter() - started}

    def ask(text: str, its: tuple[str, ...]) -> None:
        registry.discover(_intent(text, its), {})

    figures |= ras_words.timed("", ask, requests, asked["times"])
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(figures))
    return 0


def _intent(text: str, its: tuple[str, ...]) -> Intent:
    data = DataClass(its[1]) if len(its) > 1 else DataClass.PUBLIC
    kinds = (Kind(its[0]),) if its else ()
    return Intent(text, kinds=kinds, trust=TrustDemand(data_class=data), asker="partner.example")


def _renewals(count: int) -> float:
    """A second; the clock goes on as if each had been renewed every ten seconds, so that wheels turn."""
    state = LeasedState(most=count)
    keys = [f"node/{number}" for number in range(count)]
    for key in keys:
        state.put(key, 1, 30.0, 0.0)
    started = time.perf_counter()
    for number in range(RENEWALS):
        state.put(keys[number % count], number, 30.0, 10.0 * number / count)
    return RENEWALS / (time.perf_counter() - started)


def _expired_late() -> float:
    state, begun = LeasedState(), time.monotonic()
    ends = {}
    for number in range(1_000):
        ttl = 0.1 + (EXPIRING_S - 0.2) * number / 1_000
        state.put(f"node/{number}", 1, ttl, begun)
        ends[f"node/{number}"] = begun + ttl
    late = 0.0
    while (now := time.monotonic()) < begun + EXPIRING_S:
        late = max([late, *(now - ends[key] for key in state.items(now))])
    return late


if __name__ == "__main__":
    sys.exit(main())
