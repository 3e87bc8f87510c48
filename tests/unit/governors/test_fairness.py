"""Fair arbitration, told as stories: requests in, grants and evictions out."""

from __future__ import annotations

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.fairness import Arbiter, Evict, Request, Rules
from ioi_dagster.model.quota import ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal

CPU = {"cpu": 1.0}


def nodes(count: int, cpu: float = 1.0) -> dict[str, dict[str, float]]:
    return {f"n{number}": {"cpu": cpu} for number in range(count)}


def ask(arbiter: Arbiter, tenant: str, count: int, cpu: float = 1.0, start: int = 0, **more) -> None:
    for number in range(start, start + count):
        given = {"arrived": float(number), **more}
        assert arbiter.on_request(Request(f"{tenant}{number}", tenant, {"cpu": cpu}, **given)) is None


def running(arbiter: Arbiter) -> dict[str, int]:
    arbiter.validate()
    return {name: view.running for name, view in arbiter.snapshot(0.0).tenants.items()}


def cohort(name: str, *tenants: TenantQuota, **more) -> CohortQuota:
    return CohortQuota(name, tenants, **more)


def guaranteed(cpu: float, lends: float | None = None, borrows: float | None = None) -> Quota:
    return Quota({"cpu": cpu}, {} if lends is None else {"cpu": lends}, {} if borrows is None else {"cpu": borrows})


def test_room_is_shared_by_weight():
    arbiter = Arbiter(nodes(12), {"a": 1.0, "b": 2.0, "c": 3.0})
    for tenant in "abc":
        ask(arbiter, tenant, 20)
    assert len(arbiter.arbitrate(0.0)) == 12
    assert running(arbiter) == {"a": 2, "b": 4, "c": 6}


def test_what_one_does_not_want_the_others_have():
    arbiter = Arbiter(nodes(9), {"a": 1.0, "b": 1.0, "c": 1.0})
    ask(arbiter, "a", 1)
    ask(arbiter, "b", 20)
    ask(arbiter, "c", 20)
    arbiter.arbitrate(0.0)
    assert running(arbiter) == {"a": 1, "b": 4, "c": 4}


def test_who_was_idle_gets_the_next_that_is_free_and_no_more_than_its_part():
    arbiter = Arbiter(nodes(4), {"a": 1.0, "b": 1.0})
    ask(arbiter, "a", 20)
    arbiter.arbitrate(0.0)
    ask(arbiter, "b", 20)
    for number in range(4):
        arbiter.on_finished(f"a{number}")
        arbiter.arbitrate(1.0)
    assert running(arbiter) == {"a": 2, "b": 2}


def test_nobody_beyond_its_part_starts_while_one_below_it_fits_nowhere():
    arbiter = Arbiter({"n0": {"cpu": 4.0}, "n1": {"cpu": 4.0}}, {"small": 1.0, "large": 1.0})
    ask(arbiter, "small", 20)
    arbiter.arbitrate(0.0)
    ask(arbiter, "large", 1, cpu=4.0)
    # One after the other ends, on either node in turn; without its turn the large one would never see four free at once.
    for number in range(8):
        arbiter.on_finished(f"small{number}")
        arbiter.arbitrate(1.0)
        if running(arbiter)["large"]:
            break
    assert running(arbiter)["large"] == 1
    assert number <= 6


def test_a_request_of_priority_waits_as_one_that_came_earlier_and_not_for_ever_before_others():
    arbiter = Arbiter(nodes(1), {"a": 1.0}, Rules(aging_s=60.0))
    ask(arbiter, "a", 1)
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("late", "a", CPU, arrived=100.0, priority=1))
    arbiter.on_request(Request("old", "a", CPU, arrived=30.0))
    arbiter.on_request(Request("middle", "a", CPU, arrived=50.0))
    order = []
    last = "a0"
    for _ in range(3):
        arbiter.on_finished(last)
        ((last, _),) = arbiter.arbitrate(0.0)
        order.append(last)
    assert order == ["old", "late", "middle"]


def test_an_idle_guarantee_is_lent_and_taken_back():
    tree = QuotaTree((cohort("x", TenantQuota("owner", quota=guaranteed(3)), TenantQuota("guest")),))
    arbiter = Arbiter(nodes(4), tree, Rules(min_run_s=0.0))
    ask(arbiter, "guest", 4)
    arbiter.arbitrate(0.0)
    assert running(arbiter) == {"guest": 4, "owner": 0}
    ask(arbiter, "owner", 3)
    assert arbiter.arbitrate(10.0) == []
    evicted = arbiter.evict(10.0)
    assert [type(one) for one in evicted] == [Evict] * 3, "as many as are guaranteed and asked for"
    assert "within its guarantee" in evicted[0].why
    assert arbiter.evict(10.0) == [], "each is told once"
    gone = [one.victim for one in evicted]
    while evicted:
        for one in evicted:
            arbiter.on_finished(one.victim)
        arbiter.arbitrate(11.0)
        evicted = arbiter.evict(11.0)
        gone += [one.victim for one in evicted]
    assert running(arbiter) == {"guest": 1, "owner": 3}
    assert len(gone) == 3
    for name in gone:
        ask_again = Request(name, "guest", CPU, arrived=0.0)
        assert arbiter.on_request(ask_again) is None
    assert arbiter.arbitrate(12.0) == []
    assert arbiter.evict(12.0) == [], "what was borrowed is not taken back"


def test_evictions_are_bounded_and_spare_what_has_just_begun_or_would_lose_much():
    tree = QuotaTree((cohort("x", TenantQuota("owner", quota=guaranteed(4)), TenantQuota("guest")),))
    arbiter = Arbiter(nodes(4), tree, Rules(min_run_s=30.0, evictions=1, window_s=300.0))
    ask(arbiter, "guest", 3)
    arbiter.on_request(Request("saves", "guest", CPU, arrived=9.0, checkpointable=True))
    arbiter.arbitrate(0.0)
    ask(arbiter, "owner", 4)
    arbiter.arbitrate(29.0)
    assert arbiter.evict(29.0) == [], "all have run for less than min_run_s"
    (first,) = arbiter.evict(31.0)
    assert first.victim == "saves"
    arbiter.on_finished("saves")
    arbiter.arbitrate(31.0)
    assert arbiter.evict(32.0) == [], "the budget of this window is spent"
    assert len(arbiter.evict(332.0)) == 1


def test_what_is_not_lent_stays_idle_and_borrowing_ends_at_its_limit():
    tree = QuotaTree(
        (
            cohort(
                "x",
                TenantQuota("owner", quota=guaranteed(2, lends=0)),
                TenantQuota("guest", quota=guaranteed(1, borrows=1)),
            ),
        )
    )
    arbiter = Arbiter(nodes(5), tree)
    ask(arbiter, "guest", 5)
    arbiter.arbitrate(0.0)
    assert running(arbiter) == {"guest": 2, "owner": 0}
    reason = arbiter.explain("guest2", 5.0)
    assert reason is not None
    assert reason.code == "fair.limit"
    assert "tenant guest uses 2 of the 2 cpu" in reason.text
    ask(arbiter, "owner", 2)
    arbiter.arbitrate(0.0)
    assert running(arbiter) == {"guest": 2, "owner": 2}


def test_what_one_does_not_lend_is_not_more_after_others_have_come_and_gone():
    tree = QuotaTree((cohort("x", TenantQuota("owner", quota=guaranteed(2, lends=0)), TenantQuota("guest")),))
    arbiter = Arbiter(nodes(5), tree)
    for number in range(0, 15, 3):
        ask(arbiter, "guest", 3, start=number)
        arbiter.arbitrate(0.0)
        assert running(arbiter) == {"guest": 3, "owner": 0}
        for its in range(number, number + 3):
            arbiter.on_finished(f"guest{its}")


def test_a_gang_starts_whole_or_not_at_all_and_small_ones_fill_in_before_it():
    arbiter = Arbiter(nodes(4), {"a": 1.0, "b": 1.0})
    ask(arbiter, "b", 2)
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("gang", "a", CPU, copies=4))
    assert arbiter.arbitrate(1.0) == []
    reason = arbiter.explain("gang", 2.0)
    assert reason is not None
    assert reason.code == "fair.holding"
    arbiter.on_finished("b0")
    assert arbiter.arbitrate(2.0) == []
    arbiter.on_finished("b1")
    granted = arbiter.arbitrate(3.0)
    assert [request for request, _ in granted] == ["gang"] * 4
    assert len({node for _, node in granted}) == 4


def test_a_gang_starts_as_soon_as_a_node_takes_something_again_though_the_others_are_held_for_it():
    arbiter = Arbiter(nodes(2), {"a": 1.0})
    arbiter.shut("n1", True)
    arbiter.on_request(Request("gang", "a", CPU, copies=2))
    assert arbiter.arbitrate(0.0) == []
    arbiter.shut("n1", False)
    assert arbiter.arbitrate(1.0) == [("gang", "n0"), ("gang", "n1")]


def test_a_gang_starts_at_once_where_what_it_lacks_is_held_for_one_that_needs_more():
    arbiter = Arbiter(nodes(2, cpu=2.0), {"a": 1.0, "b": 1.0, "c": 1.0})
    for number in range(2):
        arbiter.on_request(Request(f"c{number}", "c", CPU, nodes=(f"n{number}",)))
    assert arbiter.arbitrate(0.0) == [("c0", "n0"), ("c1", "n1")]
    ask(arbiter, "b", 1, cpu=2.0)
    assert arbiter.arbitrate(1.0) == []
    arbiter.on_request(Request("gang", "a", CPU, copies=2))
    assert sorted(arbiter.arbitrate(2.0)) == [("gang", "n0"), ("gang", "n1")]


def test_a_gang_starts_on_what_it_holds_and_what_comes_free_elsewhere():
    arbiter = Arbiter(nodes(3), {"a": 1.0, "b": 1.0})
    for number in (1, 2):
        arbiter.on_request(Request(f"b{number}", "b", CPU, nodes=(f"n{number}",)))
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("gang", "a", CPU, copies=2))
    assert arbiter.arbitrate(1.0) == []
    arbiter.on_finished("b2")
    assert arbiter.arbitrate(2.0) == [("gang", "n0"), ("gang", "n2")]


def test_a_gang_is_offered_what_was_too_little_for_one_before():
    arbiter = Arbiter({"one": {"cpu": 1}, "two": {"cpu": 1}}, {"a": 1.0})
    arbiter.on_request(Request("busy", "a", {"cpu": 1.0}, nodes=("two",)))
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("gang", "a", {"cpu": 1.0}, copies=2))
    assert arbiter.arbitrate(1.0) == []
    arbiter.on_finished("busy")
    like = arbiter.entry(Request("like", "a", {"cpu": 1.0}, copies=2))
    assert not isinstance(like, Refusal)
    assert arbiter.claims.quote(like) == 1


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (Request("r", "nobody", CPU), "fair.unknown_tenant", "'nobody' is not one of the tenants (a, b)"),
        (Request("r", "a", {"gpu": 1.0}), "fair.not_offered", "no node has gpu"),
        (Request("r", "a", {"cpu": 9.0}), "fair.too_large", "the most on any of the 2 nodes allowed: 4 cpu"),
        (Request("r", "a", {"cpu": 4.0}, copies=3), "fair.too_large", "2 of its 3 copies would fit"),
        (Request("r", "b", {"cpu": 4.0}), "fair.over_limit", "tenant b may use 2 at most"),
    ],
)
def test_what_nothing_can_ever_satisfy_is_refused_at_once_with_what_would_do(request_, code, says):
    tree = QuotaTree((cohort("x", TenantQuota("a"), TenantQuota("b", quota=guaranteed(1, borrows=1))),))
    refusal = Arbiter(nodes(2, cpu=4.0), tree).on_request(request_)
    assert refusal is not None
    assert refusal.code == code
    assert says in refusal.text
    assert refusal.remedy


def test_a_step_waits_for_the_nodes_of_its_cluster_while_none_is_there_whatever_its_tenant_may_use():
    tree = QuotaTree((cohort("x", TenantQuota("a", quota=guaranteed(0, borrows=1)), TenantQuota("b")),))
    arbiter = Arbiter({"n": {"cpu": 1.0}}, tree, elastic=True, resources=("cpu",))
    arbiter.on_node_left("n")
    assert arbiter.on_request(Request("fits", "a", {"cpu": 1.0})) is None
    refused = arbiter.on_request(Request("more", "a", {"cpu": 2.0}))
    assert refused is not None and refused.text == "it needs 2 cpu; tenant a may use 1 at most"


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_absurd_amounts_and_an_id_used_twice_are_errors(amount):
    arbiter = Arbiter(nodes(1), {"a": 1.0})
    with pytest.raises(BadInputError, match="asks for"):
        arbiter.on_request(Request("r", "a", {"cpu": amount}))
    arbiter.on_request(Request("r", "a", CPU))
    assert arbiter.on_request(Request("r", "a", CPU)) is None, "the same one twice is one"
    with pytest.raises(BadInputError, match="known with other contents"):
        arbiter.on_request(Request("r", "a", {"cpu": 0.5}))


def test_a_lost_node_takes_what_ran_there_and_one_that_joins_is_used():
    arbiter = Arbiter(nodes(2), {"a": 1.0})
    ask(arbiter, "a", 3)
    arbiter.arbitrate(0.0)
    (lost,) = arbiter.on_node_left("n0")
    assert lost in ("a0", "a1")
    assert arbiter.arbitrate(1.0) == []
    arbiter.on_node("n2", {"cpu": 2.0})
    assert arbiter.arbitrate(2.0) == [("a2", "n2")]
    arbiter.validate()


def test_nobody_waits_behind_what_no_node_could_take_until_one_can():
    arbiter = Arbiter({"large": {"cpu": 4.0}, "small": {"cpu": 1.0}}, {"a": 1.0})
    ask(arbiter, "a", 1)
    ask(arbiter, "a", 1, cpu=4.0, start=1)
    assert arbiter.arbitrate(0.0) == [("a0", "small"), ("a1", "large")]
    ask(arbiter, "a", 2, cpu=4.0, start=2)
    ask(arbiter, "a", 2, start=4)
    assert arbiter.on_node_left("large") == ("a1",)
    arbiter.on_finished("a0")
    assert arbiter.arbitrate(1.0) == [("a4", "small")]
    arbiter.validate()
    arbiter.on_node("large", {"cpu": 4.0})
    assert arbiter.arbitrate(2.0) == [("a2", "large")]
    assert arbiter.snapshot(2.0).tenants["a"].waiting == 2
    arbiter.validate()


def test_a_lowered_limit_is_enforced_on_what_runs_the_youngest_first():
    def tree(borrows: float) -> QuotaTree:
        return QuotaTree((cohort("x", TenantQuota("a", quota=guaranteed(1, borrows=borrows)), TenantQuota("b")),))

    arbiter = Arbiter(nodes(4), tree(3.0), Rules(min_run_s=0.0))
    for number in range(4):
        ask(arbiter, "a", 1, start=number)
        arbiter.arbitrate(float(number))
    assert arbiter.on_quota(tree(1.0)) == ()
    over = arbiter.evict(10.0)
    assert [one.victim for one in over] == ["a3", "a2"]
    assert all("more than its quota now allows" in one.why for one in over)
    for one in over:
        arbiter.on_finished(one.victim)
    assert running(arbiter) == {"a": 2, "b": 0}


def test_a_tenant_that_new_quotas_do_not_name_goes_on_behind_all_others_until_what_it_runs_has_ended():
    arbiter = Arbiter(nodes(2), {"a": 1.0, "b": 1.0})
    ask(arbiter, "a", 4)
    arbiter.arbitrate(0.0)
    only_b = QuotaTree.of_weights({"b": 1.0})
    assert arbiter.on_quota(only_b) == ()
    ask(arbiter, "b", 1)
    arbiter.on_finished("a0")
    assert [request for request, _ in arbiter.arbitrate(1.0)] == ["b0"]
    arbiter.on_finished("a1")
    arbiter.on_finished("a2")
    ((gone, refusal),) = arbiter.on_quota(only_b)
    assert (gone, refusal.code) == ("a3", "fair.unknown_tenant")
    with pytest.raises(BadInputError):
        arbiter.on_quota(QuotaTree((cohort("x", TenantQuota("a", quota=guaranteed(99))),)))
    assert running(arbiter) == {"b": 1}, "a tree that cannot be kept changes nothing"


def test_cohorts_lend_to_their_own_first_and_classes_share_a_tenants_part():
    tree = QuotaTree(
        (
            cohort("x", TenantQuota("a", classes=(ClassQuota("ocr", 3.0), ClassQuota("llm", 1.0)))),
            cohort("y", TenantQuota("b"), TenantQuota("c")),
        )
    )
    arbiter = Arbiter(nodes(8), tree)
    for number in range(8):
        for block in ("ocr", "llm"):
            arbiter.on_request(Request(f"{block}{number}", "a", CPU, block_class=block))
    ask(arbiter, "b", 8)
    ask(arbiter, "c", 8)
    granted = [request[:3] for request, _ in arbiter.arbitrate(0.0)]
    assert running(arbiter) == {"a": 4, "b": 2, "c": 2}
    assert (granted.count("ocr"), granted.count("llm")) == (3, 1)


def test_who_fitted_nowhere_has_its_turn_in_the_next_round_though_its_cohort_had_nobody_else_left():
    many = cohort("many", *(TenantQuota(f"t{number}") for number in range(60)))
    pair = cohort("pair", TenantQuota("waits"), TenantQuota("starts"))
    arbiter = Arbiter({}, QuotaTree((many, pair)), elastic=True, resources=("cpu",))
    for node, offered in (("n0", "ocr"), ("n1", "llm"), ("n2", "asr")):
        arbiter.on_node(node, CPU, frozenset({offered}))
    ask(arbiter, "t0", 1, capability="ocr")
    assert arbiter.arbitrate(0.0) == [("t00", "n0")]
    ask(arbiter, "waits", 1, capability="ocr")
    ask(arbiter, "starts", 1, capability="llm", arrived=1.0)
    ask(arbiter, "t1", 1, capability="asr", arrived=2.0)
    assert arbiter.arbitrate(1.0) == [("starts0", "n1"), ("t10", "n2")]
    arbiter.on_finished("t00")
    assert arbiter.arbitrate(2.0) == [("waits0", "n0")]


def test_books_say_what_is_borrowed_and_lent():
    tree = QuotaTree(
        (cohort("x", TenantQuota("owner", quota=guaranteed(3)), TenantQuota("guest", quota=guaranteed(1))),)
    )
    arbiter = Arbiter(nodes(4), tree)
    ask(arbiter, "guest", 5)
    arbiter.arbitrate(0.0)
    tenants = arbiter.snapshot(7.0).tenants
    assert tenants["guest"].borrowed == {"cpu": 3.0}
    assert tenants["owner"].lent == {"cpu": 3.0}
    assert (tenants["guest"].running, tenants["guest"].waiting, tenants["guest"].oldest_wait_s) == (4, 1, 3.0)
    assert tenants["guest"].share == 1.0


def reserved(small: Request) -> tuple[Arbiter, list[tuple[str, str]]]:
    """Two nodes: one is busy until 100, the other is free and held for a gang of both. `small` asks at 10."""
    arbiter = Arbiter(nodes(2), {"a": 1.0, "b": 1.0, "c": 1.0})
    arbiter.on_request(Request("long", "b", CPU, seconds=100.0))
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("gang", "a", CPU, copies=2))
    assert arbiter.arbitrate(5.0) == []
    assert arbiter.on_request(small) is None
    return arbiter, arbiter.arbitrate(10.0)


@pytest.mark.parametrize(
    ("small", "starts"),
    [
        (Request("small", "c", CPU, seconds=90.0), True),
        (Request("small", "c", CPU, seconds=90.5), False),
        (Request("small", "c", CPU), False),
        (Request("small", "c", CPU, seconds=90.0, preemptible=False), False),
        (Request("small", "c", CPU, copies=2, seconds=1.0), False),
    ],
)
def test_a_node_held_for_a_gang_is_lent_to_what_is_over_before_the_gang_can_start(small: Request, starts: bool):
    arbiter, granted = reserved(small)
    assert [name for name, _ in granted] == ["small"] * starts
    for name in ("small", "long") if starts else ("long",):
        arbiter.on_finished(name)
    assert [name for name, _ in arbiter.arbitrate(100.0)] == ["gang", "gang"]
    arbiter.validate()


def test_who_runs_longer_than_it_said_on_a_lent_node_is_stopped_when_the_gang_is_due():
    arbiter, granted = reserved(Request("small", "c", CPU, seconds=20.0))
    assert [name for name, _ in granted] == ["small"]
    assert arbiter.evict(99.0) == []  # it is in nobody's way yet
    arbiter.on_finished("long")
    assert arbiter.arbitrate(100.0) == []
    (told,) = arbiter.evict(100.0)
    assert (told.victim, told.tenant) == ("small", "a")
    assert told.why == "it runs longer than the 20 s it said, on a node reserved for a gang of a"
    assert arbiter.evict(101.0) == []
    arbiter.on_finished("small")
    assert [name for name, _ in arbiter.arbitrate(102.0)] == ["gang", "gang"]


def test_nothing_is_lent_while_what_runs_on_the_gangs_nodes_has_not_said_when_it_ends():
    arbiter = Arbiter(nodes(2), {"a": 1.0, "b": 1.0, "c": 1.0})
    arbiter.on_request(Request("long", "b", CPU))
    arbiter.arbitrate(0.0)
    arbiter.on_request(Request("gang", "a", CPU, copies=2))
    assert arbiter.arbitrate(5.0) == []
    arbiter.on_request(Request("small", "c", CPU, seconds=1.0))
    assert arbiter.arbitrate(10.0) == []
