"""Domains that come and go, are cut off from each other, change their keys and lie: what each member believes in the
end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ioi_dagster.governors import network
from ioi_dagster.governors.network import (
    GONE_AFTER,
    GONE_PROBE_S,
    Displaced,
    Heard,
    Joined,
    Keep,
    NetworkGovernor,
    NotBelieved,
    PeerState,
    Probe,
    ProbeAnswered,
    ProbeMissed,
    Pull,
    RecordsPulled,
    Tick,
)
from ioi_dagster.governors.vouching import brought, line, makes_room, room
from ioi_dagster.model.member import MAX_CHAIN, MemberRecord, read_record, sign_record
from ioi_dagster.signing import Signed, SigningKey
from tests.members import Author, author

NAMES = ("a", "b", "c", "d")


class Domain:
    """A gateway: its governor, and its own records."""

    def __init__(self, name: str) -> None:
        self.author: Author = author(name)
        self.chain: list[Signed] = [self.author.signed()]
        self.kept: dict[str, Signed] = {}
        self.epoch = 1
        self.start()

    def start(self) -> None:
        known = {name: _read(signed) for name, signed in self.kept.items()}
        self.governor = NetworkGovernor(self.author.name, {self.author.name: self.record, **known})

    @property
    def record(self) -> MemberRecord:
        return _read(self.chain[-1])

    def sign(self, record: MemberRecord, key: SigningKey) -> None:
        self.chain = [*self.chain, sign_record(record, key)][-MAX_CHAIN:]
        self.governor.own_changed(record)

    def tells(self, domain: str, after: int) -> tuple[Signed, ...]:
        """What it answers who pulls."""
        if domain == self.author.name:
            return tuple(signed for signed in self.chain if signed.body["serial"] > after)
        return (self.kept[domain],) if domain in self.kept else ()


def _read(signed: Signed) -> MemberRecord:
    record = read_record(signed)
    assert isinstance(record, MemberRecord)
    return record


class Membership(RuleBasedStateMachine):
    """Four domains on virtual time. `cut` are pairs that do not reach each other, also one way only."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cut: set[tuple[str, str]] = set()
        self.domains = {name: Domain(name) for name in NAMES}
        self.serials: dict[tuple[str, str], int] = {}

    @initialize()
    def join_one_after_the_other(self) -> None:
        for name in NAMES[1:]:
            self._introduce("a", name)

    # What happens ---------------------------------------------------------------------------------------------------

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for name in NAMES:
                self._tick(name)

    @rule(group=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    def split(self, group: set[str]) -> None:
        self.cut |= {(one, other) for one in NAMES for other in NAMES if (one in group) != (other in group)}

    @rule(one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def cut_one_way(self, one: str, other: str) -> None:
        self.cut.add((one, other))

    @rule()
    def heal(self) -> None:
        self.cut.clear()

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        domain = self.domains[name]
        domain.epoch += 1
        domain.start()

    @rule(name=st.sampled_from(NAMES))
    def move(self, name: str) -> None:
        """Its gateway has another address."""
        domain = self.domains[name]
        if self._misses_some(name, 1):
            return
        record = replace(
            domain.record, serial=domain.record.serial + 1, gateway=f"https://{name}:{domain.record.serial + 1}"
        )
        domain.sign(record, domain.author.key)

    @rule(name=st.sampled_from(NAMES), overlap=st.booleans())
    def change_key(self, name: str, overlap: bool) -> None:
        """The new key beside the old one, told by the old; then the old one is given up, told by the new."""
        domain = self.domains[name]
        if self._misses_some(name, 2):
            return
        old, new = domain.author.key, SigningKey.generate(name)
        both = Author(name, new, domain.author.trusted, old=(old,))
        serial = domain.record.serial
        domain.sign(replace(both.record(serial + 1), gateway=domain.record.gateway), old)
        domain.author = both
        if not overlap:
            alone = Author(name, new, domain.author.trusted)
            domain.sign(replace(alone.record(serial + 2), gateway=domain.record.gateway), new)
            domain.author = alone

    def _misses_some(self, name: str, more: int) -> bool:
        """Would somebody have missed more than a domain tells? He would have to join again, which nobody does here."""
        heard = [domain.governor.records().get(name) for other, domain in self.domains.items() if other != name]
        least = min(record.serial if record is not None else 0 for record in heard)
        return self.domains[name].record.serial + more - least > MAX_CHAIN

    @rule(by=st.sampled_from(NAMES), of=st.sampled_from(NAMES))
    def an_older_record_is_told(self, by: str, of: str) -> None:
        self._deliver(by, of, (self.domains[of].chain[0],))

    @rule(by=st.sampled_from(NAMES), of=st.sampled_from(NAMES))
    def a_forged_record_is_told(self, by: str, of: str) -> None:
        """Newer than all, and signed by a key of the liar's own."""
        liar = Author(of, SigningKey.generate(of), author(of).trusted)
        self._deliver(by, of, (liar.signed(1_000_000),))

    @rule(of=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def another_ones_cluster_is_claimed(self, of: str, other: str) -> None:
        """Well signed, and not its own: nobody who knows whose it is takes it."""
        domain = self.domains[of]
        if of == other:
            return
        claim = replace(domain.record, serial=domain.record.serial + 1, clusters=(f"{other}-c",))
        knowing = [name for name in NAMES if name == other or other in self.domains[name].kept]
        self._deliver(of, of, (sign_record(claim, domain.author.key),), knowing)

    # What must hold -------------------------------------------------------------------------------------------------

    @invariant()
    def each_is_sound(self) -> None:
        for domain in self.domains.values():
            domain.governor.validate()

    @invariant()
    def nothing_forged_or_older_is_believed(self) -> None:
        for name, domain in self.domains.items():
            for other, signed in domain.kept.items():
                serial = signed.body["serial"]
                assert serial >= self.serials.get((name, other), 0)
                assert serial <= self.domains[other].record.serial
                assert signed.body["clusters"] == [f"{other}-c"]
                self.serials[name, other] = serial

    def teardown(self) -> None:
        """Healed, everybody sees everybody, with his newest record."""
        self.cut.clear()
        for _ in range(int(4 * GONE_PROBE_S)):
            self.now += 1.0
            for name in NAMES:
                self._tick(name)
        for name, domain in self.domains.items():
            seen = domain.governor.snapshot(self.now)
            assert {other: row["state"] for other, row in seen.items()} == {o: "alive" for o in NAMES if o != name}
            assert {other: row["serial"] for other, row in seen.items()} == {
                other: self.domains[other].record.serial for other in NAMES if other != name
            }

    # The wire -------------------------------------------------------------------------------------------------------

    def _introduce(self, one: str, other: str) -> None:
        for host, guest in ((one, other), (other, one)):
            self._perform(host, self.domains[host].governor.handle(Joined(self.domains[guest].chain[-1]), self.now))

    def _deliver(self, by: str, of: str, chain: tuple[Signed, ...], to: Sequence[str] = NAMES) -> None:
        for name in to:
            self._perform(name, self.domains[name].governor.handle(RecordsPulled(by, of, chain), self.now))

    def _tick(self, name: str) -> None:
        self._perform(name, self.domains[name].governor.handle(Tick(), self.now))

    def _perform(self, name: str, instructions: list) -> None:
        domain = self.domains[name]
        for instruction in instructions:
            match instruction:
                case Keep(signed, record):
                    domain.kept[record.domain] = signed
                case Probe(peer):
                    there = self._reaches(name, peer)
                    its = self.domains[peer]
                    event = (
                        ProbeAnswered(peer, its.epoch, its.governor.view()) if there else ProbeMissed(peer, "cut off")
                    )
                    self._perform(name, domain.governor.handle(event, self.now))
                case Pull(peer, of, after):
                    chain = self.domains[peer].tells(of, after) if self._reaches(name, peer) else ()
                    self._perform(name, domain.governor.handle(RecordsPulled(peer, of, chain), self.now))
                case _:
                    pass

    def _reaches(self, one: str, other: str) -> bool:
        return (one, other) not in self.cut and (other, one) not in self.cut


TestMembership = Membership.TestCase
TestMembership.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def known(*names: str) -> NetworkGovernor:
    return NetworkGovernor("a", {name: author(name).record() for name in ("a", *names)})


def states(governor: NetworkGovernor) -> dict[str, str]:
    return {name: str(row["state"]) for name, row in governor.snapshot(0.0).items()}


def test_hearsay_has_a_member_asked_sooner_and_changes_nothing_else():
    """Of the four who talk about c, all say that it is gone; c answers, so it is alive."""
    governor = known("b", "c")
    for probe in governor.handle(Tick(), 0.0):
        assert isinstance(probe, Probe)
        governor.handle(ProbeAnswered(probe.peer, 1), 0.0)
    assert governor.handle(Tick(), 0.5) == [], "it is not time yet"
    assert governor.handle(ProbeAnswered("b", 1, (Heard("c", 1, "gone"),)), 0.5) == []
    assert states(governor) == {"b": "alive", "c": "alive"}
    assert governor.handle(Tick(), 0.5) == [Probe("c")], "sooner than it would have been"
    governor.handle(ProbeAnswered("c", 1), 0.6)
    assert states(governor) == {"b": "alive", "c": "alive"}
    assert governor.handle(ProbeAnswered("b", 1, (Heard("c", 1, "gone"),)), 0.7) == []
    assert governor.handle(Tick(), 0.7) == [], "the same word again does not count again"


def test_an_older_gateway_of_a_domain_is_no_answer():
    governor = known("b")
    governor.handle(ProbeAnswered("b", 7), 0.0)
    for at in range(GONE_AFTER):
        governor.handle(ProbeAnswered("b", 6), float(at))
    row = governor.snapshot(0.0)["b"]
    assert (row["state"], row["why"]) == (
        "gone",
        "a gateway of epoch 6 answers, after one of 7: two run for one domain",
    )
    governor.handle(ProbeAnswered("b", 8), 20.0)
    assert states(governor) == {"b": "alive"}


def test_who_has_left_is_not_brought_back_by_an_older_record():
    governor = known("b", "c")
    left = author("c").signed(2, left=True)
    assert governor.handle(RecordsPulled("b", "c", (left,)), 0.0) == [Keep(left, author("c").record(2, left=True))]
    assert governor.handle(RecordsPulled("b", "c", (author("c").signed(1),)), 0.0) == []
    assert states(governor) == {"b": "unknown", "c": "left"}
    assert [item for item in governor.handle(Tick(), 1.0) if item == Probe("c")] == []


def test_a_domain_that_a_member_tells_of_becomes_one_unless_the_owner_wants_none():
    told = ProbeAnswered("b", 1, (Heard("d", 3, PeerState.ALIVE),))
    signed = author("d").signed(3)
    open_, closed = known("b"), NetworkGovernor("a", {n: author(n).record() for n in "ab"}, introductions=False)
    assert open_.handle(told, 0.0) == [Pull("b", "d", 0)]
    assert open_.handle(RecordsPulled("b", "d", (signed,)), 0.0) == [Keep(signed, author("d").record(3), "b")]
    assert closed.handle(told, 0.0) == []
    assert closed.handle(RecordsPulled("b", "d", (signed,)), 0.0) == []
    assert states(closed) == {"b": "alive"}


def test_a_member_is_replaced_only_by_an_invitation_that_was_made_for_it():
    governor = known("b")
    thief = Author("b", SigningKey.generate("b"), author("b").trusted)
    (said,) = governor.handle(Joined(thief.signed(9)), 0.0)
    assert isinstance(said, NotBelieved)
    assert said.refusal.code == "member.signature"
    assert governor.handle(Joined(author("b").signed(3)), 0.0) == [Keep(author("b").signed(3), author("b").record(3))]
    assert governor.handle(Joined(thief.signed(1), anew=True), 0.0) == [Keep(thief.signed(1), thief.record(1))]


def test_who_is_expelled_is_forgotten_and_nothing_that_is_told_of_it_counts():
    governor, cloud = known("b", "c"), author("c")
    governor.handle(Tick(), 0.0)
    newer = Heard("c", 9, PeerState.ALIVE)
    assert governor.handle(ProbeAnswered("b", 1, (newer,)), 1.0) == [Pull("b", "c", 1)]
    for _ in range(2):
        governor.expel({"c"})
        assert (states(governor).keys(), {one.domain for one in governor.view()}) == ({"b"}, {"a", "b"})
        # What was asked for before, what a member tells, what the domain itself says, a join with somebody's invitation.
        assert governor.handle(RecordsPulled("b", "c", (cloud.signed(serial=9),)), 1.1) == []
        assert governor.handle(ProbeAnswered("b", 1, (newer,)), 60.0) == []
        assert governor.handle(ProbeAnswered("c", 1, (newer,)), 60.0) == []
        (refused,) = governor.handle(Joined(cloud.signed(serial=9)), 60.0)
        assert refused.refusal.code == "member.expelled"
        governor.validate()
    assert known_again(governor, cloud) == {"b", "c"}
    assert NetworkGovernor("a", {name: author(name).record() for name in "abc"}, expelled={"c"}).records().keys() == {
        "b"
    }


def known_again(governor: NetworkGovernor, by: Author) -> set[str]:
    """By the owner's own hand."""
    governor.handle(Joined(by.signed(serial=9), anew=True), 61.0)
    governor.validate()
    return set(states(governor))


def test_a_newcomer_that_calls_its_authority_as_another_does_is_refused():
    governor = known("b")
    (said,) = governor.handle(Joined(author("d").signed(authority="b-authority")), 0.0)
    assert isinstance(said, NotBelieved)
    assert said.refusal.code == "member.not_its_own"
    assert said.refusal.text == "d calls its authority b-authority, as b does, and it is another one"
    assert states(governor) == {"b": "unknown"}


def asked_at(governor: NetworkGovernor, told: Heard, chain: tuple[Signed, ...], seconds: range) -> list[int]:
    """When b, who tells the same each second, is asked for it; the answer is `chain` each time."""
    found = []
    for at in seconds:
        said = governor.handle(ProbeAnswered("b", 1, (told,)), float(at))
        assert all(isinstance(one, Pull) for one in said)
        if said:
            found.append(at)
            governor.handle(RecordsPulled("b", told.domain, chain), float(at))
            governor.validate()
    return found


def test_who_has_left_is_not_asked_for_where_it_was_never_known():
    governor = known("b")
    assert governor.handle(ProbeAnswered("b", 1, (Heard("d", 3, PeerState.LEFT),)), 0.0) == []


@pytest.mark.parametrize("chain", [(), (author("d").signed(3, network="other"),)])
def test_a_stranger_whose_record_is_not_believed_is_asked_for_ever_more_seldom(chain):
    governor = known("b")
    told = Heard("d", 3, PeerState.ALIVE)
    assert asked_at(governor, told, chain, range(1_500)) == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1111, 1411]
    newer = Heard("d", 4, PeerState.ALIVE)
    assert asked_at(governor, newer, (author("d").signed(4),), range(1_412, 1_500)) == [1_441], "30 s after it"
    assert states(governor) == {"b": "alive", "d": "unknown"}


def test_a_newer_record_that_is_not_believed_is_asked_for_ever_more_seldom_and_its_owner_is_heard_meanwhile():
    governor = known("b", "c")
    forged = (Author("c", SigningKey.generate("c"), author("c").trusted).signed(9),)
    assert asked_at(governor, Heard("c", 9), forged, range(40)) == [0, 1, 3, 7, 15, 31]
    assert governor.handle(ProbeAnswered("c", 1, (Heard("c", 2),)), 40.0) == [Pull("c", "c", 1)]
    signed = author("c").signed(2)
    assert governor.handle(RecordsPulled("c", "c", (signed,)), 40.0) == [Keep(signed, author("c").record(2))]
    assert governor.handle(ProbeAnswered("c", 1, (Heard("c", 3),)), 40.1) == [Pull("c", "c", 2)], "it told the truth"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MAX_MEMBERS", 3)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("restarted", [False, True])
def test_who_has_left_takes_nobodys_place(restarted):
    governor = known("b", "c", "d")
    for name in "cd":
        governor.handle(RecordsPulled(name, name, (author(name).signed(2, left=True),)), 0.0)
    if restarted:
        governor = NetworkGovernor("a", {"a": author("a").record(), **governor.records()})
    signed = author("e").signed()
    assert governor.handle(ProbeAnswered("b", 1, (Heard("e", 1, "alive"),)), 1.0) == [Pull("b", "e", 0)]
    assert governor.handle(RecordsPulled("b", "e", (signed,)), 1.0) == [Keep(signed, author("e").record(), "b")]
    assert governor.handle(Joined(author("f").signed()), 1.0) == [Keep(author("f").signed(), author("f").record())]
    assert states(governor) == {"b": "alive", "c": "left", "d": "left", "e": "unknown", "f": "unknown"}
    governor.validate()


@pytest.mark.usefixtures("few")
def test_no_more_members_than_there_is_room_for_however_they_come():
    governor = known("b", "c", "d")
    governor.handle(RecordsPulled("d", "d", (author("d").signed(2, left=True),)), 0.0)
    assert governor.handle(ProbeAnswered("b", 1, (Heard("e", 1, "alive"),)), 1.0) == [Pull("b", "e", 0)]
    governor.handle(Joined(author("f").signed()), 1.0)
    back = author("d").signed(3)
    refused = [
        governor.handle(RecordsPulled("b", "e", (author("e").signed(),)), 1.0),
        governor.handle(RecordsPulled("d", "d", (back,)), 1.0),
        governor.handle(Joined(back), 1.0),
        governor.handle(Joined(back, anew=True), 1.0),
        governor.handle(Joined(author("g").signed()), 1.0),
    ]
    assert [one.refusal.code for said in refused for one in said if isinstance(one, NotBelieved)] == [
        "member.too_many"
    ] * 5
    assert governor.handle(ProbeAnswered("b", 1, (Heard("e", 1, "alive"),)), 9.0) == []
    governor.validate()
    governor.handle(RecordsPulled("c", "c", (author("c").signed(2, left=True),)), 10.0)
    assert governor.handle(Joined(back), 10.0) == [Keep(back, author("d").record(3))]
    governor.validate()


@pytest.mark.usefixtures("few")
def test_of_those_that_have_left_the_last_are_remembered():
    left = {name: author(name).record(2, left=True, issued=float(at)) for at, name in enumerate("edcfb")}
    governor = NetworkGovernor("a", {"a": author("a").record(), **left})
    assert set(states(governor)) == {"c", "f", "b"}
    governor.handle(Joined(author("g").signed(), anew=True), 0.0)
    governor.handle(RecordsPulled("g", "g", (author("g").signed(2, left=True, issued=9.0),)), 0.0)
    assert set(states(governor)) == {"f", "b", "g"}
    governor.validate()


def introducing(by: str, *names: str, into: NetworkGovernor, now: float) -> set[str]:
    """Whom `by` has told of and made members of; the domain knows `by`."""
    out = into.handle(ProbeAnswered(by, 1, tuple(Heard(name, 1, "alive") for name in names)), now)
    came: set[str] = set()
    for pull in out:
        assert isinstance(pull, Pull)
        kept = into.handle(RecordsPulled(by, pull.domain, (author(pull.domain).signed(),)), now)
        came |= {one.record.domain for one in kept if isinstance(one, Keep)}
    into.validate()
    return came


def test_who_introduces_all_that_it_may_leaves_as_many_for_others(monkeypatch):
    monkeypatch.setattr(network, "MAX_MEMBERS", 12)
    governor = known("b", "c")
    first = [f"b{n}" for n in range(12)]
    assert len(introducing("b", *first, into=governor, now=0.0)) == 5
    assert len(introducing("b", *first, into=governor, now=1_000.0)) == 0
    # Nor do those that it brought, who take of its own share.
    assert introducing("b0", "z0", "z1", into=governor, now=2_000.0) == set()
    assert len(introducing("c", *(f"c{n}" for n in range(12)), into=governor, now=3_000.0)) == 3
    assert len(governor.records()) == 10


def test_who_is_invited_takes_the_place_of_whom_the_busiest_member_introduced_last(monkeypatch):
    monkeypatch.setattr(network, "MAX_MEMBERS", 6)
    governor = known("b", "c")
    assert introducing("b", "e0", "e1", into=governor, now=0.0) == {"e0", "e1"}
    assert introducing("c", "f0", into=governor, now=0.0) == {"f0"}
    governor.handle(Joined(author("d").signed()), 1.0)
    names = iter("ghij")
    displaced = []
    for _ in range(3):
        name = next(names)
        away, kept = governor.handle(Joined(author(name).signed()), 1.0)
        assert kept == Keep(author(name).signed(), author(name).record())
        assert isinstance(away, Displaced) and away.by == name
        displaced.append(away.domain)
        governor.validate()
    assert displaced == ["e1", "f0", "e0"]
    (refused,) = governor.handle(Joined(author("j").signed()), 1.0)
    assert isinstance(refused, NotBelieved) and refused.refusal.code == "member.too_many"
    assert set(states(governor)) == set("bcdghi")


def test_who_was_introduced_and_is_invited_since_gives_way_to_nobody(monkeypatch):
    monkeypatch.setattr(network, "MAX_MEMBERS", 3)
    governor = known("b")
    assert introducing("b", "e", into=governor, now=0.0) == {"e"}
    governor.handle(Joined(author("e").signed()), 1.0)
    governor.handle(Joined(author("f").signed()), 1.0)
    (refused,) = governor.handle(Joined(author("g").signed()), 1.0)
    assert isinstance(refused, NotBelieved)
    assert {row["vouched"] for row in governor.snapshot(1.0).values()} == {""}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=60), st.integers(4, 64))
def test_whoever_introduces_as_much_as_it_may_leaves_as_many_as_it_brought(told, most):
    """Who speaks is one that is a member by then, the invited m0 to m3 or any that was introduced."""
    members, vouched = [f"m{n}" for n in range(4)], dict[str, str]()
    for at, (who, count) in enumerate(told):
        by = members[who % len(members)]
        may = room(vouched, len(members), most, by)
        for n in range(min(count, may)):
            members.append(f"s{at}.{n}")
            vouched[members[-1]] = by
        left = most - len(members)
        assert left >= 0
        if may:
            assert all(brought(vouched)[one] <= left + 1 for one in line(vouched, by))
    assert makes_room(vouched) in (vouched or {""})
