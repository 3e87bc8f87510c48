"""`python -m tests.chaos [--rows 1,2,7] [--seconds 600 | --faults 100] [--seed 1]`: the matrix with what happened, measured.

A JSON line closes it. The exit status is 1 where anything was wrong, or a row never bit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.frame import machine
from benchmarks.netns import possible
from tests.chaos import loop
from tests.chaos.faults import ROWS, Row
from tests.chaos.lab import Lab
from tests.chaos.loop import Tally
from tests.chaos.sites import Sites

console = Console(stderr=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rows", default=",".join(str(row.number) for row in ROWS))
    parser.add_argument("--seconds", type=float, default=0.0, help="after so many no further fault begins; 0: no limit")
    parser.add_argument(
        "--faults", type=int, default=0, help="so many at most; 0: one of each row, or while there is time"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    wanted = {int(number) for number in given.rows.split(",")}
    rows = [row for row in ROWS if row.number in wanted]
    most = given.faults or (0 if given.seconds else len(rows))
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def partly(part: float) -> Callable[[int, float], bool]:
        """So many of the faults, and of the time, are for the rows of one place."""

        def more(faults: int, seconds: float) -> bool:
            enough = most and faults >= max(1, round(most * part))
            return not enough and not (given.seconds and seconds >= given.seconds * part)

        return more

    def told(row: Row, tally: Tally) -> None:
        last = tally.missed[-1] if len(tally.missed) + tally.bit == tally.tried and tally.missed else ""
        console.print(f"{row.number:>2} {row.fault}: {tally.bit} of {tally.tried} bit, {len(tally.wrong)} wrong {last}")

    tallies: dict[int, Tally] = {}
    for place in (Lab, Sites):
        its = [row for row in rows if row.place is place]
        if not its or (place is Sites and not possible()):
            continue
        part = len(its) / len(rows)
        with (
            tempfile.TemporaryDirectory(prefix="ioi-chaos-", ignore_cleanup_errors=True) as folder,
            place(Path(folder) / "home") as lab,
        ):
            console.print(f"seed {given.seed}; the federation is there")
            tallies |= loop.run(lab, its, given.seed, partly(part), told)
    _tell(tallies, given.seed)
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    return 1 if wrong or any(tally.tried and not tally.bit for tally in tallies.values()) else 0


def _tell(tallies: dict[int, Tally], seed: int) -> None:
    table = Table(title=f"the failure matrix for real, seed {seed}")
    for name in ("#", "fault", "expected", "tried", "bit", "p50 s", "worst s", "wrong"):
        table.add_column(name)
    for row in ROWS:
        tally = tallies.get(row.number)
        if tally is None or not tally.tried:
            continue
        times = tally.recovered_s
        middle, worst = (f"{median(times):.2f}", f"{max(times):.2f}") if times else ("–", "–")
        wrong = f"[{'red' if tally.wrong else 'green'}]{len(tally.wrong)}[/]"
        table.add_row(str(row.number), row.fault, row.expected, str(tally.tried), str(tally.bit), middle, worst, wrong)
    console.print(table)
    for number, tally in tallies.items():
        for text in tally.wrong:
            console.print(f"{number}: {text}", markup=False, highlight=False)
    counts = {kind: sum(text.startswith(kind) for one in tallies.values() for text in one.wrong) for kind in
              ("double", "lost", "leaked", "evicted")}  # fmt: skip
    line = {
        "benchmark": "chaos",
        "real": sum(tally.bit for tally in tallies.values()),
        "violations": counts | {"all": sum(len(tally.wrong) for tally in tallies.values())},
        "rows": {
            number: {
                "bit": tally.bit,
                "tried": tally.tried,
                "p50_s": round(median(tally.recovered_s), 3) if tally.recovered_s else None,
                "worst_s": round(max(tally.recovered_s), 3) if tally.recovered_s else None,
            }
            for number, tally in tallies.items()
        },
        "machine": machine(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
