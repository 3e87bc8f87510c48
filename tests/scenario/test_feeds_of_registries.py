"""Registries that tell each other feeds, through whatever a month may bring."""

from __future__ import annotations

from random import Random

import pytest

from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.feeds.names import Feed
from ioi_dagster.ras.feeds.owner import Owner
from ioi_dagster.ras.feeds.replica import Standing
from ioi_dagster.ras.feeds.roster import Revoked
from ioi_dagster.ras.feeds.writer import KEEP_TOMBSTONES_S
from tests.feeds import EPOCH, Lab, key_of, record

NAMES = ("a.example", "b.example", "c.example", "d.example")
A, B, C, D = NAMES
MONTH = KEEP_TOMBSTONES_S + 86_400.0


def told(lab: Lab) -> Lab:
    """Each has told something, to all and to the next one."""
    lab.run(10)
    for name, partner in zip(NAMES, (*NAMES[1:], A), strict=True):
        assert lab.state(
            name, *(record(name, f"r{n}") for n in range(5)), record(name, "s", audience=f"partner:{partner}")
        )
    # What is lost is asked for again.
    lab.run(60 if lab.lose else 10)
    assert lab.agreed(), lab.differences()
    return lab


def item(name: str, what: str) -> str:
    return record_item(f"urn:ioi:{name}:block:{what}", "1")


def test_what_is_told_arrives_where_it_may_within_seconds() -> None:
    lab = told(Lab(NAMES))
    assert set(lab.domains[B].stated(Feed(A, f"partner:{B}"))) == {item(A, "s")}
    assert lab.domains[C].stated(Feed(A, f"partner:{B}")) == {}
    lab.state(A, record(A, "new"))
    lab.run(2)
    assert all(item(A, "new") in lab.domains[name].stated(Feed(A)) for name in NAMES)


def test_a_record_moves_to_another_audience_with_its_tombstone_in_the_first() -> None:
    lab = told(Lab(NAMES))
    lab.state(A, record(A, "r0", audience=f"partner:{C}"))
    lab.run(10)
    assert item(A, "r0") not in lab.domains[B].stated(Feed(A))
    assert item(A, "r0") not in lab.domains[C].stated(Feed(A))
    assert item(A, "r0") in lab.domains[C].stated(Feed(A, f"partner:{C}"))
    lab.state(A, record(A, "r0", audience="local"))
    lab.run(10)
    assert lab.agreed()
    assert item(A, "r0") not in lab.domains[C].stated(Feed(A, f"partner:{C}"))


def test_what_its_home_cannot_tell_comes_by_others_who_may_have_it() -> None:
    lab = told(Lab(NAMES))
    lab.cut |= {(A, C), (C, A), (A, D), (D, A)}
    lab.state(A, record(A, "new"), record(A, "kept", audience=f"partner:{C}"))
    lab.run(30)
    assert item(A, "new") in lab.domains[C].stated(Feed(A))
    assert item(A, "kept") not in lab.domains[C].stated(Feed(A, f"partner:{C}"))
    lab.heal()
    lab.run(90)
    assert lab.agreed(), lab.differences()


def test_without_word_from_its_owner_a_feed_is_stale_and_he_unknown() -> None:
    lab = told(Lab(NAMES))
    wall = EPOCH + lab.now
    assert lab.domains[B].replica.standing(Feed(A), wall) is Standing.FRESH
    lab.down.add(A)
    lab.skip(650)
    lab.run(5)
    assert lab.domains[B].replica.standing(Feed(A), EPOCH + lab.now) is Standing.STALE
    assert lab.domains[B].replica.snapshot(EPOCH + lab.now)[f"{A}/public"]["home"] == "unknown"
    lab.run(10)
    assert lab.domains[B].replica.standing(Feed(C), EPOCH + lab.now) is Standing.FRESH
    lab.down.clear()
    lab.run(30)
    assert lab.domains[B].replica.standing(Feed(A), EPOCH + lab.now) is Standing.FRESH


def test_who_comes_back_after_a_month_drops_what_is_stated_no_longer() -> None:
    lab = told(Lab(NAMES))
    lab.down.add(D)
    lab.say(A, lambda owner, now: owner.withdraw([item(A, "r1")], now))
    lab.run(10)
    lab.skip(MONTH)
    lab.run(30)
    assert lab.domains[A].store.oldest_tombstone(Feed(A)) is None
    assert item(A, "r1") in lab.domains[D].stated(Feed(A))
    lab.down.clear()
    lab.run(90)
    assert lab.agreed(), lab.differences()
    assert item(A, "r1") not in lab.domains[D].stated(Feed(A))


def test_a_restored_backup_takes_from_others_what_it_had_told() -> None:
    lab = told(Lab(NAMES))
    copy = lab.backup(A)
    lab.state(A, record(A, "after"))
    lab.run(10)
    lab.restore(A, copy)
    refusal = lab.domains[A].replica.may_write(lab.now)
    assert refusal is not None and refusal.code == "feed.asking"
    lab.run(10)
    assert lab.state(A, record(A, "later"))
    lab.run(10)
    assert lab.agreed(), lab.differences()
    assert {item(A, "after"), item(A, "later")} <= set(lab.domains[B].stated(Feed(A)))
    assert not any(domain.alarms for domain in lab.domains.values())


def test_a_backup_restored_where_nobody_answers_forks_and_its_root_begins_anew() -> None:
    lab = told(Lab(NAMES))
    copy = lab.backup(A)
    lab.state(A, record(A, "after"))
    lab.run(10)
    lab.split([A], [B, C, D])
    lab.restore(A, copy)
    lab.run(10)
    assert lab.state(A, record(A, "other"))
    lab.heal()
    lab.run(60)
    feed = Feed(A)
    frozen = {name for name in NAMES if lab.domains[name].replica.standing(feed, EPOCH + lab.now) is Standing.FROZEN}
    assert frozen == set(NAMES)
    assert not lab.state(A, record(A, "more"))
    assert lab.state(B, record(B, "unharmed"))
    lab.run(10)
    assert lab.agreed(but=[A]), lab.differences(but=[A])
    lab.new_epoch(A, feed)
    lab.run(90)
    assert lab.agreed(), lab.differences()
    assert lab.domains[C].replica.standing(feed, EPOCH + lab.now) is Standing.FRESH
    assert item(A, "other") in lab.domains[C].stated(feed)


def test_an_owner_who_tells_two_things_harms_nobody_else() -> None:
    lab = told(Lab(NAMES))
    feed, twin = Feed(A), lab.backup(A)
    lab.split([A, B], [C, D])
    lab.state(A, record(A, "one"))
    lab.run(5)
    lab.domains[A].store, kept = twin, lab.domains[A].store
    lab.ever[feed] |= {told.body for told in kept.stated(feed)}
    lab.restart(A)
    lab.heal()
    lab.split([A, C, D], [B])
    lab.run(8)
    # Its second face: what the first has told is not known to it.
    if lab.domains[A].replica.may_write(lab.now) is None:
        lab.state(A, record(A, "two"))
    lab.run(20)
    lab.heal()
    lab.run(60)
    assert all(lab.domains[name].replica.standing(feed, EPOCH + lab.now) is Standing.FROZEN for name in (B, C, D))
    assert all(any(one.refusal.code == "feed.equivocation" for one in lab.domains[name].alarms) for name in (B, C, D))
    lab.state(B, record(B, "goes-on"))
    lab.run(10)
    assert lab.agreed(but=[A]), lab.differences(but=[A])


def test_keys_change_and_old_ones_say_nothing_more() -> None:
    lab = told(Lab(NAMES))
    lab.new_key(A)
    lab.state(A, record(A, "new", number=1))
    lab.run(10)
    lab.drop_key(A, 0)
    lab.run(60)
    assert lab.agreed(), lab.differences()
    # Who knows nothing of it yet reads all of it, what the old key has signed too.
    lab.domains[D].store = type(lab.domains[D].store)()
    lab.restart(D)
    lab.run(60)
    assert lab.agreed(), lab.differences()


def test_what_a_thief_of_a_key_has_told_is_taken_back() -> None:
    lab = told(Lab(NAMES))
    feed = Feed(A)
    last = lab.domains[A].replica.position(feed).seq
    thief = lab.backup(A)
    forged = record(A, "forged")
    Owner(key_of(A), thief, None).state([forged], EPOCH + lab.now)
    lab.ever[feed] |= {told.body for told in thief.stated(feed)}
    real, lab.domains[A].store = lab.domains[A].store, thief
    lab.restart(A)
    lab.run(10)
    assert item(A, "forged") in lab.domains[B].stated(feed)
    lab.domains[A].store = real
    lab.restart(A)
    lab.new_key(A)
    lab.drop_key(A, 0)
    lab.new_epoch(A, feed, revoked=[Revoked(key_of(A).key_id, 1, last)])
    lab.run(90)
    assert lab.agreed(), lab.differences()
    assert all(item(A, "forged") not in lab.domains[name].stated(feed) for name in NAMES)


def test_a_clock_that_is_an_hour_ahead_is_refused_and_one_that_is_behind_is_not() -> None:
    lab = Lab(NAMES)
    lab.domains[A].skew_s, lab.domains[B].skew_s = 3_600.0, -50.0
    lab.run(10)
    for name in NAMES:
        lab.state(name, record(name, "r"))
    lab.run(20)
    assert lab.domains[C].stated(Feed(A)) == {}
    assert {one.refusal.code for one in lab.domains[C].alarms} == {"feed.ahead"}
    assert set(lab.domains[C].stated(Feed(B))) == {item(B, "r")}
    lab.domains[A].skew_s = 0.0
    lab.state(A, record(A, "r", "2"))
    lab.run(120)
    assert lab.agreed(), lab.differences()


@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_happens_all_agree_after_it_is_over(seed: int) -> None:
    random = Random(seed)
    lab = told(Lab(NAMES, seed, lose=0.05, twice=0.1))
    copies = {name: lab.backup(name) for name in NAMES}
    for turn in range(12):
        name = random.choice(NAMES)
        match random.choice(
            ("state", "state", "state", "withdraw", "move", "split", "heal", "restart", "restore", "away")
        ):
            case "state":
                lab.state(name, record(name, f"n{turn}"), record(name, "r0", str(turn)))
            case "withdraw":
                lab.say(name, lambda owner, now, name=name: owner.withdraw([item(name, "r1"), item(name, "r2")], now))
            case "move":
                lab.state(
                    name, record(name, "r3", audience=f"partner:{random.choice([n for n in NAMES if n != name])}")
                )
            case "split":
                lab.split(random.sample(NAMES, 2))
            case "heal":
                lab.heal()
            case "restart":
                lab.restart(name)
            case "restore" if not lab.cut and not lab.down:
                lab.restore(name, copies[name])
            case "away":
                lab.down = {name} if not lab.down else set()
            case _:
                pass
        lab.run(random.uniform(0, 10))
    lab.heal()
    lab.down.clear()
    lab.lose = lab.twice = 0.0
    lab.run(120)
    assert lab.agreed(but=[feed.origin for feed in _frozen(lab)]), lab.differences()
    for feed in _frozen(lab):
        lab.new_epoch(feed.origin, feed)
    lab.run(90)
    assert lab.agreed(), lab.differences()


def _frozen(lab: Lab) -> set[Feed]:
    kept = [(domain, one.at.feed) for domain in lab.domains.values() for one in domain.store.kept()]
    return {feed for domain, feed in kept if domain.replica.standing(feed, EPOCH) is Standing.FROZEN}
