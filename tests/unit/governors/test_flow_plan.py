"""A flow governor that knows its graph: steps wait for better places, leave scarce ones to those who need them, and get done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from benchmarks import workflows
from benchmarks.adapters.bidding import Bidding
from benchmarks.adapters.placement import Online
from benchmarks.yardstick.placement import baselines, run_online, run_static
from benchmarks.yardstick.placement.model import make_instance
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors import flow_messages as flow
from ioi_dagster.governors import flow_plan
from ioi_dagster.governors.cluster import ClusterGovernor, NodeJoined, NodeReported, Reply
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.governors.flow_plan import LOOK_AGAIN_S, NONE_S, TELLS_OF_NONE, TOO_MANY
from ioi_dagster.governors.outlook import NodeNow, Occupied, outlook
from ioi_dagster.governors.placement import ahead
from ioi_dagster.governors.placement.lateness import left
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import (
    MAX_OUTLOOK,
    MAX_PLANNED,
    Announce,
    Ask,
    AskGroup,
    Award,
    Awarded,
    Bid,
    Busy,
    Effect,
    Lease,
    LeaseRequest,
    NodeOutlook,
    RejectedRequest,
    SupplyPoint,
)
from ioi_dagster.model.placement import Edge, Link
from ioi_dagster.model.placement import Step as GraphStep
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story

CHEAPER = "raise the run's budget, or let it run where it is cheaper"


class Fleet:
    """Clusters of one node each, by name: its speed, its slots, and for how long others hold which of those."""

    def __init__(
        self, speeds: dict[str, float], slots: int = 1, offers: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        self.governor, self.now = FlowGovernor("r", "home", "fastest", again_s=0.0), 0.0
        self.speeds, self.slots, self.offers = speeds, slots, offers or {}
        self.busy: dict[str, list[float]] = {name: [] for name in speeds}
        self.mine: dict[str, Lease] = {}
        self.starts: list[tuple[str, str]] = []
        self.requests = []
        self.refuses = ""
        self.mute: set[str] = set()
        """Those that do not answer."""
        self.grudging: set[str] = set()
        """Those that have nothing for this run, whatever is free."""
        self.unwanted: set[str] = set()
        """Capabilities for which no cluster has anything, whatever is free: it is not their turn."""
        self.barred: set[str] = set()
        """Those that no step may go to, whatever they offer."""
        self.untold: set[str] = set()
        """Those that do not tell of their nodes."""
        self.cold: set[str] = set()
        """Those where blocks have to be loaded first."""
        self.stopped: list[Lease] = []
        self.announced: list[Announce] = []
        self.refused: list[tuple[str, Refusal]] = []
        self.copies = 0
        self.links: tuple[Link, ...] = ()
        """What is told of those of the run's home."""
        self.remarks: list[str] = []
        """What the run says of how it places."""

    def offered(self, cluster: str) -> tuple[str, ...]:
        return self.offers.get(cluster, ("work",))

    def tell(self, event: flow.Event) -> None:
        todo = deque([event])
        while todo:
            event = todo.popleft()
            said = self.governor.handle(event, self.now, more=bool(todo))
            self.governor.validate()
            for instruction in said:
                match instruction:
                    case flow.FindPlaces(asks):
                        todo += [flow.PlacesFound(a.step, self._places(a), (), True) for a in asks]
                    case flow.SendAnnounce(cluster, announce) if cluster in self.mute:
                        todo.append(flow.BidMissed(cluster, announce.round, "no answer"))
                    case flow.SendAnnounce(cluster, announce):
                        self.announced.append(announce)
                        free = self.slots - len(self.busy[cluster]) - self._held(cluster)
                        points = tuple(
                            SupplyPoint(
                                g.capability,
                                g.data_class,
                                min(free, g.count),
                                1.0,
                                0 if cluster in self.cold else free,
                                idle=g.idle,
                            )
                            for g in announce.groups
                            if free > 0
                            and cluster not in self.grudging
                            and g.capability in self.offered(cluster)
                            and g.capability not in self.unwanted
                        )
                        able = tuple(n for n, name in enumerate(announce.about) if name in self.offered(cluster))
                        busy = tuple(Busy(seconds) for seconds in self.busy[cluster])
                        warm = () if cluster in self.cold else able
                        nodes = (NodeOutlook("n", self.slots, self.speeds[cluster], able, busy, warm=warm),)
                        nodes = nodes if announce.about and cluster not in self.untold else ()
                        no = () if points else (Refusal("cluster.full", "full", cluster),)
                        todo.append(
                            flow.BidReceived(Bid(cluster, cluster, "r", announce.round, 1, points, no, 2.0, nodes))
                        )
                    case flow.SendAward(award):
                        todo.append(flow.AwardAnswered(self._award(award)))
                    case flow.StartStep(ask, lease):
                        self.mine[ask.step] = lease
                        self.starts.append((ask.step, lease.cluster))
                    case flow.RefuseStep(step, refusal):
                        self.refused.append((step, refusal))
                    case flow.StopStep(lease, _):
                        self.stopped.append(lease)
                    case flow.Tell("", Chapter.CANDIDATES, text):
                        self.remarks.append(text)
                    case flow.ReleaseLeases(_, leases):
                        self.mine = {step: lease for step, lease in self.mine.items() if lease.id not in leases}

    def _places(self, ask: Ask) -> tuple[Place, ...]:
        may = self.speeds.keys() - self.barred
        places = (Place(name, name) for name in self.speeds if name in may and ask.capability in self.offered(name))
        return flow.from_home(places, "home", ask.input_bytes, self.links)

    def _held(self, cluster: str) -> int:
        return sum(lease.cluster == cluster for lease in self.mine.values())

    def _award(self, award: Award) -> Awarded:
        self.requests += award.requests
        if award.cluster == self.refuses:
            no = Refusal("cluster.full", "gone", award.cluster)
            return Awarded(award.cluster, (), tuple(RejectedRequest(r.step, r.fence, no) for r in award.requests))
        return Awarded(
            award.cluster,
            tuple(
                Lease(
                    f"{r.step}/{r.fence}/{r.copy}",
                    "r",
                    r.step,
                    r.fence,
                    r.copy,
                    r.capability,
                    award.cluster,
                    award.cluster,
                    "n",
                    1,
                )
                for r in award.requests
            ),
        )

    def know(self, steps: dict[str, float], edges: Sequence[tuple[str, str]] = (), **capability: str) -> None:
        made = tuple(GraphStep(s, w, kind=s, capability=capability.get(s, "work")) for s, w in steps.items())
        self.tell(flow.GraphKnown(made, tuple(Edge(*edge) for edge in edges), self.links))

    def ready(self, *steps: str, capability: str = "work", **more: Any) -> None:
        for step in steps:
            self.tell(flow.StepReady(Ask("r", step, capability, copies=self.copies, **more)))
        self.look()

    def look(self, later: float = 0.0) -> None:
        self.now += later
        for _ in range(4):
            self.tell(flow.Tick())

    def end(self, step: str, seconds: float) -> None:
        self.now += seconds
        self.tell(flow.StepEnded(step, self.mine[step].fence, "a", seconds))
        self.look()

    def why(self, step: str) -> str:
        return self.governor.snapshot().waiting[step]


def test_a_long_step_waits_for_a_fast_node_that_is_free_soon_and_says_so():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.busy["fast"] = [5.0]
    fleet.know({"s": 100.0})
    fleet.ready("s")
    assert fleet.starts == []
    assert fleet.why("s") == "by the plan of the graph it begins in 5.0 s on n of fast, to end in 30.0 s"
    fleet.busy["fast"] = []
    fleet.look(later=5.0)
    assert fleet.starts == [("s", "fast")]
    (request,) = fleet.requests
    assert (request.prefer, request.seconds) == (("n",), 25.0)


def test_a_step_that_no_offer_fits_is_refused_also_where_there_is_a_plan():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.governor = FlowGovernor("r", "home", "fastest", again_s=0.0, budget=0.5)
    fleet.know({"s": 100.0})
    fleet.ready("s")
    why = "the run may spend 0.5 credits and has spent 0; the least offer is 1"
    assert fleet.why("s") == why
    for _ in range(29):
        fleet.look(later=1.0)
    assert fleet.refused == []
    fleet.look(later=1.0)
    assert fleet.refused == [("s", Refusal("flow.budget", why, "flow governor", CHEAPER))]


def test_it_takes_the_slow_node_where_the_fast_one_is_taken_for_longer_than_that_costs():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.busy["fast"] = [90.0]
    fleet.know({"s": 100.0})
    fleet.ready("s")
    assert fleet.starts == [("s", "slow")]


def test_what_has_most_behind_it_begins_first_whichever_was_ready_first():
    fleet = Fleet({"one": 1.0})
    fleet.know({"leaf": 10.0, "root": 10.0, "after": 50.0}, [("root", "after")])
    fleet.busy["one"] = [1.0]
    fleet.ready("leaf", "root")
    fleet.busy["one"] = []
    fleet.look(later=1.0)
    assert fleet.starts == [("root", "one")]


def test_a_scarce_node_is_left_to_who_needs_it():
    fleet = Fleet({"gpu": 1.0, "plain": 0.9}, offers={"gpu": ("work", "see"), "plain": ("work",)})
    fleet.know({"any": 10.0, "seer": 10.0, "after": 100.0}, [("seer", "after")], seer="see")
    fleet.tell(flow.StepReady(Ask("r", "any", "work")))
    fleet.tell(flow.StepReady(Ask("r", "seer", "see")))
    fleet.look()
    assert sorted(fleet.starts) == [("any", "plain"), ("seer", "gpu")]


def test_who_did_not_keep_its_bid_is_not_taken_again_though_the_plan_would_have_it():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.refuses = "fast"
    fleet.know({"s": 10.0})
    fleet.ready("s")
    assert [request.step for request in fleet.requests] == ["s", "s"]
    assert fleet.starts == [("s", "slow")]


def test_a_step_does_not_wait_for_a_cluster_that_has_fallen_silent():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.busy["fast"] = [5.0]
    fleet.know({"s": 100.0})
    fleet.ready("s")
    assert fleet.starts == []
    fleet.mute.add("fast")
    for _ in range(10):
        fleet.look(later=1.0)
    assert fleet.starts == [("s", "slow")]


def test_a_step_does_not_wait_for_free_nodes_of_which_it_gets_none():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.grudging.add("fast")
    fleet.know({"s": 100.0})
    fleet.ready("s")
    for _ in range(10):
        fleet.look(later=1.0)
    assert fleet.starts == [("s", "slow")]


def test_each_step_of_a_chain_does_not_wait_anew_for_free_nodes_of_which_none_gets_any():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.grudging.add("fast")
    steps = [f"s{number}" for number in range(4)]
    fleet.tell(flow.GraphKnown(tuple(GraphStep(one, 100.0, kind="s", capability="work") for one in steps), ()))
    fleet.ready("s0")
    fleet.look(later=NONE_S)
    for done, step in pairwise(steps):
        fleet.end(done, 1.0)
        fleet.ready(step)
    assert fleet.starts == [(step, "slow") for step in steps]


def test_a_step_does_not_wait_behind_one_that_gets_no_place_there():
    fleet = Fleet({"only": 1.0, "slow": 0.01}, offers={"only": ("work", "see"), "slow": ("work",)})
    fleet.unwanted.add("see")
    fleet.know({"any": 10.0, "seer": 10.0, "after": 100.0}, [("seer", "after")], seer="see")
    fleet.tell(flow.StepReady(Ask("r", "any", "work")))
    fleet.tell(flow.StepReady(Ask("r", "seer", "see")))
    for _ in range(10):
        fleet.look(later=1.0)
    assert fleet.starts == [("any", "only")]
    fleet.unwanted.clear()
    fleet.end("any", 10.0)
    assert fleet.starts == [("any", "only"), ("seer", "only")]


def test_a_step_does_not_wait_for_a_cluster_to_which_it_may_not_go():
    fleet = Fleet({"fast": 4.0, "slow": 1.0, "other": 1.0}, slots=2)
    fleet.know({"s": 100.0, "t": 100.0})
    fleet.ready("s")
    fleet.barred.add("fast")
    fleet.ready("t")
    assert fleet.starts == [("s", "fast"), ("t", "other")]


def test_a_step_takes_the_offer_of_a_cluster_that_tells_of_no_nodes_where_that_ends_it_sooner():
    fleet = Fleet({"fast": 4.0, "slow": 1.0, "large": 1.0})
    fleet.untold.add("large")
    fleet.busy["fast"] = [50.0]
    fleet.know({"s": 100.0})
    fleet.ready("s")
    assert fleet.starts == [("s", "large")]


@pytest.mark.parametrize("cause", list(Cause))
def test_what_failed_keeps_no_room(cause):
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.know({"s": 100.0, "t": 100.0})
    fleet.tell(flow.StepReady(Ask("r", "s", "work", effect=Effect.AT_MOST_ONCE)))
    fleet.look()
    fleet.tell(flow.StepLost("s", 1, "n", "it died", cause))
    fleet.ready("t")
    assert fleet.starts == [("s", "fast"), ("t", "fast")]


def test_what_is_made_from_something_that_failed_is_not_kept_room_for():
    """Nobody tells the governor that it is skipped, only that it is never asked for."""
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.know({"a": 1.0, "b": 100.0, "c": 90.0, "d": 500.0}, [("a", "b"), ("b", "d")])
    fleet.ready("a")
    fleet.end("a", 1.0)
    fleet.busy["slow"] = [60.0]
    fleet.ready("c")
    for _ in range(3):
        fleet.look(later=1.0)
    assert fleet.starts == [("a", "fast"), ("c", "fast")]


def test_a_step_that_is_asked_for_late_is_planned_again():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.know({"a": 1.0, "b": 100.0, "c": 90.0}, [("a", "b")])
    fleet.busy["fast"] = [500.0]
    fleet.ready("a")
    fleet.end("a", 1.0)
    fleet.ready("c")
    fleet.look(later=1.0)
    fleet.look(later=1.0)
    fleet.busy["fast"] = []
    fleet.ready("b")
    assert fleet.starts == [("a", "slow"), ("c", "slow"), ("b", "fast")]


def test_nodes_that_are_gone_are_no_reason_not_to_plan():
    plan = ahead.GraphPlan()
    plan.know([GraphStep("s", 10.0, kind="s"), GraphStep("t", 10.0, kind="t")], [], [], 0.0)
    for number in range(1_000):
        nodes = tuple(NodeOutlook(f"n{number}.{one}", 1, 1.0 + one, (), ()) for one in range(2))
        now = number * ahead.AWAY_S / 50
        plan.see(Bid("c", "c", "r", number, 1, (), (), 2.0, nodes), (), now)
        assert plan.plan(["s"], {}, now)
        assert not plan.more_than(2 * 51, now)
    assert plan.planned("s", now) == ahead.Planned("c", "n999.1", now, now + 5.0, True)
    assert len(plan._nodes) <= ahead.KEPT_NODES + 2
    later = now + ahead.AWAY_S
    assert (plan.more_than(1, later), plan.more_than(2, later)) == (True, False)


@pytest.mark.parametrize(("size", "where"), [(1_000, "fast"), (100_000_000, "fast"), (10_000_000_000, "home")])
def test_a_step_goes_to_a_faster_node_elsewhere_unless_its_inputs_take_longer_to_get_there(size, where):
    fleet = Fleet({"fast": 4.0, "home": 1.0})
    fleet.know({"s": 100.0})
    fleet.ready("s", input_bytes=size)
    assert fleet.starts == [("s", where)]


@pytest.mark.parametrize(
    ("bandwidth", "latency", "where"),
    [(1e9, 0.0, "fast"), (1e7, 0.0, "home"), (1e9, 100.0, "home"), (None, 0.0, "fast")],
)
def test_a_step_goes_to_a_faster_node_elsewhere_by_what_is_told_of_the_link(bandwidth, latency, where):
    fleet = Fleet({"fast": 4.0, "home": 1.0})
    fleet.links = (Link("home", "fast", latency, bandwidth),) if bandwidth else ()
    fleet.know({"s": 100.0})
    fleet.ready("s", input_bytes=1_000_000_000)
    assert fleet.starts == [("s", where)]


@pytest.mark.parametrize(
    ("links", "where"),
    [
        ((), "home"),
        (
            (Link("home", "away", 0.0, 1e7), Link("home", "near by", 0.0, 1e10), Link("home", "home", 0.0, 1e9)),
            "near by",
        ),
        ((Link("home", "away", 0.0, 1e12), Link("home", "near by", 0.0, 1e8), Link("home", "home", 0.0, 1e9)), "away"),
    ],
)
def test_of_like_bids_a_step_that_no_graph_knows_takes_the_one_to_which_its_inputs_come_soonest(links, where):
    fleet = Fleet({"away": 1.0, "home": 1.0, "near by": 1.0})
    fleet.links = links
    fleet.ready("stranger", input_bytes=10_000_000_000)
    assert fleet.starts == [("stranger", where)]


def moving(**sizes: tuple[float, float]) -> flow.GraphKnown:
    """Steps of 100 s one after the other, by what each brings from home and makes."""
    steps = (
        GraphStep(name, 100.0, kind=name, capability="work", through="home", brings=brings, makes=makes)
        for name, (brings, makes) in sizes.items()
    )
    return flow.GraphKnown(tuple(steps), tuple(Edge(*pair) for pair in pairwise(sizes)))


@pytest.mark.parametrize(
    ("makes", "where"), [(1e6, "fast"), (1e9, "fast"), (5e9, "home")], ids=["little", "less than it gains", "more"]
)
def test_a_step_runs_where_what_it_is_expected_to_make_does_not_have_to_come_from_afar(makes, where):
    """It gains 75 s elsewhere, and 50 MB pass in a second."""
    fleet = Fleet({"fast": 4.0, "home": 1.0})
    fleet.tell(moving(s=(0.0, makes)))
    fleet.ready("s")
    assert fleet.starts == [("s", where)]


def test_each_step_of_a_chain_counts_what_it_brings_though_it_runs_where_the_one_before_it_did():
    """Values go back to the run, and come from there again."""
    fleet = Fleet({"fast": 4.0, "home": 1.0})
    fleet.tell(moving(a=(0.0, 2e9), b=(2e9, 2e9), c=(2e9, 0.0)))
    where = {}
    for step, its_bytes in (("a", 0), ("b", 2_000_000_000), ("c", 2_000_000_000)):
        fleet.ready(step, input_bytes=its_bytes)
        where[step] = fleet.mine[step].cluster
        fleet.end(step, 100.0 / fleet.speeds[where[step]])
    # b gains 75 s, and would move for 80 s.
    assert where == {"a": "fast", "b": "home", "c": "fast"}


@pytest.mark.parametrize(("brings", "first"), [(0.0, "home"), (20e9, "fast")])
def test_a_node_at_home_is_left_to_a_step_that_is_to_come_with_large_inputs(brings, first):
    """Both are planned when one is ready: the other one's inputs are known by what earlier runs made."""
    fleet = Fleet({"fast": 1.05, "home": 1.3})
    soon = GraphStep("soon", 1.0, kind="soon", capability="work")
    large = GraphStep("large", 100.0, kind="l", capability="work", through="home", brings=brings)
    small = GraphStep("small", 150.0, kind="s", capability="work")
    fleet.tell(flow.GraphKnown((soon, large, small), (Edge("soon", "large"),)))
    fleet.ready("small")
    assert fleet.starts == [("small", first)]


def test_what_a_step_is_sent_counts_as_it_is_when_it_is_ready_and_not_as_it_was_expected():
    fleet = Fleet({"fast": 4.0, "home": 1.0})
    fleet.tell(moving(a=(0.0, 0.0), b=(10e9, 0.0)))
    fleet.ready("a")
    fleet.end("a", 25.0)
    fleet.ready("b", input_bytes=1_000)
    assert fleet.starts == [("a", "fast"), ("b", "fast")]


def test_the_node_that_is_planned_is_not_asked_for_where_the_step_is_to_avoid_it():
    fleet = Fleet({"fast": 4.0, "slow": 1.0}, slots=2)
    fleet.know({"s": 100.0})
    fleet.ready("s")
    fleet.tell(flow.StepLost("s", 1, "n", "its worker died", Cause.NODE_LOST))
    fleet.look(later=1.0)
    first, again = fleet.requests
    assert (first.prefer, first.avoid) == (("n",), ())
    assert (again.prefer, again.avoid) == ((), ("n",))


def test_where_inputs_lie_counts_among_nodes_that_are_alike():
    fleet = Fleet({"away": 1.0, "home": 1.0})
    fleet.know({"s": 100.0, "t": 100.0})
    fleet.ready("s", "t", input_bytes=1_000_000_000)
    assert fleet.starts[0] == ("s", "home")


def test_a_cluster_that_answers_again_is_planned_with_again():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.know({"s": 100.0, "t": 100.0})
    fleet.mute.add("fast")
    fleet.ready("s")
    assert fleet.starts == [("s", "slow")]
    fleet.mute.clear()
    for _ in range(10):
        fleet.look(later=1.0)
    fleet.ready("t")
    fleet.look(later=1.0)
    assert fleet.starts[1:] == [("t", "fast")]


def test_a_long_step_of_a_chain_is_planned_by_what_nodes_are_doing_then_also_behind_a_brief_one():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.busy["fast"] = [100.0]
    fleet.know({"brief": 0.1, "long": 100.0}, [("brief", "long")])
    fleet.ready("brief")
    assert fleet.starts == [("brief", "slow")]
    fleet.busy["fast"] = []
    fleet.end("brief", LOOK_AGAIN_S / 3)
    fleet.ready("long")
    assert fleet.starts[1:] == [("long", "fast")]


def test_the_next_step_of_a_chain_is_planned_with_a_cluster_that_was_silent_when_the_last_one_began():
    fleet = Fleet({"as ever": 1.0, "fast": 4.0})
    chain = {f"s{number}": 20.0 for number in range(4)}
    fleet.know(chain, list(pairwise(chain)))
    fleet.mute.add("fast")
    fleet.ready("s0")
    fleet.mute.clear()
    # What it is not asked it does not tell, so the next step is placed without a plan still.
    for done, step in pairwise(chain):
        fleet.end(done, LOOK_AGAIN_S / 10)
        fleet.ready(step)
    assert fleet.starts == [("s0", "as ever"), ("s1", "as ever"), ("s2", "fast"), ("s3", "fast")]


def test_what_is_not_in_the_graph_and_what_an_earlier_process_has_done_hold_nothing_up():
    fleet = Fleet({"one": 1.0}, slots=2)
    fleet.know({"done": 1.0, "next": 1.0}, [("done", "next")])
    fleet.ready("next", "stranger")
    assert sorted(step for step, _ in fleet.starts) == ["next", "stranger"]


def test_how_long_steps_of_a_kind_take_is_learnt():
    fleet = Fleet({"one": 2.0})
    fleet.know({"s0": 0.0})
    made = tuple(GraphStep(f"m{n}", 0.0, kind="m", capability="work") for n in range(3))
    fleet.tell(flow.GraphKnown(made))
    fleet.ready("m0", "m1")
    fleet.end("m0", 20.0)
    assert fleet.starts[1][0] == "m1"
    assert fleet.requests[-1].seconds == pytest.approx(20.0)


def test_what_runs_late_is_copied_to_where_the_plan_says_and_the_other_is_stopped():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.copies, fleet.busy["fast"] = 1, [30.0]
    fleet.know({"s": 10.0, "after": 10.0}, [("s", "after")])
    fleet.ready("s")
    fleet.look(later=5.0)
    assert fleet.starts == [("s", "slow")]
    fleet.busy["fast"] = []
    fleet.look(later=20.0)
    assert fleet.starts == [("s", "slow")], "as far as is known, others hold the fast one for five seconds more"
    fleet.look(later=10.0)  # when its places are looked up
    fleet.look(later=1.0)
    assert fleet.starts == [("s", "slow"), ("s", "fast")]
    copy = fleet.mine["s"]
    fleet.now += 2.5
    fleet.tell(flow.StepEnded("s", copy.fence, "a", 2.5, copy.copy))
    assert [lease.cluster for lease in fleet.stopped] == ["slow"]


def test_nothing_is_copied_of_which_nobody_knows_how_long_it_takes():
    fleet = Fleet({"fast": 4.0, "slow": 1.0})
    fleet.copies = 1
    fleet.know({"s": 0.0})
    fleet.ready("s")
    for _ in range(10):
        fleet.look(later=1.0)
    assert len(fleet.starts) == 1


def test_a_graph_that_is_none_is_refused():
    with pytest.raises(BadInputError, match="circle"):
        Fleet({"one": 1.0}).know({"a": 1.0, "b": 1.0}, [("a", "b"), ("b", "a")])


@pytest.mark.parametrize(("work", "nodes", "said"), [(10.0, 3, [TOO_MANY]), (0.1, 3, []), (10.0, 2, [])])
def test_a_run_before_more_nodes_than_it_plans_with_says_so_once_if_it_would_plan_else(monkeypatch, work, nodes, said):
    monkeypatch.setattr(flow_plan, "MAX_PLANNED", 2)
    fleet = Fleet({f"n{number}": 1.0 + number for number in range(nodes)})
    fleet.know({"a": work, "b": work, "c": work}, [("a", "b"), ("b", "c")])
    for step in "abc":
        fleet.ready(step)
        fleet.look(later=LOOK_AGAIN_S)
        fleet.end(step, work)
    assert fleet.remarks == said


def test_a_cluster_that_tells_of_no_nodes_is_said_once_to_be_left_out_of_the_plan():
    fleet = Fleet({"vast": 1.0, "fast": 2.0, "slow": 1.0})
    fleet.untold = {"vast"}
    fleet.know({"a": 10.0, "b": 10.0, "c": 10.0}, [("a", "b"), ("b", "c")])
    for step in "abc":
        fleet.ready(step)
        fleet.end(step, 5.0)
    assert fleet.remarks == [TELLS_OF_NONE.format(cluster="vast")]


def test_who_was_not_asked_for_nodes_has_not_kept_them_to_itself():
    fleet = Fleet({"one": 1.0, "like it": 1.0, "new": 3.0})
    fleet.barred = {"new"}
    fleet.know({"s0": 10.0, "s1": 10.0})
    fleet.ready("s0")
    fleet.end("s0", 1.0)
    fleet.barred = set()
    fleet.ready("s1")
    assert [announce.about for announce in fleet.announced][-1] == ()
    assert fleet.remarks == []


def test_many_steps_are_planned_a_front_at_a_time_and_all_get_done(monkeypatch):
    monkeypatch.setattr(ahead, "FRONT", 20)
    fleet = Fleet({"fast": 2.0, "slow": 1.0}, slots=8)
    names = [f"s{n}" for n in range(90)]
    fleet.know(dict.fromkeys(names, 1.0))
    for name in names:
        fleet.governor.handle(flow.StepReady(Ask("r", name, "work")), fleet.now, more=True)
    fleet.look()
    while fleet.mine:
        step = next(iter(fleet.mine))
        fleet.now += 0.1
        fleet.tell(flow.StepEnded(step, fleet.mine[step].fence, "a", 1.0))
    assert sorted(step for step, _ in fleet.starts) == sorted(names)


def test_nodes_are_told_of_as_who_plans_ahead_sees_them():
    held = [Occupied("mine", 0.0, 9.0), Occupied("other", 2.0, 10.0, (("gpu", 1.0),)), Occupied("other", 4.0)]
    nodes = [
        NodeNow("a", 1, {"x", "y"}, [], warm={"y", "z"}),
        NodeNow("b", 4, {"x"}, held, speed=2.0, resources=(("gpu", 2.0),)),
    ]
    assert outlook(nodes, "mine", ("x", "y"), now=7.0) == (
        NodeOutlook("a", 1, 1.0, (0, 1), warm=(1,)),
        NodeOutlook("b", 4, 2.0, (0,), (Busy(left(0.5) * 10.0, (("gpu", 1.0),)), Busy(3.0)), (("gpu", 2.0),)),
    )


def test_a_bid_tells_of_the_nodes_with_most_room_that_could_take_what_it_is_asked_about():
    cluster = ClusterGovernor("lab", "lab-c", 1, 1.0)
    some = {f"n{n:03}": 1 + (n == 70) for n in range(MAX_OUTLOOK + 10)}
    joins = [*some.items(), ("closed", 9), ("full", 9)]
    for event in [NodeJoined(name, slots, frozenset({"x"})) for name, slots in joins]:
        cluster.handle(event, 0.0)
    cluster.handle(NodeJoined("other", 9, frozenset({"z"})), 0.0)
    cluster.handle(NodeReported("closed", frozenset(), 0.0, closed=True), 0.0)
    cluster.handle(NodeReported("full", frozenset(), 0.95), 0.0)
    request = LeaseRequest("r", "s", 1, "x", DataClass.INTERNAL, prefer=("n001",))
    cluster.handle(Award("a", "r", 0, "lab-c", (request,)), 0.0)

    def told(*about: str) -> list[str]:
        ask = Announce("other", "r2", 1, (AskGroup("x", DataClass.INTERNAL, 1),), about=about)
        (reply,) = cluster.handle(ask, 0.0)
        assert isinstance(reply, Reply)
        assert isinstance(reply.answer, Bid)
        return [node.node for node in reply.answer.nodes]

    assert told() == []
    assert told("y") == []
    assert told("y", "z") == ["other"]
    first = ["n070", *(name for name in sorted(some) if name not in ("n001", "n070"))]
    assert told("x") == first[:MAX_OUTLOOK]
    for number in range(len(some), MAX_PLANNED):
        cluster.handle(NodeJoined(f"n{number:03}", 1, frozenset({"x"})), 0.0)
    assert len(told("x")) == MAX_OUTLOOK
    cluster.handle(NodeJoined("one more", 9, frozenset({"x"})), 0.0)
    assert told("x") == [], "over so many no plan is made"
    assert told("y", "z") == ["other"]


@pytest.mark.parametrize("kind", run_online.KINDS)
@pytest.mark.parametrize("shape", ["lanes", "modules"])
def test_drawn_workflows_come_to_their_end_through_bids_about_as_soon_as_from_one_desk(shape, kind, tmp_path):
    trace = workflows.draw(shape, 25, 3)
    graph, network = make_instance(trace, "policy", 3)
    view = baselines.View(graph, network)
    length = max(end for _, _, end in baselines.decode(view, view.upward())[1].values())
    work, events = run_online.true_work(graph, 3), run_online.make_disturbances(graph, network, kind, length, 3)
    through, central = (
        run_online.execute(system(*run_static.anonymous(graph, network)), graph, network, work, events, length)[0]
        for system in (Bidding, Online)
    )
    assert through < 2.0 * central


def remaining_s(story: Story) -> float:
    return story.last(flow.SendAnnounce).announce.remaining_s


def pages(count: int) -> tuple[Ask, ...]:
    return tuple(Ask("r", f"page[{number}]", "work") for number in range(count))


def test_what_a_run_has_left_counts_the_steps_that_an_op_was_mapped_to():
    """Of those nobody knows before what they are mapped over is there."""
    story = Story()
    steps = (GraphStep("list", 0.0, kind="list", capability="work"),)
    story.event(flow.GraphKnown(steps, kinds=(("list", 5.0), ("page", 60.0))))
    story.ready(Ask("r", "list", "work"))
    assert remaining_s(story) == 5.0
    story.bid("a")
    story.grant()
    story.event(flow.StepEnded("list", 1, "of the list", 5.0))
    story.ready(*pages(200))
    story.bid("a", slots=0)
    story.event(flow.Tick(), later=1.0)
    assert remaining_s(story) == 200 * 60.0
    story.bid("a", slots=2)
    story.grant()
    story.event(flow.StepEnded("page[0]", 1, "of the first", 60.0))
    story.event(flow.StepLost("page[1]", 1, "n1", "the worker died"))
    story.event(flow.Tick(), later=1.0)
    assert remaining_s(story) == 199 * 60.0
    story.event(flow.StepDropped("page[2]", "nobody waits for it"))
    story.bid("a", slots=1)
    story.event(flow.Tick(), later=1.0)
    assert remaining_s(story) == 198 * 60.0


def test_parts_of_a_map_inside_a_step_are_a_kind_of_their_own():
    story = Story()
    steps = (GraphStep("fan", 0.0, kind="fan", capability="work"),)
    story.event(flow.GraphKnown(steps, kinds=(("fan", 10.0),)))
    story.ready(Ask("r", "fan", "work"))
    story.bid("a")
    story.grant()
    story.ready(*(Ask("r", f"fan#1.0/{number}", "work", priority=1) for number in range(3)))
    assert remaining_s(story) == 10.0 + 3 * 10.0
    story.bid("a")
    story.grant()
    story.event(flow.StepEnded("fan#1.0/0", 1, "of a part", 2.0))
    story.bid("a", slots=0)
    story.event(flow.Tick(), later=1.0)
    assert remaining_s(story) == 10.0 + 2 * 2.0


def test_a_run_that_knows_of_no_step_how_long_it_takes_says_so_and_later_goes_by_those_that_have_ended():
    """Nodes that are alike are no reason to reckon with what is known no more."""
    fleet = Fleet({"one": 1.0, "two": 1.0})
    fleet.know(dict.fromkeys(("a1", "a2", "b", "c"), 0.0))
    fleet.ready("a1", "a2", "b", "c")
    assert {one.remaining_s for one in fleet.announced} == {0.0}
    fleet.end("a1", 30.0)
    assert fleet.announced[-1].remaining_s == 3 * 30.0
    fleet.end("a2", 50.0)
    assert fleet.announced[-1].remaining_s == 2 * 40.0
