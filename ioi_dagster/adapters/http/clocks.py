"""Clocks of owners differ. Each answer of a gateway tells the time of day by its own clock, so whoever asks knows by how much."""

from __future__ import annotations

import logging
import math
import time

from ioi_dagster.clock import Clock
from ioi_dagster.model.amounts import apart
from ioi_dagster.policy.proof import CLOCKS_S

log = logging.getLogger("ioi.clocks")
SLACK_S = 1.0
"""So much more than an answer's way may take tells no two clocks apart."""
TOLD_S = 60.0
"""A clock that differs by so much more or less than before is told in the log."""


def told_as(now: float) -> str:
    """The text of the header; `now`: Unix seconds."""
    return f"{now:.3f}"


def ahead_of(told: str | None, now: float, took_s: float) -> float | None:
    """By how many seconds the clock that an answer tells is ahead of ours; negative where it is behind, and 0 where that may as
    well be the answer's way. `now`: Unix seconds when it had come, `took_s` after it was asked for. None where it tells nothing
    that can be a clock."""
    try:
        ahead = float(told or "nan") - (now - took_s / 2)
    except ValueError:
        return None
    if not math.isfinite(ahead):
        return None
    return 0.0 if abs(ahead) <= took_s / 2 + SLACK_S else ahead


class PeerClock:
    """What is known of the clock of the gateway of `domain`, beside our own `clock`. `ahead_s`: by how much it is ahead, as far
    as requests can be dated by it: where it differs by more than `CLOCKS_S`, they are dated by ours and refused there."""

    def __init__(self, domain: str, clock: Clock) -> None:
        self._domain, self._own = domain, clock
        self.ahead_s = self._told_s = 0.0

    def wall(self) -> float:
        """Ours."""
        return self._own.wall()

    def heard(self, told: str | None, since: float) -> None:
        """What an answer tells to a question of `since`, on `time.monotonic`. Whoever lies about it has requests dated otherwise
        that are meant for him alone."""
        took_s = max(0.0, time.monotonic() - since)
        ahead = ahead_of(told, self._own.wall(), took_s)
        if ahead is None:
            return
        bridged = abs(ahead) <= CLOCKS_S
        known = ahead if bridged else 0.0
        if abs(known - self.ahead_s) > took_s / 2 + SLACK_S:
            self.ahead_s = known
        if abs(ahead - self._told_s) > TOLD_S:
            self._told_s = ahead
            far = "" if bridged else f", and by more than {CLOCKS_S / 3600:g} h nothing can be asked of it"
            log.warning("the clock of %s is %s of ours%s", self._domain, apart(ahead), far)
