"""What can end a start of a step without a result of the step: whom it is laid to, what is counted, what happens next.

Errors that user code raises are not here: they are the step's own events, and the user's `RetryPolicy` and `RetryRequested`
have decided about them at the node already. `docs/concepts/failures.md` says the same for users.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.model.refusal import Refusal


class Cause(StrEnum):
    """Why a start ended without a result. Part of the wire: a node says it in its answer."""

    NODE_LOST = "node_lost"
    NEIGHBOUR = "neighbour"
    SCHEDULER_LOST = "scheduler_lost"
    LEASE_LOST = "lease_lost"
    SHED = "shed"
    NODE_ERROR = "node_error"
    OWN_PROCESS = "own_process"
    TIMEOUT = "timeout"
    MEMORY = "memory"

    @classmethod
    def said(cls, word: str) -> Cause:
        """What a node said; one of another version may know words that are none here, which say no more than that it failed."""
        return cls(word) if word in cls.__members__.values() else cls.NODE_ERROR


@dataclass(frozen=True, slots=True)
class Rule:
    """`blames`: the loss counts against the step, on that node. `again`: it is placed anew under the next fence; where not,
    the step fails with the code `flow.<cause>`, and `retries` says whether that is a try of the user's `RetryPolicy`."""

    cause: Cause
    blames: bool
    again: bool
    retries: bool
    why: str
    todo: str = ""


RULES = {
    rule.cause: rule
    for rule in (
        Rule(Cause.NODE_LOST, True, True, False, "it ran on a node that died: the machine's fault, until it is the third"),
        Rule(Cause.NEIGHBOUR, False, True, False, "it waited on a node that died of what ran there"),
        Rule(Cause.SCHEDULER_LOST, False, True, False, "a scheduler's death says nothing about a step"),
        Rule(Cause.LEASE_LOST, False, True, False, "its slot went to somebody else; its task was cancelled"),
        Rule(Cause.SHED, False, True, False, "its node gave it up, since others had left no memory on the machine"),
        Rule(Cause.NODE_ERROR, True, True, False, "the node's own machinery failed; another node may do better"),
        Rule(
            Cause.OWN_PROCESS, True, False, False,
            "it had a process of its own, which ended: nobody else can have been the cause",
            "look for os._exit, a crash in native code or the kernel's out-of-memory killer",
        ),
        Rule(
            Cause.TIMEOUT, False, False, True,
            "it would take as long elsewhere: it ran longer than its tag allows and did not stop when it was asked to",
            "raise its tag ioi/timeout_s, or let the code come back to Python now and then",
        ),
        Rule(
            Cause.MEMORY, False, False, True,
            "it would take as much elsewhere: it held more memory than a node has",
            "work on less at a time, raise `memory_limit`, or run fewer `workers`",
        ),
    )
}  # fmt: skip

POISON = "flow.poison_step"
AT_MOST_ONCE = "flow.at_most_once"
GANG_BROKEN = "flow.gang_broken"
"""It did not run, since its gang cannot start whole."""
GANG_LOST = "flow.gang_lost"
"""It ran, and was stopped since its gang cannot go on."""
POISON_TODO = "look for os._exit, a crash in native code or memory that runs out; then re-execute the run from failure"
AT_MOST_ONCE_TODO = "find out whether it took effect; then re-execute the run from failure, or clear it by hand"
GANG_TODO = "see why that one did not end well, and mend it; then re-execute the run from failure"
CHUNK_TODO = (
    "look among its items for one that ends the process or fills the memory; then re-execute the run from failure"
)

USERS_RETRY = frozenset(f"flow.{rule.cause}" for rule in RULES.values() if rule.retries)
"""Failures that are a try of the user's retry policy. A poison step is none: it has had its three nodes."""


def in_doubt(by: str) -> Refusal:
    """Of a step that may run once only and was under way when its run was taken over."""
    text = "it may run once only, and was in flight when an earlier process of the run ended"
    return Refusal(AT_MOST_ONCE, text, by, AT_MOST_ONCE_TODO)
