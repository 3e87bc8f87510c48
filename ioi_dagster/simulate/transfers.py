"""What steps read has to be where they run, and what they make goes back: it takes time by its size.

Values lie with the run's process, as those of an `ExchangeIOManager` do in a federation, or in a store that all nodes reach."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.simulate.scenario import Scenario

Spot = tuple[str, str]
"""A domain, and a node of it; "" is a machine of the domain that is none of its nodes."""


class Transfers:
    """All that a step reads comes at once, and no transfer slows another. `between` and `inside`: bytes that were moved from one
    domain to another, and from one machine to another of the same."""

    def __init__(self, scenario: Scenario) -> None:
        self._links = {(link.source, link.target): link for link in (*scenario.topology.links, *scenario.links)}
        self._bandwidth, self._inside = scenario.bandwidth, scenario.inside
        self._store = scenario.store
        self._timed = bool(self._links or self._bandwidth or self._inside)
        self.between = self.inside = 0.0

    def told(self, size: float) -> float:
        """Bytes that travel with a step, as its run knows them: nothing is said where moving takes no time, and nobody knows how
        much lies in a store."""
        return size if self._timed and not self._store else 0.0

    def lies(self, home: str) -> Spot:
        """Where the values of a run of that domain lie."""
        return self._store or home, ""

    def seconds(self, inputs: Iterable[tuple[Spot, float]], at: Spot) -> float:
        """Until all of them are there."""
        return max((self._takes(source, at, size) for source, size in inputs), default=0.0)

    def move(self, inputs: list[tuple[Spot, float]], at: Spot) -> float:
        """The same, and they are moved."""
        for source, size in inputs:
            if source[0] != at[0]:
                self.between += size
            elif source != at:
                self.inside += size
        return self.seconds(inputs, at)

    def longest(self, size: float) -> float:
        """Seconds that so many bytes take at most."""
        rates = [rate for rate in (self._bandwidth, self._inside) if rate]
        links = [link.latency + size / link.bandwidth for link in self._links.values()]
        return max([*links, *(size / rate for rate in rates)], default=0.0)

    def _takes(self, source: Spot, at: Spot, size: float) -> float:
        if source == at or not size:
            return 0.0
        link = self._links.get((source[0], at[0]))
        if link is not None:
            return link.latency + size / link.bandwidth
        rate = self._rate(source[0], at[0])
        return size / rate if rate else 0.0

    def _rate(self, source: str, target: str) -> float:
        return self._inside if source == target else self._bandwidth
