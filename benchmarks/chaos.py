"""The failure matrix: real faults by signal and network, simulated ones by seed, and what was wrong after them.

`real` faults bit, of so many `tried`; a fault that met nothing is not counted, and a row of which none bit is `toothless`.
`simulated`: faults in random federations on virtual time that struck while a run was under way and met something; all is
checked after each event. `wrong` is the sum for both. Of the real ones: `double` (commits), `lost` (steps), `leaked` (leases),
`evicted` (nodes that only seemed dead). `recovery_p50_s@ROW`, `recovery_worst_s@ROW`: from the fault until the last of the steps
that it hit ran again or was committed; in rows 3, 6, 13 and 17, where nothing can be done before its end, from that; in row 14
until the cluster was found out, in row 16 until the step was named. `simulated_p50_s@ROW`, `simulated_worst_s@ROW`: the same on
virtual time, where what takes longer than the row's bound is wrong (`ioi_dagster/simulate/matrix.py`); `simulated_judged@ROW`: so
often it was held against that. What a machine does not allow is left out: rows 4 to 6, 12, 17 and 19 need root, row 15 a C
compiler.

`python -m benchmarks.chaos [--quick] [--rows 1,2,7] [--faults 114] [--seconds 600] [--simulated 10000] [--seed 1]`; the exit
status is 1 where anything was wrong, or a row never bit.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.frame import Report
from benchmarks.netns import possible
from ioi_dagster.simulate.faults import FaultKind
from ioi_dagster.simulate.matrix import ROW_OF
from ioi_dagster.simulate.recovery import Recovered
from tests.chaos import loop
from tests.chaos.faults import ROWS, Row
from tests.chaos.lab import Lab
from tests.chaos.loop import Tally
from tests.chaos.sites import Sites
from tests.scenario import swarm

console = Console(stderr=True)
FULL = {"rows": ",".join(str(row.number) for row in ROWS), "faults": 6 * len(ROWS), "simulated": 10_000}
QUICK = {"rows": "1,7", "faults": 2, "simulated": 100}
KINDS = ("double", "lost", "leaked", "evicted")
FLOORS = {
    "real": (100.0, "min"),
    "simulated": (1_000.0, "min"),
    "simulated_rows": (float(len({row.number for row in ROW_OF.values()})), "min"),
    **dict.fromkeys((*KINDS, "wrong", "toothless"), (0.0, "max")),
}
WHOLE = ("real", "simulated", "simulated_rows")
AIMS = {"real": (1_000.0, "min"), "simulated": (10_000.0, "min")}


def main() -> int:
    given = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    whole = (given.faults, given.rows) == (FULL["faults"], FULL["rows"]) and not given.seconds
    floors = {name: limit for name, limit in FLOORS.items() if whole or name not in WHOLE}
    report = Report("chaos", floors=floors, aims=AIMS if whole else {})
    tallies = _real(given)
    struck, simulated, recovered = _simulated(given.simulated, given.seed)
    report.figures["simulated"] = sum(struck.values())
    _show(tallies, _rows(given), simulated, given.seed)
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    report.figures |= {
        "real": sum(tally.bit for tally in tallies.values()),
        "tried": sum(tally.tried for tally in tallies.values()),
        "wrong": len(wrong) + len(simulated),
        "toothless": sum(bool(tally.tried) and not tally.bit for tally in tallies.values()),
        "simulated_rows": len(struck),
    }
    report.figures |= {kind: sum(text.startswith(kind) for text in wrong) for kind in KINDS}
    for number, tally in tallies.items():
        if tally.recovered_s:
            report.figures[f"recovery_p50_s@{number}"] = median(tally.recovered_s)
            report.figures[f"recovery_worst_s@{number}"] = max(tally.recovered_s)
    for number, its in recovered.items():
        report.figures[f"simulated_p50_s@{number}"] = _middle(its)
        report.figures[f"simulated_worst_s@{number}"] = max(one.worst_s for one in its)
        report.figures[f"simulated_judged@{number}"] = sum(one.judged for one in its)
    return report.finish()


def _options() -> argparse.Namespace:
    sizes = QUICK if "--quick" in sys.argv[1:] else FULL
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few faults of two rows")
    parser.add_argument("--record", action="store_true", help="keep what was measured")
    parser.add_argument("--rows", default=sizes["rows"])
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="after so many no further real fault begins; 0: no limit"
    )
    parser.add_argument(
        "--faults", type=int, default=sizes["faults"], help="so many real ones at most; 0: while there is time"
    )
    parser.add_argument(
        "--simulated", type=int, default=sizes["simulated"], help="so many simulated ones, or a few more"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    if not given.faults and not given.seconds:
        parser.error("without a limit it would never end: give --faults or --seconds")
    return given


def _rows(given: argparse.Namespace) -> set[int]:
    return {int(number) for number in given.rows.split(",")}


def _real(given: argparse.Namespace) -> dict[int, Tally]:
    rows = [row for row in ROWS if row.number in _rows(given)]

    def partly(part: float) -> Callable[[int, float], bool]:
        """So many of the faults, and of the time, are for the rows of one place."""

        def more(faults: int, seconds: float) -> bool:
            enough = given.faults and faults >= max(1, round(given.faults * part))
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
        with (
            tempfile.TemporaryDirectory(prefix="ioi-chaos-", ignore_cleanup_errors=True) as folder,
            place(Path(folder) / "home") as lab,
        ):
            console.print(f"seed {given.seed}; the federation is there")
            tallies |= loop.run(lab, its, given.seed, partly(len(its) / len(rows)), told)
    return tallies


def _simulated(faults: int, seed: int) -> tuple[Counter[str], list[str], dict[str, list[Recovered]]]:
    """So many faults of the matrix or a few more, in random federations: how many by row, what was wrong, and by row how long it
    took until what was hit ran again. Faults of no row happen there besides, and do not count."""
    made, wrong, recovered = Counter[str](), [], dict[str, list[Recovered]]()
    while made.total() < faults:
        report, told = swarm.tried(seed)
        for kind, count in report.faults.items():
            if kind in ROW_OF:
                made[str(ROW_OF[FaultKind(kind)].number)] += count
        wrong += [told] if told else []
        for number, its in report.recoveries.items():
            recovered.setdefault(number, []).append(its)
        seed += 1
    return made, wrong, dict(sorted(recovered.items(), key=lambda item: int(item[0])))


def _middle(its: list[Recovered]) -> float:
    """The middle one of the federations' own, each as often as it stands for a step."""
    left = sum(one.count for one in its) / 2
    for one in sorted(its, key=lambda one: one.p50_s):
        left -= one.count
        if left <= 0:
            return one.p50_s
    return 0.0


def _show(tallies: dict[int, Tally], wanted: set[int], simulated: list[str], seed: int) -> None:
    table = Table(title=f"the failure matrix for real, seed {seed}")
    for name in ("#", "fault", "expected", "tried", "bit", "p50 s", "worst s", "wrong"):
        table.add_column(name)
    for row in ROWS:
        tally = tallies.get(row.number)
        if tally is None and row.number in wanted:
            table.add_row(
                str(row.number), row.fault, "left out: this machine does not allow for it (root, or a C compiler)"
            )
        if tally is None or not tally.tried:
            continue
        times = tally.recovered_s
        middle, worst = (f"{median(times):.2f}", f"{max(times):.2f}") if times else ("–", "–")
        count = f"[{'red' if tally.wrong else 'green'}]{len(tally.wrong)}[/]"
        counts = (str(tally.tried), str(tally.bit), middle, worst, count)
        table.add_row(str(row.number), row.fault, row.expected, *counts)
    console.print(table)
    for number, tally in tallies.items():
        if tally.happened:
            console.print(f"{number}, last time: {tally.happened}", markup=False, highlight=False, soft_wrap=True)
    for text in [*(f"{number}: {text}" for number, tally in tallies.items() for text in tally.wrong), *simulated]:
        console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
