"""What came of a streamed call whose step is stopped for somebody else: the step's checkpoint, after which its next attempt has
the block go on.

The bytes are read again in the step's own domain, by this code; nothing in them is run or unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ioi_dagster.compound.checkpoint import Checkpoint
from ioi_dagster.compound.pieces import Pieces
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.framing import encode_payload
from ioi_dagster.model.block import NOBODY, Made, Payload
from ioi_dagster.model.start import MAX_CHECKPOINT
from ioi_dagster.signing import digest_bytes

GRACE_S = 5.0
"""It looks whether it is asked whenever it waits for a piece; what reads the pieces may take so long for one."""
ROOM, OVERHEAD = 4_096, 8
"""Bytes of a checkpoint beside all pieces, and beside each."""


class _Left(msgspec.Struct, frozen=True, tag="ioi.pieces", forbid_unknown_fields=True):
    """`payload`: the digest of what the call was given; `frames`: its pieces from the first on."""

    made: Made
    payload: str
    frames: list[bytes]


class KeptPieces:
    """Of one call, in a step that keeps nothing else by its `checkpoint`; from now on that is asked before it is stopped."""

    def __init__(self, checkpoint: Checkpoint, payload: Payload) -> None:
        self._checkpoint = checkpoint
        self._digest = digest_bytes(encode_payload(payload))
        self._earlier = _earlier(checkpoint.last, self._digest)
        self.first = 0
        """So many pieces of those that were there the block has not made again."""
        self._made, self._kept, self._size = NOBODY, list[bytes](), ROOM
        checkpoint.grace_s = GRACE_S

    @property
    def made(self) -> Made:
        """Who gave the pieces that are there already."""
        return self._earlier.made

    @property
    def after(self) -> int:
        """How many are there already."""
        return len(self._earlier.frames)

    def read(self, pieces: Pieces, came: Callable[[int], object]) -> Iterator[bytes]:
        """All pieces of the call, those before `first` too; `came` hears of each new one how many bytes it has. Ends the attempt
        when somebody wants its slot."""
        self._leave_if_wanted()
        frames = pieces.take()
        while not frames and not pieces.over:
            self._leave_if_wanted()
            frames = pieces.take()
        if pieces.begun is not None:
            # Told before its first piece.
            self.first, self._made = pieces.begun.number, pieces.begun.made
        earlier = self._earlier.frames[: self.first]
        self._keep(earlier)
        yield from earlier
        while frames or not pieces.over:
            self._keep(frames)
            for frame in frames:
                self._leave_if_wanted()
                came(len(frame))
                yield frame
            self._leave_if_wanted()
            frames = pieces.take()
        pieces.wait()

    def _keep(self, frames: list[bytes]) -> None:
        """Those that are no more than a checkpoint may have."""
        for frame in frames:
            self._size += len(frame) + OVERHEAD
            if self._size <= MAX_CHECKPOINT:
                self._kept.append(frame)

    def _leave_if_wanted(self) -> None:
        """Where nothing new has come, the checkpoint of the attempt before stays."""
        if self._checkpoint.wanted:
            left = _Left(self._made, self._digest, self._kept)
            self._checkpoint.leave(msgspec.msgpack.encode(left) if len(self._kept) > self.first else None)


def _earlier(last: bytes | None, digest: str) -> _Left:
    """What an attempt before left, where its call was given the same."""
    nothing = _Left(NOBODY, digest, [])
    if last is None:
        return nothing
    try:
        left = from_msgpack(last, _Left)
    except msgspec.MsgspecError:
        return nothing
    return left if left.payload == digest else nothing
