"""`ioi ras`: the feeds by which registries tell each other, and how those of a domain go on after a mishap."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out
from ioi_dagster.cli_ras import bad, clock, opened
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.cli_ras_owner import TRIES
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.adapters.sql.feeds import SqlFeeds
    from ioi_dagster.adapters.sql.registry import SqlRecordStore
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.ras.feeds.reader import Position
    from ioi_dagster.ras.feeds.roster import Revoked
    from ioi_dagster.signing import SigningKey

How = Annotated[str, typer.Argument(help="Why, or how it was made sure of; it is kept")]
_COLORS = {"fresh": "green", "stale": "yellow", "frozen": "red"}


@ras_app.command("feeds")
def feeds(home: Home = None, domain_home: DomainFolder = None, domain: Name = "", as_json: AsJson = False) -> None:
    """What this registry has of each feed, its own among them: `fresh` while its owner's last word holds, `stale` after that,
    `frozen` where two things were told in his name. Exit code 1 where there is none, or one is frozen."""
    from random import Random

    from ioi_dagster.ras.feeds.head import head_in
    from ioi_dagster.ras.feeds.replica import Replica
    from ioi_dagster.ras.feeds.store import furthest

    owner, store = opened(home, domain_home, domain)
    kept, now = _feeds(owner, store), time.time()
    replica = Replica(owner.name, kept.kept(), owner.trusted(), kept, Random(0))
    rows: list[dict[str, Any]] = []
    for one in sorted(kept.kept(), key=lambda one: one.at.feed):
        head = head_in(one.head) if one.head is not None else None
        told = furthest(kept.heads(one.at.feed))
        rows.append(
            {
                "origin": one.at.feed.origin,
                "audience": one.at.feed.audience,
                "standing": str(replica.standing(one.at.feed, now)),
                "epoch": one.at.epoch,
                "seq": one.at.seq,
                "told": list(told) if told > one.at.place else list(one.at.place),
                "complete": not one.at.open_until and one.at.seq > 0,
                "holds_until": getattr(head, "expires", 0),
            }
        )
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        out.print("there are no feeds yet: its gateway has not run, or nobody has told anything")
    else:
        table = Fitted(
            Column("origin", wraps=24),
            Column("audience", 1, wraps=16),
            Column("standing"),
            Column("is at", right=True),
            Column("others are at", 2, right=True),
            Column("holds until", 3),
        )
        for row in rows:
            standing = Text(row["standing"], _COLORS[row["standing"]])
            told = "{}/{}".format(*row["told"]) if row["told"] != [row["epoch"], row["seq"]] else ""
            until = clock(row["holds_until"]) if row["holds_until"] else ""
            table.add_row(row["origin"], row["audience"], standing, f"{row['epoch']}/{row['seq']}", told, until)
        out.print(table)
    if not rows or any(row["standing"] == "frozen" for row in rows):
        raise typer.Exit(1)


@ras_app.command("go-on")
def go_on(
    how: How,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Sign again after a backup was restored: nothing that others have seen is missing. Refused where they are known to have
    more, which its gateway takes from them."""
    from ioi_dagster.ras.feeds.store import furthest

    owner, store = opened(home, domain_home, domain)
    if store.restored is None:
        raise bad(f"the registry of {owner.name} was not restored, or goes on already")
    if not how.strip():
        raise bad("it is not said how it was made sure of", todo="say it: what others have of it")
    kept = _feeds(owner, store)
    for one in kept.kept(owner.name):
        told = furthest(kept.heads(one.at.feed))
        if told > one.at.place:
            raise bad(
                f"others have entry {told[0]}/{told[1]} of {one.at.feed}, and this registry ends at"
                f" {one.at.epoch}/{one.at.seq}",
                todo="start its gateway, which takes it from them; where nobody has it any more: `ioi ras new-epoch HOW`",
            )
    store.go_on(how)
    print(json.dumps({"domain": owner.name})) if as_json else out.print(f"{owner.name} signs again")


@ras_app.command("new-epoch")
def new_epoch(
    how: How,
    audience: Annotated[str, typer.Option(help="Of that feed alone: public, local or partner:<domain>")] = "",
    stolen: Annotated[str, typer.Option(metavar="KEY", help="Nothing that this key signed after --last was ours")] = "",
    last: Annotated[int, typer.Option(metavar="SEQ", help="The last good entry of the present epoch")] = -1,
    root: Annotated[
        Path | None, typer.Option(help="The root's key file; default: keys/feeds.root of the domain")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Begin the domain's feeds anew by its root, with what this registry states now: others drop all else. For a feed that was
    forked, a restored backup of which others lack what came after it, and a stolen key. Its gateway may run meanwhile."""
    owner, store = opened(home, domain_home, domain)
    kept = _feeds(owner, store)
    chosen = [one.at for one in kept.kept(owner.name) if one.at.seq and audience in ("", one.at.feed.audience)]
    if not chosen:
        raise bad(f"{owner.name} has no such feed", todo="see `ioi ras feeds`")
    if not how.strip():
        raise bad("it is not said why", todo="say it: it is kept")
    revoked = _revoked(owner, chosen, stolen, last)
    key = _root(owner, root)
    names = ", ".join(str(at.feed) for at in chosen)
    if not yes and not typer.confirm(f"Others drop what this registry does not state in {names}. Go on?", err=True):
        err.print("nothing was begun")
        raise typer.Exit(1)
    begun = [_begun(owner, kept, key, at, revoked) for at in chosen]
    with store.transaction() as connection:
        store.noted("new epoch", how, connection)
        if store.restored is not None:
            store.go_on(how, connection)
    if as_json:
        print(json.dumps([{"audience": at.feed.audience, "epoch": at.epoch, "seq": at.seq} for at in begun]))
        return
    for at in begun:
        out.print(f"{at.feed} is at {at.epoch}/{at.seq}", soft_wrap=True, highlight=False)


def _begun(owner: DomainHome, kept: SqlFeeds, root: SigningKey, at: Position, revoked: tuple[Revoked, ...]) -> Position:
    """Its gateway may write meanwhile: then again, behind that."""
    from ioi_dagster.errors import RetryableError
    from ioi_dagster.ras.feeds.owner import Owner

    for left in reversed(range(TRIES)):
        try:
            [wrote] = Owner(owner.signing_key(), kept, root).new_epoch(at.feed, time.time(), revoked)
            return wrote.at
        except RetryableError:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def _revoked(owner: DomainHome, chosen: list[Position], stolen: str, last: int) -> tuple[Revoked, ...]:
    from ioi_dagster.ras.feeds.roster import Revoked

    if not stolen and last < 0:
        return ()
    if not stolen or last < 0:
        raise bad("--stolen and --last go together", todo="name the key, and the last entry that was ours")
    if len(chosen) != 1:
        names = ", ".join(at.feed.audience for at in chosen)
        raise bad(f"the last good entry is another one in each feed: {names}", todo="name one by --audience")
    if not stolen.startswith(owner.name + "#"):
        raise bad(f"{stolen[:100]!r} is no key of {owner.name}", todo=f"{owner.name}#… as entries and records name it")
    if stolen == owner.signing_key().key_id:
        raise bad("it is the key that signs now", todo="change it first: `ioi domain rotate --revoke`")
    [at] = chosen
    if last > at.seq:
        raise bad(f"{at.feed} ends at {at.epoch}/{at.seq}", todo="see `ioi ras feeds`")
    return (Revoked(stolen, at.epoch, last),)


def _root(owner: DomainHome, path: Path | None) -> SigningKey:
    from ioi_dagster.signing import SigningKey

    path = path or owner.root / "keys" / "feeds.root"
    try:
        return SigningKey.load(owner.name, path)
    except FileNotFoundError:
        raise bad(
            f"the root of {owner.name} is not at {path}", todo="bring its key file, or name it by --root"
        ) from None
    except ValueError as error:
        raise bad(f"{path} is no key: {error}", todo="name the root's key file by --root") from error


def _feeds(owner: DomainHome, store: SqlRecordStore) -> SqlFeeds:
    from ioi_dagster.adapters.sql.feed_records import FeedRecords
    from ioi_dagster.adapters.sql.feeds import SqlFeeds
    from ioi_dagster.adapters.sql.registry_tables import feeds as tables

    return SqlFeeds(store.engine, tables, FeedRecords(store, owner.name))
