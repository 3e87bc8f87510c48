"""Feeds: one for each origin and audience."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.record import LOCAL, PARTNER, PUBLIC

MAX_NUMBER = 2**53 - 1
"""Of epochs, places and times: what JSON keeps whole."""


@dataclass(frozen=True, slots=True, order=True)
class Feed:
    """What `origin` tells `audience`: `public`, `partner:<domain>`, or `local`, which never leaves it."""

    origin: str
    audience: str = PUBLIC

    def __str__(self) -> str:
        return f"{self.origin}/{self.audience}"

    def seen_by(self, domain: str) -> bool:
        """May `domain` have it, and know that it is there? Who relays a feed asks the same."""
        return domain == self.origin or self.audience in (PUBLIC, PARTNER + domain)


def read_feed(origin: str, audience: str) -> Feed:
    """Raises `BadInputError` for what can be no feed."""
    if not _DOMAIN.fullmatch(origin):
        raise BadInputError(f"{origin[:60]!a} is no name of a domain", where="feeds", todo="as in lab.example")
    plain = audience in (PUBLIC, LOCAL)
    if not plain and not (audience.startswith(PARTNER) and _DOMAIN.fullmatch(audience.removeprefix(PARTNER))):
        todo = "public, local, or partner:<domain>"
        raise BadInputError(f"{audience[:60]!a} is no audience", where="feeds", todo=todo)
    return Feed(origin, audience)


_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
