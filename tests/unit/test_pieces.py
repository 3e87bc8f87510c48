"""Pieces between two threads: in order, bounded, and each side is told of the other's end."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.clock import ManualClock
from ioi_dagster.compound.pieces import OVERHEAD, WINDOW, Pieces, StreamClosedError, framed
from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.framing import decode_payload
from ioi_dagster.model.block import MAX_PIECE, MAX_PIECES, MAX_STREAM, Payload


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(1, 400))
def test_what_was_given_is_taken_in_order_whatever_is_taken_at_a_time(frames: list[bytes], most: int):
    pieces = Pieces()
    for frame in frames:
        pieces.give(frame)
    pieces.end()
    taken: list[bytes] = []
    while not pieces.over:
        some = pieces.take(0.0, most)
        assert sum(len(frame) + OVERHEAD for frame in some[:-1]) < most
        taken += some
    assert (taken, pieces.taken, pieces.take(0.0)) == (frames, len(frames), [])


def test_who_gives_waits_while_a_window_of_it_is_unread():
    pieces, most = Pieces(), WINDOW // (OVERHEAD + 1)
    given: list[int] = []

    def give() -> None:
        for number in range(3 * most):
            pieces.give(b"x")
            given.append(number)
        pieces.end()

    with ThreadPoolExecutor(1) as pool:
        maker = pool.submit(give)
        taken = 0
        while not pieces.over:
            taken += len(pieces.take(60, most=5_000))
            assert len(given) - taken <= most + 1
        assert taken == 3 * most
        maker.result(60)


def test_what_came_before_an_error_is_there_and_then_it_is_raised():
    pieces = Pieces()
    pieces.give(b"1")
    pieces.end(ValueError("no more"))
    found = []
    with pytest.raises(ValueError, match="no more"):
        found.extend(pieces)
    assert found == [b"1"]


def test_who_gives_hears_that_nobody_reads_on_also_while_he_waits():
    pieces, waits = Pieces(), threading.Event()

    def give() -> None:
        while True:
            waits.set() if pieces._given_bytes > WINDOW - 2_000 else None
            pieces.give(b"x" * 1_000)

    with ThreadPoolExecutor(1) as pool:
        maker = pool.submit(give)
        assert waits.wait(60)
        pieces.close("it was cancelled")
        with pytest.raises(StreamClosedError, match="it was cancelled"):
            maker.result(60)


def test_a_reader_that_has_gone_without_a_word_is_waited_for_so_long():
    clock = ManualClock()
    pieces = Pieces(30.0, clock.monotonic)
    pieces.give(b"x" * WINDOW)
    clock.advance(29.0)
    pieces.take(0.0, 1)
    pieces.give(b"x" * WINDOW)
    clock.advance(31.0)
    with pytest.raises(StreamClosedError, match="nobody has read it for 30 s"):
        pieces.give(b"x")


def test_pieces_are_what_they_were():
    pieces = [Payload({"n": n}, {"raw": bytes([n])}) for n in range(3)]
    assert [decode_payload(frame) for frame in framed(pieces)] == pieces


@pytest.mark.parametrize(
    ("piece", "count", "after", "why"),
    [
        (Payload({}, {"x": b"x" * MAX_PIECE}), 1, 0, f"piece 0 has {MAX_PIECE + 47} bytes, and may have {MAX_PIECE}"),
        (Payload({}), 3, MAX_PIECES - 1, f"more than {MAX_PIECES} pieces"),
        (Payload({}, {"x": b"x" * (MAX_PIECE - 100)}), 17, 0, f"its pieces have more than {MAX_STREAM} bytes together"),
    ],
    ids=["large", "many", "together"],
)
def test_what_is_out_of_bounds_ends_the_stream(piece: Payload, count: int, after: int, why: str):
    with pytest.raises(FinalError, match=why):
        deque(framed([piece] * count, after), maxlen=0)


def test_a_piece_that_cannot_be_framed_ends_the_stream():
    with pytest.raises(BadInputError):
        list(framed([Payload({}, {str(n): b"" for n in range(1_001)})]))
