"""What it costs a run in seconds where a block has to be loaded first, learnt from its own steps, by capability and cluster."""

from __future__ import annotations


class ColdStarts:
    """A step that began where no replica was warm takes the block's loading time besides: the difference to those that found
    one. Both are exponentially weighted means."""

    def __init__(self) -> None:
        self._warm: dict[str, float] = {}
        self._cold: dict[tuple[str, str], float] = {}

    def learn(self, capability: str, cluster: str, seconds: float, cold: bool) -> float:
        """A step took `seconds`. How many of them it would have taken on a warm replica, as far as is known."""
        if not cold:
            self._warm[capability] = _mean(self._warm.get(capability), seconds)
            return seconds
        self._cold[capability, cluster] = _mean(self._cold.get((capability, cluster)), seconds)
        return max(0.0, seconds - self.expect(capability, cluster))

    def known(self, capability: str) -> bool:
        """Is there a difference that is known?"""
        return capability in self._warm and any(name == capability for name, _ in self._cold)

    def expect(self, capability: str, cluster: str) -> float:
        """Seconds of loading there; where nothing is known of the cluster, the mean of the others; 0 where nothing at all is."""
        warm = self._warm.get(capability)
        if warm is None:
            return 0.0
        known = self._cold.get((capability, cluster))
        others = [known] if known is not None else [its for (name, _), its in self._cold.items() if name == capability]
        return max(0.0, sum(others) / len(others) - warm) if others else 0.0


def _mean(old: float | None, new: float) -> float:
    return new if old is None else 0.7 * old + 0.3 * new
