"""What a flow governor hears and what it wants done: events in, instructions out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ioi_dagster.governors.failures import Cause
from ioi_dagster.model.intervention import Intervention
from ioi_dagster.model.negotiation import Announce, Ask, Award, Awarded, Bid, Lease
from ioi_dagster.model.placement import UNTOLD_BETWEEN, Edge, Link
from ioi_dagster.model.placement import Step as GraphStep
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Standing
from ioi_dagster.model.story import Chapter


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster that may take a step: `transfer_s` is the expected time to move the inputs, `slots` what the cluster has at
    most by its record (0: that is not known)."""

    cluster: str
    domain: str
    transfer_s: float = 0.0
    slots: int = 0


def from_home(places: Iterable[Place], home: str, input_bytes: float, links: Iterable[Link] = ()) -> tuple[Place, ...]:
    """The places, with how long it takes until so many bytes are there that lie in the domain `home`. Where no link is told,
    it takes no time at home, and elsewhere as long as is expected of a link of which nobody tells."""
    told = {link.target: link for link in links if link.source == home}
    _, usual = UNTOLD_BETWEEN

    def moves_s(domain: str) -> float:
        if not input_bytes:
            return 0.0
        if domain in told:
            return told[domain].latency + input_bytes / told[domain].bandwidth
        return 0.0 if domain == home else input_bytes / usual

    return tuple(replace(place, transfer_s=moves_s(place.domain)) for place in places)


# Events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepReady:
    """Dagster vended the step. The places and reasons come with `PlacesFound`."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class GraphKnown:
    """The steps that are to come, or more of them, what each reads of which (bytes), and what lies between domains. A step's
    `work` is 0 where nobody knows it; `kinds`: seconds of work as earlier runs had it, by the `kind` of steps."""

    steps: tuple[GraphStep, ...]
    edges: tuple[Edge, ...] = ()
    links: tuple[Link, ...] = ()
    kinds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PlacesFound:
    """Who may take the step now, who may not and why. `may_change`: waiting can help (someone is away or starting)."""

    step: str
    places: tuple[Place, ...]
    rejected: tuple[tuple[str, Refusal], ...]
    may_change: bool


@dataclass(frozen=True, slots=True)
class BidReceived:
    bid: Bid


@dataclass(frozen=True, slots=True)
class BidMissed:
    cluster: str
    round: int
    why: str


@dataclass(frozen=True, slots=True)
class AwardAnswered:
    """What counts of an answer, requests of which it says nothing that does, and leases that nobody asked for, see
    `answers.Held`."""

    awarded: Awarded
    missing: tuple[str, ...] = ()
    excess: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True)
class AwardMissed:
    cluster: str
    steps: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """An attempt ran to its end (well or with an error of user code: Dagster's events tell which)."""

    step: str
    fence: int
    attempt: str
    seconds: float
    copy: int = 0


@dataclass(frozen=True, slots=True)
class StepFused:
    """A step ran in one task after another one, under `lease`, before it was ready by itself."""

    ask: Ask
    lease: Lease
    attempt: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StepFound:
    """A step is ready that an earlier process of the run started under `lease`, and that is under way still."""

    ask: Ask
    lease: Lease


@dataclass(frozen=True, slots=True)
class StepLost:
    """A start ended without a result of the step, on `node` (empty when it is not known to have been on one)."""

    step: str
    fence: int
    node: str
    why: str
    cause: Cause = Cause.NODE_LOST
    copy: int = 0


@dataclass(frozen=True, slots=True)
class StepReturned:
    """The start was taken back before it ran."""

    step: str
    fence: int
    why: str
    copy: int = 0


@dataclass(frozen=True, slots=True)
class StepDropped:
    """Nobody waits for the step any more."""

    step: str
    why: str


@dataclass(frozen=True, slots=True)
class StartRefused:
    """Gate 4 or the receiving domain said no to this start."""

    step: str
    fence: int
    node: str
    refusal: Refusal
    copy: int = 0


@dataclass(frozen=True, slots=True)
class ClusterLost:
    cluster: str
    why: str


@dataclass(frozen=True, slots=True)
class ClusterBack:
    cluster: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Why there is nothing to be done about what was said: nobody is called so, which is `refused`, or it is over."""

    text: str
    refused: bool


@dataclass(frozen=True, slots=True)
class Intervened:
    """Somebody has said what is to be done with the run, or some of its steps. `again`: an earlier process of the run has
    answered, so only what holds from then on counts. `idle`: why there is nothing to be done about it."""

    said: Intervention
    again: bool = False
    idle: Idle | None = None


@dataclass(frozen=True, slots=True)
class StandingKnown:
    """How clusters stand with the run's own domain, by what its earlier runs have seen."""

    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: deadlines and waits are looked at."""


Event = (
    GraphKnown
    | StepReady
    | PlacesFound
    | BidReceived
    | BidMissed
    | AwardAnswered
    | AwardMissed
    | StepEnded
    | StepFused
    | StepFound
    | StepLost
    | StepReturned
    | StepDropped
    | StartRefused
    | ClusterLost
    | ClusterBack
    | Intervened
    | StandingKnown
    | Tick
)


# Instructions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FindPlaces:
    """Ask the registry and policy where these steps may go."""

    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class SendAnnounce:
    """The bid may take as long as the announcement's `patience_s`: its `deadline_s`, and where it waits for room its `wait_s` and
    the time that a governor needs to find out that this is over."""

    cluster: str
    announce: Announce


@dataclass(frozen=True, slots=True)
class WithdrawAnnounce:
    """Wait no longer for the bid to this announcement, and let the cluster know."""

    cluster: str
    round: int


@dataclass(frozen=True, slots=True)
class SendAward:
    award: Award


@dataclass(frozen=True, slots=True)
class StartStep:
    ask: Ask
    lease: Lease


@dataclass(frozen=True, slots=True)
class StopStep:
    """End what runs under `lease`, or take it back where it has not begun, and release the lease then."""

    lease: Lease
    why: str


@dataclass(frozen=True, slots=True)
class AdoptStep:
    """Wait for the answer of a start that an earlier process of the run sent."""

    ask: Ask
    lease: Lease


@dataclass(frozen=True, slots=True)
class ReleaseLeases:
    cluster: str
    leases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommitStep:
    """The first complete attempt under the current fence; every other one is `DiscardAttempt`."""

    step: str
    fence: int
    attempt: str


@dataclass(frozen=True, slots=True)
class DiscardAttempt:
    step: str
    fence: int
    attempt: str
    why: str


@dataclass(frozen=True, slots=True)
class RefuseStep:
    """No place may take the step and waiting does not help."""

    step: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class FailStep:
    step: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an intervention. `refused`: it names nobody."""

    said: Intervention
    text: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Tell:
    """A fact for the run's story."""

    step: str
    chapter: Chapter
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


Instruction = (
    FindPlaces
    | SendAnnounce
    | WithdrawAnnounce
    | SendAward
    | StartStep
    | StopStep
    | AdoptStep
    | ReleaseLeases
    | CommitStep
    | DiscardAttempt
    | RefuseStep
    | FailStep
    | Answer
    | Tell
)
