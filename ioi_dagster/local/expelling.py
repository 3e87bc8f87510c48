"""An owner puts a domain out of its circle: what it signs counts no more, what its runs do here ends, own runs go elsewhere."""

from __future__ import annotations

from collections.abc import Collection

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.domain import DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.joining import taking_part_locked
from ioi_dagster.local.member_book import own_record, put_out
from ioi_dagster.model.intervention import MAX_TEXT, Action, Intervention
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.names import near


def expel(home: DomainHome, name: str, why: str, who: str, now: float) -> str:
    """What came of it, also where it was expelled before. `who` says it, at `now` (Unix seconds). The gateway and the clusters
    go by it within about a second. Raises `BadInputError` for a name that nobody knows, and `LedgerAwayError`."""
    if len(why) > MAX_TEXT:
        raise BadInputError(f"a reason of more than {MAX_TEXT} characters", todo="say it shorter")
    if name == home.name:
        raise BadInputError(f"{name} is this domain itself", todo="`ioi domain leave` takes it out of the network")
    with taking_part_locked(home):
        config, known = home.config(), TrustFolder(home.trust).all()
        names = {*known, *config.peers, *config.expelled} - {home.name}
        if name not in names:
            raise BadInputError(f"{home.name} knows no domain {name!r}", todo=near(name, names))
        record = known.get(name)
        moved = _move_own(home, name, record.clusters if record is not None else (), why, who, now)
        shares = record is not None and bool(_fingerprints(record) & _fingerprints(own_record(home)))
        fresh = put_out(home, name, why)
    told = ["is expelled" if fresh else "was expelled already", "what its runs do here is stopped"]
    told += [f"{moved} of ours stay away from it"] if moved else []
    told += (
        ["it has our certificate authority, which opens Dask clusters: `ioi domain rotate --revoke`"] if shares else []
    )
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
