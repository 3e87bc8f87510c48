"""How sensitive data is, ordered: public < internal < restricted."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class DataClass(StrEnum):
    """A data class. Unlisted data is `INTERNAL`; a step has the highest class of its inputs."""

    PUBLIC = "public"
    INTERNAL = "internal"
    RESTRICTED = "restricted"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    def within(self, limit: DataClass) -> bool:
        """True when data of this class may be handled by someone allowed up to `limit`."""
        return self.rank <= limit.rank

    @staticmethod
    def highest(classes: Iterable[DataClass]) -> DataClass:
        """The highest of `classes`, `PUBLIC` when there is none."""
        return max(classes, key=lambda c: c.rank, default=DataClass.PUBLIC)


_RANKS = {DataClass.PUBLIC: 0, DataClass.INTERNAL: 1, DataClass.RESTRICTED: 2}
