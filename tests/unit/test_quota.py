"""Trees of quotas: what is wrong with one is said all at once."""

from __future__ import annotations

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.quota import ANY, ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota, guarantees

CAPACITY = {"cpu": 10.0, "memory": 100.0}


def test_a_cohort_is_guaranteed_what_its_members_are_unless_it_says_so_itself():
    tenants = (TenantQuota("a", quota=Quota({"cpu": 3.0})), TenantQuota("b", quota=Quota({"cpu": 1.0})))
    tree = QuotaTree((CohortQuota("x", tenants), CohortQuota("y", parent="x", quota=Quota({"cpu": 2.0}))))
    assert tree.errors(CAPACITY) == ()
    assert guarantees(tree) == {"x": {"cpu": 6.0}, "y": {"cpu": 2.0}}


def test_in_a_flat_tree_everybody_has_a_place():
    assert QuotaTree.flat([a(), TenantQuota("b", 2.0)]) == QuotaTree(
        (CohortQuota("all", (a(), TenantQuota("b", 2.0), TenantQuota(ANY))),)
    )
    assert QuotaTree.flat([TenantQuota(ANY, 3.0)]) == QuotaTree((CohortQuota("all", (TenantQuota(ANY, 3.0),)),))


def test_a_problem_says_where_in_the_tree_it_stands():
    classes = (ClassQuota("ocr"), ClassQuota("ocr", quota=Quota(borrows={"gpu": 1.0})))
    tree = QuotaTree((CohortQuota("x"), CohortQuota("y", (a(), TenantQuota("b", 0.0, classes=classes)))))
    assert {problem.where for problem in tree.problems(CAPACITY)} == {
        ("cohorts", 1, "tenants", 1, "weight"),
        ("cohorts", 1, "tenants", 1, "classes", 1),
        ("cohorts", 1, "tenants", 1, "classes", 1, "borrows", "gpu"),
    }


def a(**quota) -> TenantQuota:
    return TenantQuota("a", quota=Quota(**quota))


@pytest.mark.parametrize(
    ("cohorts", "says"),
    [
        ([CohortQuota("x"), CohortQuota("x")], "cohort 'x' is given twice"),
        (
            [CohortQuota("x", (a(),)), CohortQuota("y", (a(),))],
            "tenant 'a' is in two cohorts, 'x' and 'y'; it must be in one",
        ),
        ([CohortQuota("x", (a(), a()))], "tenant 'a' is given twice in cohort 'x'"),
        ([CohortQuota("x", parent="z")], "parent 'z' of cohort 'x' is not one of the cohorts"),
        (
            [CohortQuota("x", parent="y"), CohortQuota("y", parent="x")],
            "the cohorts' parents form a cycle: x → y → x",
        ),
        ([CohortQuota("x", (TenantQuota("a", 0.0),))], "weight of tenant 'a' is 0; it must be above 0"),
        ([CohortQuota("x", (a(guarantee={"gpu": 1}),))], "names 'gpu', which no node offers"),
        ([CohortQuota("x", (a(guarantee={"cpu": -1}),))], "guarantee of tenant 'a' is -1 cpu; it may not be negative"),
        (
            [CohortQuota("x", (a(guarantee={"cpu": 1}, lends={"cpu": 2}),))],
            "tenant 'a' lends 2 cpu, more than its guarantee of 1",
        ),
        (
            [CohortQuota("x", (a(lends={"cpu": 2}),))],
            "tenant 'a' lends 2 cpu, more than its guarantee of 0: give it one, or take `lends` away",
        ),
        (
            [CohortQuota("x", (a(guarantee={"cpu": 3}),), quota=Quota(lends={"cpu": 4}))],
            "cohort 'x' lends 4 cpu, more than its guarantee of 3",
        ),
        (
            [CohortQuota("x", (TenantQuota(ANY, quota=Quota({"cpu": 1})),))],
            "tenant '*' is any number of tenants, so that it can be guaranteed nothing",
        ),
        (
            [CohortQuota("x", (a(guarantee={"cpu": 11}),))],
            "the cohorts are guaranteed 11 cpu, but the cluster has 10",
        ),
        (
            [CohortQuota("x", (a(guarantee={"cpu": 3}),), quota=Quota({"cpu": 2}))],
            "the members of cohort 'x' are guaranteed 3 cpu, more than the 2 above them",
        ),
    ],
)
def test_a_tree_that_cannot_be_kept_says_why(cohorts, says):
    tree = QuotaTree(tuple(cohorts))
    with pytest.raises(BadInputError) as caught:
        tree.check(CAPACITY)
    assert says in str(caught.value)


def test_a_cohort_may_lend_what_its_members_are_guaranteed():
    for lends in (0, 3):
        tree = QuotaTree((CohortQuota("x", (a(guarantee={"cpu": 3}),), quota=Quota(lends={"cpu": lends})),))
        assert tree.errors(CAPACITY) == ()
    assert QuotaTree((CohortQuota("x", (a(lends={"cpu": 0}),)),)).errors(CAPACITY) == ()


def test_without_a_capacity_it_says_what_is_wrong_on_any_cluster():
    much = CohortQuota("x", (a(guarantee={"gpu": 1e9}),))
    assert QuotaTree((much,)).errors() == ()
    assert QuotaTree((much, CohortQuota("x"))).errors() == ("cohort 'x' is given twice",)
    members = CohortQuota("x", (a(guarantee={"gpu": 2}),), quota=Quota({"gpu": 1}))
    assert QuotaTree((members,)).errors() == (
        "the members of cohort 'x' are guaranteed 2 gpu, more than the 1 above them",
    )
