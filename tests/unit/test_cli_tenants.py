"""The table of tenants is the tree of quotas, with what a real arbiter says of everybody in it."""

from __future__ import annotations

from dataclasses import asdict, replace

from rich.console import Console

from ioi_dagster.cli_tenants import asked_table, tenants_table
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, QuotasChanged, Reply, Tick
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Announce, AskGroup, Award, Bid, LeaseRequest, Resources
from ioi_dagster.model.quota import ANY, ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota

GIB = 2.0**30


def quota(slots: float = 0, gpu: float = 0, borrows: float | None = None) -> Quota:
    guarantee = {name: amount for name, amount in {"slots": float(slots), "gpu": float(gpu)}.items() if amount}
    return Quota(guarantee, {}, {} if borrows is None else {"slots": borrows})


TREE = QuotaTree(
    (
        CohortQuota(
            "partners",
            (
                TenantQuota("library", 2.0, quota(2, 1), (ClassQuota("page.ocr", 3.0, quota(1)),)),
                TenantQuota("lab", quota=quota(borrows=1)),
            ),
            weight=3.0,
        ),
        CohortQuota("pilot", (TenantQuota("trial"),), parent="partners"),
        CohortQuota("guests", (TenantQuota(ANY),)),
    )
)


class Cluster:
    """A governor of two nodes, with two slots, one GPU and 4 GiB each."""

    def __init__(self, tree: QuotaTree) -> None:
        self.governor = ClusterGovernor("d", "c", 1, 1.0, quotas=tree)
        resources = (("gpu", 1.0), ("memory", 4 * GIB))
        for number in range(2):
            self.governor.handle(NodeJoined(f"n{number}", 2, frozenset({"page.ocr", "own"}), resources), 0.0)

    def asks(
        self,
        tenant: str,
        capability: str,
        count: int,
        resources: Resources = (),
        now: float = 0.0,
        preemptible: bool = True,
    ) -> None:
        """Takes what it is offered at once, and goes on asking for the rest."""
        run = f"{tenant} {capability}"
        group = AskGroup(capability, DataClass.INTERNAL, count, tenant, resources=resources)
        out = self.governor.handle(Announce(run, 1, "d", (group,), wait_s=60.0), now)
        bids = [one.answer for one in out if isinstance(one, Reply) and isinstance(one.answer, Bid)]
        offered = min(count, sum(point.slots for bid in bids for point in bid.points))
        requests = tuple(
            LeaseRequest(
                run,
                f"s{n}",
                1,
                capability,
                DataClass.INTERNAL,
                tenant=tenant,
                resources=resources,
                preemptible=preemptible,
            )
            for n in range(offered)
        )
        self.governor.handle(Award("c", run, 1, "d", requests), now)
        if offered < count:
            left = replace(group, count=count - offered)
            self.governor.handle(Announce(run, 2, "d", (left,), wait_s=60.0), now)

    def rows(self, now: float = 0.0) -> list[str]:
        self.governor.handle(Tick(), now)
        console = Console(width=250)
        with console.capture() as captured:
            console.print(tenants_table({"c": asdict(self.governor.snapshot())}))
        lines = captured.get().splitlines()
        return ["|".join(part.rstrip().removeprefix(" ") for part in line.split("│")) for line in lines[3:]]


def test_the_tree_with_everybodys_books() -> None:
    cluster = Cluster(TREE)
    cluster.asks("library", "page.ocr", 1, (("gpu", 1.0), ("memory", GIB)))
    cluster.asks("lab", "own", 2)
    cluster.asks("who", "own", 2)
    rows = [[cell.strip() if n != 1 else cell for n, cell in enumerate(row.split("|"))] for row in cluster.rows(3.0)]
    assert ["|".join(row) for row in rows] == [
        # cluster, who, weight, share, entitled, resource, used, guarantee, limit, borrowed, lent, then how many
        "c|guests|1|50%|25%|slots|2|–|–|2|–|2|–|–",
        "|  who|1|50%|25%|slots|2|–|–|2|–|2|–|–",
        "|partners|3|50%|75%|slots|2|2|–|–|–|2|1|3 s",
        "|||||gpu|1|1|–|–|–|||",
        "|||||memory|1 GiB|–|–|1 GiB|–|||",
        "|  lab|1|25%|25%|slots|1|–|1|1|–|1|1|3 s",
        "|  library|2|50%|50%|slots|1|2|–|–|1|1|–|–",
        "|||||gpu|1|1|–|–|–|||",
        "|||||memory|1 GiB|–|–|1 GiB|–|||",
        "|    (other classes)|1|0%|0%|slots|0|–|–|–|–|0|–|–",
        "|    page.ocr|3|50%|50%|slots|1|1|–|–|–|1|–|–",
        "|||||gpu|1|–|–|1|–|||",
        "|||||memory|1 GiB|–|–|1 GiB|–|||",
    ]


def test_a_cohort_that_says_nothing_is_not_told() -> None:
    cluster = Cluster(QuotaTree.flat([TenantQuota("library", quota=quota(borrows=0))]))
    assert cluster.rows() == []
    cluster.asks("who", "own", 1)
    ((_, who, *_),) = [row.split("|") for row in cluster.rows()]
    assert who == "who"


def test_who_asks_for_nothing_and_is_guaranteed_something_is_told_what_it_lends() -> None:
    cluster = Cluster(QuotaTree.flat([TenantQuota("library", quota=quota(2))]))
    cluster.asks("who", "own", 4)
    told = {row.split("|")[1]: [cell.strip() for cell in row.split("|")[6:]] for row in cluster.rows()}
    assert told == {
        "library": ["0", "2", "–", "–", "2", "0", "–", "–"],
        "who": ["4", "–", "–", "4", "–", "4", "–", "–"],
    }


def test_what_is_being_stopped_is_told_beside_what_runs() -> None:
    tree = QuotaTree.flat([TenantQuota("library", quota=quota(2))])
    cluster = Cluster(tree)
    cluster.asks("who", "own", 4)
    cluster.governor.handle(Tick(), 10.0)  # nobody is stopped who has only just begun
    cluster.asks("library", "own", 2, now=10.0)
    rows = [[cell.strip() for cell in row.split("|")] for row in cluster.rows(10.0)]
    told = {row[1]: row[11:13] for row in rows}
    assert told == {"library": ["0", "2"], "who": ["4 (2 stopping)", "–"]}


def test_what_may_not_be_stopped_and_is_over_a_lowered_limit_is_told() -> None:
    cluster = Cluster(QuotaTree.flat())
    cluster.asks("who", "own", 2, preemptible=False)
    cluster.asks("who", "page.ocr", 1)
    cluster.governor.handle(QuotasChanged(QuotaTree.flat([TenantQuota("who", quota=quota(borrows=1))])), 1.0)
    (row,) = [[cell.strip() for cell in row.split("|")] for row in cluster.rows(1.0)]
    assert row[11] == "3 (1 stopping; 1 slot over its limit by what may not be stopped)"


def test_what_became_of_what_was_asked_has_a_table() -> None:
    cluster = Cluster(TREE)
    cluster.asks("library", "page.ocr", 3)
    cluster.asks("lab", "own", 9)
    console = Console(width=160)
    with console.capture() as shown:
        console.print(asked_table({"c": asdict(cluster.governor.snapshot())}))
    rows = [" ".join(line.replace("│", " ").split()) for line in shown.get().splitlines()[3:]]
    assert rows == ["c lab 2 1 – 1 – –", "library 1 1 – 3 – –"]
