"""A cluster asks for nodes where something waits that they could take, and gives them back when nothing runs there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ioi_dagster.model.negotiation import RenewRequest
from ioi_dagster.model.quota import CohortQuota, Quota, QuotaTree, TenantQuota
from tests.autoscaled import QUICK, Cloud, group


def refusals(bid) -> list[str]:
    return [refusal.code for refusal in bid.refusals]


def test_without_any_node_a_run_waits_and_is_told_that_nodes_come():
    cloud = Cloud(group())
    first = cloud.asks(2, wait_s=0.0)
    assert (refusals(first), first.never) == (["cluster.scaling_up"], ())
    assert cloud.asks(2) is None  # it waits
    cloud.passes(3)
    assert cloud.names == ("g-1", "g-2")
    again = cloud.asks(2, wait_s=0.0)
    assert again.refusals[0].text == "2 more of g come, the first asked for 1 s ago; one takes about 5 s"


def test_what_waits_is_given_room_when_the_node_comes():
    cloud = Cloud(group())
    assert cloud.asks() is None
    cloud.passes(10)
    assert [point.slots for reply in cloud.told for point in reply.answer.points] == [1]
    assert len(cloud.awards("a").leases) == 1


def test_a_node_goes_when_nothing_has_run_there_for_long_enough_and_the_last_one_too():
    cloud = Cloud(group())
    cloud.asks()
    cloud.passes(8)
    cloud.awards("a")
    for _ in range(10):
        cloud.passes(10)
        cloud.renews()
    assert cloud.names == ("g-1",)  # it works
    cloud.ends("a")
    cloud.passes(29)
    assert cloud.names == ("g-1",)
    cloud.passes(5)
    assert (cloud.names, cloud.there) == ((), set())
    assert cloud.view()["why"] == "1 less: nothing has run there for 30 s"


def test_after_zero_it_comes_back():
    cloud = Cloud(group())
    for _ in range(2):
        assert cloud.asks() is None
        cloud.passes(9)
        assert cloud.names == ("g-1",)
        cloud.awards("a")
        cloud.ends("a")
        cloud.passes(60)
        assert cloud.names == ()


def test_a_node_that_is_to_go_takes_nothing_new_and_stays_where_it_is_needed_again():
    cloud = Cloud(group())
    cloud.asks()
    cloud.passes(8)
    while not cloud.view()["leaving"]:
        cloud.passes(1)
    answer = cloud.awards("late")
    assert (answer.leases, [one.refusal.code for one in answer.rejected]) == ((), ["cluster.scaling_up"])
    assert cloud.asks() is None
    cloud.passes(6)
    assert cloud.view()["there"] == 1
    assert len(cloud.awards("late").leases) == 1


def test_what_is_done_at_a_node_under_no_lease_keeps_it():
    cloud = Cloud(group())
    cloud.asks()
    cloud.passes(8)
    cloud.busy("g-1", True)
    cloud.passes(100)
    assert cloud.names == ("g-1",)
    cloud.busy("g-1", False)
    cloud.passes(40)
    assert cloud.names == ()


def test_work_that_begins_while_a_node_is_to_go_keeps_it():
    cloud = Cloud(group())
    cloud.asks()
    cloud.passes(8)
    while not cloud.view()["leaving"]:
        cloud.passes(1)
    cloud.busy("g-1", True)
    cloud.passes(10)
    assert (cloud.names, cloud.view()["there"]) == (("g-1",), 1)


def test_no_more_nodes_than_there_is_work_for_are_asked_for():
    cloud = Cloud(group(slots=3))
    cloud.asks(4)
    cloud.passes(3)
    assert cloud.names == ("g-1", "g-2")
    cloud.passes(1)
    assert cloud.names == ("g-1", "g-2")  # those that come count


def test_what_a_node_cannot_hold_is_never_waited_for():
    cloud = Cloud(group(memory=100.0))
    bid = cloud.asks(1, resources=(("memory", 200.0),))
    assert [(one.group.count, one.refusal.code) for one in bid.never] == [(1, "cluster.never")]


def test_what_only_nodes_could_take_that_are_not_there_waits_beside_smaller_ones():
    small, large = group(name="g", memory=100.0), group(name="large", memory=1000.0)
    cloud = Cloud(small, large)
    cloud.asks(1, run="s")
    cloud.passes(8)
    assert cloud.names == ("g-1",)
    assert cloud.asks(1, resources=(("memory", 200.0),)) is None
    cloud.passes(8)
    assert cloud.wanted["large"].nodes == ("large-1",)
    assert len(cloud.awards("a", resources=(("memory", 200.0),)).leases) == 1


def test_of_groups_that_could_take_it_the_cheapest_grows_and_then_the_next():
    dear = group(replace(QUICK, node_hour=9.0), name="dear")
    cloud = Cloud(dear, group(replace(QUICK, max=2)))
    cloud.asks(3)
    cloud.passes(3)
    assert (cloud.names, cloud.wanted["dear"].nodes) == (("g-1", "g-2"), ("dear-1",))


def test_a_gang_that_would_not_be_whole_brings_no_node():
    cloud = Cloud(group())
    assert cloud.asks(5, gang=5) is not None  # never: four nodes at most
    cloud.asks(4, gang=4, run="other")
    cloud.passes(3)
    assert len(cloud.names) == 4


def test_a_tenant_at_its_limit_brings_no_node():
    tree = QuotaTree((CohortQuota("x", (TenantQuota("t", quota=Quota(borrows={"slots": 2.0})),)),))
    cloud = Cloud(group(), quotas=tree)
    cloud.asks(4)
    cloud.passes(3)
    assert cloud.names == ("g-1", "g-2")


def test_what_a_node_costs_an_hour_bounds_how_many_there_are():
    cloud = Cloud(group(replace(QUICK, per_hour=5.0)))
    cloud.asks(4)
    cloud.passes(4)
    view = cloud.view()
    assert (cloud.names, view["cost_hour"], view["held"]) == (
        ("g-1", "g-2"),
        4.0,
        "2 nodes cost what it may an hour (5 credits)",
    )


def test_a_budget_that_is_spent_brings_no_more_nodes_gives_back_idle_ones_and_ends_no_work():
    cloud = Cloud(group(replace(QUICK, per_day=0.1)))  # 180 s of one node
    cloud.asks(1)
    cloud.passes(8)
    cloud.awards("a")
    for _ in range(40):
        cloud.passes(10)
        cloud.renews()
    assert (cloud.names, cloud.ended) == (("g-1",), [])
    assert cloud.asks(1, run="r2") is None
    told = len(cloud.told)
    cloud.passes(20)
    assert (cloud.names, cloud.view()["held"]) == (("g-1",), "0.2367 of its 0.1 credits a day are spent")
    refusal = cloud.asks(1, run="r3", wait_s=0.0).refusals[0]
    assert (refusal.code, refusal.text) == (
        "cluster.scaling_held",
        "1 of g end what runs there, and none is asked for: 0.2367 of its 0.1 credits a day are spent",
    )
    cloud.ends("a")
    cloud.passes(4)
    assert (cloud.names, cloud.there) == ((), set())  # however much waits
    assert [point for reply in cloud.told[told:] for point in reply.answer.points] == []
    assert cloud.view()["why"] == "1 less: its budget for the day is spent"


def test_when_a_budget_is_spent_what_steps_of_its_nodes_wait_for_still_runs_so_that_they_end():
    cloud = Cloud(group(replace(QUICK, per_day=0.1)))
    cloud.asks(1)
    cloud.passes(8)
    cloud.awards("mapped")
    for _ in range(20):
        cloud.passes(10)
        cloud.renews()
    assert cloud.view()["held"].endswith("credits a day are spent")
    assert not cloud.awards("mapped#1.1/0").leases, "its slot is taken"
    (mapped,) = cloud.leases.values()
    cloud.event(RenewRequest("r", (mapped.id,), (mapped.id,), "home"))
    assert len(cloud.awards("mapped#1.1/0").leases) == 1
    cloud.ends("mapped#1.1/0", "mapped")
    assert not cloud.awards("other").leases
    cloud.passes(4)
    assert (cloud.names, cloud.there) == ((), set())


def test_while_work_keeps_coming_a_day_costs_what_it_may_and_the_end_of_what_runs():
    cloud = Cloud(group(replace(QUICK, max=3, per_day=1.0, busy_below=0.2), slots=2))
    begun: dict[str, float] = {}
    for second in range(3600):
        for name in [name for name, at in begun.items() if second - at >= 30]:
            cloud.ends(name)
            del begun[name]
        cloud.asks(6)
        granted = cloud.awards(*(f"s{second}-{number}" for number in range(6 - len(begun))))
        begun |= {lease.step: second for lease in granted.leases}
        if second % 5 == 0:
            cloud.renews()
        cloud.passes(1)
    assert 1.0 <= cloud.view()["cost_day"] <= 1.0 + 3 * 2.0 * (30 + 5) / 3600
    assert (cloud.names, cloud.there, begun) == ((), set(), {})
    assert not [one for one in cloud.ended if one[1] != "released"]


def test_no_more_nodes_are_asked_for_at_once_than_the_budget_pays_for():
    cloud = Cloud(group(replace(QUICK, per_day=0.025)))  # twice 20 s of one node, and a little
    cloud.asks(4)
    cloud.passes(4)
    assert cloud.names == ("g-1", "g-2")
    cloud.asks(4, run="r2")
    cloud.passes(10)
    assert cloud.names == ("g-1", "g-2")


def test_nodes_that_come_are_given_back_when_the_budget_is_spent():
    cloud = Cloud(group(replace(QUICK, per_day=0.015)))  # 27 s of one node
    cloud.comes = False
    cloud.asks(1)
    cloud.passes(10)
    assert cloud.names == ("g-1",)
    cloud.passes(25)
    assert (cloud.names, cloud.view()["coming"]) == ((), 0)
    assert cloud.asks(1, run="r2", wait_s=0.0).refusals[0].code == "cluster.scaling_held"


def test_what_nodes_cost_between_the_last_telling_and_a_restart_counts():
    cloud = Cloud(group())
    cloud.asks(1)
    cloud.passes(8)
    cloud.busy("g-1", True)
    cloud.passes(100)
    spent = cloud.view()["cost_day"]
    cloud.now += 2 * 3600.0 + 60
    cloud.restart()
    assert cloud.view()["cost_day"] == pytest.approx(spent + 2.0 * (2 * 3600 + 60) / 3600, abs=0.001)
    cloud.now += 3 * 86_400.0
    cloud.restart()
    assert cloud.view()["cost_day"] == pytest.approx(24 * 2.0, abs=0.001)


def test_a_budget_is_free_again_a_day_later():
    cloud = Cloud(group(replace(QUICK, per_day=0.03)))
    cloud.asks(1)
    cloud.passes(120)
    assert cloud.names == ()
    cloud.asks(1)
    cloud.passes(60)
    assert (cloud.names, cloud.asks(1, wait_s=0.0).refusals[0].code) == ((), "cluster.scaling_held")
    cloud.now += 90_000.0
    cloud.asks(1)
    cloud.passes(10)
    assert cloud.names == ("g-1",)


def test_what_was_spent_late_in_an_hour_counts_for_a_whole_day_too():
    cloud = Cloud(group(replace(QUICK, per_day=0.5)))
    cloud.asks(1)
    cloud.passes(60)
    assert cloud.names == ()
    cloud.now += 2800.0
    cloud.asks(1)
    cloud.passes(8)
    cloud.busy("g-1", True)
    cloud.passes(900)
    cloud.busy("g-1", False)
    cloud.passes(10)
    assert (cloud.names, cloud.view()["cost_day"] > 0.5) == ((), True)
    for restarted in (False, True):
        cloud.now += 42_000.0
        if restarted:
            cloud.restart()
        cloud.passes(1)
        assert cloud.asks(1, wait_s=0.0).refusals[0].code == "cluster.scaling_held", (
            "most of it was less than a day ago"
        )
    cloud.now += 8_000.0
    cloud.asks(1)
    cloud.passes(3)
    assert cloud.names == ("g-1",)


def test_what_is_owed_for_nodes_that_were_just_asked_for_is_told():
    cloud = Cloud(group(replace(QUICK, per_day=0.025)))  # twice 20 s of one node, and a little
    cloud.asks(1)
    cloud.passes(3)
    assert cloud.names == ("g-1",)
    cloud.asks(4, run="r2")
    cloud.passes(6)
    assert cloud.names == ("g-1", "g-2")
    spent, owed = 2.0 * (7 + 2) / 3600, 2.0 * (20 - 7 + 20 - 2) / 3600  # by when each was asked for
    assert cloud.view()["held"] == (
        f"{spent:.4g} of its 0.025 credits a day are spent, {owed:.4g} are owed for those it has asked for, "
        "and one more costs 0.01111 at least"
    )


def test_a_node_that_does_not_come_is_given_up_and_asked_for_again_later_and_later():
    cloud = Cloud(group())
    cloud.comes = False
    asked = []
    for _ in range(600):
        cloud.asks(1)
        cloud.passes(1)
        asked.append(bool(cloud.names))
    spans = "".join("1" if one else "0" for one in asked).split("1")
    pauses = [len(one) for one in spans if one]
    assert pauses[1:3] == [60, 120]
    assert any("did not come within 60 s" in one["why"] for one in cloud.view()["history"])
    cloud.comes = True
    for _ in range(400):
        cloud.asks(1)
        cloud.passes(1)
    assert cloud.view()["there"] == 1


def test_the_least_number_is_there_without_any_work():
    cloud = Cloud(group(replace(QUICK, min=2)))
    cloud.passes(200)
    assert cloud.names == ("g-1", "g-2")


def test_a_governor_that_begins_anew_loses_no_node_and_leaks_none():
    cloud = Cloud(group())
    cloud.asks(3)
    cloud.passes(4)
    assert len(cloud.names) == 3
    cloud.restart()  # while they come
    cloud.passes(10)
    assert (cloud.names, cloud.there, cloud.view()["there"]) == (("g-1", "g-2", "g-3"), {"g-1", "g-2", "g-3"}, 3)
    for node in cloud.names:
        cloud.busy(node, True)
    cloud.passes(70)
    spent = cloud.view()["cost_day"]
    cloud.restart()
    assert cloud.view()["cost_day"] == pytest.approx(spent, abs=0.001)
    cloud.passes(100)
    assert (cloud.names, cloud.there) == ((), set())


def test_a_node_that_crashes_is_waited_for_and_not_asked_for_twice():
    cloud = Cloud(group())
    cloud.asks(1)
    cloud.passes(8)
    cloud.crashes("g-1")
    cloud.asks(1)
    cloud.passes(3)
    assert (cloud.names, cloud.view()["coming"]) == (("g-1",), 1)
    cloud.passes(4)
    assert cloud.view()["there"] == 1


def test_a_node_that_comes_after_it_was_given_up_is_used_and_then_given_back():
    cloud = Cloud(group())
    cloud.joins("g-3")
    cloud.passes(1)
    assert cloud.names == ("g-3",)
    cloud.passes(60)
    assert (cloud.names, cloud.there) == ((), set())


@pytest.mark.parametrize(("within_s", "nodes"), [(0.0, 4), (100.0, 2), (1000.0, 1)])
def test_a_run_that_has_little_left_brings_no_more_nodes_than_get_through_it_in_time(within_s, nodes):
    cloud = Cloud(group(replace(QUICK, within_s=within_s)))
    cloud.asks(4, remaining_s=150.0)
    cloud.passes(3)
    assert len(cloud.names) == nodes


@pytest.mark.parametrize(("due_s", "nodes"), [(1000.0, 1), (90.0, 2), (65.0, 3), (5.0, 4), (0.0, 4)])
def test_a_run_with_a_deadline_brings_as_many_nodes_as_it_needs_to_keep_it_once_they_are_there(due_s, nodes):
    cloud = Cloud(group(replace(QUICK, within_s=10.0)))
    cloud.asks(4, remaining_s=150.0, due_s=due_s)
    cloud.passes(3)
    assert len(cloud.names) == nodes


@pytest.mark.parametrize(("due_s", "nodes"), [(20.0, {"g-1", "h-1"}), (9_000.0, {"g-1"})])
def test_who_is_to_be_over_sooner_is_given_room_first(due_s, nodes):
    """Both could have the cheap node, and the other run one that is dear, too."""
    cheap = group(replace(QUICK, max=1), offers=("work", "other"))
    cloud = Cloud(cheap, group(replace(QUICK, max=1, node_hour=9.0), "h", offers=("other",)))
    cloud.asks(1, run="first", what="other", remaining_s=100.0, due_s=9_000.0)
    cloud.asks(1, run="second", what="work", remaining_s=100.0, due_s=due_s)
    cloud.passes(3)
    assert set().union(*(want.nodes for want in cloud.wanted.values())) == nodes


def test_priority_does_not_wait_for_others_to_get_through():
    cloud = Cloud(group(replace(QUICK, within_s=1000.0)))
    cloud.asks(4, remaining_s=150.0, priority=1)
    cloud.passes(3)
    assert len(cloud.names) == 4


def test_a_deadline_comes_nearer_while_its_run_waits():
    cloud = Cloud(group(replace(QUICK, up_pause_s=1)))
    cloud.comes = False
    cloud.asks(4, remaining_s=150.0, due_s=160.0)
    cloud.passes(3)
    assert len(cloud.names) == 1
    cloud.passes(50)
    assert len(cloud.names) == 2


@pytest.mark.parametrize(("priority", "nodes"), [(1, 1), (2, 4)])
def test_parts_of_a_map_bring_nodes_by_the_priority_of_their_run(priority, nodes):
    """They have one more than it has."""
    cloud = Cloud(group(replace(QUICK, within_s=1000.0)))
    cloud.asks(4, remaining_s=150.0, priority=priority, part=True)
    cloud.passes(3)
    assert len(cloud.names) == nodes


def test_a_node_too_many_stays_where_those_that_are_left_would_be_busier_than_its_owner_wants():
    cloud = Cloud(group(replace(QUICK, busy_below=0.5)))
    cloud.asks(3)
    cloud.passes(8)
    cloud.awards("a")
    for _ in range(10):
        cloud.passes(10)
        cloud.renews()
    assert len(cloud.names) == 2
