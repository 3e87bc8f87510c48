"""The network governor of one domain: who the members are and which of them are there, as seen from here. Soft state,
no leader.

Each domain's record is its own word, signed by it; whoever has a newer one passes it on. Whether a member is there is
found out by own probes alone: what others say of it only makes it be asked again sooner (as the suspicion of SWIM, Das
et al., DSN 2002, without its verdicts)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ioi_dagster.governors.vouching import makes_room, room
from ioi_dagster.model.member import MemberRecord, claims_others, first_record, newer_record
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.signing import Signed

SUSPECT_AFTER = 2
GONE_AFTER = 10
"""Missed probes in a row."""
PROBE_S = 1.0
GONE_PROBE_S = 5.0
"""Between probes of a member that is gone: it may be back."""
HINT_S = 0.25
"""After a hint a member is asked at once, but not more often than this."""
MAX_MEMBERS = 256
"""That take part; of those that have left as many are remembered."""
MAX_HEARD = 2 * MAX_MEMBERS
"""What one peer may say of others at a time; the rest is not read."""
MAX_PAUSE_S = 300.0
"""Between two questions for one record to one peer which led to nothing; each pause is twice the one before, from `PROBE_S`
on."""
NEWER_PAUSE_S = 30.0
"""The same where the peer tells of a newer one meanwhile."""


class PeerState(StrEnum):
    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    GONE = "gone"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Heard:
    """What a peer says of a member: the newest record that it has, and whether it is there as far as the peer sees."""

    domain: str
    serial: int
    state: str = PeerState.UNKNOWN


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    """`epoch` rises with each start of the peer's gateway; `heard` is its view of the members, itself among them. `ahead_s`: by
    how much its clock is ahead of this domain's; None where it does not tell."""

    peer: str
    epoch: int
    heard: tuple[Heard, ...] = ()
    ahead_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class RecordsPulled:
    """What `peer` has of `domain`: its records, oldest first. Empty where it has none, or no answer came."""

    peer: str
    domain: str
    chain: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """A record that came with an invitation of ours, or whose owner invited us. `anew`: it counts whatever was known of
    that domain, which an owner has said by his own hand. Else one that is known tells a newer record as it would without
    an invitation: who merely has one cannot take its place."""

    signed: Signed
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    peer: str


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask `peer` for the records of `domain` after `after`."""

    peer: str
    domain: str
    after: int


@dataclass(frozen=True, slots=True)
class Keep:
    """A record that counts from now on. `vouched`: the peer that told of a domain which was not known; empty
    otherwise."""

    signed: Signed
    record: MemberRecord
    vouched: str = ""


@dataclass(frozen=True, slots=True)
class Displaced:
    """`domain`, which a member had introduced, is none any more: there is no room left beside `by`, whom the owner has invited.
    It may be introduced again where there is."""

    domain: str
    by: str


@dataclass(frozen=True, slots=True)
class NotBelieved:
    """What `peer` told of `domain` is not taken."""

    peer: str
    domain: str
    refusal: Refusal


Event = Tick | ProbeAnswered | ProbeMissed | RecordsPulled | Joined
Instruction = Probe | Pull | Keep | Displaced | NotBelieved


@dataclass(slots=True)
class _Asked:
    """For a record that a peer tells to have, and that did not come or was not believed (yet)."""

    serial: int
    at: float
    pause_s: float


@dataclass(slots=True)
class _Peer:
    record: MemberRecord
    vouched: str = ""
    state: PeerState = PeerState.UNKNOWN
    missed: int = 0
    epoch: int = 0
    seen_at: float | None = None
    ahead_s: float | None = None
    why: str = ""
    probing: bool = False
    due: float = float("-inf")
    asked_at: float = float("-inf")
    hints: set[str] = field(default_factory=set)
    """Who says that it is not there; told to people."""
    pulling: bool = False
    has_ours: int = 0
    """The newest record of this domain that the peer has told to have."""
    asked: dict[str, _Asked] = field(default_factory=dict)
    """What it was asked for, by domain."""


class NetworkGovernor:
    """`records` are those that are known at the start: this domain's own, its members', and of those that have left.
    `introductions`: whether a domain that is told of by a member becomes one here; those that are `expelled` become one by a new
    invitation alone. `vouched`: who was introduced → by whom."""

    def __init__(
        self,
        domain: str,
        records: dict[str, MemberRecord],
        introductions: bool = True,
        expelled: Collection[str] = (),
        vouched: Mapping[str, str] | None = None,
    ) -> None:
        self._domain, self.introductions = domain, introductions
        self._expelled = frozenset(expelled)
        self._own = records.get(domain)
        self._peers: dict[str, _Peer] = {}
        for name, record in sorted(records.items()):
            if name != domain and name not in self._expelled:
                self._peers[name] = _Peer(record, (vouched or {}).get(name, ""))
                self._take(self._peers[name], record)
        self._forget_left()
        self._unknown: dict[str, tuple[float, str]] = {}
        """Domain that was told of and is being asked for → since when, and who."""

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at monotonic time `now` (seconds)."""
        match event:
            case Tick():
                return self._tick(now)
            case ProbeAnswered(name) if name in self._peers:
                return self._answered(event, self._peers[name], now)
            case ProbeMissed(name) if name in self._peers:
                self._missed(self._peers[name], event.why, now)
            case RecordsPulled():
                return self._pulled(event)
            case Joined(signed, anew):
                return self._joined(signed, anew)
            case _:
                pass
        return []

    def own_changed(self, record: MemberRecord) -> None:
        """This domain has signed a newer record of itself."""
        if self._own is None or record.serial > self._own.serial:
            self._own = record

    def expel(self, names: Collection[str]) -> None:
        """The owner has put these out, and nobody else: they are forgotten, and whatever is told of them."""
        self._expelled = frozenset(names)
        for name in self._expelled:
            self._peers.pop(name, None)
            self._unknown.pop(name, None)

    def vouched_by(self, vouched: Mapping[str, str]) -> None:
        """As the owner has it now: whom he has invited since counts as introduced no more."""
        for name, peer in self._peers.items():
            peer.vouched = vouched.get(name, "")

    def view(self) -> tuple[Heard, ...]:
        """What this domain tells its peers: serials of all records, its own among them, and who is there."""
        told = [Heard(name, peer.record.serial, peer.state) for name, peer in self._peers.items()]
        return (*([Heard(self._domain, self._own.serial, PeerState.ALIVE)] if self._own else []), *told)

    def records(self) -> dict[str, MemberRecord]:
        """The newest that is believed of each peer."""
        return {name: peer.record for name, peer in self._peers.items()}

    def snapshot(self, now: float) -> dict[str, dict[str, object]]:
        """For people."""
        return {
            name: {
                "gateway": peer.record.gateway,
                "state": str(peer.state),
                "why": peer.why,
                "clock_ahead_s": None if peer.ahead_s is None else round(peer.ahead_s, 1),
                "seen_s_ago": None if peer.seen_at is None else round(now - peer.seen_at, 1),
                "authority": peer.record.authority,
                "serial": peer.record.serial,
                "epoch": peer.epoch,
                "vouched": peer.vouched,
                "doubted_by": sorted(peer.hints),
                "has_ours": peer.has_ours,
            }
            for name, peer in self._peers.items()
        }

    def validate(self) -> None:
        """Raises `AssertionError` where the state contradicts itself."""
        assert self._domain not in self._peers
        assert not self._expelled & (self._peers.keys() | self._unknown.keys())
        assert self._taking_part() <= MAX_MEMBERS and len(self._unknown) <= MAX_MEMBERS
        assert len(self._peers) <= 2 * MAX_MEMBERS
        for name, peer in self._peers.items():
            assert peer.record.domain == name
            assert (peer.state is PeerState.ALIVE) <= (peer.missed < SUSPECT_AFTER)
            assert (peer.state is PeerState.LEFT) == peer.record.left

    # Probes -----------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Instruction]:
        due = [
            name
            for name, peer in self._peers.items()
            if not peer.probing and now >= peer.due and peer.state is not PeerState.LEFT
        ]
        for name in due:
            peer = self._peers[name]
            peer.probing, peer.asked_at = True, now
        self._unknown = {name: (at, by) for name, (at, by) in self._unknown.items() if now - at < GONE_PROBE_S}
        return [Probe(name) for name in due]

    def _answered(self, event: ProbeAnswered, peer: _Peer, now: float) -> list[Instruction]:
        peer.probing, peer.due = False, now + PROBE_S
        if peer.state is PeerState.LEFT:
            return []
        if event.epoch < peer.epoch:
            # Another process answers than the one that answered last, and it was started before that.
            self._missed(
                peer,
                f"a gateway of epoch {event.epoch} answers, after one of {peer.epoch}: two run for one domain",
                now,
            )
            return []
        peer.missed, peer.epoch = 0, event.epoch
        peer.state, peer.seen_at, peer.why, peer.ahead_s = PeerState.ALIVE, now, "", event.ahead_s
        return self._all_heard(event.peer, event.heard[:MAX_HEARD], now)

    def _missed(self, peer: _Peer, why: str, now: float) -> None:
        peer.probing, peer.why = False, why
        if peer.state is PeerState.LEFT:
            return
        peer.missed += 1
        if peer.missed >= GONE_AFTER:
            peer.state = PeerState.GONE
        elif peer.missed >= SUSPECT_AFTER:
            peer.state = PeerState.SUSPECT
        peer.due = now + (GONE_PROBE_S if peer.state is PeerState.GONE else PROBE_S)

    def _all_heard(self, by: str, told: Collection[Heard], now: float) -> list[Instruction]:
        out: list[Instruction] = []
        left: int | None = None
        for heard in told:
            if heard.domain == self._domain or heard.domain in self._peers:
                out += self._heard(by, heard, now)
            elif self._is_news(heard):
                left = self._room(by) if left is None else left
                if left > 0 and self._asks(by, heard, now):
                    left -= 1
                    self._unknown[heard.domain] = (now, by)
                    out.append(Pull(by, heard.domain, 0))
        return out

    def _heard(self, by: str, heard: Heard, now: float) -> list[Instruction]:
        """A newer record is asked for where it is told of; a doubt has the member asked again sooner, and changes
        nothing else."""
        name = heard.domain
        if name == self._domain:
            self._peers[by].has_ours = heard.serial
            return []
        peer = self._peers[name]
        doubted = heard.state in (PeerState.SUSPECT, PeerState.GONE)
        if doubted and name != by:
            if by not in peer.hints and peer.state is PeerState.ALIVE and now - peer.asked_at >= HINT_S:
                peer.due = now
            peer.hints.add(by)
        else:
            peer.hints.discard(by)
        if heard.serial > peer.record.serial and not peer.pulling and self._asks(by, heard, now):
            peer.pulling = True
            return [Pull(by, name, peer.record.serial)]
        return []

    def _is_news(self, heard: Heard) -> bool:
        """Is a domain that is not known to be asked for, if there is room?"""
        name = heard.domain
        known = name in self._expelled or name in self._unknown
        return self.introductions and heard.state != PeerState.LEFT and not known and len(name) <= 100

    def _asks(self, by: str, heard: Heard, now: float) -> bool:
        """Is it time to ask for that record? It is remembered by whom it is told: a liar holds up nobody else's word."""
        asked, before = self._peers[by].asked, self._peers[by].asked.pop(heard.domain, None)
        pause_s = 0.0 if before is None else before.pause_s
        if before is not None:
            newer = heard.serial > before.serial
            if now < before.at + (min(pause_s, NEWER_PAUSE_S) if newer else pause_s):
                asked[heard.domain] = before
                return False
        if len(asked) >= MAX_HEARD:
            del asked[next(iter(asked))]
        asked[heard.domain] = _Asked(heard.serial, now, min(max(PROBE_S, 2 * pause_s), MAX_PAUSE_S))
        return True

    def _told_well(self, by: str, name: str) -> None:
        """What `by` was asked for has come, and is believed."""
        if by in self._peers:
            self._peers[by].asked.pop(name, None)

    # Records ----------------------------------------------------------------------------------------------------

    def _pulled(self, event: RecordsPulled) -> list[Instruction]:
        peer = self._peers.get(event.domain)
        if peer is None:
            return self._introduced(event)
        peer.pulling = False
        newer = newer_record(peer.record, event.chain)
        if newer is None:
            return []
        if isinstance(newer, Refusal):
            return [NotBelieved(event.peer, event.domain, newer)]
        record, signed = newer
        claim = claims_others(record, self._others(record.domain)) or self._too_many(peer, record, peer.vouched)
        if claim is not None:
            return [NotBelieved(event.peer, event.domain, claim)]
        self._take(peer, record)
        self._forget_left()
        self._told_well(event.peer, record.domain)
        return [Keep(signed, record)]

    def _introduced(self, event: RecordsPulled) -> list[Instruction]:
        """A domain that is not known, by the word of a member. One that has left by now is none."""
        if self._unknown.pop(event.domain, None) is None or not event.chain or event.peer not in self._peers:
            return []
        signed = event.chain[-1]
        record = self._fit(first_record(signed), event.domain)
        if isinstance(record, MemberRecord):
            record = self._too_many(None, record, event.peer) or record
        if isinstance(record, Refusal):
            return [NotBelieved(event.peer, event.domain, record)]
        self._peers[record.domain] = _Peer(record, event.peer)
        self._told_well(event.peer, record.domain)
        return [Keep(signed, record, event.peer)]

    def _joined(self, signed: Signed, anew: bool) -> list[Instruction]:
        name = str(signed.body.get("domain", ""))[:100]
        record, peer = self._fit(first_record(signed), name), self._peers.get(name)
        away = ""
        full = self._too_many(peer, record) if isinstance(record, MemberRecord) else None
        if full is not None and not (away := makes_room(self._vouched())):
            record = full
        if isinstance(record, MemberRecord) and peer is not None and not anew:
            record = self._follows(peer.record, signed, record)
        if isinstance(record, MemberRecord) and name in self._expelled and not anew:
            record = expelled_by(self._domain, name)
        if isinstance(record, Refusal):
            return [NotBelieved("", name, record)]
        self._expelled -= {name}
        if away:
            del self._peers[away]
        if peer is not None and not anew:
            self._take(peer, record)
            peer.vouched = ""
        else:
            self._peers[name] = _Peer(record)
        return [*([Displaced(away, name)] if away else []), Keep(signed, record)]

    def _follows(self, known: MemberRecord, signed: Signed, record: MemberRecord) -> MemberRecord | Refusal:
        """Or why `record` does not come after the one that is known. The same once more is as good: an answer may be
        lost."""
        newer = newer_record(known, (signed,))
        if isinstance(newer, Refusal):
            todo = f"it is a member already; its owner asks for `ioi domain invite --to {known.domain}`"
            return Refusal(newer.code, newer.text, self._domain, todo)
        if newer is None and record != known:
            text = f"{self._domain} knows record {known.serial} of {known.domain}, and record {record.serial} came"
            return Refusal("member.older", text, self._domain, "its owner signs a newer one: `ioi domain rotate`")
        return record

    def _fit(self, record: MemberRecord | Refusal, asked: str) -> MemberRecord | Refusal:
        """Or why a record of a domain of which nothing is known is not taken."""
        if isinstance(record, Refusal):
            return record
        if record.domain != asked:
            return Refusal("member.other_domain", f"asked for {asked}, a record of {record.domain} came", self._domain)
        if record.domain == self._domain:
            return Refusal("member.not_its_own", f"{record.domain} is this domain's own name", self._domain)
        if record.left:
            return Refusal("member.left", f"{record.domain} has left", self._domain, "it signs a newer record")
        if self._own is not None and record.network != self._own.network:
            text = f"{record.domain} is of the network {record.network}, not of {self._own.network}"
            return Refusal("member.other_network", text, self._domain, "name that network in `ioi domain init`")
        return claims_others(record, self._others(record.domain)) or record

    def _taking_part(self) -> int:
        return sum(peer.state is not PeerState.LEFT for peer in self._peers.values())

    def _vouched(self) -> dict[str, str]:
        """Of those that take part."""
        return {n: one.vouched for n, one in self._peers.items() if one.vouched and one.state is not PeerState.LEFT}

    def _room(self, by: str) -> int:
        """How many more may come by the word of `by`, beside those that are asked for already."""
        asked = {name: by for name, (_, by) in self._unknown.items()}
        members = self._taking_part() + len(self._unknown)
        return room({**self._vouched(), **asked}, members, MAX_MEMBERS, by)

    def _too_many(self, peer: _Peer | None, record: MemberRecord, by: str = "") -> Refusal | None:
        """Why `record` makes no member of whom is none now. `by`: who introduces it, or has; empty for the owner."""
        one_more = (peer is None or peer.state is PeerState.LEFT) and not record.left
        if not one_more:
            return None
        if self._taking_part() < MAX_MEMBERS:
            if not by or self._room(by) > 0:
                return None
            text = f"{self._domain} takes no more by the word of {by}, or others would have no room"
            return Refusal("member.too_many", text, self._domain, "it is invited: `ioi domain invite`")
        text = f"{self._domain} knows {MAX_MEMBERS} members, and takes no more"
        return Refusal("member.too_many", text, self._domain, "one of them leaves first")

    def _forget_left(self) -> None:
        """Of those that have left, whose last word is the oldest."""
        left = sorted((peer.record.issued, name) for name, peer in self._peers.items() if peer.record.left)
        for _, name in left[: max(0, len(left) - MAX_MEMBERS)]:
            del self._peers[name]

    def _others(self, domain: str) -> list[MemberRecord]:
        own = [self._own] if self._own is not None else []
        return [*own, *(peer.record for name, peer in self._peers.items() if name != domain)]

    def _take(self, peer: _Peer, record: MemberRecord) -> None:
        if record.gateway != peer.record.gateway:
            peer.due = float("-inf")
        peer.record = record
        if record.left:
            peer.state, peer.why, peer.missed = PeerState.LEFT, "it has left", 0
        elif peer.state is PeerState.LEFT:
            peer.state, peer.why, peer.epoch = PeerState.UNKNOWN, "", 0


def expelled_by(domain: str, name: str) -> Refusal:
    """What is told to who is put out."""
    text = f"the owner of {domain} has put {name} out"
    return Refusal("member.expelled", text, domain, f"its owner asks for `ioi domain invite --to {name}`")
