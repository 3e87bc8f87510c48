"""Trees of quotas: what is wrong with one is said all at once."""

from __future__ import annotations

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.quota import CohortQuota, Quota, QuotaTree, TenantQuota, guarantees, quota_tree

CAPACITY = {"cpu": 10.0, "memory": 100.0}


def test_a_tree_is_read_from_plain_values():
    tree = quota_tree(
        {
            "cohorts": [
                {
                    "name": "research",
                    "tenants": [
                        {"name": "a", "weight": 2, "guarantee": {"cpu": 3}, "lends": {"cpu": 1}},
                        {"name": "b", "borrows": {"cpu": 0}, "classes": [{"name": "ocr"}]},
                    ],
                },
                {"name": "guests", "parent": "research", "guarantee": {"cpu": 1}},
            ]
        }
    )
    assert [tenant.name for _, tenant in tree.tenants()] == ["a", "b"]
    assert tree.cohorts[0].tenants[0].quota == Quota({"cpu": 3.0}, {"cpu": 1.0}, {})
    assert tree.errors(CAPACITY) == ()
    assert guarantees(tree) == {"research": {"cpu": 4.0}, "guests": {"cpu": 1.0}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (3, "the quota tree must be a mapping"),
        ({"cohort": []}, "unknown key 'cohort' in the quota tree; known are cohorts"),
        ({"cohorts": {}}, "cohorts must be a list"),
        ({"cohorts": [{"tenants": []}]}, "a cohort lacks a name"),
        ({"cohorts": [{"name": "x", "weight": "much"}]}, "weight of cohort 'x' must be a number"),
        ({"cohorts": [{"name": "x", "guarantee": [1]}]}, "guarantee of cohort 'x' must map resources to amounts"),
        ({"cohorts": [{"name": "x", "guarantee": {"cpu": True}}]}, "guarantee.cpu of cohort 'x' must be a number"),
    ],
)
def test_what_is_no_tree_is_named(values, says):
    with pytest.raises(BadInputError) as caught:
        quota_tree(values)
    assert says in str(caught.value)


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
