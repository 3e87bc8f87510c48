"""A cluster governor that lies while the file `IOI_CHAOS_LIES` says how; each lie is a line of its namesake `.told`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ioi_dagster.governors.cluster import ClusterGovernor, Event, Instruction, Reply
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, RejectedRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal

CHEAP = 0.001
NO = Refusal("cluster.full", "another was faster", "other")


def _cheap(announce: Announce, bid: Bid) -> Reply:
    """All that is asked, for nearly nothing."""
    points = tuple(
        SupplyPoint(
            one.capability, one.data_class, one.count, CHEAP, one.count, one.resources, one.gang, one.idle, one.part
        )
        for one in announce.groups
    )
    return Reply(replace(bid, points=points))


def _refuses(award: Award, answer: Awarded) -> Awarded:
    """What was bid is not granted; what is granted in truth is kept for nobody."""
    return replace(
        answer, leases=(), rejected=tuple(RejectedRequest(one.step, one.fence, NO) for one in award.requests)
    )


def _grants_more(award: Award, answer: Awarded) -> Awarded:
    """Each lease twice, and one that nobody asked for."""
    twice = [replace(lease, id=f"{lease.id}-again") for lease in answer.leases]
    more = [replace(lease, id="nobody-asked", step="nobody-asked") for lease in answer.leases[:1]]
    return replace(answer, leases=(*answer.leases, *twice, *more))


def _forgets(award: Award, answer: Awarded) -> Awarded:
    """Half of what was asked is not answered."""
    return replace(answer, leases=answer.leases[::2], rejected=())


LIES: dict[str, Callable[[Award, Awarded], Awarded]] = {
    "refuses": _refuses,
    "grants more": _grants_more,
    "forgets": _forgets,
}


def learn_to_lie() -> None:
    file = Path(os.environ["IOI_CHAOS_LIES"])
    honest = ClusterGovernor.handle

    def handle(self: ClusterGovernor, event: Event, now: float) -> list[Instruction]:
        told = honest(self, event, now)
        how = file.read_text() if file.exists() else ""
        if how and isinstance(event, Announce):
            others = [one for one in told if not isinstance(one, Reply) or one.waited is not None]
            return [*others, _cheap(event, self._bids.nothing(event))]
        if how and isinstance(event, Award):
            with file.with_suffix(".told").open("a") as notes:
                notes.write(f"{event.run} {len(event.requests)}\n")
            return [
                replace(one, answer=LIES[how](event, one.answer))
                if isinstance(one, Reply) and isinstance(one.answer, Awarded)
                else one
                for one in told
            ]
        return told

    ClusterGovernor.handle = handle
