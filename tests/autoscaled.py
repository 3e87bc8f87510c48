"""A real cluster governor whose nodes come and go as it says, on time that a test lets pass."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.governors.autoscale import Group, WantNodes
from ioi_dagster.governors.cluster import (
    ClusterGovernor,
    LeaseEnded,
    NodeJoined,
    NodeLeft,
    NodeReported,
    Reply,
    Tick,
    WantedFound,
)
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    Announce,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Lease,
    LeaseRequest,
    ReleaseRequest,
    RenewRequest,
    Resources,
)
from ioi_dagster.model.quota import QuotaTree

QUICK = Autoscale(
    max=4, boot_s=5, give_up_s=60, after_s=1, idle_s=30, min_age_s=20, up_pause_s=5, down_pause_s=10, node_hour=2.0
)


def group(
    rules: Autoscale = QUICK, name: str = "g", slots: int = 1, offers: Iterable[str] = ("work",), **more: float
) -> Group:
    members = tuple(f"{name}-{number}" for number in range(1, rules.max + 1))
    return Group(name, {"slots": float(slots), **more}, frozenset(offers), members, rules)


class Cloud:
    """`comes`: do nodes that are wanted come at all?"""

    def __init__(self, *groups: Group, quotas: QuotaTree | None = None, boot_s: float = 5.0) -> None:
        self.groups, self.quotas, self.boot_s = groups, quotas, boot_s
        self.now, self.epoch, self.comes = 1000.0, 0, True
        self.wanted: dict[str, WantNodes] = {}
        self.told_at: dict[str, float] = {}
        self.due: dict[str, float] = {}
        self.there: set[str] = set()
        self.changes: list[tuple[float, tuple[str, ...]]] = []
        self.told: list[Reply] = []
        self.ended: list[tuple[str, str]] = []
        self.leases: dict[str, Lease] = {}
        self.rounds = 0
        self.start()

    def start(self) -> None:
        self.epoch += 1
        self.governor = ClusterGovernor("d", "c", self.epoch, 1.0, groups=self.groups, quotas=self.quotas)
        for name, want in self.wanted.items():
            past_s = self.now - self.told_at[name]
            spent = tuple((age_s + past_s, amount) for age_s, amount in want.spent)
            self.event(WantedFound(name, want.nodes, spent, past_s))

    def restart(self) -> None:
        """The scheduler dies, and its workers with it; whoever keeps the nodes starts them again."""
        self.leases.clear()
        for node in sorted(self.there):
            self.due[node] = self.now + self.boot_s
        self.there.clear()
        self.start()

    def event(self, event) -> list:
        out = self.governor.handle(event, self.now)
        self.governor.validate()
        for one in out:
            match one:
                case WantNodes(name, nodes, _, _):
                    if set(nodes) != set(self.wanted[name].nodes if name in self.wanted else ()):
                        self.changes.append((self.now, nodes))
                    self.wanted[name], self.told_at[name] = one, self.now
                    self._apply()
                case Reply(Bid(), _, waited) if waited is not None:
                    self.told.append(one)
                case LeaseEnded(lease, why):
                    self.leases.pop(lease.id, None)
                    self.ended.append((lease.step, why))
        return out

    def _apply(self) -> None:
        names = {node for want in self.wanted.values() for node in want.nodes}
        for node in names - self.there - self.due.keys():
            self.due[node] = self.now + self.boot_s
        for node in self.due.keys() - names:
            del self.due[node]
        for node in sorted(self.there - names):
            assert not [lease for lease in self.leases.values() if lease.node == node], "its work would be lost"
            self.there.discard(node)
            self.event(NodeLeft(node))

    def passes(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            for node in [node for node, at in self.due.items() if at <= self.now and self.comes]:
                del self.due[node]
                self.joins(node)
            self.event(Tick())

    def joins(self, node: str) -> None:
        its = next(group for group in self.groups if node in group.members)
        having = tuple(sorted((name, amount) for name, amount in its.amounts.items() if name != "slots"))
        self.there.add(node)
        self.event(NodeJoined(node, int(its.amounts["slots"]), its.offers, having))

    def crashes(self, node: str) -> None:
        self.there.discard(node)
        self.due[node] = self.now + self.boot_s
        self.event(NodeLeft(node))

    def busy(self, node: str, engaged: bool) -> None:
        self.event(NodeReported(node, frozenset(), engaged=engaged))

    # What runs do -----------------------------------------------------------------------------------------------

    def asks(
        self,
        count: int = 1,
        run: str = "r",
        what: str = "work",
        resources: Resources = (),
        wait_s: float = 60.0,
        **more,
    ) -> Bid | None:
        """The answer, where there is one at once."""
        self.rounds += 1
        tenant, priority, gang = more.pop("tenant", "t"), more.pop("priority", 0), more.pop("gang", 0)
        part = more.pop("part", False)
        its = AskGroup(what, DataClass.PUBLIC, count, tenant, priority, resources, gang, part=part)
        out = self.event(Announce(run, self.rounds, "home", (its,), wait_s=wait_s, **more))
        bids = [
            one.answer for one in out if isinstance(one, Reply) and isinstance(one.answer, Bid) and one.waited is None
        ]
        return bids[0] if bids else None

    def awards(self, *steps: str, run: str = "r", what: str = "work", resources: Resources = ()) -> Awarded:
        self.rounds += 1
        requests = tuple(
            LeaseRequest(run, step, self.rounds, what, DataClass.PUBLIC, 0, "t", resources=resources) for step in steps
        )
        out = self.event(Award("c", run, self.rounds, "home", requests))
        answer = next(one.answer for one in out if isinstance(one, Reply) and isinstance(one.answer, Awarded))
        self.leases |= {lease.id: lease for lease in answer.leases}
        return answer

    def renews(self) -> None:
        for lease in list(self.leases.values()):
            self.event(RenewRequest(lease.run, (lease.id,), origin="home"))

    def ends(self, *steps: str) -> None:
        for lease in [one for one in self.leases.values() if one.step in steps]:
            self.event(ReleaseRequest(lease.run, (lease.id,), "home"))

    @property
    def names(self) -> tuple[str, ...]:
        return self.wanted["g"].nodes if "g" in self.wanted else ()

    def view(self, name: str = "g") -> dict:
        return self.governor.snapshot().scaling[name]
