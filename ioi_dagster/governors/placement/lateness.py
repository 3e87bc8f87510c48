"""How long a step still takes that has run for a while: estimates err, and a few steps take several times as long (stragglers).

The prior is a mixture as measured on shared clusters (Dean and Barroso, The tail at scale, 2013; Ananthanarayanan and others,
Reining in the outliers, 2010): most durations spread log-normally about the estimate, a few are 2 to 10 times as long.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from math import exp, log
from statistics import NormalDist

SPREAD, STRAGGLERS = 0.3, 0.03
_POINTS = 1_000


def _quantiles() -> list[float]:
    """Equally likely ratios of true to estimated work, least first."""
    few = round(_POINTS * STRAGGLERS)
    usual = [exp(SPREAD * NormalDist().inv_cdf((k + 0.5) / (_POINTS - few))) for k in range(_POINTS - few)]
    late = [exp(log(2) + (log(10) - log(2)) * (k + 0.5) / few) for k in range(few)]
    return sorted(usual + late)


RATIOS = _quantiles()
_ABOVE = list(accumulate(reversed(RATIOS)))[::-1] + [0.0]
"""The sum of the ratios from each on."""


def left(done: float) -> float:
    """The median of what is left, in estimates, of a step that has taken `done` of them already."""
    first = bisect_right(RATIOS, done)
    if first >= len(RATIOS):
        return 0.5 * done
    return RATIOS[(first + len(RATIOS)) // 2] - done


def gain(done: float, speed: float, copy: float) -> float:
    """How much earlier the step is expected to end if a copy ends `copy` from now. `done` and `speed` of the first are in
    estimates, and estimates a unit of time."""
    first = bisect_right(RATIOS, done)
    if first >= len(RATIOS):
        return max(0.0, 0.5 * done / speed - copy)
    latest = done + copy * speed
    over = bisect_right(RATIOS, latest, lo=first)
    return (_ABOVE[over] - latest * (len(RATIOS) - over)) / speed / (len(RATIOS) - first)
