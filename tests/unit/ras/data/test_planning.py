"""Where copies are, from where to take them, whom to give them, which to keep: decided on values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_move import Place
from ioi_dagster.model.decision import Decision, Obligation, Verdict
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.data_moves import move_policy
from ioi_dagster.policy.gate import Gate
from ioi_dagster.ras.data.asset import Part, check_parts
from ioi_dagster.ras.data.copies import (
    Worth,
    copies_of,
    read_copy,
    standing,
    standings,
    tell_copy,
    withdraw_copy,
)
from ioi_dagster.ras.data.routing import may_go, route
from ioi_dagster.ras.data.spread import spread
from ioi_dagster.ras.data.sync import Deed, Wanted, plan_sync
from ioi_dagster.ras.leases import LeasedState
from tests.unit.ras.data.made import SCANS, asset, copy, deny, network

HOME, LAB, CLOUD, EDGE = "library.example", "lab.example", "cloud.example", "edge.example"
ASSET = asset()
NEXT = asset({**SCANS, "c.bin": b"new"}, "1.1.0")
SMALL = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(
    "names",
    [("../a",), ("/a",), ("a/../b",), (".a",), ("a//b",), ("a\\b",), ("a%2f",), ("A", "a"), ("a", "a/b"), ("",)],
)
def test_names_of_parts_are_safe_below_any_folder(names):
    with pytest.raises(BadInputError):
        check_parts([Part(name, 1, "sha256:" + "0" * 64) for name in names], "here")


def test_each_copy_is_worth_something_of_its_own():
    wrong = replace(copy(ASSET, CLOUD), held={"c.bin": "sha256:" + "0" * 64})
    unknown = replace(copy(ASSET, CLOUD), of="sha256:" + "1" * 64)
    worth = [
        standing(NEXT, copy(NEXT, HOME)).worth,
        standing(NEXT, copy(NEXT, LAB, names=["c.bin"])).worth,
        standing(NEXT, copy(ASSET, LAB), [ASSET]).worth,
        standing(NEXT, copy(ASSET, LAB)).worth,
        standing(ASSET, wrong).worth,
        standing(ASSET, unknown).worth,
    ]
    assert worth == [Worth.WHOLE, Worth.PARTIAL, Worth.STALE, Worth.DIVERGED, Worth.DIVERGED, Worth.DIVERGED]
    assert set(standing(NEXT, copy(ASSET, LAB), [ASSET]).usable) == {"2024/a.txt", "2024/b.txt"}


def test_a_copy_that_is_not_told_of_again_is_not_counted_on():
    state, told = LeasedState(), copy(ASSET, LAB)
    assert tell_copy(state, told, 5.0, 0.0) is None
    assert copies_of(state, ASSET.urn, 4.9) == (told,)
    assert copies_of(state, ASSET.urn, 5.0) == ()
    tell_copy(state, told, 5.0, 6.0)
    withdraw_copy(state, told)
    assert copies_of(state, ASSET.urn, 6.0) == ()


def test_who_tells_of_copies_speaks_for_himself_and_in_bounds():
    told = {"domain": LAB, "url": "file:///x", "asset": ASSET.urn, "version": "1", "of": ASSET.digest, "held": {}}
    assert read_copy(told, LAB).domain == LAB
    for odd in ({"domain": CLOUD}, {"url": "file://" + "x" * 2000}, {"held": {"a": "b"}}, {"of": "md5:1"}, {"held": 1}):
        with pytest.raises(BadInputError):
            read_copy({**told, **odd}, LAB)


def test_the_cheapest_copy_comes_first_and_the_others_after_it():
    links = [Link(CLOUD, LAB, 0.5, 1e9), Link(HOME, LAB, 0.0, 1e3)]
    way = route(
        ASSET, standings(ASSET, [copy(ASSET, HOME), copy(ASSET, CLOUD)]), LAB, network(HOME, LAB, CLOUD, links=links)
    )
    order = {leg.part.name: [source.copy.domain for source in leg.sources] for leg in way.legs}
    assert order == {"2024/a.txt": [CLOUD, HOME], "2024/b.txt": [CLOUD, HOME], "c.bin": [CLOUD, HOME]}


def refusals(way) -> set[tuple[str, str]]:
    return {(one.domain, one.refusal.code) for one in way.refused}


def test_every_refused_source_is_named_with_its_reason():
    its = asset(data_class=DataClass.RESTRICTED, regions=["EU"])
    places = [
        Place(HOME, DataClass.RESTRICTED, "EU"),
        Place(LAB, DataClass.RESTRICTED, "EU"),
        Place(CLOUD, DataClass.PUBLIC, "EU"),
        Place(EDGE, DataClass.RESTRICTED, "US"),
    ]
    holders = [copy(its, HOME), copy(its, CLOUD), copy(its, EDGE), copy(its, "gone.example")]
    way = route(its, standings(its, holders), LAB, network(*places, policy=deny(HOME)))
    assert refusals(way) == {
        (HOME, "test.no"),
        (CLOUD, "data.class"),
        (EDGE, "data.residency"),
        ("gone.example", "data.unknown_domain"),
    }
    assert (way.legs, set(way.missing)) == ((), set(SCANS))
    assert refusals(route(its, standings(its, holders), CLOUD, network(*places))) == {(CLOUD, "data.class")}


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        (Decision("1", Verdict.HOLD, (Refusal("x", "approval", "p"),)), "data.held"),
        (Decision("1", Verdict.DENY), "data.denied"),
        (Decision("1", Verdict.ALLOW, obligations=(Obligation("redact"),)), "data.denied"),
    ],
)
def test_policy_that_does_not_plainly_allow_lets_nothing_go(decision, code):
    its = network(HOME, LAB, policy=lambda move: decision)
    assert [one.code for one in may_go(ASSET, HOME, LAB, its)] == [code]
    assert may_go(ASSET, LAB, LAB, its) == ()


domains = st.sampled_from([HOME, LAB, CLOUD, EDGE])
classes = st.sampled_from(list(DataClass))
regions = st.sampled_from(["EU", "US", ""])
VERSIONS = [
    (asset(data_class=its, regions=bound), asset({**SCANS, "c.bin": b"new"}, "1.1.0", its, bound))
    for its in DataClass
    for bound in ((), ("EU",), ("EU", "US"))
]


@st.composite
def worlds(draw):
    """(network, asset, next version, copies of either): anything may be anywhere."""
    old, new = draw(st.sampled_from(VERSIONS))
    places = [Place(name, draw(classes), draw(regions)) for name in draw(st.sets(domains))]
    denied = draw(st.sets(st.tuples(domains, domains), max_size=3))

    def policy(move):
        verdict = Verdict.DENY if (move.source.domain, move.target.domain) in denied else Verdict.ALLOW
        return Decision("1", verdict, (Refusal("test.no", "no", "p"),) if verdict is Verdict.DENY else ())

    copies = []
    for number in range(draw(st.integers(0, 5))):
        of = draw(st.sampled_from([old, new, new]))
        made = copy(of, draw(domains), f"memory://{number}", draw(st.sets(st.sampled_from(list(SCANS)))))
        copies.append(replace(made, original=draw(st.booleans())))
    return network(*places, policy=policy), old, new, copies


@SMALL
@given(worlds(), domains)
def test_nothing_is_taken_from_where_it_may_not_be_or_go(world, target):
    its, old, new, copies = world
    way = route(new, standings(new, copies, [old]), target, its)
    for leg in way.legs:
        for source in leg.sources:
            assert may_go(new, source.copy.domain, target, its) == ()
            assert source.copy.held[source.path] == leg.part.digest
    assert {leg.part.name for leg in way.legs} | set(way.missing) == {part.name for part in new.parts}
    used = {source.copy.where for leg in way.legs for source in leg.sources}
    named = {(one.domain, one.url) for one in way.refused}
    if (target, "") not in named:
        assert not used & named


@SMALL
@given(worlds(), st.integers(1, 3))
def test_each_target_is_given_to_once_by_one_who_has_it_and_may(world, fan_out):
    its, old, new, copies = world
    known = standings(new, copies, [old])
    plan = spread(new, known, [HOME, LAB, CLOUD, EDGE], its, fan_out)
    waves = {one.copy.domain: 0 for one in known if one.worth is Worth.WHOLE}
    for hop in plan.hops:
        assert may_go(new, hop.source, hop.target, its) == ()
        assert hop.target not in waves
        assert hop.wave == waves[hop.source] + 1
        waves[hop.target] = hop.wave
    assert {HOME, LAB, CLOUD, EDGE} == waves.keys() | {one.domain for one in plan.refused}


def test_a_source_is_not_read_once_for_each_target():
    names = [f"d{number}.example" for number in range(6)]
    known = standings(ASSET, [copy(ASSET, HOME)])
    chain = spread(ASSET, known, names, network(HOME, *names), fan_out=1)
    assert [(hop.source, hop.wave) for hop in chain.hops] == [(HOME, 1), *((f"d{n}.example", n + 2) for n in range(5))]
    tree = spread(ASSET, known, names, network(HOME, *names))
    assert sum(hop.source == HOME for hop in tree.hops) == 2
    assert max(hop.at for hop in tree.hops) < max(hop.at for hop in chain.hops)


def performed(plan, copies, new):
    """What copies there are once each action was done."""
    left = [one for one in copies if one not in [action.copy for action in plan.actions]]
    for action in plan.actions:
        if action.route is not None:
            url = f"memory://{action.domain}/{new.version}"
            held = next((one.held for one in left if one.where == (action.domain, url)), {})
            names = {*held, *(leg.part.name for leg in action.route.legs)}
            left = [one for one in left if one.where != (action.domain, url)]
            left.append(copy(new, action.domain, url, names))
    return left


@SMALL
@given(worlds(), st.frozensets(domains), st.booleans())
def test_sync_comes_to_an_end_and_never_drops_the_last_whole_copy(world, wanted, withdrawn):
    its, old, new, copies = world
    goal = Wanted(new, wanted, withdrawn)

    def whole(now):
        return [one for one in now if standing(new, one).worth is Worth.WHOLE]

    for _ in range(6):
        plan = plan_sync(goal, standings(new, copies, [old]), its)
        dropped = [action.copy for action in plan.actions if action.deed is Deed.DROP]
        assert not any(one.original for one in dropped)
        if withdrawn:
            assert plan.actions == tuple(action for action in plan.actions if action.deed is Deed.DROP)
        elif whole(copies):
            # Even if nothing that is to be copied arrives.
            assert whole([one for one in copies if one not in dropped])
        before, copies = copies, performed(plan, copies, new)
        busy = {action.domain for action in plan.actions if action.route is not None}
        assert not busy & {one.domain for one in dropped}
        if sorted(before, key=str) == sorted(copies, key=str):
            assert plan.in_sync
            break
    else:
        pytest.fail("it goes on for ever")
    if withdrawn:
        assert all(one.original for one in copies)


def test_what_is_wanted_is_copied_refreshed_and_then_the_old_goes():
    its = network(HOME, LAB, CLOUD, EDGE)
    copies = [copy(NEXT, HOME, original=True), copy(ASSET, LAB), copy(NEXT, EDGE)]
    goal = Wanted(NEXT, frozenset({HOME, LAB, CLOUD}))
    first = plan_sync(goal, standings(NEXT, copies, [ASSET]), its)
    assert [(action.deed, action.domain) for action in first.actions] == [
        (Deed.COPY, CLOUD),
        (Deed.REFRESH, LAB),
        (Deed.DROP, EDGE),
    ]
    copies = performed(first, copies, NEXT)
    second = plan_sync(goal, standings(NEXT, copies, [ASSET]), its)
    assert [(action.deed, action.domain) for action in second.actions] == [(Deed.DROP, LAB)]
    assert plan_sync(goal, standings(NEXT, performed(second, copies, NEXT), [ASSET]), its).in_sync


def test_the_last_whole_copy_stays_and_it_is_said_why():
    plan = plan_sync(Wanted(ASSET, frozenset({LAB})), standings(ASSET, [copy(ASSET, EDGE)]), network(LAB))
    assert plan.in_sync
    assert refusals(plan) == {
        (EDGE, "data.unknown_domain"),
        (LAB, "data.no_source"),
        (EDGE, "data.last_copy"),
    }


class ClassesOnly:
    """Policies that say one thing of data that moves."""

    name, revision = "test", "1"
    entrypoints = frozenset({"ioi/book/data_move/verdict"})

    def evaluate(self, entrypoint, document):
        fine = document["target"]["domain"] == document["asset"]["owner"] or document["asset"]["data_class"] == "public"
        return {"allow": fine, "deny": [] if fine else [{"code": "book.stays"}], "obligations": []}


def test_the_gate_decides_on_moves_and_holds_what_no_policy_speaks_of():
    its = network(HOME, LAB, policy=move_policy(Gate(ClassesOnly(), ("book",), ManualClock()), LAB, ManualClock()))
    assert [one.code for one in may_go(ASSET, HOME, LAB, its)] == ["book.stays"]
    assert may_go(ASSET, LAB, HOME, its) == ()
    assert may_go(asset(data_class=DataClass.PUBLIC), HOME, LAB, its) == ()
    silent = network(HOME, LAB, policy=move_policy(Gate(ClassesOnly(), ("other",), ManualClock()), LAB, ManualClock()))
    assert [one.code for one in may_go(ASSET, HOME, LAB, silent)] == ["data.held"]
