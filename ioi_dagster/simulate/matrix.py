"""The failure matrix as a simulation plays it: which kinds of faults each row has, and within what time what they hit runs again.

The bounds follow from how often what is heard, and how long it is waited for: they say what governors promise where nothing else
is wrong and there is room. `docs/concepts/failures.md` has the table (`python -m tests.scenario.matrix_page`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ioi_dagster.governors.flow_rounds import AGAIN_S, DEADLINE_S
from ioi_dagster.governors.liveness import (
    BEAT_S,
    CUT_OFF_S,
    MIN_DEVIATION_S,
    STOPPED_LOOKS,
    SUSPECT_PHI,
    TICK_S,
    UNSEEN_LOOKS,
    quantile_of,
)
from ioi_dagster.simulate.faults import FaultKind
from ioi_dagster.simulate.timing import ANSWER_S, AWARD_S, PROBE_S, STOPPED_S, TOLD_S, TURN_S

ROUND_S = TURN_S + DEADLINE_S + AGAIN_S
"""A round of a run: the turn in which it is opened, its bids, which are waited for so long at most, and the pause after it."""
PLACED_S = TOLD_S[1] + 2 * ROUND_S
"""What is lost is told to its run, misses the round that is open, and is placed in the next."""
SUSPECT_S = BEAT_S + quantile_of(SUSPECT_PHI) * MIN_DEVIATION_S + TICK_S
"""Since the last beat of a node until it is a suspect."""
STOPPED_FOUND_S = SUSPECT_S + (STOPPED_LOOKS + 1) * TICK_S
UNSEEN_FOUND_S = max(SUSPECT_S + UNSEEN_LOOKS * (ANSWER_S + TICK_S), CUT_OFF_S) + TICK_S


@dataclass(frozen=True, slots=True)
class Row:
    """`bound_s`: within so many seconds what a fault of it hit runs again, or is whole: from the strike, or, where that is
    `from_end`, from when the fault was over. None: nothing is lost, and nothing waits. `follows`: from what the bound follows.
    `not_here`: what of the row virtual time cannot express, and why."""

    number: int
    fault: str
    kinds: tuple[FaultKind, ...]
    expected: str
    bound_s: float | None
    follows: str
    from_end: bool = False
    not_here: str = ""


MATRIX = (
    Row(
        1,
        "worker killed",
        (FaultKind.NODE_KILLED,),
        "its steps run elsewhere",
        PLACED_S,
        "its closed connection is seen at once; two rounds",
    ),
    Row(
        2,
        "worker stopped, goes on",
        (FaultKind.NODE_FROZEN,),
        "its steps run elsewhere, the zombie is ended",
        STOPPED_FOUND_S + PLACED_S,
        "a late beat, what its witness says, two rounds",
    ),
    Row(
        3,
        "a step holds the interpreter",
        (FaultKind.INTERPRETER_HELD,),
        "not evicted; outcomes come when it lets go",
        PLACED_S,
        "two rounds",
        from_end=True,
        not_here="the processor and the interpreter themselves: a witness that sees work is told",
    ),
    Row(
        4,
        "node's link down",
        (FaultKind.NODE_CUT,),
        "its steps run elsewhere, the orphan fences itself off",
        UNSEEN_FOUND_S + PLACED_S,
        "a late beat, a witness that does not answer, two rounds",
    ),
    Row(
        5,
        "one-way link",
        (FaultKind.NODE_UNHEARD, FaultKind.NODE_DEAF),
        "one commit, whoever wins",
        UNSEEN_FOUND_S + PLACED_S,
        "as row 4",
    ),
    Row(
        6,
        "governor out of reach",
        (FaultKind.GOVERNOR_AWAY,),
        "nothing new begins there; outcomes come when it is reached",
        PLACED_S,
        "two rounds",
        from_end=True,
    ),
    Row(
        7,
        "scheduler killed",
        (FaultKind.SCHEDULER_KILLED,),
        "its steps run on peers",
        PROBE_S + PLACED_S,
        "a probe of the run, two rounds",
    ),
    Row(
        8,
        "scheduler stopped, goes on",
        (FaultKind.SCHEDULER_FROZEN,),
        "its steps run on peers; what it grants later starts nothing",
        STOPPED_S + PROBE_S + PLACED_S,
        "what its supervisor waits, a probe, two rounds",
    ),
    Row(
        9,
        "governor restarted while it awards",
        (FaultKind.GOVERNOR_RESTARTED,),
        "no lease lost or double",
        PROBE_S + AWARD_S + PLACED_S,
        "an award that is not answered, or a probe; two rounds",
    ),
    Row(
        10,
        "run process killed",
        (FaultKind.RUN_KILLED,),
        "another goes on; what was done is not repeated",
        PLACED_S,
        "two rounds",
        from_end=True,
        not_here="adoption of what is under way: what a process of before has started is started again",
    ),
    Row(
        11,
        "two run processes",
        (FaultKind.RUN_DOUBLED,),
        "the older writes nothing any more",
        PLACED_S,
        "two rounds",
        not_here="Dagster's event log, which only the owner of the ledger's epoch writes",
    ),
    Row(
        12,
        "network split",
        (FaultKind.NETWORK_SPLIT, FaultKind.LINK_CUT, FaultKind.LINK_ONE_WAY),
        "each side goes on, and both are one after it",
        PROBE_S + AWARD_S + PLACED_S,
        "a probe, an award that is not answered, two rounds",
    ),
    Row(
        13,
        "ledger away",
        (FaultKind.LEDGER_AWAY,),
        "commits wait",
        TURN_S,
        "a turn of the run process",
        from_end=True,
    ),
    Row(
        14,
        "a cluster that lies",
        (FaultKind.LIAR, FaultKind.OVERGRANTS, FaultKind.MUTE, FaultKind.LATE),
        "found out, asked for elsewhere",
        AWARD_S + 2 * ROUND_S,
        "an award that is not answered, two rounds",
    ),
    Row(
        15,
        "clocks are set",
        (FaultKind.CLOCK_SET,),
        "no effect but on starts that are on their way then",
        None,
        "nothing is lost",
        not_here="clocks of owners that differ: requests between them are signed, and simulated ones are not",
    ),
    Row(
        16,
        "poison step",
        (FaultKind.POISON,),
        "stopped after 3 nodes, or 5 losses",
        None,
        "it is to fail",
    ),
    Row(
        17,
        "disk full",
        (FaultKind.DISK_FULL,),
        "commits wait, what cannot be written down is not granted",
        TURN_S,
        "a turn of the run process",
        from_end=True,
        not_here="half-written files: a simulated journal is written or is not",
    ),
)
BESIDES = (FaultKind.NODE_SLOW, FaultKind.NODE_FULL, FaultKind.LOSS, FaultKind.DOUBLING)
"""Kinds that are of no row: they make the others worse."""
ROW_OF = {kind: row for row in MATRIX for kind in row.kinds}
