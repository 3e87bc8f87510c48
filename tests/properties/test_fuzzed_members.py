"""Whatever members answer a network governor, as it comes over the wire: its books stay in order, it goes on asking all of them,
and it believes of a domain only what that has signed, one serial after the other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.http.protocol import Health
from ioi_dagster.decoding import from_json
from ioi_dagster.governors.network import (
    GONE_PROBE_S,
    Heard,
    Instruction,
    Keep,
    NetworkGovernor,
    PeerState,
    Probe,
    ProbeAnswered,
    ProbeMissed,
    Pull,
    RecordsPulled,
    Tick,
)
from ioi_dagster.model.member import MemberRecord, read_record
from ioi_dagster.signing import Signed
from tests.members import author
from tests.properties.test_fuzzed_gateway import ABSURD, places
from tests.unit.test_protocol import JSON

HOME, MEMBERS, STRANGERS = "home", ("a", "b", "c"), ("d", "e")
OTHERS = (*MEMBERS, *STRANGERS)
Mutations = list[tuple[int, Any]]
"""Which place of a document is replaced, modulo how many there are, and by what."""


class Network:
    """The governor of `HOME` with its members, and what it has asked them."""

    def __init__(self) -> None:
        records = {name: author(name).record() for name in (HOME, *MEMBERS)}
        self.governor, self.now = NetworkGovernor(HOME, records), 0.0
        self.probed: set[str] = set()
        self.believed: dict[str, int] = dict.fromkeys(MEMBERS, 1)
        self.kept = self.read = 0

    def tell(self, event: Tick | ProbeAnswered | ProbeMissed | RecordsPulled) -> list[Instruction]:
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        for instruction in out:
            match instruction:
                case Probe(peer):
                    assert peer not in self.probed, "it is asked already"
                    self.probed.add(peer)
                case Pull(peer):
                    assert peer in self.governor.records()
                case Keep(signed, record):
                    self._keep(signed, record)
                case _:
                    pass
        # What it tells its own peers, and people, can be told.
        told = Health(HOME, 1, True, (1,), self.governor.view())
        assert from_json(msgspec.json.encode(told), Health) == told
        json.dumps(self.governor.snapshot(self.now))
        return out

    def _keep(self, signed: Signed, record: MemberRecord) -> None:
        assert read_record(signed) == record
        assert signed.key_id.startswith(f"{record.domain}#")
        assert record.serial > self.believed.get(record.domain, 0)
        assert (record.domain, record.network) in {(name, "n") for name in OTHERS}
        self.believed[record.domain] = record.serial
        self.kept += 1

    def health(self, peer: str, body: bytes) -> None:
        """As a gateway reads the answer to a probe."""
        self.probed.discard(peer)
        try:
            health = from_json(body, Health)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.tell(ProbeMissed(peer, str(error)))
            return
        self.read += 1
        self.tell(ProbeAnswered(peer, health.epoch, health.heard))

    def records(self, peer: str, domain: str, body: bytes) -> None:
        """As a gateway reads what it is told of a domain."""
        try:
            chain = from_json(body, tuple[Signed, ...])
            self.read += 1
        except (msgspec.MsgspecError, UnicodeDecodeError):
            chain = ()
        self.tell(RecordsPulled(peer, domain, chain))

    def asks_all_again(self) -> None:
        """Those that have not left, whatever they have said."""
        for peer in list(self.probed):
            self.probed.discard(peer)
            self.tell(ProbeMissed(peer, "no answer"))
        self.now += GONE_PROBE_S + 1.0
        self.tell(Tick())
        states = {name: facts["state"] for name, facts in self.governor.snapshot(self.now).items()}
        assert states.keys() == self.believed.keys() >= set(MEMBERS)
        assert self.probed == {name for name, state in states.items() if state != PeerState.LEFT}


def _mutate(document: Any, mutations: Mutations) -> None:
    for where, what in mutations:
        there = list(places(document))
        if there:
            container, key = there[where % len(there)]
            container[key] = what


def _broken(data: bytes, cut: int | None) -> bytes:
    return data if cut is None else data[: cut % (len(data) + 1)]


SERIALS = st.integers(-1, 20) | st.sampled_from([2**53 - 1, 2**53, 10**30])
HEARD = st.builds(
    Heard,
    st.sampled_from([HOME, *OTHERS]) | st.text(max_size=120),
    SERIALS,
    st.sampled_from(PeerState) | st.text(max_size=9),
)
MUTATIONS = st.just([]) | st.lists(
    st.tuples(st.integers(0, 200), ABSURD | SERIALS | st.sampled_from(OTHERS) | JSON), max_size=2
)
CUT = st.none() | st.none() | st.none() | st.integers(0, 4_000)


@st.composite
def healths(draw: st.DrawFn) -> tuple[str, bytes]:
    """Who answers a probe, and what."""
    peer = draw(st.sampled_from(OTHERS))
    heard = draw(st.lists(HEARD, max_size=6)) * draw(st.sampled_from([1, 1, 1, 300]))
    epoch = draw(st.integers(0, 3) | st.integers())
    document = json.loads(msgspec.json.encode(Health(peer, 1, True, (1,), tuple(heard))))
    document["epoch"] = epoch
    _mutate(document, draw(MUTATIONS))
    return peer, _broken(json.dumps(document).encode(), draw(CUT))


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Who tells of whom, and what: records which that domain has signed, whatever is in them, or which others made up."""
    peer, domain = draw(st.sampled_from(OTHERS)), draw(st.sampled_from(OTHERS))
    chain = []
    for _ in range(draw(st.integers(0, 3)) or draw(st.sampled_from([0, 1, 20]))):
        of, key = author(domain), author(draw(st.sampled_from([domain, domain, domain, *OTHERS]))).key
        left = draw(st.sampled_from([False] * 7 + [True]))
        body = json.loads(
            msgspec.json.encode(of.record(1, gateway=f"https://{domain}:{draw(st.integers(1, 3))}", left=left))
        )
        body["serial"] = draw(st.integers(1, 20) | SERIALS)
        _mutate(body, draw(MUTATIONS))
        try:
            signed = key.sign(body)
        except Exception:  # nothing signs that, but it may be sent
            signed = Signed(body, key.key_id, draw(st.text(max_size=90)))
        chain.append(json.loads(msgspec.json.encode(signed)))
    if draw(st.integers(0, 3)) == 3:
        _mutate(chain, draw(MUTATIONS))
    return peer, domain, _broken(json.dumps(chain).encode(), draw(CUT))


MESSAGE = st.one_of(
    st.tuples(st.just("health"), healths()),
    st.tuples(st.just("records"), chains()),
    st.tuples(st.just("health"), st.tuples(st.sampled_from(OTHERS), st.binary(max_size=200))),
)


def play(messages: list[tuple[tuple[str, Any], float]]) -> Network:
    network = Network()
    network.tell(Tick())
    for (what, how), waits_s in messages:
        network.now += waits_s
        if waits_s:
            network.tell(Tick())
        (network.health if what == "health" else network.records)(*how)
    network.asks_all_again()
    return network


WAITS_S = st.sampled_from([0.0, 0.0, 0.3, 1.0, 31.0, 400.0])


def fuzz(examples: int, size: int) -> tuple[int, int, int]:
    """How many messages were sent, how many of them could be read, and how many records were believed."""
    sent = read = kept = 0

    @settings(max_examples=examples, deadline=None)
    @given(st.lists(st.tuples(MESSAGE, WAITS_S), min_size=size, max_size=size))
    def all_of(messages: list[tuple[tuple[str, Any], float]]) -> None:
        nonlocal sent, read, kept
        network = play(messages)
        sent, read, kept = sent + len(messages), read + network.read, kept + network.kept

    all_of()
    return sent, read, kept


def test_a_network_governor_outlives_whatever_its_members_answer() -> None:
    sent, read, _ = fuzz(30, 20)
    assert sent >= 600
    assert read > sent / 10, "much of it is as it should be"


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_nor_do_a_hundred_thousand_of_their_answers_matter() -> None:
    sent, read, kept = fuzz(2_500, 40)
    assert sent >= 100_000
    assert read > sent / 10 and kept > sent / 1_000
