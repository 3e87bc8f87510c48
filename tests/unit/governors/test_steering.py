"""What people say to a run under way: it holds, it is answered, and nothing is lost by it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ioi_dagster.errors import BadInputError
from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow_messages import Answer, FailStep, RefuseStep, SendAnnounce, SendAward, StartStep
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.negotiation import Ask, Awarded, Bid, Effect, Lease, LeaseRequest, SupplyPoint
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.story import Chapter
from tests.unit.governors.test_flow import Story


class Steered(Story):
    """A run whose steps may go to clusters a and b, of so many slots each; everything is answered at once."""

    def __init__(self, slots: int = 4) -> None:
        super().__init__()
        self.governor = flow.FlowGovernor("r", "home", park_s=0.0)
        self.slots, self.seen, self.count = slots, 0, 0
        self.clusters, self.answers_awards = ("a", "b"), True
        self.running: dict[str, Lease] = {}

    def say(self, action: Action, step: str = "", **more: Any) -> str:
        """The answer."""
        self.count += 1
        said = Intervention("r", action, step, who="ann", why=more.pop("why", "a reason"), number=self.count, **more)
        said.check()
        self.event(flow.Intervened(said))
        self.settle()
        (answer,) = [one for one in self.wanted(Answer) if one.said == said]
        told = [one for one in self.wanted(flow.Tell) if one.facts.get("number") == self.count]
        assert [(one.step, one.chapter) for one in told] == [(step, Chapter.INTERVENTION)]
        return answer.text

    def come(self, *steps: str, **more: Any) -> None:
        self.ready(*(Ask("r", step, "work", **more) for step in steps))
        self.settle()

    def settle(self) -> None:
        for _ in range(6):
            self._answer()
            self.event(flow.Tick(), later=0.5)
        self.governor.validate()

    def _answer(self) -> None:
        while self.seen < len(self.done):
            wanted = self.done[self.seen]
            self.seen += 1
            match wanted:
                case flow.FindPlaces(asks):
                    for ask in asks:
                        places = tuple(flow.Place(name, name) for name in self.clusters)
                        self.event(flow.PlacesFound(ask.step, places, (), False))
                case SendAnnounce(cluster, announce):
                    free = self.slots - sum(lease.cluster == cluster for lease in self.running.values())
                    points = tuple(
                        SupplyPoint(one.capability, one.data_class, free, 1.0, gang=one.gang, part=one.part)
                        for one in announce.groups
                        if free >= max(1, one.gang)
                    )
                    self.event(flow.BidReceived(Bid(cluster, cluster, "r", announce.round, 1, points)))
                case SendAward(award) if self.answers_awards:
                    leases = tuple(self._lease(award.cluster, request) for request in award.requests)
                    self.event(flow.AwardAnswered(Awarded(award.cluster, leases)))
                case StartStep(ask, lease):
                    self.running[ask.step] = lease
                case flow.StopStep(lease):
                    self.running.pop(lease.step, None)

    def _lease(self, cluster: str, request: LeaseRequest) -> Lease:
        key = f"{request.step}/{request.fence}@{cluster}"
        return Lease(key, "r", request.step, request.fence, 0, "work", cluster, cluster, f"{cluster}1", 1)

    def end(self, step: str) -> None:
        lease = self.running.pop(step)
        self.event(flow.StepEnded(step, lease.fence, f"of {step}", 1.0))
        self.settle()

    def waiting(self) -> dict[str, str]:
        return self.governor.snapshot().waiting


PAUSED = "paused by ann: a reason"


def test_a_paused_run_starts_nothing_and_goes_on_where_it_was():
    run = Steered()
    run.come("before")
    assert run.say(Action.PAUSE) == "paused; what runs goes on to its end"
    run.come("a", "b")
    assert (list(run.running), run.waiting()) == (["before"], {"a": PAUSED, "b": PAUSED})
    run.end("before")
    assert run.say(Action.PAUSE) == "paused already"
    assert run.say(Action.RESUME) == "goes on"
    assert set(run.running) == {"a", "b"}
    assert run.say(Action.RESUME) == "was not paused"


def test_steps_are_paused_by_name_and_mapped_ones_by_the_name_of_their_step():
    run = Steered()
    run.say(Action.PAUSE, "ocr")
    run.say(Action.PAUSE, "page[2]")
    run.come("ocr[1]", "ocr[2]", "ocr_more", "page[1]", "page[2]")
    assert (set(run.running), set(run.waiting())) == ({"ocr_more", "page[1]"}, {"ocr[1]", "ocr[2]", "page[2]"})
    assert run.say(Action.RESUME, "ocr[1]") == "not resumed: ocr is paused as a whole"
    assert run.say(Action.RESUME, "ocr") == "goes on"
    assert set(run.waiting()) == {"page[2]"}
    run.say(Action.PAUSE)
    assert run.say(Action.RESUME, "page[2]") == f"not resumed: the whole run is {PAUSED}"
    run.say(Action.RESUME)
    assert run.waiting() == {}


def test_what_is_lost_while_its_run_is_paused_waits_too():
    run = Steered()
    run.come("s")
    run.say(Action.PAUSE)
    lease = run.running.pop("s")
    run.event(flow.StepLost("s", lease.fence, lease.node, "its worker died", Cause.NODE_LOST))
    run.settle()
    assert (run.running, run.waiting()) == ({}, {"s": PAUSED})
    run.say(Action.RESUME)
    assert set(run.running) == {"s"}


def test_a_gang_of_which_one_is_paused_does_not_start():
    run = Steered()
    run.say(Action.PAUSE, "y")
    run.come("x", "y", gang="g", gang_size=2)
    assert run.running == {}
    run.say(Action.RESUME, "y")
    assert set(run.running) == {"x", "y"}


@pytest.mark.parametrize("cap", [0, 1, 3])
def test_no_more_run_at_once_than_the_cap_and_the_next_start_when_others_end(cap):
    run = Steered()
    assert run.say(Action.CAP, value=cap) == f"may have {counted(cap, 'step')} at once"
    run.come(*(f"s{number}" for number in range(6)))
    seen = set(run.running)
    assert len(run.running) == cap
    assert set(run.waiting().values()) == {f"the run may have {counted(cap, 'step')} at once"}
    while cap and run.running:
        run.end(next(iter(run.running)))
        assert len(run.running) == min(cap, 6 - len(seen - run.running.keys()))
        seen |= run.running.keys()
    assert run.say(Action.CAP, value=None) == "may have any number of steps at once"
    assert len(seen | run.running.keys()) == 6


def test_a_lower_cap_stops_nothing_that_runs():
    run = Steered()
    run.come("a", "b", "c")
    run.say(Action.CAP, value=1)
    run.come("d")
    run.end("a")
    run.end("b")
    assert set(run.running) == {"c"}
    run.end("c")
    assert set(run.running) == {"d"}


def test_priorities_count_for_what_waits_and_for_what_comes():
    run = Steered(slots=1)
    run.come("first", "second")
    run.come("late", "urgent")
    assert run.say(Action.PRIORITISE, "urgent", value=10) == "has priority 10 from now on"
    run.end("first")
    assert "urgent" in run.running
    run.say(Action.PRIORITISE, "later", value=5)
    run.come("later")
    run.end("second")
    assert "later" in run.running


def test_what_waits_is_cancelled_and_what_runs_is_stopped_and_neither_comes_back():
    run = Steered(slots=1)
    run.clusters = ("a",)
    run.come("m[1]", "m[2]", "m[3]", "other")
    ((runs, lease),) = run.running.items()
    assert run.say(Action.CANCEL, "m") == "3 cancelled"
    assert [one.lease for one in run.wanted(flow.StopStep)] == [lease]
    ended = {one.step: one.refusal for kind in (RefuseStep, FailStep) for one in run.wanted(kind)}
    assert ended.keys() == {"m[1]", "m[2]", "m[3]"}
    assert {(one.code, one.text) for one in ended.values()} == {("flow.cancelled", "cancelled by ann: a reason")}
    assert "other" in run.running
    assert run.say(Action.CANCEL, "m") == "nothing to cancel: it is over, or has not come yet"
    run.event(flow.StepEnded(runs, lease.fence, "late", 1.0))
    assert [one.step for one in run.wanted(flow.DiscardAttempt)] == [runs]


@pytest.mark.parametrize("away", ["a", "a1"])
def test_steps_are_taken_away_from_a_cluster_or_a_node_and_run_elsewhere(away):
    run = Steered()
    run.clusters = ("a",)
    run.come("s", "t")
    run.clusters = ("a", "b")
    assert run.say(Action.REROUTE, "s", away=away) == f"it stays away from {away}; 1 stopped there, to run elsewhere"
    assert run.running["t"].cluster == "a"
    if away == "a":
        assert run.running["s"].cluster == "b"
    assert run.running["s"].fence == 2
    (request,) = run.wanted(SendAward)[-1].award.requests
    assert away in request.avoid


def test_who_has_nowhere_else_to_go_waits_and_says_so():
    run = Steered()
    run.clusters = ("a",)
    run.come("s")
    run.say(Action.REROUTE, "s", away="a")
    assert run.waiting() == {"s": "each place that may take it is one to stay away from (a)"}
    assert run.running == {}


def test_what_may_run_once_only_is_not_rerouted_while_it_runs():
    run = Steered()
    run.clusters = ("a",)
    run.come("s", effect=Effect.AT_MOST_ONCE)
    text = "it stays away from a; 1 may run once only, and go on there"
    assert run.say(Action.REROUTE, "s", away="a") == text
    assert set(run.running) == {"s"}


def test_a_process_that_goes_on_with_the_run_keeps_what_holds_and_does_nothing_twice():
    run = Steered()
    for action, step, more in [
        (Action.PAUSE, "p", {}), (Action.CAP, "", {"value": 3}), (Action.CANCEL, "c", {}), (Action.REROUTE, "d", {"away": "a"}),
        (Action.DRAIN, "q", {}),
    ]:  # fmt: skip
        run.event(flow.Intervened(Intervention("r", action, step, who="ann", why="a reason", **more), again=True))
    run.come("p", "q", "c", "d")
    run.come("e", "f")
    assert run.wanted(Answer) == []
    assert len(run.running) == 3
    assert {"c", "d"} < run.running.keys()
    assert run.running["d"].cluster == "b"
    assert (run.waiting()["p"], run.waiting()["q"]) == (PAUSED, PAUSED)


def test_a_drain_stops_what_runs_and_all_of_it_begins_again_when_it_goes_on():
    run = Steered()
    run.come("m[1]", "m[2]", "other")
    run.come("x", "y", gang="g", gang_size=2)
    assert run.say(Action.DRAIN) == "paused; 5 stopped, to begin again when it goes on"
    assert (run.running, set(run.waiting().values())) == ({}, {PAUSED})
    assert run.say(Action.DRAIN) == "paused"
    assert run.say(Action.RESUME) == "goes on"
    assert {step: lease.fence for step, lease in run.running.items()} == dict.fromkeys(
        ("m[1]", "m[2]", "other", "x", "y"), 2
    )
    assert run.wanted(FailStep) == []


def test_a_drain_of_one_step_leaves_others_and_what_may_run_once_only_alone():
    run = Steered()
    run.come("m[1]", "m[2]", "other")
    run.come("m[3]", effect=Effect.AT_MOST_ONCE)
    told = "paused; 2 stopped, to begin again when it goes on; 1 may run once only, and go on to their end"
    assert run.say(Action.DRAIN, "m") == told
    assert set(run.running) == {"other", "m[3]"}


@pytest.mark.parametrize(
    ("action", "more", "says"),
    [
        (Action.PRIORITISE, {}, "None is no priority"),
        (Action.PRIORITISE, {"value": 1_001}, "1001 is no priority"),
        (Action.CAP, {"value": -1}, "-1 is no number of steps"),
        (Action.CAP, {"value": 1, "step": "s[1]"}, r"s\[1\] is one step, of which one runs at a time"),
        (Action.REROUTE, {"step": "s"}, "it is not said where to go away from"),
        (Action.RETURN, {"step": "s"}, "it is not said where to go back to"),
        (Action.CANCEL, {}, "cancel is for steps here"),
        (Action.PAUSE, {"why": "x" * 501}, "a text of more than 500 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(action, more, says):
    with pytest.raises(BadInputError, match=says):
        Intervention("r", action, **more).check()


def test_data_class_is_kept_by_what_is_asked_for_anew():
    run = Steered(slots=0)
    run.come("s", data_class=DataClass.RESTRICTED)
    run.say(Action.PRIORITISE, value=3)
    (group,) = run.wanted(SendAnnounce)[-1].announce.groups
    assert (group.data_class, group.priority) == (DataClass.RESTRICTED, 3)


def test_a_map_inside_a_step_goes_on_whatever_is_said_of_the_run():
    """Its parts are negotiated for as steps are, and the step that runs waits for them."""
    run = Steered()
    run.come("fan")
    run.say(Action.CAP, value=1)
    run.come("fan#0", "other")
    assert set(run.running) == {"fan", "fan#0"}
    run.say(Action.PAUSE)
    run.come("fan#1")
    assert set(run.running) == {"fan", "fan#0", "fan#1"}
    run.say(Action.REROUTE, "fan", away="b")
    run.clusters = ("b",)
    run.come("fan#2", cluster="b")
    assert "fan#2" in run.running
    run.say(Action.PRIORITISE, value=5)
    run.running.clear()
    run.slots = 0
    run.come("fan#3")
    assert {one.group.priority for one in run.governor._steps.all() if one.ask.step == "fan#3"} == {6}


def test_a_gang_that_is_being_awarded_is_rerouted_whole():
    run = Steered()
    run.clusters, run.answers_awards = ("a",), False
    run.come("x", "y", gang="g", gang_size=2)
    award = run.last(SendAward).award
    run.event(flow.Intervened(Intervention("r", Action.REROUTE, "x", away="a", number=1)))
    leases = tuple(run._lease("a", request) for request in award.requests)
    run.event(flow.AwardAnswered(Awarded("a", leases)))
    assert run.wanted(StartStep) == []
    assert {lease for one in run.wanted(flow.ReleaseLeases) for lease in one.leases} == {one.id for one in leases}
    run.governor.validate()


def test_a_gang_with_one_that_may_run_once_only_is_not_rerouted_while_it_runs():
    run = Steered()
    run.clusters = ("a",)
    run.ready(
        Ask("r", "x", "work", gang="g", gang_size=2),
        Ask("r", "y", "work", gang="g", gang_size=2, effect=Effect.AT_MOST_ONCE),
    )
    run.settle()
    assert "1 may run once only, and go on there" in run.say(Action.REROUTE, "x", away="a")
    assert set(run.running) == {"x", "y"}


def test_more_steps_than_are_negotiated_for_at_once_get_one_priority_and_all_are_asked_for():
    run = Steered(slots=0)
    run.ready(*(Ask("r", f"a{n}", "work", priority=1) for n in range(400)))
    run.ready(*(Ask("r", f"b{n}", "work", priority=2) for n in range(400)))
    run.seen = len(run.done)
    run.event(flow.Intervened(Intervention("r", Action.PRIORITISE, value=10, number=1)))
    run.governor.validate()
    run.seen, run.slots = 0, 1_000
    for _ in range(40):
        run.settle()
        for step in list(run.running):
            lease = run.running.pop(step)
            run.event(flow.StepEnded(step, lease.fence, f"of {step}", 1.0))
    assert run.governor.snapshot().counts == {"done": 800}


def test_a_step_that_waits_for_something_else_than_a_place_is_cancelled_when_it_comes_back():
    run = Steered()
    run.come("s")
    run.running.pop("s")
    run.event(flow.StepDropped("s", "it waits for a slot in its pool"))
    assert run.say(Action.CANCEL, "s") == "1 cancelled"
    run.come("s")
    assert run.running == {}
    assert [(one.step, one.refusal.code) for one in run.wanted(RefuseStep)] == [("s", "flow.cancelled")]


def test_what_was_adopted_stays_away_too_once_it_is_lost():
    run = Steered()
    run.governor.resume({"s": 1})
    run.say(Action.REROUTE, "s", away="a")
    lease = Lease("l", "r", "s", 1, 0, "work", "a", "a", "a1", 1)
    run.event(flow.StepFound(Ask("r", "s", "work"), lease))
    run.event(flow.StepLost("s", 1, "a1", "its worker died", Cause.NODE_LOST))
    run.settle()
    assert run.running["s"].cluster == "b"


def test_what_follows_in_one_task_does_not_where_it_is_paused_or_to_stay_away():
    run = Steered()
    assert run.governor.may_follow("b")
    run.say(Action.PAUSE, "b")
    run.say(Action.REROUTE, "c", away="a")
    assert [run.governor.may_follow(step) for step in ("a", "b", "c")] == [True, False, False]


def test_a_whole_run_is_rerouted_with_what_is_to_come():
    run = Steered()
    run.clusters = ("a",)
    run.come("s", "t")
    run.clusters = ("a", "b")
    assert run.say(Action.REROUTE, away="a") == "it stays away from a; 2 stopped there, to run elsewhere"
    run.come("later")
    assert {step: lease.cluster for step, lease in run.running.items()} == {"s": "b", "t": "b", "later": "b"}


def test_a_reroute_is_taken_back_and_steps_may_go_there_again():
    run = Steered()
    run.clusters = ("a",)
    run.say(Action.REROUTE, "s", away="a")
    run.come("s")
    assert run.running == {}
    assert run.say(Action.RETURN, "s", away="b") == "did not stay away from b"
    assert run.say(Action.RETURN, "s", away="a") == "may go to a again"
    assert run.running["s"].cluster == "a"
    assert run.say(Action.RETURN, "s", away="a") == "did not stay away from a"
    run.say(Action.REROUTE, "s", away="a")
    assert run.running == {}


def test_what_holds_for_more_counts_for_each_of_it_too_and_is_taken_back_there():
    run = Steered()
    run.clusters = ("a", "b", "c")
    run.say(Action.REROUTE, away="a")
    run.say(Action.REROUTE, "ocr", away="b")
    run.come("ocr[1]", "judge")
    assert run.running["ocr[1]"].cluster == "c"
    assert run.running["judge"].cluster in ("b", "c")
    assert run.say(Action.RETURN, "ocr[1]", away="b") == "not taken back: ocr stays away from b as a whole"
    assert run.say(Action.RETURN, "ocr", away="a") == "not taken back: the whole run stays away from a"
    run.say(Action.REROUTE, "ocr[2]", away="c")
    # Of the whole run, whatever was said of its steps.
    assert [run.say(Action.RETURN, away=away) for away in ("a", "c")] == ["may go to a again", "may go to c again"]
    run.clusters = ("c",)
    run.come("ocr[2]")
    assert run.running["ocr[2]"].cluster == "c"


def test_no_more_of_a_step_run_at_once_than_its_cap_and_others_do_not_wait_for_that():
    run = Steered(slots=1_000)
    assert run.say(Action.CAP, "ocr", value=2) == "may have 2 of ocr at once"
    # More than are negotiated for at once: nothing else may stand behind them.
    run.come(*(f"ocr[{number}]" for number in range(600)), "judge")
    assert set(run.running) == {"ocr[0]", "ocr[1]", "judge"}
    assert run.waiting()["ocr[2]"] == "the run may have 2 of ocr at once"
    run.say(Action.PRIORITISE, "ocr[500]", value=5)
    run.end("ocr[0]")
    run.settle()
    assert set(run.running) == {"ocr[1]", "ocr[500]", "judge"}
    run.say(Action.CAP, "ocr", value=3)
    assert len(run.running) == 4
    run.say(Action.CAP, value=1)
    run.say(Action.CAP, "ocr", value=None)
    assert len(run.running) == 4, "the run has a cap of its own"
    run.say(Action.CAP, value=None)
    assert len(run.running) == 600


def looked_up(run: Steered) -> list[str]:
    """Steps whose places were asked for, as often as they were."""
    return [ask.step for find in run.wanted(flow.FindPlaces) for ask in find.asks]


def test_what_a_cap_or_a_pause_holds_up_has_nobody_elses_places_looked_up_again():
    run = Steered(slots=1)
    run.governor = flow.FlowGovernor("r", "home", park_s=0.0, patience_s=1e9)
    run.say(Action.CAP, "m", value=1)
    run.come("m[1]", "other[1]", "other[2]", "m[2]", "m[3]")
    assert set(run.running) == {"m[1]", "other[1]"}
    assert looked_up(run) == ["m[1]", "other[1]", "other[2]"]
    run.say(Action.PAUSE, "late")
    run.end("m[1]")
    run.settle()
    assert set(run.running) == {"other[1]", "other[2]"}
    # It may start from now on, and waits for room alone.
    assert looked_up(run) == ["m[1]", "other[1]", "other[2]", "m[2]"]
    run.say(Action.RESUME)
    run.end("other[1]")
    run.settle()
    assert set(run.running) == {"other[2]", "m[2]"}
    assert looked_up(run) == ["m[1]", "other[1]", "other[2]", "m[2]"]


def test_what_is_lost_of_a_capped_step_takes_its_turn():
    run = Steered()
    run.say(Action.CAP, "s", value=1)
    run.come("s[1]", "s[2]")
    lease = run.running.pop("s[1]")
    run.event(flow.StepLost("s[1]", lease.fence, lease.node, "its worker died", Cause.NODE_LOST))
    run.settle()
    assert len(run.running) == 1


def test_a_gang_starts_whole_within_a_cap_or_waits():
    run = Steered()
    run.say(Action.CAP, "t", value=3)
    for gang in ("g", "h"):
        run.come(f"t[{gang}1]", f"t[{gang}2]", gang=gang, gang_size=2)
    assert set(run.running) == {"t[g1]", "t[g2]"}
    run.end("t[g1]")
    run.end("t[g2]")
    run.settle()
    assert set(run.running) == {"t[h1]", "t[h2]"}


def test_a_capped_step_runs_in_nobody_elses_task():
    run = Steered()
    run.say(Action.CAP, "b", value=1)
    assert [run.governor.may_follow(step) for step in ("a", "b[1]")] == [True, False]


def test_a_cap_of_a_step_and_a_way_back_hold_in_the_next_process():
    run = Steered()
    for action, step, more in [
        (Action.CAP, "s", {"value": 1}), (Action.REROUTE, "", {"away": "b"}), (Action.REROUTE, "", {"away": "a"}),
        (Action.RETURN, "", {"away": "a"}),
    ]:  # fmt: skip
        run.event(flow.Intervened(Intervention("r", action, step, who="ann", why="a reason", **more), again=True))
    run.come("s[1]", "s[2]")
    assert [lease.cluster for lease in run.running.values()] == ["a"]


def test_what_the_owner_of_its_node_has_cancelled_fails_for_good_and_what_runs_elsewhere_too_goes_on():
    run = Steered()
    run.come("s", "t")
    lease = run.running.pop("s")
    refusal = Refusal("node.cancelled", "cancelled by bob: a bad model", "node a1")
    run.event(flow.StartRefused("s", lease.fence, "a1", refusal))
    run.settle()
    (failed,) = run.wanted(FailStep)
    assert (failed.step, failed.refusal.code, failed.refusal.text) == (
        "s",
        "flow.cancelled",
        "cancelled by bob: a bad model",
    )
    assert lease.id in {one for release in run.wanted(flow.ReleaseLeases) for one in release.leases}
    assert list(run.running) == ["t"]


SAID = some.one_of(
    some.tuples(
        some.sampled_from([Action.PAUSE, Action.DRAIN, Action.RESUME]), some.sampled_from(["", "m", "m[1]", "other"])
    ),
    some.tuples(some.just(Action.CAP), some.sampled_from(["", "m", "other"]), some.none() | some.integers(0, 3)),
    some.tuples(
        some.sampled_from([Action.REROUTE, Action.RETURN]),
        some.sampled_from(["", "m", "m[1]"]),
        some.sampled_from(["a", "b"]),
    ),
    some.tuples(some.just(Action.PRIORITISE), some.sampled_from(["", "m", "m[2]"]), some.integers(-2, 2)),
)


@settings(max_examples=60, deadline=None)
@given(some.lists(SAID | some.sampled_from(["come", "gang", "end", "lost"]), max_size=20))
def test_whatever_is_said_no_cap_is_broken_by_a_start_and_all_of_it_ends_once_it_is_taken_back(acts):
    run, caps, count = Steered(), dict[str, int | None](), 0

    def running(name: str) -> int:
        return sum(name in ("", step.partition("[")[0]) for step in run.running)

    def back(action: Action, value: Any) -> dict[str, Any]:
        return {"away": value} if action in (Action.REROUTE, Action.RETURN) else {"value": value}

    for act in acts:
        before = {name: running(name) for name in ("", "m", "other")}
        match act:
            case "come":
                count += 1
                run.come(f"m[{count}]", f"other[{count}]")
            case "gang":
                count += 1
                run.come(f"m[{count}x]", f"m[{count}y]", gang=f"g{count}", gang_size=2)
            case "end" | "lost" if run.running:
                step = min(run.running)
                if act == "end":
                    run.end(step)
                else:
                    lease = run.running.pop(step)
                    run.event(flow.StepLost(step, lease.fence, lease.node, "its worker died", Cause.SCHEDULER_LOST))
                run.settle()
            case (action, step, *value):
                caps |= {step: value[0]} if action is Action.CAP else {}
                run.say(action, step, **(back(action, value[0]) if value else {}))
            case _:
                pass
        for name, cap in caps.items():
            assert cap is None or running(name) <= max(cap, before[name])
    run.say(Action.RESUME)
    for name in ("", "m", "other"):
        run.say(Action.CAP, name, value=None)
    for away in ("a", "b"):
        run.say(Action.RETURN, away=away)
    for _ in range(2 * count + 1):
        for step in list(run.running):
            run.end(step)
        run.settle()
    assert run.governor.snapshot().counts in ({}, {"done": 2 * count})
