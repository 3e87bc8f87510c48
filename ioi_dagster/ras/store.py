"""The ports behind which records are kept, and found by words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from packaging.version import InvalidVersion, Version

from ioi_dagster.errors import FinalError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.pointers import PointerEvent, PointerState
from ioi_dagster.ras.record import Kind, Record
from ioi_dagster.signing import Signed

CLOCKS_APART_S = 60.0
"""How far ahead of this clock what is said to have happened may be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What records are looked for by; what is empty does not count. All of `tags` and `skills` have to be there, at one contract,
    and data of the class `data` has to be allowed. `any_version`: also those that are not given where no version is asked for."""

    capability: str = ""
    kind: Kind | None = None
    data: DataClass = DataClass.PUBLIC
    tags: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    any_version: bool = False


class RecordStore(Protocol):
    """What does not verify is not given, deleted versions are given to nobody, and what is written is written whole.

    `put` verifies before it writes and is idempotent by digest; another content under the same URN and version is a `FinalError`,
    as is what its owner has deleted. `put_many` takes the good ones of a batch and says of each other one why not. The same for
    events of pointers with `point` and `point_many`: two of one number, or one by who does not own the name, are refused.

    `records` gives what each URN offers (`PointerState.offered`), in order of URN. `get` gives that of one URN, or the `version`
    that is named, also a yanked one, or what the owner's `alias` names, unless it is yanked. What has ended (`valid_until`) is
    given only to who names its version or digest.
    """

    def put(self, signed: Signed) -> Record: ...

    def put_many(self, signed: Sequence[Signed]) -> list[Record | FinalError]: ...

    def point(self, signed: Signed) -> PointerEvent: ...

    def point_many(self, signed: Sequence[Signed]) -> list[PointerEvent | FinalError]: ...

    def records(self, kind: Kind | None = None, domain: str | None = None) -> list[Record]: ...

    def get(self, urn: str, version: str | None = None, *, alias: str | None = None) -> Record | None: ...

    def by_digest(self, digest: str) -> Record | None: ...

    def find(self, wanted: Wanted, limit: int = 1000) -> list[Record]: ...

    def pointers(self, urn: str, until: float | None = None) -> PointerState: ...

    def history(self, urn: str) -> list[PointerEvent]: ...


class TextIndex(Protocol):
    """Which records words lead to. It lies in the store's own database and changes in the transactions of `connection`, the
    store's. `number` is the record's key there. A record is in it while it is neither yanked nor deleted."""

    def put_all(self, connection: Any, items: Sequence[tuple[int, tuple[Entry, ...]]]) -> None:
        """Entries of records by their numbers, in place of those that they had. Many at once cost far less than each alone."""
        ...

    def drop(self, connection: Any, number: int) -> object:
        """`number` may not be in it: nothing happens."""
        ...

    def clear(self, connection: Any) -> None: ...

    def differences(self, connection: Any, records: Iterable[tuple[int, tuple[Entry, ...]]]) -> Iterator[str]:
        """A line on each difference between what is there and an index of `records` made anew; those come by rising number."""
        ...


def version_key(version: str) -> Version:
    """Order of versions, by PEP 440; one that is not of that scheme comes before all others."""
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0.dev0")
