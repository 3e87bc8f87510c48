"""How many nodes of a group a cluster has, as its owner has laid it down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Autoscale:
    """From `min` to `max` nodes, which take about `boot_s` seconds to come; one that has not come after `give_up_s` is given up.

    One more is asked for where something has waited for `after_s`; with `within_s` no more than get through what a run has
    left within so many seconds (0: all that could run at once). One goes when nothing has run there for `idle_s`, it has been
    there for `min_age_s`, and those that stay have at most `busy_below` (0..1) of their slots in use. After a change the next
    one up is made `up_pause_s` later at the soonest, the next one down `down_pause_s` later.

    A node costs `node_hour` credits an hour. All of the group may cost `per_hour` at a time, and `per_day` in any 24 hours
    (None: as much as it takes). `launcher` says who starts them: "module:function" makes a `NodeSource`, and the empty one is
    the domain's own supervisor."""

    min: int = 0
    max: int = 1
    boot_s: float = 60.0
    give_up_s: float = 600.0
    after_s: float = 1.0
    within_s: float = 0.0
    idle_s: float = 300.0
    min_age_s: float = 60.0
    busy_below: float = 1.0
    up_pause_s: float = 10.0
    down_pause_s: float = 60.0
    node_hour: float = 0.0
    per_hour: float | None = None
    per_day: float | None = None
    launcher: str = ""

    @property
    def least_s(self) -> float:
        """For so long (s) one that is asked for is paid at least."""
        return max(self.min_age_s, self.boot_s)

    @property
    def least(self) -> float:
        """What one that is asked for costs at least, in credits."""
        return self.node_hour * self.least_s / 3600

    @property
    def most(self) -> int:
        """So many nodes it may have at a time, by number and by cost."""
        if self.per_hour is None or not self.node_hour:
            return self.max
        return min(self.max, int(self.per_hour / self.node_hour + 1e-9))
