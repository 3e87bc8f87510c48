"""What runs between two sites: words that are said aloud or spelt, each by a call of a block in whatever domain offers it.

`python -m tests.chaos.site_jobs JSON` is a run's process: `{"job": …, "words": …}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from dagster import DagsterInstance, Definitions, DynamicOut, DynamicOutput, job, op

from ioi_dagster import ExchangeIOManager, block_op, governed_executor
from ioi_dagster.host import tags
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.refusal import Refusal

MODULE = "tests.chaos.site_jobs"
SECONDS = 0.6
PUBLIC = {tags.DATA_CLASS: "public"}


class Loud:
    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def invoke(self, batch: list[Payload]) -> list[Payload]:
        time.sleep(SECONDS)  # its work
        return [Payload({"text": payload.document["text"].upper()}, payload.parts) for payload in batch]


class Spelling:
    """Gives a word letter by letter."""

    def load(self) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def stream(self, payload: Payload, after: int) -> Iterator[Payload]:
        text = payload.document["text"]
        for letter in text[after:]:
            time.sleep(SECONDS / len(text))  # its work
            yield Payload({"letter": letter.upper()})


LOUD = BlockSpec("loud", "1", "text.loud", f"{MODULE}:Loud", Contract("text.loud", "makes it loud"))
SPELLING = BlockSpec(
    "spelling",
    "1",
    "text.spelling",
    f"{MODULE}:Spelling",
    Contract("text.spelling", "spells it", streams=True, resumes=True),
)
BLOCKS = (LOUD, SPELLING)


@dataclass(frozen=True)
class Word:
    text: str

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> Word:
        return cls(**payload.document)

    @classmethod
    def from_pieces(cls, pieces: Iterator[Payload]) -> Word:
        return cls("".join(piece.document["letter"] for piece in pieces))


@op(out=DynamicOut(Word), config_schema=int, tags=PUBLIC)
def words(context) -> Iterator[DynamicOutput[Word]]:
    for number in range(context.op_config):
        yield DynamicOutput(Word(f"word {number}"), mapping_key=f"n{number}")


@op(tags=PUBLIC)
def heard(said: list[Word]) -> str:
    told = sorted(word.text for word in said)
    if told != sorted(f"WORD {number}" for number in range(len(said))):
        raise RuntimeError(f"heard {told}")
    return "; ".join(told)


def refused(word: Word, refusal: Refusal) -> Word:
    raise RuntimeError(f"{word.text}: {refusal}")


shout = block_op(LOUD, Word, name="shout", on_refusal=refused, tags=PUBLIC)
spell = block_op(SPELLING, Word, name="spell", on_refusal=refused, tags=PUBLIC)


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()}, tags={tags.HIGHEST: "public"})
def shouting() -> None:
    heard(words().map(shout).collect())


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()}, tags={tags.HIGHEST: "public"})
def spelling() -> None:
    heard(words().map(spell).collect())


defs = Definitions(jobs=[shouting, spelling])


def main() -> int:
    from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of
    from ioi_dagster.local.home import PROJECT

    asked = json.loads(sys.argv[1])
    job_there = job_of(MODULE, asked["job"], PROJECT)
    config = {"ops": {"words": {"config": asked["words"]}}}
    with DagsterInstance.get() as instance:
        run_id, _ = create_governed_run(instance, job_there, config, {})
        return 0 if execute_governed_run(instance, job_there, run_id) else 1


if __name__ == "__main__":
    sys.exit(main())
