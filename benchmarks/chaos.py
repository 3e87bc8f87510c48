"""The failure matrix: real faults by signal and network, simulated ones by seed, and what was wrong after them.

`real` faults bit, of so many `tried`; a fault that met nothing is not counted, and a row of which none bit is `toothless`.
`simulated`: faults in random federations on virtual time that struck while a run was under way and met something; all is
checked after each event. `wrong` is the sum for both. Of the real ones: `double` (commits, and calls of what may be called
once), `lost` (steps), `leaked` (leases), `evicted` (nodes that only seemed dead); `in_doubt`: so often a step that may be called
once was hit, and failed saying that nobody knows whether it took effect. `recovery_p50_s@ROW`, `recovery_worst_s@ROW`: from the
fault until the last of the steps that it hit ran again or was committed; in rows 3, 6, 13 and 17, where nothing can be done
before its end, from that; in row 14 until the cluster was found out, in row 16 until the step was named, in row 20 until the
scheduler was there again. `simulated_p50_s@ROW`, `simulated_worst_s@ROW`: the same on virtual time, where what takes longer than
the row's bound is wrong (`ioi_dagster/simulate/matrix.py`); `simulated_judged@ROW`: so often it was held against that. What a
machine does not allow is left out: rows 4 to 6, 12, 17 and 19 need root, row 15 a C compiler.

`python -m benchmarks.chaos [--quick] [--rows 1,2,7] [--faults 120] [--seconds 600] [--simulated 10000] [--seed 1]`; `--faults 0`
or `--simulated 0` leaves that half out, so that each may be recorded by itself. Ended early (Ctrl-C, SIGTERM), it tells and keeps
what was measured until then, with `stopped`. The exit status is 1 where anything was wrong, a row never bit, half of a row's
recoveries took longer than the row promises, or, of all rows and where at least so many were asked for, too few faults bit.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NoReturn

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
REAL, SIMULATED = 100, 1_000
FLOORS = {
    **dict.fromkeys((*KINDS, "wrong", "toothless", "stopped"), (0.0, "max")),
    **{f"recovery_p50_s@{row.number}": (row.within_s, "max") for row in ROWS if row.within_s is not None},
}
"""Of any rows, and however many faults."""
TRIES = 2
"""So many tries a fault that bites, at most, and some for rows of which none has bitten yet."""


def main() -> int:
    given = _options()
    tallies: dict[int, Tally] = {}
    made = Simulated()
    report = Report("chaos", floors=floors_of(given), aims=_aims(given))
    with _stoppable() as stop:
        _real(given, tallies)
        _simulated(given.simulated, given.seed, made)
    _show(tallies, _rows(given) if given.faults else set(), made.wrong, given.seed)
    report.figures |= _figures(given, tallies, made) | ({"stopped": 1} if stop.told else {})
    return report.finish()


def floors_of(given: argparse.Namespace) -> dict[str, tuple[float, str]]:
    floors = dict(FLOORS)
    if _all_rows(given) and given.faults >= REAL:
        floors["real"] = (float(REAL), "min")
    if given.simulated >= SIMULATED:
        rows = len({row.number for row in ROW_OF.values()})
        floors |= {"simulated": (float(SIMULATED), "min"), "simulated_rows": (float(rows), "min")}
    return floors


def _aims(given: argparse.Namespace) -> dict[str, tuple[float, str]]:
    real = {"real": (10.0 * REAL, "min")} if _all_rows(given) else {}
    return real | {"simulated": (10.0 * SIMULATED, "min")}


def _all_rows(given: argparse.Namespace) -> bool:
    return _rows(given) == {row.number for row in ROWS} and not given.seconds


def _figures(given: argparse.Namespace, tallies: dict[int, Tally], made: Simulated) -> dict[str, float]:
    wrong = [text for tally in tallies.values() for text in tally.wrong]
    figures: dict[str, float] = {"wrong": len(wrong) + len(made.wrong)}
    if given.faults:
        figures |= {
            "real": sum(tally.bit for tally in tallies.values()),
            "tried": sum(tally.tried for tally in tallies.values()),
            "in_doubt": sum(tally.in_doubt for tally in tallies.values()),
            "toothless": sum(bool(tally.tried) and not tally.bit for tally in tallies.values()),
        }
        figures |= {kind: sum(text.startswith(kind) for text in wrong) for kind in KINDS}
    for number, tally in sorted(tallies.items()):
        if tally.recovered_s:
            figures[f"recovery_p50_s@{number}"] = median(tally.recovered_s)
            figures[f"recovery_worst_s@{number}"] = max(tally.recovered_s)
    if given.simulated:
        figures |= {"simulated": made.faults.total(), "simulated_rows": len(made.faults)}
    for number, its in sorted(made.recovered.items(), key=lambda item: int(item[0])):
        figures[f"simulated_p50_s@{number}"] = _middle(its)
        figures[f"simulated_worst_s@{number}"] = max(one.worst_s for one in its)
        figures[f"simulated_judged@{number}"] = sum(one.judged for one in its)
    return figures


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
        "--faults",
        type=int,
        help=f"so many real ones that bite; 0: none; without it {sizes['faults']}, or with --seconds while there is time",
    )
    parser.add_argument(
        "--simulated", type=int, default=sizes["simulated"], help="so many simulated ones, or a few more; 0: none"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    if given.faults is None:
        given.faults = sys.maxsize if given.seconds else sizes["faults"]
    if given.faults < 0 or given.simulated < 0 or given.seconds < 0:
        parser.error("--faults, --simulated and --seconds are 0 or more")
    try:
        unknown = _rows(given) - {row.number for row in ROWS}
    except ValueError:
        parser.error(f"--rows says {given.rows!r}; give numbers of rows between commas, as in 1,2,7")
    if unknown:
        parser.error(f"--rows names rows that are not there ({sorted(unknown)}); there are {FULL['rows']}")
    return given


def _rows(given: argparse.Namespace) -> set[int]:
    return {int(number) for number in given.rows.split(",")}


@dataclass(slots=True)
class Stop:
    """`told`: somebody ended it early."""

    told: bool = False


@contextlib.contextmanager
def _stoppable() -> Iterator[Stop]:
    """SIGTERM and SIGINT end what stands below early. Another SIGINT, while that is cleaned up, ends all."""
    stop = Stop()

    def end(number: int, frame: object) -> NoReturn:
        stop.told = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        yield stop
    except Stopped:
        console.print("stopped: what follows was measured until then")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stopped(BaseException):
    """Not to be caught by what is under way."""


def _real(given: argparse.Namespace, tallies: dict[int, Tally]) -> None:
    """Into `tallies`, which have what was found whatever ends it."""
    rows, began = [row for row in ROWS if row.number in _rows(given)], time.monotonic()

    def partly(part: float, until_part: float) -> Callable[[int, int], bool]:
        """So many of the faults, and of the time, are for the rows of one place."""
        wanted = max(1, round(given.faults * part))

        def more(bitten: int, tried: int) -> bool:
            late = given.seconds and time.monotonic() - began >= given.seconds * until_part
            return bitten < wanted and tried < TRIES * wanted + loop.TRIES and not late

        return more

    def told(row: Row, tally: Tally) -> None:
        last = tally.missed[-1] if len(tally.missed) + tally.bit == tally.tried and tally.missed else ""
        console.print(f"{row.number:>2} {row.fault}: {tally.bit} of {tally.tried} bit, {len(tally.wrong)} wrong {last}")

    done = 0.0
    for place in (Lab, Sites):
        its = [row for row in rows if row.place is place]
        part = len(its) / len(rows)
        done += part
        if not its or not given.faults or (place is Sites and not possible()):
            continue
        with (
            tempfile.TemporaryDirectory(prefix="ioi-chaos-", ignore_cleanup_errors=True) as folder,
            place(Path(folder) / "home") as lab,
        ):
            console.print(f"seed {given.seed}; the federation is there")
            there = loop.tallies_of(lab, its)
            tallies |= there
            try:
                loop.run(lab, its, given.seed, there, partly(part, done), told)
            except TimeoutError:
                console.print("it does not become whole again: no further faults there")


@dataclass(slots=True)
class Simulated:
    """How many by row, what was wrong, and by row how long it took until what was hit ran again."""

    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    recovered: dict[str, list[Recovered]] = field(default_factory=dict)


def _simulated(faults: int, seed: int, made: Simulated) -> None:
    """So many faults of the matrix or a few more, in random federations. Those of no row happen there too, and do not count."""
    while made.faults.total() < faults:
        report, told = swarm.tried(seed)
        for kind, count in report.faults.items():
            if kind in ROW_OF:
                made.faults[str(ROW_OF[FaultKind(kind)].number)] += count
        made.wrong += [told] if told else []
        for number, its in report.recoveries.items():
            made.recovered.setdefault(number, []).append(its)
        seed += 1


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
