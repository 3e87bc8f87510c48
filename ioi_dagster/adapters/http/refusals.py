"""What a gateway refused: in its log and in numbers, by door and code, never what was sent; a flood is a few lines."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

log = logging.getLogger("ioi.gateway")
QUIET_S = 10.0
MAX_KINDS = 500


@dataclass(frozen=True, slots=True)
class Refused:
    """`door` and `code` are empty for what was of too many kinds."""

    door: str
    code: str
    count: int


@dataclass(slots=True)
class RefusalLog:
    """Counts each refusal. The first of a kind (door, code) is told at once, those of the next `QUIET_S` seconds as a number with
    the next one told. Of more than `MAX_KINDS` kinds the rest counts as one."""

    _told: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    _counted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def refused(self, door: str, code: str, now: float) -> None:
        """`now`: monotonic seconds."""
        kind = (door, code) if (door, code) in self._told or len(self._told) < MAX_KINDS else ("", "")
        self._counted[kind] += 1
        at, more = self._told.get(kind, (float("-inf"), 0))
        if now - at < QUIET_S:
            self._told[kind] = (at, more + 1)
            return
        self._told[kind] = (now, 0)
        since = f", and {more} times since it was told last" if more else ""
        log.warning("refused at %s: %s%s", door, code, since)

    def counts(self) -> list[Refused]:
        """Since the start, the most frequent first."""
        return [Refused(door, code, count) for (door, code), count in self._counted.most_common()]


class ProblemError(Exception):
    """An error answer."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        remedy: str = "",
        hang_up: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`hang_up`: the connection is closed with it. `headers` go with the answer."""
        self.status, self.code, self.text, self.remedy = status, code, text, remedy
        self.hang_up, self.headers = hang_up, dict(headers or {})
        super().__init__(text)
