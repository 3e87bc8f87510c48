"""A map at the node whose step asks for it: the request to the run process, the wait, the answers.

While a step waits for its items its thread and its slot are given back, so that items (and maps inside them) can run on the very
node that waits for them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Worker, get_worker
from distributed.worker import secede

from ioi_dagster.adapters.dask.flights import flights
from ioi_dagster.adapters.dask.shelf import POLL_S, on_loop, serve, shelf
from ioi_dagster.compound.attempt import Attempt
from ioi_dagster.errors import RetryableError

AGAIN_S = 5.0
"""The request is told again so often: a message may be lost with a connection, and asking twice changes nothing."""
PATIENCE_S = 300.0
"""Without any word from the run process for so long, nobody is there. Much longer than that one waits for its event log, and then
for its outputs (a minute each, see `host`): it answers nothing meanwhile, and goes on when they are back."""
SLOT_S = 10.0

Answer = tuple[int, str, dict[str, Any] | None]
"""(chunk, attempt that was committed, None) or (chunk, '', the refusal as a plain object)."""

_waiting: dict[str, queue.Queue[list[Answer]]] = {}
_seceded: set[str] = set()
_lock = threading.Lock()


def topic(its_run: str) -> str:
    """`its_run`: the run's key."""
    return f"ioi-map-{its_run}"


def map_chunks(
    attempt: Attempt,
    map_id: str,
    request: dict[str, Any],
    parts: Sequence[tuple[str, bytes]],
    take: Callable[..., bool],
) -> None:
    """Have every chunk of `request` run. `parts` are kept here for those who run them; `take(chunk, data, refusal)` gets each
    answer once and says whether to go on. Raises `RetryableError` when the run process does not answer."""
    worker = get_worker()
    address = serve(worker)
    answers: queue.Queue[list[Answer]] = queue.Queue()
    _waiting[map_id] = answers
    shelf.open(map_id)
    try:
        for name, data in parts:
            shelf.put(map_id, name, data)
        with _slot_given_back(worker, attempt):
            worker.log_event(topic(attempt.run_key), {**request, "op": "ask", "map": map_id, "worker": address})
            _collect(worker, attempt, {**request, "op": "ask", "map": map_id, "worker": address}, answers, take)
    finally:
        worker.log_event(topic(attempt.run_key), {"op": "over", "map": map_id})
        _waiting.pop(map_id, None)
        shelf.close(map_id)


def _collect(
    worker: Worker,
    attempt: Attempt,
    request: dict[str, Any],
    answers: queue.Queue[list[Answer]],
    take: Callable[..., bool],
) -> None:
    map_id, left = request["map"], set(range(len(request["chunks"])))
    heard = told = time.monotonic()
    while left:
        try:
            batch = answers.get(timeout=POLL_S)
        except queue.Empty:
            now = time.monotonic()
            if now - heard > PATIENCE_S:
                raise RetryableError("the run process does not answer a map request: is it still there?") from None
            if now - told > AGAIN_S:
                told = now
                worker.log_event(topic(attempt.run_key), request)
            continue
        heard = time.monotonic()
        for chunk, its_attempt, refusal in batch:
            if chunk not in left:
                continue
            data = None if refusal is not None else shelf.pop(map_id, f"{chunk}/{its_attempt}")
            left.discard(chunk)
            if not take(chunk, data, refusal):
                return


def deliver(map_id: str, answers: list[Answer]) -> bool:
    """Called by the run process on the worker that waits; no answers mean: heard you."""
    waiting = _waiting.get(map_id)
    if waiting is not None:
        waiting.put([(chunk, attempt, refusal) for chunk, attempt, refusal in answers])
    return waiting is not None


@contextmanager
def _slot_given_back(worker: Worker, attempt: Attempt) -> Iterator[None]:
    """Dask frees a seceded task's thread and not its resource `node:<name>`, so there is one more of it in the meantime."""
    flights.depend(attempt.key)
    on_loop(worker, _resize(worker, attempt.node, 1), SLOT_S)
    try:
        with _lock:
            first = attempt.id not in _seceded
            _seceded.add(attempt.id)
        if first:
            secede()
        yield
    finally:
        on_loop(worker, _resize(worker, attempt.node, -1), SLOT_S)


async def _resize(worker: Worker, node: str, by: int) -> None:
    name = f"node:{node}"
    await worker.set_resources(**{name: worker.state.total_resources.get(name, 0) + by})
