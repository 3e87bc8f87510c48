"""`flow.map`: data-dependent and nested fan-out inside a step, over the fleet of the run.

Under the governed executor the items go out in chunks that are placed, fenced and re-placed like steps, at the cluster where
the step runs: in a federation they are where their data may be, since the step is. Under any other executor, in plain Python, and
in a step whose block is called at a foreign domain they run here one after another.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import cloudpickle
import msgspec

from ioi_dagster.compound.attempt import Attempt, current_attempt
from ioi_dagster.compound.invocation import has_invoker, invoke
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.errors import FinalError
from ioi_dagster.host.assets import invoke_here
from ioi_dagster.host.exchange import ChunkWork, Exchange, StepResult, current_exchange
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.refusal import Refusal

CHUNKS = 32
"""Where `chunk` is not given, so many chunks at most."""
MAX_KNOWN = 8
FUNCTION = "function"


class MapItemError(FinalError):
    """An item failed: `index` says which, `kind` the class of what it raised, `trace` where. `cause` is what was raised, where
    the item ran in this process."""

    def __init__(self, index: int, kind: str, text: str, trace: str = "") -> None:
        self.index, self.kind, self.text, self.trace = index, kind, text, trace
        self.cause: BaseException | None = None
        super().__init__(f"item {index} failed: {kind}: {text}")

    def __reduce__(self) -> Any:
        return type(self), (self.index, self.kind, self.text, self.trace)


class Flow:
    """The public object is `flow`."""

    def map(
        self,
        function: Callable[[Any], Any] | BlockSpec,
        items: Iterable[Any],
        *,
        chunk: int | None = None,
        on_error: str = "raise",
        retries: int = 0,
    ) -> list[Any]:
        """`function(item)` for each item, in order.

        `chunk`: items that are placed together; default: so many that there are 32 chunks at most. `on_error`: `raise` the
        `MapItemError` of the first item that is known to have failed and drop what is not answered, or `return` such an error in
        the place of each. `retries`: how often a failing item is tried again where it runs; losses of nodes do not count. A
        `BlockSpec` goes through block invocation; its items are payloads or have `to_payload` and `from_payload`.

        Raises `FinalError` for arguments that cannot be meant and for a function or item that cannot be pickled.
        """
        if on_error not in ("raise", "return"):
            raise FinalError(f"on_error is {on_error!r}: say 'raise' or 'return'")
        if chunk is not None and not (isinstance(chunk, int) and chunk >= 1):
            raise FinalError(f"chunk is {chunk!r}: give a number of items, 1 or more")
        if not (isinstance(retries, int) and retries >= 0):
            raise FinalError(f"retries is {retries!r}: give a number of tries, 0 or more")
        if isinstance(function, BlockSpec) and function.contract.streams:
            raise FinalError(f"{function.name} gives its result in pieces: call `stream` in a function and map that")
        call = _CallBlock(function) if isinstance(function, BlockSpec) else function
        everything = list(items)
        if not everything:
            return []
        attempt, exchange = current_attempt(), current_exchange()
        if attempt is None or exchange is None:
            return _unwrap(_run_items(call, everything, 0, on_error, retries), on_error)
        return _on_fleet(attempt, exchange, call, everything, chunk, on_error, retries)


flow = Flow()


@dataclass(frozen=True)
class _CallBlock:
    block: BlockSpec

    def __call__(self, item: Any) -> Any:
        payload = item if isinstance(item, Payload) else item.to_payload()
        answer = invoke(self.block, payload) if has_invoker() else invoke_here(self.block, payload)
        if isinstance(answer, Refusal):
            raise FinalError(str(answer))
        return answer if isinstance(item, Payload) else type(item).from_payload(answer)


# Where the step runs ------------------------------------------------------------------------------------------------


class _Function(msgspec.Struct):
    """What all chunks of a map share. `origin` and `run` let a node load the code that the function is from."""

    origin: str
    run: str
    step: str
    pickled: bytes
    on_error: str
    retries: int


class _Items(msgspec.Struct):
    first: int
    pickled: bytes


def _on_fleet(
    attempt: Attempt,
    exchange: Exchange,
    call: Callable[[Any], Any],
    items: list[Any],
    chunk: int | None,
    on_error: str,
    retries: int,
) -> list[Any]:
    from ioi_dagster.adapters.dask.mapping import map_chunks

    size = chunk or math.ceil(len(items) / CHUNKS)
    number = next(_numbers(attempt.id))
    function = _Function(exchange.origin, exchange.run, exchange.step, _pickled(call, "function"), on_error, retries)
    parts = [(FUNCTION, msgspec.msgpack.encode(function))]
    firsts = range(0, len(items), size)
    for index, first in enumerate(firsts):
        pickled = _pickled(items[first : first + size], f"one of the items {first} to {first + size - 1}")
        parts.append((f"{index}", msgspec.msgpack.encode(_Items(first, pickled))))
    results: list[Any] = [None] * len(items)
    failed: list[MapItemError] = []

    def take(index: int, data: bytes | None, refusal: dict[str, Any] | None) -> bool:
        first = firsts[index]
        its = range(first, min(first + size, len(items)))
        if data is None:
            no = refusal or {"code": "flow.map_lost", "text": "its result is gone"}
            answers: list[Any] = [MapItemError(at, no["code"], no["text"]) for at in its]
        else:
            answers = cloudpickle.loads(data)
        for at, answer in zip(its, answers, strict=False):
            results[at] = answer
            if isinstance(answer, MapItemError):
                failed.append(answer)
        return not (failed and on_error == "raise")

    request = {
        "parent": attempt.step,
        "fence": attempt.fence,
        "label": exchange.step,
        "number": number,
        "chunks": [min(size, len(items) - first) for first in firsts],
    }
    map_chunks(attempt, f"{attempt.id}-{number}", request, parts, take)
    if failed and on_error == "raise":
        raise _with_cause(min(failed, key=lambda error: error.index))
    return results


_counters: OrderedDict[str, Any] = OrderedDict()
_counting = threading.Lock()


def _numbers(attempt: str) -> Any:
    """The numbers of an attempt's maps, from 1."""
    with _counting:
        numbers = _counters.setdefault(attempt, count(1))
        if len(_counters) > 10_000:
            _counters.popitem(last=False)
        return numbers


def _pickled(value: Any, what: str) -> bytes:
    try:
        return cloudpickle.dumps(value)
    except Exception as error:
        raise FinalError(f"flow.map: {what} cannot be pickled: {error}") from error


def _with_cause(error: MapItemError) -> MapItemError:
    error.__cause__ = error.cause
    return error


def _unwrap(answers: list[Any], on_error: str) -> list[Any]:
    if on_error == "raise" and answers and isinstance(answers[-1], MapItemError):
        raise _with_cause(answers[-1])
    return answers


# Where the items run ------------------------------------------------------------------------------------------------


def run_chunk(work: ChunkWork, load_code: Callable[[str, str], Any]) -> bytes:
    """Run one chunk, leave its results with the step that waits, and return a `StepResult` without events.

    Raises `RetryableError` when that step is not to be reached: then nobody waits for this chunk any more.
    """
    from ioi_dagster.adapters.dask.shelf import fetch, leave
    from ioi_dagster.host.exchange import exchanging

    started = time.time()
    function, call = _function(work, fetch, load_code)
    items = from_msgpack(fetch(work.worker, work.map, str(work.index)), _Items)
    # A map inside an item is told under the same step of Dagster's plan.
    exchange = Exchange(inputs={}, origin=function.origin, run=function.run, step=function.step)
    with exchanging(exchange):
        values = cloudpickle.loads(items.pickled)
        answers = _run_items(call, values, items.first, function.on_error, function.retries)
    attempt = current_attempt()
    assert attempt is not None, "a chunk runs at a node"
    leave(work.worker, work.map, f"{work.index}/{attempt.id}", _pickled_answers(answers, items.first))
    return msgspec.msgpack.encode(StepResult([], [], None, True, started, time.time()))


_known: OrderedDict[str, tuple[_Function, Callable[[Any], Any]]] = OrderedDict()
_knowing = threading.Lock()


def _function(work: ChunkWork, fetch: Callable[..., bytes], load_code: Callable[[str, str], Any]) -> Any:
    """Fetched once per map and process."""
    with _knowing:
        known = _known.get(work.map)
    if known is None:
        function = from_msgpack(fetch(work.worker, work.map, FUNCTION), _Function)
        load_code(function.origin, function.run)
        known = (function, cloudpickle.loads(function.pickled))
        with _knowing:
            _known[work.map] = known
            if len(_known) > MAX_KNOWN:
                _known.popitem(last=False)
    return known


def _run_items(call: Callable[[Any], Any], items: list[Any], first: int, on_error: str, retries: int) -> list[Any]:
    """A result or a `MapItemError` for each item; with `raise` none after the first error."""
    answers: list[Any] = []
    for index, item in enumerate(items, first):
        answers.append(_run_item(call, item, index, retries))
        if on_error == "raise" and isinstance(answers[-1], MapItemError):
            break
    return answers


def _run_item(call: Callable[[Any], Any], item: Any, index: int, retries: int) -> Any:
    for left in reversed(range(retries + 1)):
        try:
            return call(item)
        except Exception as error:
            if not left:
                failed = MapItemError(index, type(error).__name__, str(error), traceback.format_exc())
                failed.cause = error
                return failed
    raise AssertionError("unreachable")


def _pickled_answers(answers: list[Any], first: int) -> bytes:
    """All at once, or one by one to find the result that cannot be pickled."""
    try:
        return cloudpickle.dumps(answers)
    except Exception:
        return cloudpickle.dumps([_sendable(answer, index) for index, answer in enumerate(answers, first)])


def _sendable(answer: Any, index: int) -> Any:
    try:
        cloudpickle.dumps(answer)
    except Exception as error:
        return MapItemError(index, type(error).__name__, f"its result cannot be pickled: {error}")
    return answer
