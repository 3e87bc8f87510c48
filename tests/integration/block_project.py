"""Blocks that do as they are told, and jobs that call them, for `test_replicas.py` and `test_blocks.py`."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dagster import DynamicOut, DynamicOutput, job, op

from ioi_dagster import ExchangeIOManager, block_op, governed_executor
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract, Isolate
from ioi_dagster.model.refusal import Refusal


def folder() -> Path:
    return Path(os.environ["IOI_TEST_FOLDER"])


def note(what: str) -> None:
    with (folder() / "notes").open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


def notes(what: str) -> list[int]:
    """The processes that noted `what`, in order."""
    path = folder() / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(pid) for kind, pid in (line.rsplit(" ", 1) for line in lines) if kind == what]


class Loud:
    """Says how it was called. Some words do harm."""

    version = "1"

    def load(self) -> None:
        if (folder() / "no weights").exists():
            raise OSError("no weights")
        if (folder() / "no weights yet").exists():
            (folder() / "no weights yet").unlink()
            raise OSError("no weights yet")
        note(f"load {self.version}")

    def unload(self) -> None:
        note(f"unload {self.version}")

    def invoke(self, batch):
        note(f"invoke {len(batch)}")
        if batch[0].document["text"] == "odd":
            return {"as many": "but no list"}
        return [self._one(payload, len(batch)) for payload in batch]

    def _one(self, payload: Payload, size: int) -> Payload:
        text = payload.document["text"]
        match text:
            case "raise":
                raise ValueError("this word is not known")
            case "crash":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "crash once" if not (folder() / "crashed").exists():
                (folder() / "crashed").touch()
                ctypes.string_at(0)
            case "hold":
                # PyDLL keeps the GIL: nothing else of its process runs meanwhile.
                note("hold")
                ctypes.PyDLL(None).usleep(1_000_000)
                note("held")
            case "for ever":
                while True:
                    time.sleep(0.01)
            case "large":
                self.kept = bytearray(b"x" * (300 * 2**20))
                time.sleep(30)
            case "wait":
                note("waiting")
                until = time.monotonic() + 60
                while not (folder() / "go").exists() and time.monotonic() < until:
                    time.sleep(0.01)
        return Payload(
            {"text": text.upper(), "pid": os.getpid(), "version": self.version, "batch": size}, payload.parts
        )


class Louder(Loud):
    version = "2"


class Telling:
    """Tells a word in as many pieces as it is asked for, each with a binary part of so many bytes. Some words do harm."""

    def load(self) -> None:
        note("load telling")

    def unload(self) -> None:
        note("unload telling")

    def stream(self, payload: Payload, after: int) -> Iterator[Payload]:
        asked = payload.document
        note(f"stream {after}")
        try:
            for number in range(after, asked["pieces"]):
                if number == asked.get("at"):
                    self._harm(asked["text"])
                note("piece") if asked.get("notes") else None
                yield Payload({"number": number, "pid": os.getpid()}, {"raw": bytes([number % 256]) * asked["size"]})
        finally:
            note("closed")

    def _harm(self, text: str) -> None:
        match text:
            case "raise":
                raise ValueError("this word is not known")
            case "exit":
                os._exit(3)
            case "wait":
                note("waiting")
                until = time.monotonic() + 60
                while not (folder() / "go").exists() and time.monotonic() < until:
                    time.sleep(0.01)


TELLING = BlockSpec(
    "telling",
    "1",
    "text.telling",
    f"{__name__}:Telling",
    Contract("text.telling", "tells it", streams=True, resumes=True),
)


CONTRACT = Contract("text.loud", "makes it loud")
LOUD = BlockSpec("loud", "1", "text.loud", f"{__name__}:Loud", CONTRACT)


@dataclass(frozen=True)
class Word:
    text: str
    pid: int = 0
    version: str = ""
    batch: int = 0

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_payload(cls, payload: Payload) -> Word:
        return cls(**payload.document)


@dataclass(frozen=True)
class Story:
    text: str
    pieces: int
    size: int = 1
    at: int = -1
    numbers: tuple[int, ...] = ()

    def to_payload(self) -> Payload:
        return Payload(asdict(self))

    @classmethod
    def from_pieces(cls, pieces: Iterator[Payload]) -> Story:
        numbers = tuple(piece.document["number"] for piece in pieces)
        return cls("told", len(numbers), numbers=numbers)


def unheard(story: Story, refusal: Refusal) -> Story:
    return Story(f"refused: {refusal}", 0)


@op(config_schema={"text": str, "pieces": int, "at": int})
def asked(context) -> Story:
    return Story(**context.op_config)


@op
def heard(story: Story) -> Story:
    return story


def streamed():
    @job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
    def streamed():
        heard(block_op(TELLING, Story, name="tell", on_refusal=unheard)(asked()))

    return streamed


def refused(word: Word, refusal: Refusal) -> Word:
    return Word(f"refused {word.text}: {refusal}")


@op(out=DynamicOut(Word), config_schema=[str])
def words(context):
    for number, text in enumerate(context.op_config):
        yield DynamicOutput(Word(text), mapping_key=str(number))


@op
def gather(said: list[Word]) -> list[Word]:
    return said


@op
def meanwhile() -> int:
    """Counts while a block holds its interpreter's lock."""
    until = time.monotonic() + 60
    while not notes("hold") and time.monotonic() < until:
        time.sleep(0.01)
    turns = 0
    while not notes("held") and time.monotonic() < until:
        turns += 1
        time.sleep(0.01)
    return turns


def _job(name: str, spec: BlockSpec):
    shout = block_op(spec, Word, name="shout", on_refusal=refused)

    @job(name=name, executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
    def saying():
        meanwhile()
        gather(words().map(shout).collect())

    return saying


def in_thread():
    return _job("in_thread", LOUD)


def in_process():
    return _job("in_process", replace(LOUD, isolate=Isolate.PROCESS))


def newer():
    return _job("newer", replace(LOUD, version="2", entrypoint=f"{__name__}:Louder"))


def batched():
    return _job("batched", replace(LOUD, max_batch=4, max_wait_ms=20_000))


def careful():
    return _job("careful", replace(LOUD, max_failures=1, rest_s=0.5))
