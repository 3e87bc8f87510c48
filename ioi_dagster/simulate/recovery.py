"""How long it takes until what a fault hit runs again elsewhere, or is whole; and whether that is within its row's bound.

Told of every fault, judged only where nothing else can have been the cause: no other fault was near in time, and some cluster
that could take the step had room all along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from ioi_dagster.governors.reputation import LONGEST_REST_S
from ioi_dagster.model.negotiation import Lease, LeaseRequest
from ioi_dagster.simulate.faults import Fault, FaultKind
from ioi_dagster.simulate.matrix import ROW_OF, Row

SETTLED_S = LONGEST_REST_S
"""So long after its end a fault may still be felt: who did not answer is left alone for so long at most."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Of one row: how many steps its faults hit that ran again or were whole, in how many seconds (the middle one, and the
    longest), and of how many that was judged by the row's bound."""

    count: int
    p50_s: float
    worst_s: float
    judged: int


@dataclass(slots=True)
class _Hit:
    """A step that was under way under that fence. `due`: when it should run again; `fair`: nothing else can be the cause if not.
    `waits`: it has ended, or may begin, and waits for the end of the fault."""

    row: Row
    run: str
    step: str
    fence: int
    at: float
    due: float
    fair: bool
    waits: bool


@dataclass(slots=True)
class Recoveries:
    """`judges(run, step)`: is it a step that any cluster with room could take, and does one have room now? `late(text)`: one that
    took too long."""

    judges: Callable[[str, str], bool]
    late: Callable[[str], None]
    _open: dict[tuple[str, str], list[_Hit]] = field(default_factory=dict)
    _under_way: list[Fault] = field(default_factory=list)
    _last_end: float = float("-inf")
    _seconds: dict[int, list[float]] = field(default_factory=dict)
    _judged: dict[int, int] = field(default_factory=dict)

    def strikes(self, fault: Fault) -> None:
        """Whatever is not whole yet may have it for a cause from now on."""
        for hit in self._all():
            hit.fair = False
        self._under_way.append(fault)

    def over(self, fault: Fault, now: float) -> None:
        self._under_way.remove(fault)
        self._last_end = now

    def hit(
        self, kind: FaultKind, steps: Iterable[Lease | LeaseRequest], now: float, since: float | None = None
    ) -> None:
        """What was started under those leases may have to run again; with `since` it has waited from then on for the end of the
        fault, and has only to be told."""
        row, mine = ROW_OF[kind], [fault for fault in self._under_way if fault.kind is kind]
        if row.bound_s is None or not mine:
            return
        alone = len(self._under_way) == 1 and now - self._last_end > SETTLED_S
        due = (max(now, mine[-1].until) if row.from_end else now) + row.bound_s
        for lease in steps:
            at = now if since is None else since
            hit = _Hit(row, lease.run, lease.step, lease.fence, at, due, alone, since is not None)
            hit.fair = hit.fair and self.judges(hit.run, hit.step)
            self._open.setdefault((lease.run, lease.step), []).append(hit)

    def look(self) -> None:
        """From time to time: is there room?"""
        for hit in self._all():
            hit.fair = hit.fair and self.judges(hit.run, hit.step)

    def began(self, lease: Lease, now: float) -> None:
        """A node begins it."""
        key = (lease.run, lease.step)
        hits = self._open.pop(key, None)
        if hits is None:
            return
        for hit in hits:
            if lease.fence > hit.fence:
                self._again(hit, now)
        left = [hit for hit in hits if lease.fence <= hit.fence]
        if left:
            self._open[key] = left

    def closed(self, run: str, step: str, now: float, failed: bool = False) -> None:
        """It is committed, or has failed. What was not begun again by then was not lost."""
        for hit in self._open.pop((run, step), ()):
            if hit.waits and not failed:
                self._again(hit, now)

    def report(self) -> dict[str, Recovered]:
        """By the number of the row."""
        return {
            str(number): Recovered(len(its), round(median(its), 6), round(max(its), 6), self._judged.get(number, 0))
            for number, its in sorted(self._seconds.items())
        }

    def _all(self) -> Iterable[_Hit]:
        return (hit for hits in self._open.values() for hit in hits)

    def _again(self, hit: _Hit, now: float) -> None:
        number = hit.row.number
        self._seconds.setdefault(number, []).append(now - hit.at)
        if not hit.fair:
            return
        self._judged[number] = self._judged.get(number, 0) + 1
        if now > hit.due:
            took, most = now - hit.at, hit.due - hit.at
            self.late(
                f"row {number}: {hit.run}/{hit.step} ran again after {took:.2f} s, and should have within {most:.2f} s"
            )
