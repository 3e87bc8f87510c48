"""How long things take in a simulation that take no part in any decision; all in seconds."""

from __future__ import annotations

TOLD_S = (0.02, 0.2)
"""Until a run hears what became of a start that was lost, drawn from this range; as long is until a node stops a step."""
PROBE_S = 0.8
"""Until a run process sees that a scheduler is gone or cannot be reached."""
STOPPED_S = 0.5
"""So long a process may stand still until its supervisor ends it."""
RESTART_S = 2.0
"""Until a process that has ended is there again, started by its supervisor."""
TURN_S = 0.2
"""From one look of a run process at the time to the next."""
AWARD_S = 3.0
"""So long an answer to an award is waited for."""
LOOK_S, ANSWER_S = 0.005, 0.3
"""A witness answers after so long; one that takes longer than the second has not answered."""
