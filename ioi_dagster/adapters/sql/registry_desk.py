"""A registry's answers to who asks from outside of its process, over its database. `asker` is the domain that is proved to ask,
empty for anybody: what it may not see is answered as what is not there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ioi_dagster.adapters.sql.migrating import revision_of
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_source import SqlRegistry, seen_by
from ioi_dagster.adapters.sql.registry_tables import pointer_event, record
from ioi_dagster.adapters.sql.registry_writing import LIVE, chunks
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.ras.asking import (
    MAX_TOLD,
    Demand,
    FoundTold,
    History,
    NearTold,
    OptionTold,
    Outcome,
    Pointers,
    Registered,
    Registration,
    RejectedTold,
    Resolved,
    Selected,
    VersionTold,
    intent_of,
)
from ioi_dagster.ras.discovery import Found, Intent, Option, Policy, Registry
from ioi_dagster.ras.lock import lock
from ioi_dagster.ras.pointers import Op, PointerEvent, PointerState, Status
from ioi_dagster.ras.summary import Living
from ioi_dagster.ras.urn import Scheme, read_urn
from ioi_dagster.ras.version_range import in_range
from ioi_dagster.ras.versions import Known, last
from ioi_dagster.signing import Signed

COUNTED_S = 10.0
"""So old may a count of records be."""
MAX_COUNTS = 256
MAX_NAME, MAX_DESCRIPTION, MAX_LISTED = 200, 1_000, 10
"""Characters of what an option is told with, and how many others beside it."""
MAX_OF_OTHERS = 10_000
"""Records that another domain may hand in, together with those that came by its feeds, which may state more."""


class SqlRegistryDesk:
    """Of the domain `domain`. Methods wait for the database, and may be called from several threads; what cannot be asked is a
    `BadInputError`."""

    def __init__(self, store: SqlRecordStore, domain: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._domain, self._monotonic = store, domain, monotonic
        self._by = f"registry of {domain}"
        self._registry = SqlRegistry(store, self._by)
        self._counts: dict[str, tuple[float, dict[str, dict[str, int]]]] = {}

    # From an intent to a choice

    def found(self, demand: Demand, asker: str, living: Mapping[str, Living]) -> FoundTold:
        intent = intent_of(demand, asker)
        with self._registry.discovering(intent, living, demand.tag) as (found, registry):
            return self._told(found, registry, demand.k)

    def _told(self, found: Found, registry: Registry, k: int) -> FoundTold:
        return FoundTold(
            self._by,
            registry.now,
            tuple(_option(one, registry) for one in found.options[:k]),
            max(0, len(found.options) - k),
            tuple(
                RejectedTold(one.summary.urn, one.summary.version, one.summary.capability, one.refusal)
                for one in found.rejected[:MAX_TOLD]
            ),
            dict(sorted(Counter(one.refusal.code for one in found.rejected).items())),
            tuple(NearTold(one.urn, one.version, one.capability) for one in found.closest),
        )

    def selected(
        self, demand: Demand, asker: str, living: Mapping[str, Living], policy: Policy | None = None
    ) -> Selected | FoundTold:
        """What was found instead, where nothing would do. `policy`: the last word on each."""
        intent = intent_of(demand, asker)
        with self._registry.discovering(intent, living, demand.tag, policy) as (found, registry):
            if not found.options:
                return self._told(found, registry, demand.k)
        return self._locked(intent, found)

    def _locked(self, intent: Intent, found: Found) -> Selected:
        pinned = lock(intent, found, self._by, self._store.wall())
        chosen = self._store.by_digest(pinned.chosen.digest)
        if chosen is None:
            raise BadInputError("what was chosen has gone meanwhile", where=self._by, todo="ask again")
        return Selected(pinned.document(), pinned.digest, chosen.signed)

    # One name

    def resolved(
        self, urn: str, asker: str, version: str = "", range: str = "", alias: str = "", as_of: float | None = None
    ) -> Resolved | None:
        """None: nothing such is there for who asks."""
        if sum(map(bool, (version, range, alias))) > 1:
            raise BadInputError("more than one of version, range and alias is asked for", where=urn, todo="ask for one")
        urn = str(read_urn(urn))
        rows = self._rows(urn, asker, as_of)
        state = self._store.pointers(urn, as_of)
        there = [row for row in rows if row.status != Status.DELETED.value]
        named = version or self._named(there, state, range, alias)
        row = next((row for row in there if row.version == named), None)
        found = self._store.by_numbers([row.number]).get(row.number) if row is not None else None
        if row is None or found is None:
            return None
        aliases = tuple(sorted(name for name, its in state.aliases.items() if its == row.version))
        return Resolved(found.signed, row.digest, row.version, state.stand(row.version), aliases, state.owner)

    def _named(self, rows: Sequence[Any], state: PointerState, range: str, alias: str) -> str | None:
        now = self._store.wall()
        left = [row for row in rows if not 0 < row.valid_until <= now]
        if alias:
            its = state.aliases.get(alias)
            return its if its is not None and state.stand(its).status in LIVE and _has(left, its) else None
        if not range:
            return state.offered([_known(row) for row in left])
        for status in LIVE:
            fitting = [row for row in left if state.stand(row.version).status is status]
            chosen = last([_known(row) for row in fitting if in_range(row.version, Scheme(row.scheme), range)])
            if chosen is not None:
                return chosen.version
        return None

    def pointers(self, urn: str, asker: str, as_of: float | None = None) -> Pointers | None:
        urn = str(read_urn(urn))
        rows = self._rows(urn, asker, as_of)
        if not rows:
            return None
        state = self._store.pointers(urn, as_of)
        aliases = {name: version for name, version in sorted(state.aliases.items()) if _has(rows, version)}
        return Pointers(urn, state.owners, aliases, state.whole, _versions(rows, state), state.sequence)

    def history(self, urn: str, asker: str) -> History | None:
        urn = str(read_urn(urn))
        rows = self._rows(urn, asker, None)
        if not rows:
            return None
        state = self._store.pointers(urn)
        every = asker == read_urn(urn).domain
        events = self._store.history(urn)
        seen = events if every else _seen(events, {row.version for row in rows})
        return History(urn, state.owners, tuple(event.signed for event in seen), _versions(rows, state))

    def _rows(self, urn: str, asker: str, as_of: float | None) -> list[Any]:
        """Versions that `asker` may see, also deleted ones, as they came."""
        its = record.c
        fields = (its.number, its.version, its.scheme, its.digest, its.supersedes, its.valid_until)
        where = [its.urn == urn, seen_by(asker)]
        if as_of is not None:
            where.append(its.seen <= as_of)
        query = sa.select(*fields, its.status, its.offered, its.seen).where(*where).order_by(its.number)
        with self._store.engine.connect() as connection:
            return list(connection.execute(query))

    # Writing

    def register(self, asked: Registration, signer: str) -> Registered:
        """What `signer` has signed, in one transaction. Raises `BadInputError` where the registry was restored and nobody has
        said how it goes on."""
        self._store.check_may_sign()
        strangers = [
            _outcome("refused", one, why=f"it is not signed by {signer}: what others own comes by their own feeds")
            if one.key_id.partition("#")[0] != signer
            else None
            for one in (*asked.records, *asked.events)
        ]
        of_records, of_events = strangers[: len(asked.records)], strangers[len(asked.records) :]
        fit = [one for one, stranger in zip(asked.records, of_records, strict=True) if stranger is None]
        events = [one for one, stranger in zip(asked.events, of_events, strict=True) if stranger is None]
        if signer != self._domain and self._many(signer, len(asked.records)):
            what = f"{signer} would have more than {MAX_OF_OTHERS} records here"
            raise BadInputError(what, where=self._by, todo="state them in its own feed")
        known: set[_Key] = set()
        put: list[Any] = []
        said: list[Any] = []
        undone = False
        try:
            with self._store.transaction() as connection:
                known = _known_of(connection, fit, events)
                put, said = self._store.put_many(fit, connection), self._store.point_many(events, connection)
                refused = any(map(bool, strangers)) or any(isinstance(one, FinalError) for one in (*put, *said))
                if asked.whole and refused:
                    raise _UndoneError
        except _UndoneError:
            undone = True
        records = _merged(of_records, fit, put, known, undone)
        pointed = _merged(of_events, events, said, known, undone)
        written = any(one.state == "registered" for one in (*records, *pointed))
        return Registered(written, records, pointed)

    def _many(self, domain: str, more: int) -> bool:
        its = record.c
        own = its.urn.startswith(f"urn:ioi:{domain}:", autoescape=True)
        some = sa.select(its.number).where(own).limit(MAX_OF_OTHERS).subquery()
        with self._store.engine.connect() as connection:
            there = connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
        return bool(more) and there + more > MAX_OF_OTHERS

    # How it is

    def counts(self, asker: str | None) -> dict[str, dict[str, int]]:
        """How many versions there are, by kind and status; None: of all. At most `COUNTED_S` old."""
        key, now = f"of {asker}" if asker is not None else "", self._monotonic()
        at, counted = self._counts.get(key, (float("-inf"), {}))
        if now < at + COUNTED_S:
            return counted
        its = record.c
        query = sa.select(its.kind, its.status, sa.func.count()).group_by(its.kind, its.status)
        if asker is not None:
            query = query.where(seen_by(asker))
        counted = {}
        with self._store.engine.connect() as connection:
            for kind, status, count in connection.execute(query.order_by(its.kind, its.status)):
                counted.setdefault(kind, {})[status] = count
        while len(self._counts) >= MAX_COUNTS:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = now, counted
        return counted

    def database(self) -> dict[str, str]:
        """Raises what the database does where it does not answer."""
        its = {"dialect": self._store.engine.dialect.name, "revision": revision_of(self._store.engine) or ""}
        return its | {"restored": self._store.restored or ""}


class _UndoneError(Exception):
    """Nothing of the transaction is kept."""


def _option(one: Option, registry: Registry) -> OptionTold:
    its, contract = one.summary, registry.source.details(one.summary).contract
    return OptionTold(
        its.urn,
        its.version,
        its.digest,
        its.kind,
        its.capability,
        its.status.value,
        contract.name[:MAX_NAME] if contract else "",
        contract.description[:MAX_DESCRIPTION] if contract else "",
        one.figures,
        one.score.utility,
        one.score.parts,
        one.score.missing,
        one.dominated_by[:MAX_LISTED],
        one.unknown[:MAX_LISTED],
    )


def _known(row: Any) -> Known:
    return Known(row.version, Scheme(row.scheme), row.digest, row.supersedes)


def _has(rows: Sequence[Any], version: str) -> bool:
    return any(row.version == version for row in rows)


def _versions(rows: Sequence[Any], state: PointerState) -> tuple[VersionTold, ...]:
    return tuple(VersionTold(row.version, row.digest, state.stand(row.version), row.offered, row.seen) for row in rows)


def _seen(events: Sequence[PointerEvent], versions: set[str]) -> list[PointerEvent]:
    """Those that say nothing of versions other than `versions`, nor of aliases that have named only others."""
    found: list[PointerEvent] = []
    aliases: set[str] = set()
    for event in events:
        if event.op is Op.ALIAS:
            if event.version in versions:
                aliases.add(event.alias)
            elif event.version or event.alias not in aliases:
                continue
        elif event.op is Op.STATUS and event.version and event.version not in versions:
            continue
        found.append(event)
    return found


_Key = tuple[str, str, str]
"""What it is (`version` of a record, or `sequence` of an event), the URN, and that."""


def _key(signed: Signed) -> _Key:
    body = signed.body
    what = "version" if "spec" in body else "sequence"
    return what, str(body.get("urn", ""))[:500], str(body.get(what, ""))[:100]


def _known_of(connection: sa.Connection, records: Sequence[Signed], events: Sequence[Signed]) -> set[_Key]:
    """What is there of them before anything is written."""
    found: set[_Key] = set()
    for signed, its, what in ((records, record.c, "version"), (events, pointer_event.c, "sequence")):
        for some in chunks(sorted({_key(one)[1] for one in signed if "\0" not in _key(one)[1]})):
            rows = connection.execute(sa.select(its.urn, its[what]).where(its.urn.in_(some)))
            found |= {(what, row[0], str(row[1])) for row in rows}
    return found


def _merged(
    strangers: Sequence[Outcome | None],
    sent: Sequence[Signed],
    outcomes: Sequence[Any],
    known: set[_Key],
    undone: bool,
) -> tuple[Outcome, ...]:
    ours = iter(zip(sent, outcomes, strict=True))
    return tuple(one if one is not None else _became(*next(ours), known, undone) for one in strangers)


def _became(signed: Signed, outcome: Any, known: set[_Key], undone: bool) -> Outcome:
    if isinstance(outcome, FinalError):
        return _outcome("refused", signed, why=str(outcome)[:1_000])
    if _key(signed) in known:
        return _outcome("known", signed, outcome.digest)
    return _outcome("left" if undone else "registered", signed, outcome.digest)


def _outcome(state: str, signed: Signed, digest: str = "", why: str = "") -> Outcome:
    return Outcome(state, *_key(signed)[1:], digest, why)
