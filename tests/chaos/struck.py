"""The moment of a strike at a run, and what became of what it hit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ioi_dagster.model.amounts import counted
from tests.chaos import judge
from tests.chaos.lab import NEAR_NODES, SECONDS, STEPS, Began, DidNotBite, Found, Lab, Run, until

NEAR = (*NEAR_NODES, "other-1")
LONG_S = 1.5
"""Of steps that are to be there still when the fault is over."""


@dataclass(slots=True)
class Struck:
    """At the node of a step. `there`: what ran there and may run again."""

    run: Run
    victim: Began
    there: list[Began] = field(default_factory=list)
    at: float = 0.0

    @classmethod
    def at_work(cls, lab: Lab, nodes: tuple[str, ...], seconds: float = SECONDS, job: str = "paying") -> Struck:
        run = lab.run(job, seconds=seconds)
        victim = run.working(lambda one: one.node in nodes)
        there = [one for one in run.began() if one.pid == victim.pid and not one.ended and one.step != judge.PAYS]
        return cls(run, victim, there, time.time())

    def recovered(self) -> float | None:
        """Seconds until the last of it began again; None where nothing of it did."""
        later = {(one.step, one.fence): one.at for one in self.run.began()}
        again = [
            at for one in self.there for (step, fence), at in later.items() if step == one.step and fence > one.fence
        ]
        return max(again) - self.at if again else None

    def whole(self) -> float:
        """Wait until all of it has either begun again or is committed; seconds since the strike."""

        def look() -> bool:
            begun = {(one.step, one.fence) for one in self.run.began()}
            done = {row.step for row in self.run.lab.ledger.steps(self.run.id) if row.state == "DONE"}
            return all(
                one.step in done or any(step == one.step and fence > one.fence for step, fence in begun)
                for one in self.there
            )

        until(look, "the end of what it hit, or a new start of it")
        return time.time() - self.at

    def end(self, recovers: bool = True, recovered_s: float | None = None) -> Found:
        """`recovers`: what ran there is to run again, and is looked for, unless it is known when it was whole. Raises
        `DidNotBite`."""
        self.run.end()
        looked_for = recovers and recovered_s is None
        recovered_s = self.recovered() if looked_for else recovered_s
        wrong = judge.whole(self.run, STEPS)
        found = Found(wrong, recovered_s, self.happened(), int(judge.in_doubt(self.run)))
        return bitten(found, not looked_for or recovered_s is not None, "what ran there came to its end")

    def happened(self) -> str:
        began = self.run.began()
        lost = {one.step: one.fence for one in self.there}
        again = [one for one in began if one.fence > lost.get(one.step, one.fence)]
        there = f"{counted(len(lost), 'step')} ran on {self.victim.node}"
        nodes = " and ".join(sorted({one.node for one in again}))
        once = f", {judge.PAYS} failed in doubt" if judge.in_doubt(self.run) else ""
        return f"{there}, {len({one.step for one in again})} again on {nodes or 'none'}{once}; {commits(self.run)}"


def bitten(found: Found, bit: bool, otherwise: str) -> Found:
    """Raises `DidNotBite` where it did not, and nothing is wrong."""
    if not bit and not found.wrong:
        raise DidNotBite(otherwise)
    return found


def commits(run: Run) -> str:
    """How often its steps began and were committed."""
    rows = run.lab.ledger.steps(run.id)
    return f"{len(run.began())} starts, {sum(row.commits for row in rows)} commits of {counted(len(rows), 'step')}"


def cluster_of(node: str) -> str:
    return node.rpartition("-")[0]


def suspected(lab: Lab, node: str) -> int:
    """How often the node was a suspect so far."""
    return lab.log(f"scheduler-{cluster_of(node)}").count(f"{node} is a suspect")
