"""Run-time state: unsigned, local, leased. An entry that is not renewed is gone; no ghosts.

Ends of leases lie in a timer wheel (Varghese, Lauck: Hashed and hierarchical timing wheels, 1987) of one level, of which only
slots in use exist. A renewal changes the entry alone; when the slot that it lies in is due, it goes on to the slot of its present
end. So it costs the same however many entries there are, and each lies in one slot however often it is renewed.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ioi_dagster.model.refusal import Refusal

STEP_S = 0.1
"""Width of a slot: an end is told of so much late at most, where `expire` is called as often."""
MAX_TTL_S = 86_400.0
MAX_PER_OWNER = 10_000


@dataclass(frozen=True, slots=True)
class Lease:
    """An entry as it is written down and read again. `left_s`: how long it has still to live."""

    key: str
    value: Any
    left_s: float
    owner: str = ""


class _Entry:
    __slots__ = ("before", "owner", "slot", "until", "value")

    def __init__(self, owner: str, until: float, value: Any, slot: int, before: bool) -> None:
        self.owner, self.until, self.value, self.slot, self.before = owner, until, value, slot, before


class LeasedState:
    """Key → value with a time to live. Times are monotonic seconds, passed in. The part of a key before its first `/` is its
    group; what is asked for by a prefix is looked for in one group. An owner has `most` entries at most. `tells`: ends are kept
    for `expire`."""

    def __init__(self, most: int = MAX_PER_OWNER, tells: bool = False) -> None:
        self._most, self._tells, self._passed = most, tells, -1
        self._entries: dict[str, _Entry] = {}
        self._groups: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)
        self._owned: Counter[str] = Counter()
        self._slots: dict[int, set[str]] = {}
        self._due: list[int] = []
        self._ended: list[tuple[str, Any]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, value: Any, ttl_s: float, now: float, owner: str = "") -> Refusal | None:
        """Set or renew. A refusal where its owner has too many, the key is another's, or the time makes no sense."""
        if not 0 < ttl_s <= MAX_TTL_S:
            return Refusal(
                "ras.lease_length", f"a lease of {ttl_s:g} s", "registry", f"up to {MAX_TTL_S:g} s, and renew"
            )
        until = now + ttl_s
        entry = self._entries.get(key)
        if entry is not None and entry.until > now:
            if entry.owner != owner:
                text = f"{key[:100]} is leased by another"
                return Refusal("ras.lease_of_another", text, "registry", "choose another key")
            entry.value, entry.until, entry.before = value, until, False
            if until < entry.slot * STEP_S:
                self._leave_slot(key, entry)
                self._enter_slot(key, entry)
            return None
        if entry is not None:
            self._end(key, entry)
        if self._owned[owner] >= self._most:
            self._expire(now)
        if self._owned[owner] >= self._most:
            text = f"{owner or 'this domain'} has {self._most} leases, and gets no more"
            return Refusal("ras.too_many_leases", text, "registry", "let some end, or report several things as one")
        self._add(key, value, until, owner, False)
        return None

    def drop(self, key: str) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            self._leave_slot(key, entry)
            self._forget(key, entry)

    def get(self, key: str, now: float) -> Any | None:
        self._expire(now)
        entry = self._entries.get(key)
        return entry.value if entry is not None and entry.until > now else None

    def items(self, now: float, prefix: str = "") -> dict[str, Any]:
        """Those that live, in order of key."""
        self._expire(now)
        group, slash, _ = prefix.partition("/")
        among = self._groups.get(group, {}) if slash else self._entries
        return {
            key: entry.value
            for key, entry in sorted(among.items(), key=lambda item: item[0])
            if entry.until > now and key.startswith(prefix)
        }

    def is_from_before(self, key: str) -> bool:
        """It was loaded, and has not been renewed since."""
        entry = self._entries.get(key)
        return entry is not None and entry.before

    def expire(self, now: float) -> list[tuple[str, Any]]:
        """Keys and values whose lease has ended since this was last asked for, less `STEP_S` late where it is asked for as often.
        One that was set anew after its end is among them, with the value that it had."""
        self._expire(now)
        ended, self._ended = self._ended, []
        return ended

    def leases(self, now: float) -> list[Lease]:
        """All that live, for `load`."""
        return [
            Lease(key, entry.value, entry.until - now, entry.owner)
            for key, entry in self._entries.items()
            if entry.until > now
        ]

    def load(self, leases: Iterable[Lease], away_s: float, now: float) -> int:
        """Take what was written down `away_s` seconds ago by this clock or another, which may have been set back: less than 0
        counts as 0. What has ended meanwhile is left out, as is what has been told anew. Returns how many were taken."""
        taken = 0
        for lease in leases:
            left = lease.left_s - max(away_s, 0.0)
            if left > 0 and lease.key not in self._entries and self._owned[lease.owner] < self._most:
                self._add(lease.key, lease.value, now + left, lease.owner, True)
                taken += 1
        return taken

    def _add(self, key: str, value: Any, until: float, owner: str, before: bool) -> None:
        entry = self._entries[key] = _Entry(owner, until, value, 0, before)
        self._groups[_group(key)][key] = entry
        self._owned[owner] += 1
        self._enter_slot(key, entry)

    def _end(self, key: str, entry: _Entry) -> None:
        if self._tells:
            self._ended.append((key, entry.value))
        self.drop(key)

    def _forget(self, key: str, entry: _Entry) -> None:
        del self._entries[key]
        group = self._groups[_group(key)]
        del group[key]
        if not group:
            del self._groups[_group(key)]
        self._owned[entry.owner] -= 1
        if not self._owned[entry.owner]:
            del self._owned[entry.owner]

    def _enter_slot(self, key: str, entry: _Entry) -> None:
        entry.slot = max(int(entry.until / STEP_S), self._passed) + 1
        keys = self._slots.get(entry.slot)
        if keys is None:
            keys = self._slots[entry.slot] = set()
            heapq.heappush(self._due, entry.slot)
        keys.add(key)

    def _leave_slot(self, key: str, entry: _Entry) -> None:
        self._slots[entry.slot].discard(key)

    def _expire(self, now: float) -> None:
        while self._due and self._due[0] * STEP_S <= now:
            # All ends in it have passed, save those of entries that were renewed.
            self._passed = heapq.heappop(self._due)
            for key in self._slots.pop(self._passed):
                entry = self._entries[key]
                if entry.until > now:
                    self._enter_slot(key, entry)
                    continue
                if self._tells:
                    self._ended.append((key, entry.value))
                self._forget(key, entry)


def _group(key: str) -> str:
    return key.partition("/")[0]
