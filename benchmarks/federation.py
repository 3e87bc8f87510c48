"""How soon registries that tell each other their records agree, and how soon a change is everywhere.

`converge_s@DOMAINSxRECORDS`: each domain's gateway runs as a process of its own with mutual TLS, signed requests and its database
on disk. Each is told RECORDS records, of some 600 bytes each, by its own domain's process, a thousand at a time, all domains at
once; from the first of them until every gateway has kept all of all domains. What a reader does with an entry is part of it: its
form, digest, place in the chain, the signature, the record's own form, and the transaction.

`change_s@…`: one record more, from before its gateway is told until it is kept in all the others; the slowest of several, and
`change_p50_s@…` their median. Making and signing the records is not timed."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx

from benchmarks.frame import Report, quick
from benchmarks.gateways import Gateway, Gateways, wait_for
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.record import Kind, make_record, record_of
from ioi_dagster.signing import Signed

FULL = {"domains": 10, "records": 10_000, "changes": 10}
QUICK = {"domains": 3, "records": 300, "changes": 3}
BATCH = 1_000
PATIENCE_S = 600.0
SPEC = {
    "description": "Reads the text of a scanned page, in many languages, with the boxes of its words.",
    "tags": ["ocr", "text", "scan"],
    "inputs": {"image": {"type": "string", "contentMediaType": "image/png"}},
    "outputs": {"text": {"type": "string"}},
    "cost": {"unit": "page", "amount": 2, "currency": "EUR"},
    "examples": ["what does this letter say", "read my scan"],
}


def records(one: Gateway, count: int, prefix: str = "r") -> list[Signed]:
    key = one.home.signing_key()
    return [make_record(key, Kind.MODEL, f"{prefix}{number}", "1.0", SPEC).signed for number in range(count)]


def tell_all(one: Gateway, told: list[Signed]) -> None:
    for first in range(0, len(told), BATCH):
        one.tell(told[first : first + BATCH])


def ready(one: Gateway) -> bool:
    """It answers, and may write."""
    try:
        one.tell()
    except (RuntimeError, httpx.TransportError):
        return False
    return bool(one.places())


def change(gateways: Gateways, number: int) -> float:
    one = gateways.all[number % len(gateways.all)]
    [signed] = records(one, 1, f"change{number}-")
    record = record_of(signed)
    item = record_item(record.urn, record.version)
    began = time.monotonic()
    one.tell([signed])
    others = [other for other in gateways.all if other is not one]
    sql = "select 1 from feed_entry where item = ? and live"
    wait_for("a change", lambda: all(other.query(sql, item) for other in others), 60, 0.02)
    return time.monotonic() - began


def main() -> int:
    sizes = QUICK if quick() else FULL
    size = f"{sizes['domains']}x{sizes['records']}"
    report = Report("federation")
    with tempfile.TemporaryDirectory() as folder, Gateways(Path(folder), sizes["domains"]) as gateways:
        told = [records(one, sizes["records"]) for one in gateways.all]
        for one in gateways.all:
            wait_for(f"the start of {one.home.name}", lambda one=one: ready(one), PATIENCE_S, 0.5)
        wait_for("the first agreement", gateways.agreed, PATIENCE_S, 0.5)
        began = time.monotonic()
        with ThreadPoolExecutor(len(gateways.all)) as pool:
            list(pool.map(tell_all, gateways.all, told))
        stated = time.monotonic() - began
        wait_for("agreement", gateways.agreed, PATIENCE_S, 0.25)
        report.figures[f"converge_s@{size}"] = time.monotonic() - began
        report.figures[f"stated_s@{size}"] = stated
        changes = [change(gateways, number) for number in range(sizes["changes"])]
        report.figures[f"change_s@{size}"] = max(changes)
        report.figures[f"change_p50_s@{size}"] = median(changes)
    report.floors = {"converge_s@10x10000": (120, "max"), "change_s@10x10000": (5, "max")}
    report.aims = {"converge_s@10x10000": (60, "max"), "change_s@10x10000": (2, "max")}
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
