"""Which capability answers a request in words: how often the index has it, and how quickly, beside SQLite's full text search.

`--data DIR` has a folder for each set, as `benchmarks/yardstick/matching/sample` has, which is taken where no other is given;
floors are of whole sets. Halves: of the requests, by what answers them, so that what was fitted to one shows. `said_nothing` is
the share of requests which nothing fits, as it says: where what answers them is there, where it is gone with its whole group,
and of requests of the other sets. `shown` are the requests for capabilities that have example requests, every second one of those
with enough; `unshown` are those for the others. `cpu`: without the time in which the machine did other things.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.adapters.matching import entry, rank
from benchmarks.frame import Report, quick
from benchmarks.yardstick.matching.baselines import fts5
from benchmarks.yardstick.matching.score import load, measures
from ioi_dagster.ras.matching.index import CapabilityIndex
from ioi_dagster.ras.matching.words import lines

Row = dict[str, Any]
Rank = Callable[[list[Row], str, int], list[str]]

SETS = {"metatool": "metatool", "gorilla": "gorilla-hf", "sealtools": "sealtools"}
FLOORS = {"metatool": 0.60, "gorilla": 0.30, "sealtools": 0.90}
AIMS = {"metatool": 0.66, "gorilla": 0.34, "sealtools": 0.92}
SAMPLE = Path(__file__).parent / "yardstick" / "matching" / "sample"
FULL = {"requests": 2_000, "without": 300, "records": (10_000, 100_000), "queries": 200, "times": 5}
QUICK = {"requests": 100, "without": 50, "records": (10_000,), "queries": 40, "times": 2}
SYSTEMS: dict[str, Rank] = {"ours": rank, "fts5": fts5}
SEED = 7
EXAMPLES = 3
"""Of a capability that is shown by any."""


def main() -> int:
    sizes: dict[str, Any] = QUICK if quick() else FULL
    given = "--data" in sys.argv
    folder = Path(sys.argv[sys.argv.index("--data") + 1]) if given else SAMPLE
    split = sys.argv[sys.argv.index("--split") + 1] if "--split" in sys.argv else "dev"
    report = Report("matching")
    sets = {name: _read(folder / its, split, sizes["requests"]) for name, its in SETS.items()}
    of = split if given else "sample"
    for name, (capabilities, requests) in sets.items():
        _quality(report, f"{name}_ndcg5", of, capabilities, requests)
        foreign = [request["text"] for other in sets if other != name for request in sets[other][1]]
        _nothing(report, name, of, capabilities, requests[: sizes["without"]], foreign[: sizes["without"]])
    _examples(report, "metatool", of, *sets["metatool"])
    for count in sizes["records"]:
        _speed(report, count, sizes["queries"], sizes["times"])
    report.floors = {f"{name}_ndcg5@{split}": (floor, "min") for name, floor in FLOORS.items() if given}
    report.floors["p99_ms@10000"] = (5.0, "max")
    report.aims = {f"{name}_ndcg5@{split}": (aim, "min") for name, aim in AIMS.items() if given}
    report.aims |= {"p99_ms@10000": (1.0, "max"), "p99_ms@100000": (5.0, "max")}
    return report.finish()


def _read(folder: Path, split: str, count: int) -> tuple[list[Row], list[Row]]:
    asked = [row for row in load(folder / "queries.jsonl") if row["split"] == split]
    asked.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    return load(folder / "capabilities.jsonl"), asked[:count]


def _quality(report: Report, name: str, of: str, capabilities: list[Row], requests: Sequence[Row]) -> None:
    for system, ranks in SYSTEMS.items():
        found = [
            (measures(ranks(capabilities, row["text"], 10), set(row["relevant"]))["ndcg@5"], _half(row))
            for row in requests
        ]
        figures = report.figures if system == "ours" else report.peers
        label = name if system == "ours" else f"{system}_{name}"
        figures[f"{label}@{of}"] = fmean(value for value, _ in found)
        for half in (0, 1):
            figures[f"{label}_half_{half + 1}@{of}"] = fmean(value for value, its in found if its == half)


def _half(row: Row) -> int:
    return hashlib.md5(row["relevant"][0].encode(), usedforsecurity=False).digest()[0] % 2


def _nothing(
    report: Report, name: str, of: str, capabilities: list[Row], requests: Sequence[Row], foreign: Sequence[str]
) -> None:
    index, groups = CapabilityIndex(map(entry, capabilities)), defaultdict(set)
    group = {its["id"]: its["group"] or its["id"] for its in capabilities}
    for id, its in group.items():
        groups[its].add(id)
    there = [_says_nothing(index, row["text"], frozenset(group)) for row in requests]
    gone = [
        _says_nothing(index, row["text"], frozenset(group).difference(*(groups[group[id]] for id in row["relevant"])))
        for row in requests
    ]
    others = [_says_nothing(index, text, frozenset(group)) for text in foreign]
    report.figures[f"{name}_said_nothing_there@{of}"] = fmean(there)
    report.figures[f"{name}_said_nothing_gone@{of}"] = fmean(gone)
    report.figures[f"{name}_said_nothing_foreign@{of}"] = fmean(others)
    rightly = fmean(gone) + fmean(others)
    report.figures[f"{name}_said_nothing_recall@{of}"] = rightly / 2
    if rightly or any(there):
        # As if what answers were there for one request out of two.
        report.figures[f"{name}_said_nothing_precision@{of}"] = rightly / (rightly + 2 * fmean(there))


def _says_nothing(index: CapabilityIndex, text: str, among: frozenset[str]) -> bool:
    return not any(match.fits for match in index.rank(text, 1, among))


def _examples(report: Report, name: str, of: str, capabilities: list[Row], requests: Sequence[Row]) -> None:
    """With examples and without any: the others must not lose what these gain."""
    by_answer = defaultdict(list)
    for row in requests:
        if len(row["relevant"]) == 1:
            by_answer[row["relevant"][0]].append(row)
    enough = sorted(id for id, rows in by_answer.items() if len(rows) >= 2 * EXAMPLES)
    given = {id: tuple(row["text"] for row in by_answer[id][:EXAMPLES]) for id in enough[::2]}
    entries = [entry(its) for its in capabilities]
    for label, examples in (("none", {}), (str(EXAMPLES), given)):
        index = CapabilityIndex(replace(its, examples=examples.get(its.id, its.examples)) for its in entries)
        found = {
            id: [
                measures([match.id for match in index.rank(row["text"], 10)], {id})["ndcg@5"]
                for row in by_answer[id][EXAMPLES:]
            ]
            for id in enough
        }
        for group, ids in (("shown", enough[::2]), ("unshown", enough[1::2])):
            values = [value for id in ids for value in found[id]]
            if values:
                report.figures[f"{name}_ndcg5_{group}_examples_{label}@{of}"] = fmean(values)


def _speed(report: Report, count: int, queries: int, times: int) -> None:
    """Of a query, the median of its times; ours and the peer's in turn, in this process."""
    capabilities, asked = _made(count, queries)
    ranks: dict[str, Rank] = {"": rank, "fts5_": fts5}
    for system, its in ranks.items():
        started = time.perf_counter()
        its(capabilities, asked[0], 10)
        figures = report.peers if system else report.figures
        figures[f"{system}index_s@{count}"] = time.perf_counter() - started
    clocks = {"": time.perf_counter, "_cpu": time.thread_time}
    taken = {(system, clock): [[] for _ in asked] for system in ranks for clock in clocks}
    for _ in range(times):
        for at, text in enumerate(asked):
            for system, its in ranks.items():
                started = {clock: reads() for clock, reads in clocks.items()}
                its(capabilities, text, 10)
                for clock, reads in clocks.items():
                    taken[system, clock][at].append(1_000 * (reads() - started[clock]))
    for (system, clock), its_times in taken.items():
        figures = report.peers if system else report.figures
        ordered = sorted(map(median, its_times))
        figures[f"{system}p50{clock}_ms@{count}"] = median(ordered)
        figures[f"{system}p99{clock}_ms@{count}"] = ordered[int(0.99 * (queries - 1))]


def _made(count: int, queries: int) -> tuple[list[Row], list[str]]:
    """Records and requests of words as frequent as those of a language (Zipf); a third of them has others that stand for them."""
    rng = random.Random(SEED)
    known = sorted({word for line in lines("thesaurus.txt") for word in line.replace(",", " ").split()})
    rng.shuffle(known)
    words = []
    for word in known:
        words += [word, _word(rng), _word(rng)]
    words += [_word(rng) for _ in range(20_000)]
    frequent = list(itertools.accumulate(1 / (rank + 20) for rank in range(len(words))))

    def text(length: int) -> str:
        return " ".join(rng.choices(words, cum_weights=frequent, k=length))

    capabilities = [
        {
            "id": f"cap-{number:07}",
            "name": text(3),
            "description": f"{text(12)}. {text(8)}",
            "tags": [text(1), text(1)],
            "inputs": {text(1): {"description": text(6)}},
            "outputs": {},
            "group": "",
            "examples": [],
        }
        for number in range(count)
    ]
    return capabilities, [text(rng.randint(3, 25)) for _ in range(queries)]


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


if __name__ == "__main__":
    sys.exit(main())
