"""Takes the parts of a route from its sources, into a folder or for a reader: streamed, and checked before anybody sees them.

Memory is bounded by `CHUNK` and what a file system reads ahead, for each of `workers`, whatever the size of a part.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol
from urllib.parse import quote

import msgspec

from ioi_dagster.adapters.fsspec.folder import Doors, Folder
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset, Part
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.data.routing import Leg, Refused, Route, Source

BY = "data mover"
TOLD = "copy.json"
"""Beside the parts of a copy that is whole, and written last: who finds it may read all of them."""
STRIKES = 3
"""A source that was away so often during one move is left alone; one that gave something else is so at once."""
IN_MEMORY = 8 * 2**20
"""Bytes of a part that a reader is given from memory; more goes through a temporary file."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Taken:
    """A part that was moved, and from where."""

    part: str
    domain: str
    url: str


@dataclass(frozen=True, slots=True)
class Moved:
    """`copy` holds what is there now, checked; `kept`: parts that were there before. `refused`: sources that failed, by what, and
    (empty URL) what stopped it here."""

    copy: Copy
    whole: bool
    taken: tuple[Taken, ...] = ()
    kept: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


class PartUnavailableError(IoiError):
    """No source gives this part; `refused` says of each why."""

    def __init__(self, part: str, refused: tuple[Refused, ...]) -> None:
        self.part, self.refused = part, refused
        why = "; ".join(f"{one.domain}: {one.refusal}" for one in refused)
        super().__init__(f"part {part} cannot be had: {why or 'nobody has it'}")


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _SourceFailed(Exception):
    def __init__(self, code: str, text: str, remedy: str) -> None:
        self.refusal = Refusal(code, text, BY, remedy)
        super().__init__(text)


class _HereFailed(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.text)


def version_url(root: str, asset: Asset) -> str:
    """The folder below `root` where copies of this version lie: each has its own, so that nobody reads some parts of the one and
    some of the other."""
    return f"{root.rstrip('/')}/{_plain(asset.urn)}/{_plain(asset.version)}-{asset.digest.removeprefix('sha256:')[:16]}"


def _plain(text: str) -> str:
    # Cut where a file system would; the digest tells versions apart.
    return quote(text, safe="").replace("%", "=")[:120]


class Mover:
    """`most`: bytes of one asset that are moved at once. `told` hears of bytes as they come, in any thread."""

    def __init__(
        self, doors: Doors, workers: int = 2, most: int = 2**40, told: Callable[[int], object] = lambda size: None
    ) -> None:
        self._doors, self._workers, self._most, self._told = doors, workers, most, told

    def move(self, route: Route, url: str, now: float) -> Moved:
        """Fill the copy of the route's target at `url` (see `version_url`). Doing it again goes on with what is missing; any
        number may do it at once. Never raises for what goes wrong with data: `whole` and `refused` tell."""
        asset, target = route.asset, route.target
        move = _Move(self._doors, self._told)
        refused = list(route.refused)
        if any(not one.url for one in refused):
            there = Copy(target, url, asset.urn, asset.version, asset.digest, {}, now)
            return Moved(there, False, refused=tuple(refused))
        try:
            folder = self._doors.open(target, url)
            held = _found(folder, [leg.part for leg in route.legs] + [asset.part(name) for name in route.missing])
            legs = [leg for leg in route.legs if leg.part.name not in held]
            short = self._too_much(folder, legs)
        except Exception as error:  # each file system has errors of its own
            text = f"{url} cannot be written: {_said(error)}"
            there = Copy(target, url, asset.urn, asset.version, asset.digest, {}, now)
            return Moved(there, False, refused=(*refused, Refused(target, "", _here(error, text))))
        if short is not None:
            there = Copy(target, url, asset.urn, asset.version, asset.digest, held, now)
            return Moved(there, False, (), tuple(sorted(held)), (*refused, Refused(target, "", short)))
        taken = self._all(move, folder, legs)
        kept = tuple(sorted(held))
        held |= {one.part: asset.part(one.part).digest for one in taken}
        copy = Copy(target, url, asset.urn, asset.version, asset.digest, held, now)
        whole = len(held) == len(asset.parts)
        if whole:
            try:
                _tell(folder, copy)
                folder.tidy()
            except Exception as error:
                whole = False
                move.refuse(target, "", _here(error, f"{url}: all parts are there, and {TOLD} is not: {_said(error)}"))
        return Moved(copy, whole, tuple(taken), kept, (*refused, *move.refused))

    @contextmanager
    def reading(self, leg: Leg) -> Iterator[IO[bytes]]:
        """The part as a file to read, all of it checked beforehand. Raises `PartUnavailableError`."""
        move = _Move(self._doors, self._told)
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:

            def begun() -> _Sink:
                spool.seek(0)
                spool.truncate()
                return spool

            if move.take(leg, begun, lambda sink: None, lambda sink: None) is None:
                raise PartUnavailableError(leg.part.name, tuple(move.refused))
            spool.seek(0)
            yield spool  # pyright: ignore[reportReturnType]

    def _too_much(self, folder: Folder, legs: list[Leg]) -> Refusal | None:
        size = sum(leg.part.size for leg in legs)
        if size > self._most:
            text = f"{size} bytes are to be moved; {self._most} at most"
            return Refusal("data.too_large", text, BY, "move fewer parts, or allow more")
        room = folder.room()
        if room is not None and size > room:
            return Refusal("data.no_room", f"{size} bytes are to be moved, and {room} are free", BY, _MAKE_ROOM)
        return None

    def _all(self, move: _Move, folder: Folder, legs: list[Leg]) -> list[Taken]:
        def one(leg: Leg) -> Taken | None:
            name = leg.part.name

            def publish(sink: _Sink) -> None:
                try:
                    sink.publish()  # pyright: ignore[reportAttributeAccessIssue]
                except FileNotFoundError:
                    # Another has finished the same copy and tidied; then the part is there.
                    if folder.size(name) != leg.part.size:
                        raise

            return move.take(leg, lambda: folder.begin(name), publish, lambda sink: sink.discard())  # pyright: ignore

        if not legs:
            return []
        with ThreadPoolExecutor(min(self._workers, len(legs))) as pool:
            return [taken for taken in pool.map(one, legs) if taken is not None]


class _Move:
    """What one move has learnt of its sources."""

    def __init__(self, doors: Doors, told: Callable[[int], object]) -> None:
        self._doors, self._told, self._lock = doors, told, threading.Lock()
        self._strikes: Counter[tuple[str, str]] = Counter()
        self._stopped = False
        self.refused: list[Refused] = []

    def refuse(self, domain: str, url: str, refusal: Refusal, strikes: int = 0) -> None:
        with self._lock:
            self.refused.append(Refused(domain, url, refusal))
            self._strikes[domain, url] += strikes

    def take(
        self,
        leg: Leg,
        begin: Callable[[], _Sink],
        publish: Callable[[_Sink], None],
        discard: Callable[[_Sink], None],
    ) -> Taken | None:
        """From the first source that gives it; None where none does, or nothing can be written here."""
        for source in leg.sources:
            if self._stopped:
                return None
            copy = source.copy
            if self._strikes[copy.where] >= STRIKES:
                continue
            try:
                self._from(source, leg.part, begin, publish, discard)
            except _SourceFailed as error:
                corrupt = error.refusal.code in _NOT_AGAIN
                self.refuse(copy.domain, copy.url, error.refusal, STRIKES if corrupt else 1)
            except _HereFailed as error:
                # No other source helps, nor does any other part.
                with self._lock:
                    told, self._stopped = self._stopped, True
                if not told:
                    self.refuse("", "", error.refusal)
                return None
            else:
                return Taken(leg.part.name, copy.domain, copy.url)
        return None

    def _from(
        self,
        source: Source,
        part: Part,
        begin: Callable[[], _Sink],
        publish: Callable[[_Sink], None],
        discard: Callable[[_Sink], None],
    ) -> None:
        chunks = self._chunks(source, part)
        with _writing_here():
            sink = begin()
        done = False
        try:
            hashed, size = hashlib.sha256(), 0
            for chunk in chunks:
                size += len(chunk)
                if size > part.size:
                    raise _corrupt(source, part, f"gives more than its {part.size} bytes")
                hashed.update(chunk)
                with _writing_here():
                    sink.write(chunk)
                self._told(len(chunk))
            if size < part.size:
                raise _SourceFailed("data.cut_off", f"{part.name} ended after {size} of {part.size} bytes", _AGAIN)
            if f"sha256:{hashed.hexdigest()}" != part.digest:
                raise _corrupt(source, part, "gives bytes of another digest")
            with _writing_here():
                publish(sink)
            done = True
        finally:
            chunks.close()
            if not done:
                discard(sink)

    def _chunks(self, source: Source, part: Part) -> Generator[bytes, None, None]:
        try:
            folder = self._doors.open(source.copy.domain, source.copy.url)
            yield from folder.chunks(source.path)
        except BadInputError as error:
            raise _SourceFailed("data.no_door", error.what, error.todo or "") from error
        except FileNotFoundError as error:
            raise _SourceFailed("data.gone", f"{part.name} is not there any more", _AGAIN) from error
        except Exception as error:  # each file system has errors of its own
            raise _SourceFailed("data.away", f"{part.name} cannot be read: {_said(error)}", _AGAIN) from error


def _found(folder: Folder, parts: list[Part]) -> dict[str, str]:
    """Parts that are there and whole; read to know that, since a disk may have lost what a machine without power wrote last."""
    held = {}
    for part in parts:
        if folder.size(part.name) == part.size and _digest(folder, part.name) == part.digest:
            held[part.name] = part.digest
    return held


def _tell(folder: Folder, copy: Copy) -> None:
    try:
        folder.put(TOLD, msgspec.json.encode(copy))
    except FileNotFoundError:
        # Another has finished the same copy, said so, and tidied this one's file away.
        if folder.size(TOLD) is None:
            raise


def survey(doors: Doors, asset: Asset, domain: str, url: str, now: float, original: bool = False) -> Copy:
    """What really lies at `url` of the asset's parts, all of it read. Raises `BadInputError` where that may not be opened, and
    whatever its file system does where it is away."""
    folder = doors.open(domain, url)
    held = {part.name: _digest(folder, part.name) for part in asset.parts if folder.size(part.name) is not None}
    return Copy(domain, url, asset.urn, asset.version, asset.digest, held, now, original)


def drop(doors: Doors, copy: Copy) -> None:
    """Remove a copy: first what says that it is whole. Who tells of it withdraws it before. Raises `BadInputError` for an
    original, and whatever its file system does."""
    if copy.original:
        raise BadInputError("it is where its owner made it", where=copy.url, todo="its owner removes it himself")
    folder = doors.open(copy.domain, copy.url)
    folder.remove([TOLD])
    folder.tidy()
    folder.remove([*copy.held, TOLD])


def _digest(folder: Folder, name: str) -> str:
    hashed = hashlib.sha256()
    for chunk in folder.chunks(name):
        hashed.update(chunk)
    return f"sha256:{hashed.hexdigest()}"


@contextmanager
def _writing_here() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _HereFailed(_here(error, f"it cannot be written here: {_said(error)}")) from error


def _here(error: Exception, text: str) -> Refusal:
    if isinstance(error, OSError) and error.errno in FULL:
        return Refusal("data.no_room", text, BY, _MAKE_ROOM)
    if isinstance(error, BadInputError):
        return Refusal("data.no_door", error.what, BY, error.todo or "")
    return Refusal("data.unwritable", text, BY, "see that it can be written, and move again: what is whole stays")


def _corrupt(source: Source, part: Part, what: str) -> _SourceFailed:
    text = f"{source.copy.domain} {what} as {part.name} at {source.copy.url}"
    return _SourceFailed("data.corrupt", text, "its holder reads his copy again, and takes it anew")


def _said(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__


_NOT_AGAIN = frozenset({"data.corrupt", "data.no_door"})
_MAKE_ROOM = "make room, and move again: what is whole stays"
_AGAIN = "move again: what is whole stays"
