"""What a cluster asks for a slot: a curve that rises with how full it would be, and with who waits and how short memory is.

    price = base · (1 + congestion · fill + queue · q / (q + 8) + memory · pressure) + cold start, where no replica is warm

`fill` is the part of the cluster's slots that is taken once the step is there, `q` counts runs whose announcements wait for room,
and `pressure` is how far its nodes' memory is on the way from half full to closed, in the mean. Every part has a bound, so that
no cluster is priced out of the market by its own queue. A price that rises with fill spreads load over clusters that cost the
same without anybody knowing all of them (D. F. Ferguson et al., "Economic Models for Allocating Resources in Computer Systems",
in Market-Based Control, 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

from ioi_dagster.model.negotiation import MAX_POINTS

CONGESTION, QUEUE, MEMORY = 0.5, 0.5, 0.5
"""Parts of the base price that are added at most as the cluster fills, as runs wait for it, and as its memory fills."""
HALF_QUEUE = 8
"""So many runs that wait make half of what any number of them would."""
COLD_START = 0.2
"""Added where no replica of the capability is warm."""
STEPS = MAX_POINTS - 2
"""Of a curve by congestion, as equal as may be; where warm slots end one of them is in two."""


@dataclass(frozen=True, slots=True)
class Load:
    """Of `slots` in all, `busy` are taken; `pressure`: 0 to 1, the mean of the nodes'."""

    base: float
    slots: int
    busy: int
    pressure: float = 0.0


@dataclass(frozen=True, slots=True)
class Rung:
    """So many slots at one price each; `warm` of them with a warm replica."""

    slots: int
    price: float
    warm: int


def curve(load: Load, slots: int, warm: int, queued: int, together: int = 1) -> list[Rung]:
    """Of `slots` more, of which `warm` have a replica: those come first, as a cluster gives them first. A rung holds as many as
    start `together`, or several times that; `slots` is a multiple of it. Prices fall nowhere; a rung's is the mean over its
    slots."""
    warm, times = min(warm, slots), slots // together
    steps = min(STEPS, times)
    ends = {times * number // steps * together for number in range(1, steps + 1)} | {warm // together * together}
    rungs, begin = [], 0
    for end in sorted(ends - {0}):
        its = min(max(0, warm - begin), end - begin)
        price = _price(load, (begin + end + 1) / 2, queued) + COLD_START * (1 - its / (end - begin))
        rungs.append(Rung(end - begin, price, its))
        begin = end
    return rungs


def _price(load: Load, more: float, queued: int) -> float:
    """Of the slot that is the `more`th from now, where a replica is warm."""
    fill = min(1.0, (load.busy + more) / (load.slots or 1))
    return load.base * (1.0 + CONGESTION * fill + QUEUE * queued / (queued + HALF_QUEUE) + MEMORY * load.pressure)
