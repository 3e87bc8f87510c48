"""The wire protocol between domains: which doors a gateway has, what each takes, answers and asks for.

HTTP with JSON bodies below `/v1/`. What a version means does not change but by fields that are added: who does not know a field
leaves it out, and who gets one that he does not know ignores it. Anything else is a new version, below another path; a gateway
says at `health` which it speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from ioi_dagster.adapters.http.doors import Door, For, Param, Rate
from ioi_dagster.adapters.http.ras_doors import RAS_DOORS
from ioi_dagster.governors.network import Heard
from ioi_dagster.model.block import MAX_PIECE, MAX_PIECES, MAX_STREAM
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import MAX_CAP, Action
from ioi_dagster.model.negotiation import Announce, Award, Awarded, Bid, Lease, ReleaseRequest, Renewed, RenewRequest
from ioi_dagster.model.order import Name, Order, Text
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import Experiences, Standing
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.feeds.proof import Proof
from ioi_dagster.ras.feeds.replica import MAX_HEADS
from ioi_dagster.ras.feeds.store import Page
from ioi_dagster.ras.selection import Discovery, Query
from ioi_dagster.signing import Signed

VERSION = 1
PREFIX = f"/v{VERSION}/"
PERMIT_HEADER, PROOF_HEADER = "ioi-permit", "ioi-proof"
CLOCK_HEADER = "ioi-clock"
"""Of each answer: Unix seconds by the gateway's clock."""
MAX_COPIES = 100
MAX_FRAME = MAX_PIECE + 64 * 2**10


@dataclass(frozen=True, slots=True)
class Health:
    """`epoch` rises with each start of the gateway; `protocols` are the versions that it speaks; `heard` is what it has of the
    network's members, itself among them."""

    domain: str
    epoch: int
    ready: bool
    protocols: tuple[int, ...] = ()
    heard: tuple[Heard, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """`record`: the guest's own, signed by it."""

    record: Signed


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """`record`: the host's, as it is now. `give`: the highest data class that the guest may be given."""

    record: Signed
    give: DataClass


@dataclass(frozen=True, slots=True)
class AnnounceTo:
    cluster: str
    announce: Announce


@dataclass(frozen=True, slots=True)
class RenewAt:
    cluster: str
    renew: RenewRequest


@dataclass(frozen=True, slots=True)
class ReleaseAt:
    cluster: str
    release: ReleaseRequest


@dataclass(frozen=True, slots=True)
class StateEntry:
    """Run-time state of the domain's own, forgotten after `ttl_s` seconds."""

    key: str
    value: dict[str, Any]
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Invocation:
    """A block's call under a lease. `permit` is the signed step permit; binary parts of the payload stand in the frame around.
    The call of one permit is begun once: who sends it again gets what is there of it. Of a streamed call, `after`: so many pieces
    are there already, given by `version` of `block`, others begin anew; `rejoin`: it is not to be begun where nothing of it is
    there."""

    lease: Lease
    permit: dict[str, Any]
    capability: str
    payload: dict[str, Any]
    timeout_s: float = 600.0
    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_PIECES)] = 0
    block: Text = ""
    version: Text = ""
    rejoin: bool = False


@dataclass(frozen=True, slots=True)
class Invoked:
    """`ok`: `payload`, where and when it ran (`started`, `ended`: Unix seconds of that domain's clock). Else `refusal`, or
    `error`, of which `infrastructure` says whether another place may do better."""

    ok: bool
    payload: dict[str, Any] | None = None
    node: str = ""
    attempt: str = ""
    started: float = 0.0
    ended: float = 0.0
    refusal: Refusal | None = None
    error: str = ""
    infrastructure: bool = False


class Word(StrEnum):
    BEGUN = "begun"
    PIECE = "piece"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Streamed:
    """One frame of a streamed answer. First `begun`: `version` of `block` gives its pieces, of which `number` is the first. Then
    each `piece` with its `number`, in order, and the JSON of its `payload`, whose binary parts stand in the frame around. Last
    `ended`: `number` pieces are there in all, or were when it broke; `end` says as of a whole call how it ended."""

    word: Word
    number: int = 0
    payload: dict[str, Any] | None = None
    block: str = ""
    version: str = ""
    end: Invoked | None = None


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """`subject` gives `order`; the domain that signs the request vouches for that. Who and when in the order are found out.
    `unseen`: a tenant may be one of whom nobody has heard yet."""

    order: Order
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class OrderAnswer:
    """The order as it was given, what came of it, and the id of the policy's decision."""

    order: Order
    answer: str
    decision: str


@dataclass(frozen=True, slots=True)
class RunOrder:
    """To a run that is under way, by its id or the beginning of it, or to a step of it; see `model.intervention`. By `subject`,
    for whom the domain that signs the request vouches."""

    run: Name
    action: Action
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    step: Text = ""
    value: Annotated[int, msgspec.Meta(ge=-MAX_CAP, le=MAX_CAP)] | None = None
    away: Text = ""
    why: Text = ""


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """`answer` is empty where no process of the run has seen it yet: it is in the run's ledger, and counts when one does."""

    run: str
    number: int
    who: str
    answer: str
    decision: str


@dataclass(frozen=True, slots=True)
class SwapHeads:
    """How far who asks has feeds that who is asked may see, and of which of them two things were told."""

    heads: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=MAX_HEADS)]
    proofs: Annotated[tuple[Proof, ...], msgspec.Meta(max_length=MAX_HEADS)] = ()


@dataclass(frozen=True, slots=True)
class HeadsSwapped:
    """The same of who is asked."""

    heads: tuple[Signed, ...]
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True)
class Telling:
    """Records that the domain states from now on, and items that it states no longer: `<urn> <version>`."""

    state: tuple[Signed, ...] = ()
    withdraw: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """Copies that the domain holds from now on, until its next look into its stores, and those that it holds no longer."""

    copies: Annotated[tuple[Copy, ...], msgspec.Meta(max_length=MAX_COPIES)] = ()
    withdrawn: Annotated[tuple[Copy, ...], msgspec.Meta(max_length=MAX_COPIES)] = ()


@dataclass(frozen=True, slots=True)
class CopiesOf:
    """`asset`: the record in force, as this domain has it, None where it has none that who asks may see; `earlier`: records of
    older versions of which it holds copies. Each of `copies` is a `Copy`. `against`: what it has against giving it to who asks;
    then no copy says where it lies."""

    asset: Signed | None = None
    earlier: tuple[Signed, ...] = ()
    copies: tuple[dict[str, Any], ...] = ()
    against: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    code: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ProblemAnswer:
    """The body of every answer whose status is not 200."""

    error: Problem


DOORS = (
    Door("GET", "health", For.ANYONE, None, Health, "is it there, and which versions does it speak"),
    Door("GET", "openapi.json", For.ANYONE, None, dict[str, Any], "all doors, as OpenAPI 3.1", rate=Rate(5, 20)),
    Door("GET", "members", For.ANYONE, None, dict[str, dict[str, Any]], "its peers, as it sees them"),
    Door(
        "GET",
        "member",
        For.ANYONE,
        None,
        list[Signed],
        "records of one member, oldest first",
        query=(Param("domain", "whose"), Param("after", "those up to that serial are left out", "integer")),
    ),
    Door("POST", "join", For.INVITED, JoinRequest, JoinAnswer, "become a member, by an invitation"),
    Door("GET", "status", For.DOMAIN, None, dict[str, Any], "clusters, nodes, leases and blocks, for people"),
    Door(
        "GET",
        "registry/records",
        For.ANYONE,
        None,
        list[Signed],
        "its own signed records, to others the public ones",
        query=(Param("kind", "of this kind"),),
    ),
    Door("GET", "registry/state", For.DOMAIN, None, dict[str, Any], "run-time state that has not expired"),
    Door("POST", "registry/discover", For.DOMAIN, Query, Discovery, "who here can do it, and why others cannot"),
    Door("POST", "registry/lease", For.OWN, list[StateEntry], dict[str, Any], "state that holds for some seconds"),
    Door(
        "GET",
        "feeds/entries",
        For.DOMAIN,
        None,
        Page,
        "what a domain tells an audience; where there is nothing new yet, the answer waits for it",
        query=(
            Param("origin", "the domain that tells it", required=True),
            Param("audience", "public, local or partner:<domain>", required=True),
            Param("epoch", "entries after this epoch and `after`", "integer"),
            Param("after", "the number of the last entry that is there", "integer"),
            Param("limit", "so many entries at most", "integer"),
            Param("wait", "so many seconds the answer waits at most", "number"),
        ),
    ),
    Door(
        "POST", "feeds/heads", For.DOMAIN, SwapHeads, HeadsSwapped, "how far feeds are, for how far who asks has them"
    ),
    Door("POST", "feeds/tell", For.OWN, Telling, dict[str, Any], "state records to others, or no longer"),
    Door(
        "GET",
        "data/copies",
        For.DOMAIN,
        None,
        CopiesOf,
        "which copies it holds of an asset; what who asks may not see is not there",
        query=(Param("asset", "urn:ioi:<domain>:asset:<name>", required=True),),
    ),
    Door("POST", "data/held", For.HOME, Held, dict[str, Any], "copies that it holds from now on, or no longer"),
    Door("POST", "announce", For.RUN, AnnounceTo, Bid, "what is wanted; the bid binds nobody"),
    Door(
        "POST",
        "award",
        For.RUN,
        Award,
        Awarded,
        "leases, as many as there is room for; once by (run, step, fence, copy)",
    ),
    Door("POST", "renew", For.RUN, RenewAt, Renewed, "leases hold again for their whole time"),
    Door("POST", "release", For.RUN, ReleaseAt, dict[str, Any], "leases end; what is not held is no error"),
    Door(
        "POST",
        "standing",
        For.HOME,
        Experiences,
        tuple[Standing, ...],
        "what a run has seen of clusters; how they stand with its domain",
    ),
    Door(
        "POST",
        "order",
        For.DOMAIN,
        OrderRequest,
        OrderAnswer,
        "pause, drain, cap, weigh or cancel what runs of a block, a tenant or a node of the domain, as its policy allows; again "
        "is no error",
    ),
    Door(
        "POST",
        "intervene",
        For.DOMAIN,
        RunOrder,
        RunAnswer,
        "pause, resume, cap, prioritise, reroute (and back) or cancel steps of a run of the domain's, as its policy allows",
    ),
    Door("POST", "invoke", For.RUN, Invocation, Invoked, "run a block under a lease", framed=True),
    Door(
        "POST",
        "invoke/stream",
        For.RUN,
        Invocation,
        Streamed,
        "run a block under a lease; its result comes in pieces",
        framed=True,
        streamed=True,
    ),
    *RAS_DOORS,
)
BY_PATH = {door.path: door for door in DOORS}


def schema() -> dict[str, Any]:
    """The protocol as JSON: its doors, and JSON Schema 2020-12 of all that goes through them."""
    kinds = [kind for door in DOORS for kind in (door.asks, door.answers) if kind is not None]
    of, components = msgspec.json.schema_components([*kinds, ProblemAnswer], ref_template="#/$defs/{name}")
    its = iter(of)
    doors = [
        {
            "method": door.method,
            "path": PREFIX + door.path,
            "for": str(door.who),
            "text": door.text,
            "framed": door.framed,
            "streamed": door.streamed,
            "query": [
                {"name": its.name, "text": its.text, "type": its.kind, "required": its.required} for its in door.query
            ],
            "scope": None if door.scope is None else str(door.scope),
            "rate": None if door.rate is None else {"per_s": door.rate.per_s, "burst": door.rate.burst},
            "media": "application/octet-stream" if door.framed else door.media,
            "max_bytes": door.limit,
            "asks": None if door.asks is None else next(its),
            "answers": next(its),
        }
        for door in DOORS
    ]
    return {
        "protocol": VERSION,
        "stream": {"max_frame": MAX_FRAME, "max_pieces": MAX_PIECES, "max_bytes": MAX_STREAM},
        "headers": {"proof": PROOF_HEADER, "permit": PERMIT_HEADER, "clock": CLOCK_HEADER},
        "doors": doors,
        "problem": next(its),
        "$defs": {name: components[name] for name in sorted(components)},
    }
