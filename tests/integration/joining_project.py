"""A block that says a word aloud, and a job that has it said in another domain."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dagster import Definitions, job, op

from ioi_dagster import ExchangeIOManager, block_op, governed_executor
from ioi_dagster.host import tags
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.refusal import Refusal


class Loud:
    """Waits for the file `go` in the folder `IOI_TEST_FOLDER` where a word asks for that."""

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def invoke(self, batch):
        return [self._one(payload) for payload in batch]

    def _one(self, payload: Payload) -> Payload:
        text = payload.document["text"]
        if text == "slowly":
            folder = Path(os.environ["IOI_TEST_FOLDER"])
            (folder / "came").touch()
            until = time.monotonic() + 120
            try:
                while not (folder / "go").exists():
                    assert time.monotonic() < until, "nobody let it go on"
                    time.sleep(0.02)
            finally:
                (folder / "over").touch()
        return Payload({"text": text.upper()}, payload.parts)


class Spelling:
    """Gives a word letter by letter."""

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def stream(self, payload: Payload, after: int) -> Iterator[Payload]:
        for number, letter in enumerate(payload.document["text"][after:], after):
            yield Payload({"text": letter.upper()}, {"number": bytes([number])})


LOUD = BlockSpec("loud", "1", "text.loud", f"{__name__}:Loud", Contract("text.loud", "makes it loud"))
SPELLING = BlockSpec(
    "spelling", "1", "text.spelling", f"{__name__}:Spelling", Contract("text.spelling", "spells it", streams=True)
)
BLOCKS = (LOUD, SPELLING)


@dataclass(frozen=True)
class Word:
    text: str

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_pieces(cls, pieces: Iterator[Payload]) -> Word:
        letters = list(pieces)
        assert [piece.parts["number"] for piece in letters] == [bytes([number]) for number in range(len(letters))]
        return cls("-".join(piece.document["text"] for piece in letters))

    @classmethod
    def from_payload(cls, payload: Payload) -> Word:
        return cls(**payload.document)


def refused(word: Word, refusal: Refusal) -> Word:
    return Word(f"refused {word.text}: {refusal}")


@op(config_schema=str, tags={tags.DATA_CLASS: "public"})
def word(context) -> Word:
    return Word(context.op_config)


@op(tags={tags.DATA_CLASS: "public"})
def heard(context, said: Word) -> None:
    context.log.info(f"heard {said.text}")


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()}, tags={tags.HIGHEST: "public"})
def saying() -> None:
    heard(block_op(LOUD, Word, name="shout", on_refusal=refused, tags={tags.DATA_CLASS: "public"})(word()))


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()}, tags={tags.HIGHEST: "public"})
def spelled() -> None:
    heard(block_op(SPELLING, Word, name="spell", on_refusal=refused, tags={tags.DATA_CLASS: "public"})(word()))


@op(tags={tags.DATA_CLASS: "internal", tags.PLACE_IN: "twin.example"})
def counted(context) -> int:
    return 41


@op(tags={tags.DATA_CLASS: "internal", tags.PLACE_IN: "desk.example"})
def more(context, number: int) -> None:
    context.log.info(f"it is {number + 1}")


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()}, tags={tags.HIGHEST: "internal"})
def counting() -> None:
    more(counted())


defs = Definitions(jobs=[saying, spelled, counting])
