"""The map governor: who waits for which chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.governors import mapping
from ioi_dagster.governors.failures import CHUNK_TODO
from ioi_dagster.governors.mapping import (
    ChunkCommitted,
    ChunkRefused,
    ChunkRow,
    Deliver,
    DropChunk,
    HoldSlot,
    MapAsked,
    MapGovernor,
    MapOver,
    ParentOver,
    PlaceChunk,
    Report,
)
from ioi_dagster.model.refusal import Refusal

ASKED = MapAsked("m", "fan", 2, "fan", 1, "tcp://w", (3, 2))
POISON = Refusal("flow.poison_step", "it was lost 5 times", "flow governor")


def test_from_the_request_to_the_report():
    governor = MapGovernor()
    assert governor.handle(ASKED) == [
        Deliver("m", "tcp://w", ()),
        HoldSlot("fan", 2, True),
        PlaceChunk("fan#2.1/0", "fan", "m", 0, "tcp://w"),
        PlaceChunk("fan#2.1/1", "fan", "m", 1, "tcp://w"),
    ]
    done = governor.handle(ChunkCommitted("fan#2.1/1", "a1", 3, "n", 0.5))
    assert done == [Deliver("m", "tcp://w", ((1, "a1", None),))]
    assert governor.handle(ASKED) == done, "asked again, told again"
    assert governor.handle(ChunkRefused("fan#2.1/0", POISON)) == [Deliver("m", "tcp://w", ((0, "", POISON),))]
    assert governor.handle(ChunkCommitted("fan#2.1/1", "a2", 4, "n", 0.5)) == [], "one answer each"
    assert governor.handle(MapOver("m")) == [
        HoldSlot("fan", 2, False),
        Report(
            "m",
            "fan",
            "fan",
            1,
            (
                ChunkRow("fan#2.1/0", 0, 2, "", 0, "", 0.0, str(POISON)),
                ChunkRow("fan#2.1/1", 3, 4, "n", 3, "a1", 0.5, "done"),
            ),
        ),
    ]
    assert governor.handle(MapOver("m")) == []


def test_an_attempt_that_ended_takes_its_chunks_with_it_and_no_others():
    governor = MapGovernor()
    governor.handle(ASKED)
    governor.handle(MapAsked("other", "fan", 3, "fan", 1, "tcp://v", (1,)))
    ended = governor.handle(ParentOver("fan", 2))
    assert [one for one in ended if isinstance(one, DropChunk)] == [DropChunk("fan#2.1/0"), DropChunk("fan#2.1/1")]
    assert governor.handle(ParentOver("fan", 2)) == []
    assert governor.handle(ChunkCommitted("fan#3.1/0", "a", 1, "n", 0.1)) == [
        Deliver("other", "tcp://v", ((0, "a", None),))
    ]


def test_a_chunk_that_takes_its_steps_node_down_each_time_is_refused_in_the_end():
    governor = MapGovernor()
    for fence in range(1, 6):
        asked = governor.handle(MapAsked(f"m{fence}", "fan", fence, "fan", 1, "w", (1, 1)))
        assert [one.index for one in asked if isinstance(one, PlaceChunk)] == [0, 1]
        governor.handle(ParentOver("fan", fence))
        governor.handle(mapping.ChunkLost(f"fan#{fence}.1/1"))
    asked = governor.handle(MapAsked("m6", "fan", 6, "fan", 1, "w", (1, 1)))
    assert [one.index for one in asked if isinstance(one, PlaceChunk)] == [0]
    refusal = Refusal("flow.poison_chunk", "nodes were lost 5 times while it ran there", "flow governor", CHUNK_TODO)
    assert asked[-1] == Deliver("m6", "w", ((1, "", refusal),))


_steps = st.builds("p{}#1.{}/{}".format, st.integers(0, 2), st.integers(1, 2), st.integers(0, 2))
_events = st.one_of(
    st.builds(
        lambda parent, number, sizes: MapAsked(f"p{parent}-{number}", f"p{parent}", 1, "s", number, "w", tuple(sizes)),
        st.integers(0, 2),
        st.integers(1, 2),
        st.lists(st.integers(1, 3), min_size=1, max_size=3),
    ),
    st.builds(lambda step: ChunkCommitted(step, "a", 1, "n", 0.1), _steps),
    st.builds(lambda step: ChunkRefused(step, POISON), _steps),
    st.builds(lambda parent, number: MapOver(f"p{parent}-{number}"), st.integers(0, 2), st.integers(1, 2)),
    st.builds(lambda parent: ParentOver(f"p{parent}", 1), st.integers(0, 2)),
)


@given(st.lists(_events, max_size=40))
def test_slots_are_given_back_as_often_as_taken_and_each_map_is_reported_once(events):
    governor = MapGovernor()
    out: list[mapping.Instruction] = []
    for event in events:
        out += governor.handle(event)
        governor.validate()
    for parent in range(3):
        out += governor.handle(ParentOver(f"p{parent}", 1))
    governor.validate()
    holds = [one.waits for one in out if isinstance(one, HoldSlot)]
    assert holds.count(True) == holds.count(False) == len([one for one in out if isinstance(one, Report)])
    placed = [one.step for one in out if isinstance(one, PlaceChunk)]
    rows = [row.step for one in out if isinstance(one, Report) for row in one.rows]
    assert sorted(placed) == sorted(rows)
