"""The network governor of one domain: which peers are there, as seen from here. Soft state, no leader."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SUSPECT_AFTER = 2
GONE_AFTER = 10
"""Missed probes, one a second."""


class PeerState(StrEnum):
    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Tick:
    pass


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    peer: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class Probe:
    peer: str


@dataclass(slots=True)
class _Peer:
    state: PeerState = PeerState.UNKNOWN
    missed: int = 0
    epoch: int = 0
    seen_at: float | None = None
    why: str = ""
    probing: bool = False


class NetworkGovernor:
    """Static membership: the peers that the domain's configuration names."""

    def __init__(self, domain: str, peers: dict[str, str]) -> None:
        self._domain, self._addresses = domain, dict(peers)
        self._peers = {name: _Peer() for name in sorted(peers)}

    def handle(self, event: Tick | ProbeAnswered | ProbeMissed, now: float) -> list[Probe]:
        """Take one event at monotonic time `now` (seconds)."""
        match event:
            case Tick():
                due = [name for name, peer in self._peers.items() if not peer.probing]
                for name in due:
                    self._peers[name].probing = True
                return [Probe(name) for name in due]
            case ProbeAnswered(name, epoch) if name in self._peers:
                peer = self._peers[name]
                peer.probing, peer.missed, peer.epoch = False, 0, epoch
                peer.state, peer.seen_at, peer.why = PeerState.ALIVE, now, ""
            case ProbeMissed(name, why) if name in self._peers:
                peer = self._peers[name]
                peer.probing, peer.why = False, why
                peer.missed += 1
                if peer.missed >= GONE_AFTER:
                    peer.state = PeerState.GONE
                elif peer.missed >= SUSPECT_AFTER:
                    peer.state = PeerState.SUSPECT
            case _:
                pass
        return []

    def snapshot(self, now: float) -> dict[str, dict[str, object]]:
        return {
            name: {
                "gateway": self._addresses[name],
                "state": str(peer.state),
                "why": peer.why,
                "seen_s_ago": None if peer.seen_at is None else round(now - peer.seen_at, 1),
            }
            for name, peer in self._peers.items()
        }

    def validate(self) -> None:
        assert self._domain not in self._peers
        for peer in self._peers.values():
            assert (peer.state is PeerState.ALIVE) <= (peer.missed < SUSPECT_AFTER)
