"""Who came by whose word: how many more a member may introduce, and who makes room for one that the owner has invited.

`vouched` maps each member that was introduced, of those that take part, to who told of it first; who is not in it came by the
owner's own hand. No member brings more than are left for others, nor do those together that came by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def line(vouched: Mapping[str, str], name: str) -> tuple[str, ...]:
    """From one that came by the owner's hand to `name`, each by the word of the one before. Where it goes round, since one came
    back by the word of whom it had brought, each is in it once."""
    found = [name]
    while (by := vouched.get(found[-1], "")) and by not in found:
        found.append(by)
    return tuple(reversed(found))


def brought(vouched: Mapping[str, str]) -> Counter[str]:
    """Who → how many came by his word, or by that of those whom he brought."""
    return Counter(by for name in vouched for by in line(vouched, name)[:-1])


def came_by(vouched: Mapping[str, str], name: str) -> list[str]:
    """Those whom `name` has brought, and they in turn."""
    return sorted(one for one in vouched if name in line(vouched, one)[:-1])


def room(vouched: Mapping[str, str], members: int, most: int, by: str) -> int:
    """How many more `by` may introduce where `members` of `most` take part."""
    counts = brought(vouched)
    its = [counts[name] for name in line(vouched, by)]
    more = 0
    while _one_more(its, more, most - members - more):
        more += 1
    return more


def _one_more(its: list[int], more: int, left: int) -> bool:
    """Of what the first leaves, the next has no more than it leaves, and so on: who was introduced takes a part of the room of
    whom it came by, not all of it."""
    for count in its:
        if count + more >= left:
            return False
        left -= count + more
    return True


def makes_room(vouched: Mapping[str, str]) -> str:
    """Of those that were introduced, the last by the word of whom most came by; empty where none was."""
    counts = brought(vouched)
    order = {name: at for at, name in enumerate(vouched)}
    return max(vouched, key=lambda name: ([counts[by] for by in line(vouched, name)[:-1]], order[name]), default="")
