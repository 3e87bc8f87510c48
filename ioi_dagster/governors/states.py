"""Every change of state that the governors make, as tables, which `docs/concepts/governors.md` shows.

They decide nothing. Those of replicas and circuits are made of the ones that `block` goes by; `tests/properties/test_states.py`
holds all of them to what the governors do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ioi_dagster.governors.block import BREAKER, REPLICA, Breaker, ReplicaState, VersionState
from ioi_dagster.governors.flow_steps import OVER, StepState
from ioi_dagster.governors.liveness import HUNG_S, Liveness
from ioi_dagster.governors.network import PeerState

NOTHING = ""
"""The state of what is not there yet, or not any more."""
ANY = "any event"
"""It follows from time that has passed, or from what came before, so the next event brings it about, whichever that is."""


class LeaseState(StrEnum):
    HELD = "held"
    WAITING = "waiting"
    STOPPING = "stopping"


class AnnouncementState(StrEnum):
    WAITING = "waiting"


class StartState(StrEnum):
    ASKED = "asked"
    ADMITTED = "admitted"
    REFUSED = "refused"


class NodeState(StrEnum):
    TAKING = "taking"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Change:
    """`on`: the event's name (of a block's replicas and circuits, what the event means to them), or `ANY`. `told`: where several
    are told apart, how the refusal's code or the reason begins that is given with it. `when`: for people."""

    was: str
    becomes: str
    on: str
    when: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """`first`: the state in which each begins; NOTHING where a change says how it begins."""

    name: str
    first: str
    changes: tuple[Change, ...]


def _each(was: Iterable[str], becomes: str, on: str, when: str = "", told: str = "") -> tuple[Change, ...]:
    return tuple(Change(one, becomes, on, when, told) for one in was)


_P = PeerState
_STALE = "one of an older epoch than was heard before counts as missed"
MEMBER = Machine(
    "member",
    _P.UNKNOWN,
    (
        *_each((_P.UNKNOWN, _P.SUSPECT, _P.GONE), _P.ALIVE, "ProbeAnswered", "once is enough"),
        *_each((_P.UNKNOWN, _P.ALIVE), _P.SUSPECT, "ProbeMissed", "the second in a row"),
        Change(_P.SUSPECT, _P.GONE, "ProbeMissed", "the tenth in a row"),
        Change(_P.ALIVE, _P.SUSPECT, "ProbeAnswered", _STALE),
        Change(_P.SUSPECT, _P.GONE, "ProbeAnswered", _STALE),
        *_each((_P.UNKNOWN, _P.ALIVE, _P.SUSPECT, _P.GONE), _P.LEFT, "RecordsPulled", "its newer record says so"),
        Change(_P.LEFT, _P.UNKNOWN, "RecordsPulled", "a newer record says that it takes part again"),
        *_each((_P.ALIVE, _P.SUSPECT, _P.GONE, _P.LEFT), _P.UNKNOWN, "Joined", "by a new invitation"),
    ),
)

_L = LeaseState
LEASE = Machine(
    "lease",
    NOTHING,
    (
        Change(NOTHING, _L.HELD, "Award", "a request of it is granted"),
        Change(_L.HELD, _L.WAITING, "RenewRequest", "its step waits for others, which run in its slot"),
        Change(_L.WAITING, _L.HELD, "RenewRequest", "its step goes on"),
        Change(_L.HELD, _L.STOPPING, "Announce", "another tenant asks for what it is guaranteed"),
        Change(
            _L.HELD, _L.STOPPING, "QuotasChanged", "its tenant's limit is lower, or it is guaranteed to one that waits"
        ),
        Change(
            _L.HELD,
            _L.STOPPING,
            "Tick",
            "its tenant is over its limit, or has borrowed what one that waits is guaranteed, and it has run for long enough; "
            "or the time of its block or tenant is over, which is drained",
        ),
        Change(_L.WAITING, _L.STOPPING, "Tick", "the time of its block or tenant is over, which is drained"),
        Change(
            _L.HELD,
            _L.STOPPING,
            "Ordered",
            "its block or tenant is drained, and has no time to end it; what runs of that or at its node is cancelled; "
            "or as by `Tick`",
        ),
        Change(
            _L.WAITING,
            _L.STOPPING,
            "Ordered",
            "its block or tenant is drained, and has no time to end it; or what runs of that or at its node is cancelled",
        ),
        *_each(_L, NOTHING, "ReleaseRequest", "by its run", "released"),
        *_each(_L, NOTHING, "Expelled", "the owner has put its run's domain out", "expelled"),
        *_each(_L, NOTHING, "Award", "the same step is granted under a newer fence", "superseded"),
        *_each(_L, NOTHING, "NodeLeft", "", "its node left"),
        *_each(_L, NOTHING, "NodeJoined", "a node of that name is there already", "its node was replaced"),
        *_each(_L, NOTHING, ANY, "it was not renewed in time", "expired"),
    ),
)

_W = AnnouncementState
ANNOUNCEMENT = Machine(
    "announcement",
    NOTHING,
    (
        Change(NOTHING, _W.WAITING, "Announce", "there is no room for anything of it, and it may wait"),
        Change(_W.WAITING, NOTHING, "Announce", "its run has announced anew", "newer"),
        Change(_W.WAITING, NOTHING, "Award", "an award has given its run all that it asks for", "served"),
        Change(_W.WAITING, NOTHING, "Withdrawn", "its run waits no longer", "withdrawn"),
        Change(_W.WAITING, NOTHING, ANY, "its turn has come: there is room", "offered"),
        Change(_W.WAITING, NOTHING, ANY, "it has waited as long as it may", "in vain"),
    ),
)

_A = StartState
START = Machine(
    "start",
    _A.ASKED,
    (
        *(
            Change(_A.ASKED, _A.REFUSED, "StartAsked", when, told)
            for told, when in (
                ("permit.", "the permit was checked and is not good for this start"),
                ("node.no_permit", "a policy root is configured, and no permit came"),
                ("node.replayed_permit", "its permit has let in a start before"),
                ("node.other_origin", "the lease was granted to another domain than permits the start"),
                ("node.wrong_node", "the lease is another node's"),
                ("node.wrong_cluster", "the lease is another cluster's"),
                ("node.old_epoch", "the lease is of an epoch before the newest that was seen"),
                ("node.stale_fence", "a start of the step under a newer fence was admitted"),
                ("node.other_capability", "it asks for something else than its lease"),
                ("node.not_offered", "nothing here does it"),
                ("node.out_of_contact", "its cluster governor has not been heard for 0.8 of the time that leases hold"),
                ("node.draining", "the node takes nothing new, and no step there waits for it"),
                ("node.overloaded", "others leave nothing of its machine"),
                ("node.memory", "its memory is full"),
            )
        ),
        Change(_A.ASKED, _A.ADMITTED, "StartAsked", "nothing of that"),
    ),
)
"""In the order in which a node looks."""

NODE = Machine(
    "node",
    NodeState.TAKING,
    (
        Change(NodeState.TAKING, NodeState.DRAINING, "DrainAsked", "it takes nothing new, and what runs goes on"),
        Change(NodeState.DRAINING, NodeState.TAKING, "RejoinAsked"),
    ),
)

_N = Liveness
LIVENESS = Machine(
    "liveness",
    _N.ALIVE,
    (
        Change(_N.ALIVE, _N.SUSPECT, "Tick", "no beat for so long that only one in a hundred would be later"),
        Change(_N.SUSPECT, _N.ALIVE, "Beat", "it is refuted"),
        Change(_N.SUSPECT, _N.LOST, "Seen", "its witness sees no process, or one that is stopped, twice"),
        Change(_N.SUSPECT, _N.LOST, "Unseen", "its witness is as silent, twice"),
        Change(_N.SUSPECT, _N.LOST, "Tick", f"its process has done nothing for {HUNG_S:g} s; or it has no witness"),
    ),
)

REPLICAS = Machine(
    "replica",
    ReplicaState.LOADING,
    tuple(Change(was, becomes, sign) for (was, sign), becomes in REPLICA.items()),
)

CIRCUIT = Machine(
    "circuit",
    Breaker.CLOSED,
    tuple(Change(was, becomes, sign) for (was, sign), becomes in BREAKER.items()),
)

_V = VersionState
_NEWER = (
    ("ReplicaLoaded", "the newer one's first replica has loaded"),
    ("Offered", "nothing of the older one is loaded, or there is no memory for both"),
    (ANY, "the newer one could not load, and when it is tried again there is no memory for both"),
)
VERSION = Machine(
    "version",
    NOTHING,
    (
        Change(NOTHING, _V.CURRENT, "Offered", "nothing of that name was offered"),
        Change(NOTHING, _V.COMING, "Offered", "it differs from what is offered"),
        *(Change(_V.COMING, _V.CURRENT, on, when) for on, when in _NEWER),
        *(Change(_V.CURRENT, _V.GOING, on, when) for on, when in _NEWER),
        Change(_V.COMING, _V.GOING, "Offered", "yet another one is offered"),
        Change(_V.GOING, NOTHING, ANY, "it has no replica any more"),
    ),
)

_S = StepState
_OVER = tuple(state for state in _S if state in OVER)
STEP = Machine(
    "step",
    NOTHING,
    (
        Change(NOTHING, _S.WAITING, "StepReady", "Dagster vends it"),
        *_each(_OVER, _S.WAITING, "StepReady", "it is to run again: the next try of a retry policy, or of a map"),
        Change(NOTHING, _S.RUNNING, "StepFound", "an earlier process of the run started it, under the newest fence"),
        Change(NOTHING, _S.WAITING, "StepFound", "that start is of an older fence"),
        Change(NOTHING, _S.DONE, "StepFused", "it ran in one task after another one"),
        Change(_S.WAITING, _S.AWARDING, ANY, "a round closes with an offer for it"),
        Change(_S.WAITING, _S.REFUSED, "StepReady", "its gang has no size that can be"),
        Change(
            _S.WAITING,
            _S.REFUSED,
            ANY,
            "for a while all who were asked have offered, the least over the run's budget; or its gang lacks one for good",
        ),
        Change(_S.WAITING, _S.REFUSED, "PlacesFound", "no place may take it, and waiting does not help"),
        Change(_S.AWARDING, _S.RUNNING, "AwardAnswered", "with a lease"),
        Change(_S.AWARDING, _S.WAITING, "AwardAnswered", "it is among the rejected"),
        Change(_S.AWARDING, _S.WAITING, "AwardMissed", "no answer came, or none that can be read"),
        Change(_S.RUNNING, _S.DONE, "StepEnded", "its attempt is committed"),
        Change(_S.AWARDING, _S.REFUSED, "StepDropped", "its gang cannot do without the one that was dropped"),
        Change(_S.RUNNING, _S.WAITING, "StepLost", "it is placed again, as where one of its gang was lost"),
        Change(
            _S.RUNNING,
            _S.FAILED,
            "StepLost",
            "its cause, its effect or the number of losses forbids that, or it was so of its gang",
        ),
        Change(_S.RUNNING, _S.WAITING, "ClusterLost", "it is placed again"),
        Change(_S.RUNNING, _S.FAILED, "ClusterLost", "its effect or the number of losses forbids that"),
        Change(_S.RUNNING, _S.WAITING, "StepReturned", "it had not begun"),
        Change(_S.RUNNING, _S.WAITING, "StartRefused", "another node is tried, or the same one later"),
        Change(_S.RUNNING, _S.REFUSED, "StartRefused", "too often"),
        Change(_S.RUNNING, _S.FAILED, "StartRefused", "one of its gang was refused too often, or may run once only"),
        Change(_S.RUNNING, _S.FAILED, "StepReturned", "one of its gang that had not begun, and it may run once only"),
        Change(_S.RUNNING, _S.FAILED, "StepDropped", "its gang cannot do without the one that was dropped"),
        *_each((_S.WAITING, _S.AWARDING, _S.RUNNING), _S.DROPPED, "StepDropped", "nobody waits for it any more"),
    ),
)

MACHINES = (MEMBER, LEASE, ANNOUNCEMENT, START, NODE, LIVENESS, REPLICAS, CIRCUIT, VERSION, STEP)


# For the page -------------------------------------------------------------------------------------------------------


def page_with(page: str) -> str:
    """`page` with each machine drawn anew between its markers. Raises `ValueError` where a machine has none."""
    for machine in MACHINES:
        begin, end = f"<!-- states: {machine.name} -->\n", "<!-- end of states -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"no marker {begin.strip()!r} that is followed by {end!r}")
        page = f"{before}{begin}\n{drawn(machine)}\n{tabled(machine)}\n{end}{after}"
    return page


def drawn(machine: Machine) -> str:
    """As a Mermaid diagram; an arrow for all events that lead from one state to another."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for change in machine.changes:
        on = arrows.setdefault((change.was, change.becomes), [])
        on += [] if change.on in on else [change.on]
    named = dict.fromkeys(state for arrow in arrows for state in arrow if not state.isidentifier() and state)
    lines = [f'    state "{state}" as {_id(state)}' for state in named]
    lines += [f"    [*] --> {_id(machine.first)}"] if machine.first else []
    lines += [f"    {_id(was)} --> {_id(becomes)}: {' / '.join(on)}" for (was, becomes), on in arrows.items()]
    return "\n".join(("```mermaid", "stateDiagram-v2", *lines, "```", ""))


def tabled(machine: Machine) -> str:
    """As a Markdown table with what stands at each change; a row for all states from which one event leads to the same."""
    if not any(change.when or change.told for change in machine.changes):
        return ""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for change in machine.changes:
        rows.setdefault((change.becomes, change.on, change.told, change.when), []).append(change.was)
    lines = ["| from | to | on | when |", "|---|---|---|---|"]
    for (becomes, on, told, when), was in rows.items():
        event = on if on == ANY else f"`{on}`"
        code = f"`{told}{'…' * told.endswith('.')}`" if "." in told else told
        why = ": ".join(filter(None, (code, when)))
        lines.append(f"| {', '.join(one or '–' for one in was)} | {becomes or '–'} | {event} | {why} |")
    return "\n".join((*lines, ""))


def _id(state: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in state) or "[*]"
