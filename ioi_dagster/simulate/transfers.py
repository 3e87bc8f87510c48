"""What steps read has to be where they run: it takes time by its size, and what lies there already takes none."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.model.placement import Link
from ioi_dagster.simulate.scenario import Scenario

MAX_TOLD = 32
"""Of more domains runs are not told what lies between each two: they plan by what governors assume of links."""
Spot = tuple[str, str]
"""A domain, and a node of it; "" is a store of the domain that no node is beside."""


class Transfers:
    """All that a step reads comes at once, and no transfer slows another. `between` and `inside`: bytes that were moved from one
    domain to another, and from one node to another of the same."""

    def __init__(self, scenario: Scenario) -> None:
        self._links = {(link.source, link.target): link for link in scenario.links}
        self._bandwidth, self._inside = scenario.bandwidth, scenario.inside
        self._timed = bool(self._links or self._bandwidth or self._inside)
        self.between = self.inside = 0.0
        domains = [domain.name for domain in scenario.topology.domains]
        pairs = [(one, other) for one in domains for other in domains] if len(domains) <= MAX_TOLD else []
        rates = {pair: Link(*pair, 0.0, rate) for pair in pairs if (rate := self._rate(*pair))}
        self.links: tuple[Link, ...] = tuple((rates | self._links).values()) if self._timed else ()
        """As runs are told of them."""

    def told(self, size: float) -> float:
        """Bytes as runs are told of them: nothing is said where moving takes no time."""
        return size if self._timed else 0.0

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
