"""Where a step rather runs: beside what it reads or names, and not beside what it names to be apart from.

Both are wishes, never conditions: a step that finds no room there runs elsewhere, and its story says so. A condition would have
steps wait for a node that may never come back, and who needs one can name a cluster's domain (`ioi/place_in`) or make a gang.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ioi_dagster.governors.flow_steps import Step, Steps, StepState
from ioi_dagster.model.negotiation import MAX_REQUESTS, Ask

MAX_NODES = 100
"""Of how many nodes a request names at most: a message must not grow with a run."""

assert MAX_NODES <= MAX_REQUESTS


class Nearness:
    """By where the steps of the run were awarded last: those that have ended left their outputs there."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def waits_for(self, step: Step) -> str:
        """A step whose node is not known yet, but is about to be; empty where nothing is to be waited for."""
        ask = step.ask
        for key in (*ask.near, *ask.apart):
            other = self._steps.get(key)
            if (
                other is not None
                and other.state is StepState.AWARDING
                and not (ask.gang and other.ask.gang == ask.gang)
            ):
                return key
        return ""

    def wishes(self, ask: Ask) -> bool:
        return bool(ask.near or ask.apart or ask.sources)

    def near(self, ask: Ask, cluster: str) -> int:
        """How many of those that it names are in the cluster."""
        return sum(other.where[0] == cluster for other in self._known(ask.near))

    def prefer(self, ask: Ask, cluster: str) -> tuple[str, ...]:
        """Nodes of the cluster that it rather has, best first: where it is beside most that it names, then where most of its
        inputs lie. None that it is to be apart from."""
        apart = set(self.avoid(ask, cluster))
        beside = Counter(other.where[1] for other in self._in(cluster, ask.near))
        inputs = Counter(other.where[1] for other in self._in(cluster, ask.sources))
        nodes = sorted(beside.keys() | inputs.keys(), key=lambda node: (-beside[node], -inputs[node], node))
        return tuple(node for node in nodes if node not in apart)[:MAX_NODES]

    def avoid(self, ask: Ask, cluster: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(other.where[1] for other in self._in(cluster, ask.apart)))[:MAX_NODES]

    def told(self, ask: Ask, cluster: str, node: str) -> str:
        """What came of its wishes, empty where it had none."""
        return "; ".join(self._told(ask, (cluster, node)))

    def _told(self, ask: Ask, at: tuple[str, str]) -> Iterator[str]:
        for other in self._known(ask.near):
            if other.where == at:
                yield f"beside {other.ask.step}"
            elif other.where[0] == at[0]:
                yield f"in the cluster of {other.ask.step}, but not on its node {other.where[1]}"
            else:
                yield f"not near {other.ask.step}, which is on {other.where[1]} of {other.where[0]}"
        together = [other.ask.step for other in self._known(ask.apart) if other.where == at]
        if together:
            yield f"beside {', '.join(together[:3])}, since there was no other node"
        elif ask.apart:
            yield "apart as it asked"

    def _known(self, keys: Iterable[str]) -> Iterator[Step]:
        found = (self._steps.get(key) for key in keys)
        return (other for other in found if other is not None and other.where != ("", ""))

    def _in(self, cluster: str, keys: Iterable[str]) -> Iterator[Step]:
        return (other for other in self._known(keys) if other.where[0] == cluster)
