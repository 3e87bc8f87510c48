"""An owner puts a domain out of its circle: what it signs counts no more, what its runs do here ends, own runs go elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from ioi_dagster.adapters.sql.ledger import Ledger, LedgerAwayError
from ioi_dagster.domain import DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.governors.vouching import came_by
from ioi_dagster.local.joining import taking_part_locked
from ioi_dagster.local.member_book import put_out
from ioi_dagster.model.intervention import MAX_TEXT, Action, Intervention
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.names import near

MAX_NAMED = 10
"""Of those that came by its word; of more it is told how many."""


def expel(home: DomainHome, name: str, why: str, who: str, now: float, introduced: bool = False) -> str:
    """What came of it, also where it was expelled before. `who` says it, at `now` (Unix seconds). The gateway and the clusters
    go by it within about a second. `introduced`: those that are members by its word alone, or by that of whom it brought, are
    expelled too; else they are named. Raises `BadInputError` for a name that nobody knows; and `IoiError`, with what is left to
    do, where own runs cannot be told: it is expelled then."""
    told, away = "", None
    try:
        told = _expel_one(home, name, why, who, now)
    except BadInputError:
        raise
    except IoiError as error:
        away = error
    members = home.members()
    brought = [one for one in came_by(home.config().vouched, name) if one in members]
    for one in brought if introduced else ():
        try:
            _expel_one(home, one, f"it came by the word of {name}", who, now)
        except IoiError as error:
            away = away or error
    if away is not None:
        raise away
    return "; ".join([told, *([_brought(name, brought, introduced)] if brought else [])])


def _brought(name: str, brought: list[str], introduced: bool) -> str:
    names = ", ".join(brought[:MAX_NAMED]) + (
        f" and {len(brought) - MAX_NAMED} more" if len(brought) > MAX_NAMED else ""
    )
    if introduced:
        return f"expelled too, since they came by its word: {names}"
    return f"members by its word alone, and still: {names} (`ioi domain expel {name} --with-introduced`)"


def _expel_one(home: DomainHome, name: str, why: str, who: str, now: float) -> str:
    if len(why) > MAX_TEXT:
        raise BadInputError(f"a reason of more than {MAX_TEXT} characters", todo="say it shorter")
    if name == home.name:
        raise BadInputError(f"{name} is this domain itself", todo="`ioi domain leave` takes it out of the network")
    with taking_part_locked(home):
        config, known = home.config(), TrustFolder(home.trust).all()
        names = {*known, *config.peers, *config.expelled} - {home.name}
        if name not in names:
            raise BadInputError(f"{home.name} knows no domain {name!r}", todo=near(name, names))
        record, own = known.get(name), known.get(home.name)
        shares = record is not None and own is not None and bool(_fingerprints(record) & _fingerprints(own))
        clusters = record.clusters if record is not None else ()
        moved, away = 0, None
        try:
            moved = _move_own(home, name, clusters, why, who, now)
        except LedgerAwayError as error:
            away = error
        finally:
            # Whatever becomes of what can be said later: until then it is a member.
            fresh = put_out(home, name, why)
    told = ["is expelled" if fresh else "was expelled already", "what its runs do here is stopped"]
    told += [f"{moved} of ours stay away from it"] if moved else []
    told += (
        ["it has our certificate authority, which opens Dask clusters: `ioi domain rotate --revoke`"] if shares else []
    )
    if away is not None:
        # Said again, nobody knows its clusters any more.
        todo = " and ".join(f"`ioi reroute RUN --away-from {cluster}`" for cluster in clusters)
        told += [f"our own runs are not told to stay away from it, since {away} — then, for each: {todo}"]
        raise IoiError(f"{name} {'; '.join(told)}") from away
    return "; ".join(told)


def _fingerprints(record: MemberRecord) -> set[str]:
    return {authority.fingerprint for authority in record.authorities}


def _move_own(home: DomainHome, name: str, clusters: Collection[str], why: str, who: str, now: float) -> int:
    """Own runs are told to stay away from its clusters: what of them runs there is placed elsewhere. How many."""
    if not clusters or not home.ledger.exists():
        return 0
    ledger = Ledger(home.ledger)
    try:
        runs = [run for run, _ in ledger.open_runs()]
        for run in runs:
            for cluster in clusters:
                reason = f"{name} is expelled" + (f": {why}" if why else "")
                said = Intervention(run, Action.REROUTE, away=cluster, why=reason[:MAX_TEXT], who=who, at=now)
                ledger.intervene(said)
    finally:
        ledger.close()
    return len(runs)
