"""How many bytes of messages a gateway keeps that it is still reading or looking at: of one domain, and of all together.

Who has signed a message has not shown a lease yet. No domain has more than are left for others: of however many that send all
they may, as many bytes are left as each has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

MAX_BYTES = 384 * 2**20
"""Alone a domain has half of them: three of the largest messages. While one is taken apart it is there twice."""


class Bodies:
    """Of one gateway."""

    def __init__(self) -> None:
        self._held = Counter[str]()

    @contextmanager
    def of(self, whose: str) -> Iterator[Body]:
        """One of that domain, whose bytes are given back at the end."""
        body = Body(self._held, whose)
        try:
            yield body
        finally:
            self._held[whose] -= body.size
            if not self._held[whose]:
                del self._held[whose]

    def total(self) -> int:
        """Bytes that are held now."""
        return self._held.total()


class Body:
    def __init__(self, held: Counter[str], whose: str) -> None:
        self._held, self._whose, self.size = held, whose, 0

    def grows(self, by: int) -> bool:
        """By so many bytes, where its domain may have them. False where it may not: then it is as large as before."""
        left = MAX_BYTES - self._held.total()
        if self._held[self._whose] + by > left - by:
            return False
        self._held[self._whose] += by
        self.size += by
        return True
