"""How clusters stand with a domain: by what its own runs have told, fading over hours, bounded; the next run begins with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.files.standing import StandingFile
from ioi_dagster.governors import flow
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.flow_messages import SendAnnounce, SendAward
from ioi_dagster.governors.reputation import PRIOR, Reputation
from ioi_dagster.governors.standing import HALF_LIFE_S, MOST_KEPT, Standings
from ioi_dagster.model.negotiation import Ask, Awarded, RejectedRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.standing import MAX_STANDINGS, Experience, Standing
from ioi_dagster.signing import digest_bytes
from tests.unit.governors.test_flow import Story

NO = Refusal("cluster.full", "all nodes are busy", "a")


def test_it_is_what_runs_have_told_and_half_of_it_is_forgotten_in_a_half_life():
    standings = Standings()
    standings.tell([Experience("a", 2.0, 1.0, 2.0, 0.0, "late"), Experience("b", 5.0)], 100.0)
    standings.tell([Experience("a", 0.0, 0.0, 0.0, 2.0)], 100.0)
    assert standings.all(110.0)[0].trust == pytest.approx(3 / 6, abs=0.001)
    assert standings.all(100.0 + HALF_LIFE_S) == (
        Standing("a", 0.571, 1.0, 0.5, 1.0, 1.0, "late", HALF_LIFE_S),
        Standing("b", 1.0, 2.5, 0.0, 0.0, 0.0, "", HALF_LIFE_S),
    )
    assert standings.all(100.0 + 20 * HALF_LIFE_S) == ()


def test_who_was_bad_for_long_can_show_that_he_has_mended():
    standings = Standings()
    for _ in range(100):
        standings.tell([Experience("a", broken=20.0)], 0.0)
    assert standings.all(0.0)[0].broken == pytest.approx(MOST_KEPT)
    for _ in range(10):
        standings.tell([Experience("a", kept=20.0)], 0.0)
    (its,) = standings.all(0.0)
    assert its.trust > 0.95


TOLD = st.builds(
    Experience,
    st.sampled_from(["a", "b", "c"]),
    *[st.floats(0, 1e6)] * 4,
    st.sampled_from(["", "why"]),
)


@given(st.lists(st.tuples(st.lists(TOLD, max_size=4), st.floats(-1e5, 1e6)), max_size=30), st.floats(0, 1e6))
def test_it_stays_in_its_bounds_and_another_process_goes_on_from_there(told, later):
    standings = Standings()
    for seen, now in told:
        standings.tell(seen, now)
        standings.validate()
    end = max([now for _, now in told], default=0.0)
    before = standings.all(end)
    assert all(0 < one.trust <= 1 for one in before)
    other = Standings()
    other.restore(before, later, 7.0)
    other.validate()
    faded = {one.cluster: one for one in standings.all(end + later)}
    for one in other.all(7.0):
        assert one.trust == pytest.approx(faded[one.cluster].trust if one.cluster in faded else 1.0, abs=0.02)


def test_of_too_many_clusters_those_of_whom_least_is_known_are_forgotten():
    standings = Standings()
    standings.tell([Experience("known", kept=9.0, broken=1.0)], 0.0)
    standings.tell([Experience(f"c{number}", kept=1.0) for number in range(2 * MAX_STANDINGS)], 1.0)
    standings.validate()
    assert "known" in {one.cluster for one in standings.all(2.0)}


def test_a_run_begins_with_it_and_its_own_eyes_come_to_count_more():
    reputation = Reputation()
    reputation.begin([Standing("a", 0.5, kept=0.0, broken=40.0), Standing("b", 1.0, kept=40.0)])
    assert reputation.trust("a", 0.0) == 1 / (1 + PRIOR)
    assert (reputation.trust("b", 0.0), reputation.trust("new", 0.0)) == (1.0, 1.0)
    for _ in range(10):
        reputation.observe("a", 1, 0, 0.0)
    assert reputation.trust("a", 0.0) == 11 / 15
    assert reputation.experience() == (Experience("a", kept=10.0),)
    assert reputation.experience() == ()


def test_what_a_run_tells_is_what_it_has_seen():
    story = Story()
    story.ready(Ask("r", "s", "ocr"), Ask("r", "t", "ocr"))
    story.bid("a", slots=2)
    award = story.grant()
    assert len(award.requests) == 2
    story.event(flow.StepLost("s", 1, "n1", "the worker died", Cause.NODE_LOST))
    story.event(flow.StepLost("t", 1, "n1", "it took too long", Cause.TIMEOUT))
    story.event(flow.Tick(), later=1.0)
    story.bid("a")
    (request,) = story.last(SendAward).award.requests
    rejected = RejectedRequest(request.step, request.fence, NO)
    story.event(flow.AwardAnswered(Awarded("a", (), (rejected,))))
    story.event(flow.Tick(), later=1.0)
    number = story.last(SendAnnounce).announce.round
    story.event(flow.BidMissed("a", number, "no answer"))
    assert story.governor.experience() == (Experience("a", 1.0, 1.0, 1.0, 1.0, "no answer"),)


@pytest.mark.parametrize("comes", [False, True])
def test_who_is_late_is_so_once_whatever_comes_of_it(comes: bool):
    story = Story()
    story.ready(Ask("r", "s", "ocr"), places=("a", "b"))
    story.bid("a")
    number = story.last(SendAnnounce).announce.round
    story.event(flow.Tick(), later=1.0)
    why = story.governor.snapshot().reputation["b"]["suspect"]
    if comes:
        story.bid("b")
    else:
        story.event(flow.BidMissed("b", number, "no answer"))
    assert story.governor.experience() == (Experience("b", late=1.0, why=str(why)),)
    story.grant()
    story.event(flow.StepReady(Ask("r", "t", "ocr")), later=30.0)
    story.event(flow.PlacesFound("t", (flow.Place("b", "b"),), (), False))
    story.event(flow.Tick())
    story.event(flow.BidMissed("b", story.last(SendAnnounce).announce.round, "no answer"))
    (its,) = [one for one in story.governor.experience() if one.cluster == "b"]
    assert its == Experience("b", late=1.0, why="no answer")


def test_a_run_gives_less_to_whom_its_domain_trusts_less():
    story = Story()
    story.event(flow.StandingKnown((Standing("a", 0.1, broken=10.0),)))
    story.ready(Ask("r", "s", "ocr"), places=("a", "b"))
    story.bid("a", price=1.0)
    story.bid("b", price=1.5)
    assert story.last(SendAward).award.cluster == "b"


def test_it_outlives_its_process_and_what_was_damaged_is_left_out(tmp_path: Path, caplog):
    file = StandingFile(tmp_path / "standing")
    assert file.load(5.0) == ((), 0.0)
    standings = (Standing("a", 0.5, 1.0, 2.0, 3.0, 4.0, "why", 5.0),)
    file.save(standings, 100.0)
    assert file.load(160.0) == (standings, 60.0)
    assert file.load(40.0) == (standings, 0.0), "a clock that was set back makes nothing younger"
    assert not (tmp_path / "standing").stat().st_mode & 0o077
    data = bytearray((tmp_path / "standing").read_bytes())
    data[-20] ^= 1
    (tmp_path / "standing").write_bytes(data)
    assert file.load(160.0) == ((), 0.0)
    assert "is left out" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b'{"at": 1',
        b"[]",
        b'{"at": 1.0}',
        b'{"at": 1.0, "standings": [{"cluster": 7}]}',
        b'{"of another kind": ' + b"[" * 100_000,
    ],
)
def test_of_one_of_another_kind_nothing_is_left_but_a_line_in_the_log(tmp_path: Path, caplog, body: bytes):
    """As an older or a newer version of the program may have written it: whole, with its digest."""
    (tmp_path / "standing").write_bytes(digest_bytes(body).encode() + b"\n" + body)
    assert StandingFile(tmp_path / "standing").load(5.0) == ((), 0.0)
    assert f"{tmp_path / 'standing'} is left out" in caplog.text
