"""The two families of failure: one may be tried again, one may not.

Refusals (policy, capacity, quality) are values of `ioi_dagster.model.refusal`, never exceptions.
"""

from __future__ import annotations


class IoiError(Exception):
    """Base of every error this package raises: says what happened, where, why and what to do."""


class RetryableError(IoiError):
    """An outage: the same call may succeed later without anyone changing anything."""


class NotAllowedError(IoiError):
    """Policy says no, for these reasons."""


class TakenBackError(RetryableError):
    """A start that was to begin at a node had been taken back before."""


class FinalError(IoiError):
    """A defect or a bad input: the same call fails again until someone changes something."""


class BadInputError(FinalError):
    """Input from outside that cannot be accepted; `where` is `file:line` when it came from a file."""

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text} — {todo}" if todo else text)


class UnreachableError(RetryableError):
    """A process that should answer did not: `who` names it, `why` says how that was noticed."""

    def __init__(self, who: str, why: str) -> None:
        self.who, self.why = who, why
        super().__init__(f"{who} is unreachable: {why}")


class GatewayRefusedError(FinalError):
    """A domain's gateway does not take a request as it is; nothing was done about it."""


class GatewayFullError(RetryableError):
    """A domain's gateway takes no request now; nothing was done about this one. `code` is that of its refusal."""

    def __init__(self, text: str, code: str) -> None:
        self.code = code
        super().__init__(text)


class StepTimeoutError(FinalError):
    """A step ran longer than its op's `ioi/timeout_s` allows. To Dagster it is an error of user code."""

    def __str__(self) -> str:
        return super().__str__() or "the step ran longer than its tag ioi/timeout_s allows"


class StepMemoryError(FinalError):
    """A step held more memory than its node has. To Dagster it is an error of user code."""

    def __str__(self) -> str:
        return super().__str__() or (
            "the step held more memory than its node has — work on less at a time, raise `memory_limit`, or run fewer `workers`"
        )


class StepCrashedError(FinalError):
    """The process that a step had for itself ended before the step did."""


class StepStoppedError(BaseException):
    """Raised in a step whose run was interrupted or lost its claim; not an `Exception`, so that user code lets it pass."""


class StepRevokedError(StepStoppedError):
    """Raised in a step whose slot its cluster governor gives to somebody else."""


class NodeUnableError(BaseException):
    """Raised in a step whose node could not answer its block call: no failure of the step, which starts again elsewhere.

    Not an `Exception`, so that user code lets it pass. `cause` says what the node lacked.
    """

    def __init__(self, cause: RetryableError) -> None:
        self.cause = cause
        super().__init__(str(cause))


class SignatureError(FinalError):
    """A signed document does not verify: unknown key, altered content, expired or wrong audience."""
