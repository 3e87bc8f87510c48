"""Which runs nothing can be wanted of any more, so that what they left on the way may go. Their committed outputs are not part of
that: they stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ioi_dagster.errors import BadInputError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """`over`: no process can go on with it. `touched`: its last sign of life, Unix seconds. `parents`: runs that it was
    made from, whose outputs it may read."""

    run: str
    over: bool
    touched: float
    parents: tuple[str, ...] = ()


def may_go(runs: Iterable[RunFacts], now: float, older_than_s: float) -> list[str]:
    """Runs that are over, were not touched for `older_than_s` seconds, and that none that is not over was made from."""
    runs = list(runs)
    needed = {parent for run in runs if not run.over for parent in run.parents}
    return [run.run for run in runs if run.over and run.run not in needed and now - run.touched >= older_than_s]


def seconds_of(age: str) -> float:
    """Of `30d`, `12h`, `90m` or `45s`. Raises `BadInputError`."""
    number, unit = age[:-1], age[-1:]
    try:
        value = float(number) * _SECONDS[unit]
    except (ValueError, KeyError):
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise BadInputError(f"{age!r} is no age", todo="say it as 30d, 12h, 90m or 45s")
    return value
