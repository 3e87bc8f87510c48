"""What the gate says of data that is to go from one domain to another."""

from __future__ import annotations

from ioi_dagster.clock import Clock
from ioi_dagster.model.data_move import DataMove, MovePolicy
from ioi_dagster.model.decision import Decision
from ioi_dagster.policy.documents import data_move_document
from ioi_dagster.policy.gate import Gate


def move_policy(gate: Gate, domain: str, clock: Clock) -> MovePolicy:
    """As `domain` asks. A network whose policies say nothing of `data_move` holds each move."""

    def decide(move: DataMove) -> Decision:
        return gate.decide("data_move", data_move_document(now=clock.wall(), domain=domain, move=move))

    return decide
