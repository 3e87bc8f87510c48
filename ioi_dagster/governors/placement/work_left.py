"""How much work a run has left: of its graph, and of what came up beside it, such as the steps that an op is mapped to."""

from __future__ import annotations

from collections import Counter

UNKNOWN_S = 1.0
"""Work of a step of which nothing is known, nor of any other, as plans count it."""


class WorkLeft:
    """Of the steps that are open. A step's work is its own, or what its kind takes, or, where nothing is known of that, the mean
    of the kinds that are known. Asking for it costs the same however many steps there are."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, float]] = {}
        """Step → its kind and its own work; where that is 0 its kind's counts."""
        self._of_kind: Counter[str] = Counter()
        """Kind → how many are open whose work is that of their kind."""
        self._takes: dict[str, float] = {}
        self._takes_s = 0.0
        self._known_s, self._unknown = 0.0, 0
        """What open steps take together of which that is known, and the number of the others."""

    def open(self, step: str, kind: str, work: float = 0.0) -> None:
        """It is not done, and is to be."""
        self.close(step)
        self._open[step] = kind, work
        self._count(kind, work, 1)

    def close(self, step: str) -> None:
        """It is done, or will not be. A step that is not open is no error."""
        its = self._open.pop(step, None)
        if its is not None:
            self._count(*its, -1)
        if not self._open:
            # Sums of fractions that are taken away again need not be nothing in the end.
            self._known_s = 0.0

    def _count(self, kind: str, work: float, by: int) -> None:
        if work:
            self._known_s += by * work
            return
        self._of_kind[kind] += by
        if kind in self._takes:
            self._known_s += by * self._takes[kind]
        else:
            self._unknown += by

    def takes(self, kind: str, seconds: float) -> None:
        """So long steps of this kind take, as far as is known now."""
        before, count = self._takes.get(kind), self._of_kind[kind]
        if before is None:
            self._unknown -= count
        self._known_s += count * (seconds - (before or 0.0))
        self._takes_s += seconds - (before or 0.0)
        self._takes[kind] = seconds

    @property
    def usual(self) -> float:
        """Seconds that a step takes of whose kind nothing is known."""
        return self._takes_s / len(self._takes) if self._takes else UNKNOWN_S

    @property
    def seconds(self) -> float:
        """Of work, of all that are open; 0 where nobody knows, since nothing is known of any kind."""
        if self._unknown and not self._takes:
            return 0.0
        return max(0.0, self._known_s + self._unknown * self.usual)
