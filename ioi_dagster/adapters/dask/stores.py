"""Which stores a run writes to: told to its run process before the first value goes there. Of an attempt that ends with its
process nothing else is heard, and what it wrote has to be found again.

Only URLs are told: what else opens a store may be secret, and a scheduler keeps what it is told.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

import msgspec
from distributed import Worker, get_worker

from ioi_dagster.adapters.dask.shelf import on_loop
from ioi_dagster.decoding import from_json

TELL_S = 5.0
REMEMBERED = 1_000

log = logging.getLogger("ioi.values")


class _Told(msgspec.Struct, frozen=True):
    run: str
    url: str


_told: OrderedDict[_Told, None] = OrderedDict()
_file: Path | None = None


def topic(its_run: str) -> str:
    """`its_run`: the run's key."""
    return f"ioi-stores-{its_run}"


def tell_store(run: str, url: str) -> None:
    """`run` is about to write to the store at `url`. Returns when the scheduler knows, so that the end of this process makes no
    difference; where it does not answer, the step goes on all the same. In a process without a worker nothing is told."""
    told = _Told(run, url)
    if told in _told:
        return
    if _file is not None:
        with _file.open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")
    else:
        try:
            worker = get_worker()
        except ValueError:
            return
        try:
            on_loop(worker, _log(worker, told), TELL_S)
        except (OSError, TimeoutError) as error:
            log.debug("%s not told: %s", url, error)
            return
    _told[told] = None
    if len(_told) > REMEMBERED:
        _told.popitem(last=False)


def tell_into(path: Path) -> None:
    """This process is a child of a worker: what it has to tell goes to a file, see `pass_on`."""
    global _file
    _file = path


def pass_on(path: Path) -> None:
    """In the worker: tell what a child has left at `path`."""
    taken = path.with_suffix(".taken")
    try:
        path.replace(taken)
    except FileNotFoundError:
        return
    for line in taken.read_bytes().splitlines():
        try:
            told = from_json(line, _Told)
        except msgspec.MsgspecError:
            continue  # it ended while it wrote, before any value
        tell_store(told.run, told.url)


async def _log(worker: Worker, told: _Told) -> None:
    await worker.scheduler.log_event(topic=topic(told.run), msg=told.url)
