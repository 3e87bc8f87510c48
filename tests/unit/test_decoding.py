"""Types are read for the first time by several threads at once, as in a process that has just begun."""

from __future__ import annotations

import subprocess
import sys

import pytest

RACE = """
from __future__ import annotations
import sys, threading
from dataclasses import dataclass
import msgspec
from ioi_dagster.decoding import converted, from_json, from_msgpack

INNER = "@dataclass(frozen=True)\\nclass Inner:\\n    x: int\\n    y: str\\n    z: tuple[str, ...] = ()\\n"
OUTER = "@dataclass\\nclass Outer:\\n    one: Inner\\n    many: dict[str, Inner]\\n    more: tuple[Inner, ...] = ()\\n"
VALUE = {"one": {"x": 1, "y": "2"}, "many": {"k": {"x": 1, "y": "2"}}, "more": [{"x": 1, "y": "2"}]}
READERS = {
    "json": lambda kind: from_json(msgspec.json.encode(VALUE), kind),
    "msgpack": lambda kind: from_msgpack(msgspec.msgpack.encode(VALUE), kind),
    "convert": lambda kind: converted(VALUE, kind),
}
read, threads = READERS[sys.argv[1]], 4
sys.setswitchinterval(1e-6)
for _ in range(400):
    exec(compile(INNER + OUTER, "types", "exec"), globals())
    fresh, found, start = Outer, [], threading.Barrier(threads)

    def one() -> None:
        start.wait()
        found.append(read(fresh))

    workers = [threading.Thread(target=one) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    inner = Inner(1, "2")
    assert found == [Outer(inner, {"k": inner}, (inner,))] * threads, found
"""


def races(reader: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RACE, reader], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("reader", ["json", "msgpack", "convert"])
def test_several_threads_may_be_the_first_to_read_a_type(reader: str) -> None:
    done = races(reader)
    assert (done.returncode, done.stderr) == (0, "")
