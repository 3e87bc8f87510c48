"""Discovery over the registry's database: its columns leave a few candidates, whose records alone are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_tables import capability, label, pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import LIVE, chunks, read_events
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras import why_not
from ioi_dagster.ras.discovery import Found, Intent, Match, Policy, Registry, discover
from ioi_dagster.ras.lock import Pinned, Standing
from ioi_dagster.ras.matching import ranking
from ioi_dagster.ras.pointers import PointerState, state_of
from ioi_dagster.ras.pointers import Status as Stood
from ioi_dagster.ras.record import PARTNER, PUBLIC, Record
from ioi_dagster.ras.summary import Details, Living, Status, Summary, details_of, summaries_of
from ioi_dagster.ras.urn import Kind, Scheme, read_urn
from ioi_dagster.ras.why_not import Why

MAX_CANDIDATES = 2_000
"""Whose records may be read for one question."""
FEW = 100
"""Candidates of which each is told why it will not do, also where words are asked for."""
DEPTHS = (40, 400, MAX_CANDIDATES)
"""So many that words come near to are looked at more closely, where there are more than `FEW`: the next as long as none before
will do. Each costs a reading of its record."""
AT_ONCE = 200
"""Records that are read together."""
MAX_KEPT = 10_000
"""Details of records that are kept for the next question."""

_HANDLES = {one.rank: one for one in DataClass}
_columns = (
    record.c.number,
    record.c.urn,
    record.c.kind,
    record.c.version,
    record.c.digest,
    record.c.scheme,
    record.c.audience,
    record.c.valid_until,
    record.c.status,
    record.c.offered,
    capability.c.capability,
    capability.c.handles,
    capability.c.place,
)

_joined = record.outerjoin(capability, capability.c.number == record.c.number)


class SqlRegistry:
    """What `store` holds, as discovery sees it. `by` names the domain that answers. Of what the intent's asker may not see
    nothing is told: not even that it is there."""

    def __init__(self, store: SqlRecordStore, by: str, policy: Policy | None = None) -> None:
        self._store, self._by, self._policy = store, by, policy
        self._text = SqlTextIndex()
        self._details: dict[tuple[str, str], Details] = {}

    def discover(self, intent: Intent, living: Mapping[str, Living]) -> Found:
        """As `discovery.discover`. Where a registry is small, each record that does not do is told with its reason; in a large
        one only those are that columns have left, and of these the ones to which the words come near: `why_not` tells of any
        other. Raises `BadInputError` where no words are asked for and these are too many."""
        with self.discovering(intent, living) as (found, _):
            return found

    @contextmanager
    def discovering(
        self, intent: Intent, living: Mapping[str, Living], tag: str = "", policy: Policy | None = None
    ) -> Iterator[tuple[Found, Registry]]:
        """`discover`, with that of which it was found, whose records may be read meanwhile. Where there is a `tag`, of what has
        it; `policy`: the last word on each, in place of the registry's own."""
        for depth in DEPTHS:
            with self._asked(intent, living, "", tag, depth, policy or self._policy) as registry:
                found = discover(intent, registry)
                if depth == DEPTHS[-1] or found.options or len(registry.summaries) < depth or not _deeper(found):
                    yield found, registry
                    return

    def why_not(self, intent: Intent, living: Mapping[str, Living], urn: str, version: str = "") -> Why:
        """As `why_not.why_not_chosen`, of any version that the asker may see."""
        with self._asked(intent, living, urn, "", DEPTHS[-1], self._policy) as registry:
            return why_not.why_not_chosen(intent, registry, urn, version)

    def standing(self, pinned: Pinned) -> Standing | None:
        """What is so now of what a lock pins."""
        its = record.c
        with self._store.engine.connect() as connection:
            row = connection.execute(
                sa.select(its.digest, its.status, its.valid_until).where(
                    its.urn == pinned.urn, its.version == pinned.version
                )
            ).one_or_none()
        if row is None:
            return None
        stand = self._store.pointers(pinned.urn).stand(pinned.version)
        known = row.status == Stood.DELETED or self._store.by_digest(row.digest) is not None
        revoked = "" if known else "its signature does not hold"
        return Standing(row.digest, Status(stand.status), stand.successor, row.valid_until, revoked)

    @contextmanager
    def _asked(
        self, intent: Intent, living: Mapping[str, Living], urn: str, tag: str, depth: int, last: Policy | None
    ) -> Iterator[Registry]:
        """What there is to choose from for `intent`, with all versions of `urn`; of what has the `tag`, where there is one; no
        more than `depth` that words come near to, where there are more than `FEW`."""
        if any("\0" in text for text in (intent.capability, intent.asker, intent.words, tag)):
            raise BadInputError("a name with a NUL in it", where=self._by, todo="leave it out")
        self._store.settle_ended()
        now = self._store.wall()
        with self._store.engine.connect() as connection:
            found = _Candidates(self._store, connection, self._text, self._details)
            found.add(self._candidates(connection, intent, now, tag, depth, found))
            if urn:
                found.add_versions(str(read_urn(urn)), seen_by(intent.asker))
            policy = found.policy(intent, self._by, last)
            yield Registry(self._by, list(found.summaries), found, living, now, found, policy)

    def _candidates(
        self, connection: sa.Connection, intent: Intent, now: float, tag: str, depth: int, found: _Candidates
    ) -> Sequence[Any]:
        """As wide as may be, so that reasons can be told."""
        words = bool(intent.words.strip())
        most = FEW if words else MAX_CANDIDATES
        where: list[sa.ColumnElement[bool]] = []
        if tag:
            its = label.c
            where.append(sa.exists().where(its.number == record.c.number, its.what == "tag", its.label == tag))
        narrower = list(_narrower(intent, now))
        among = (
            sa.select(record.c.number).select_from(_joined).where(*where, *(one for more in narrower for one in more))
        )
        # What is left by all of them is found sooner than what is left by some.
        if words and len(connection.execute(among.limit(most + 1)).all()) > most:
            narrower, where = [], [*where, *(one for more in narrower for one in more)]
        for more in narrower:
            where += more
            rows = connection.execute(_select(where).limit(most + 1)).all()
            if len(rows) <= most:
                return rows
        if not words:
            raise BadInputError(
                f"more than {MAX_CANDIDATES} records would have to be looked at",
                where=self._by,
                todo="narrow it by kind, capability or words",
            )
        near = self._text.rank(connection, intent.words, depth, among)
        found.ranked(intent.words, near)
        numbers = sorted({int(match.id.partition("/")[0]) for match in near})
        return [
            row
            for some in chunks(numbers)
            for row in connection.execute(_select([*where, record.c.number.in_(some)])).all()
        ]


def _deeper(found: Found) -> bool:
    """Whether what comes next may do: what words do not fit, none does after it."""
    return any(one.refusal.code != "ras.not_relevant" for one in found.rejected)


def _select(where: Sequence[sa.ColumnElement[bool]]) -> Any:
    return sa.select(*_columns).select_from(_joined).where(*where)


def seen_by(asker: str) -> sa.ColumnElement[bool]:
    """What the domain `asker` may see and know to be there; empty: what anybody may."""
    its = record.c
    if not asker:
        return its.audience == PUBLIC
    own = its.urn.startswith(f"urn:ioi:{asker}:", autoescape=True)
    return its.audience.in_([PUBLIC, PARTNER + asker]) | own


def _narrower(intent: Intent, now: float) -> Iterator[list[sa.ColumnElement[bool]]]:
    """Conditions, each list beside those before it."""
    its, can = record.c, capability.c
    yield [its.status.in_([str(one) for one in LIVE]), seen_by(intent.asker)]
    asked: list[sa.ColumnElement[bool]] = []
    if intent.kinds:
        asked.append(its.kind.in_([str(kind) for kind in intent.kinds]))
    if intent.capability:
        asked.append(can.capability == intent.capability)
    if not intent.versions:
        asked.append(its.offered)
    yield asked
    rank = intent.trust.data_class.rank
    rest: list[sa.ColumnElement[bool]] = [
        (its.valid_until == 0) | (its.valid_until > now),
        can.handles.is_(None) | (can.handles >= rank),
    ]
    yield rest if intent.deprecated else [*rest, its.status == str(Stood.ACTIVE)]


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    id: str
    """In the index of words."""
    offered: bool


class _Candidates:
    """Of one question: `Source` and `Ranker` of discovery."""

    def __init__(
        self,
        store: SqlRecordStore,
        connection: sa.Connection,
        text: SqlTextIndex,
        details: dict[tuple[str, str], Details],
    ) -> None:
        self._store, self._connection, self._text, self._details = store, connection, text, details
        self._near: tuple[str, list[ranking.Match]] = "", []
        self.summaries: dict[Summary, _Place] = {}
        self._by_entry: dict[str, Summary] = {}
        self._numbers: list[int] = []
        self._where: dict[int, int] = {}
        self._read: dict[int, Record | None] = {}

    def add(self, rows: Sequence[Any]) -> None:
        states = self._states({row.urn for row in rows if row.status == Stood.DEPRECATED})
        for row in sorted(rows, key=lambda row: (row.number, row.place or 0)):
            stand = states[row.urn].stand(row.version) if row.urn in states else None
            # What states no capability may handle what its record says; that is read later.
            handles = DataClass.RESTRICTED if row.handles is None else _HANDLES[row.handles]
            summary = Summary(
                row.urn,
                Kind(row.kind),
                row.version,
                row.digest,
                row.urn.split(":", 3)[2],
                row.capability or "",
                Scheme(row.scheme),
                row.audience,
                handles,
                row.valid_until,
                Status(row.status),
                stand.successor if stand else "",
            )
            self._put(summary, _Place(row.number, f"{row.number}/{row.place or 0}", row.offered))

    def add_versions(self, urn: str, seen: sa.ColumnElement[bool]) -> None:
        its = record.c
        fields = (its.number, its.status, its.offered)
        rows = self._connection.execute(
            sa.select(*fields).where(its.urn == urn, seen, its.status != str(Stood.DELETED))
        ).all()
        state = self._store.pointers(urn)
        found = self._store.by_numbers([row.number for row in rows])
        for row in rows:
            if row.number not in found:
                continue
            its_record = found[row.number]
            successor = state.stand(its_record.version).successor
            for place, summary in enumerate(summaries_of(its_record, Status(row.status), successor)):
                self._put(summary, _Place(row.number, f"{row.number}/{place}", row.offered))

    def _put(self, summary: Summary, place: _Place) -> None:
        # Of two contracts of one id the first counts.
        if summary.entry in self._by_entry:
            return
        self._by_entry[summary.entry] = summary
        self.summaries[summary] = place
        if place.number not in self._where:
            self._where[place.number] = len(self._numbers)
            self._numbers.append(place.number)

    def ranked(self, query: str, near: list[ranking.Match]) -> None:
        """Is known already: those that are nearest of all that may be asked for."""
        self._near = query, near

    def details(self, summary: Summary) -> Details:
        number = self.summaries[summary].number
        if number not in self._read:
            at = self._where[number]
            some = [one for one in self._numbers[at : at + AT_ONCE] if one not in self._read]
            found = self._store.by_numbers(some)
            self._read |= {one: found.get(one) for one in some}
        its = self._read[number]
        if its is None:
            raise KeyError(summary.entry)
        # Of content that was verified just now.
        key = summary.digest, summary.capability
        known = self._details.get(key)
        if known is None:
            if len(self._details) >= MAX_KEPT:
                self._details.clear()
            known = self._details[key] = details_of(its, summary.capability)
        return known

    def rank(self, query: str, k: int, among: Collection[str] | None = None) -> Sequence[Match]:
        entries = self._by_entry if among is None else among
        ids = {self.summaries[self._by_entry[entry]].id: entry for entry in entries}
        asked, near = self._near
        known = {one.id: one for one in near} if asked == query else {}
        if ids.keys() <= known.keys():
            found = [one for one in near if one.id in ids][:k]
        else:
            found = self._text.rank(self._connection, query, k, list(ids))
        return [replace(one, id=ids[one.id]) for one in found]

    def policy(self, intent: Intent, by: str, other: Policy | None) -> Policy:
        def decide(summary: Summary, details: Details) -> Refusal | None:
            live = summary.status in (Status.ACTIVE, Status.DEPRECATED)
            if live and not intent.versions and not self.summaries[summary].offered:
                text = f"another version than {summary.version} is given where none is asked for"
                return Refusal("ras.not_offered", text, by, "ask for a range of versions")
            return other(summary, details) if other else None

        return decide

    def _states(self, urns: set[str]) -> dict[str, PointerState]:
        events: dict[str, list[Any]] = {urn: [] for urn in urns}
        for some in chunks(sorted(urns)):
            for urn, event in read_events(self._connection, pointer_event.c.urn.in_(some)):
                events[urn].append(event)
        return {urn: state_of(urn, its) for urn, its in events.items()}
