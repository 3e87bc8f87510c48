"""A domain's tokens in a file that its owner's commands write and its gateway reads when it has changed."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.token import Token
from ioi_dagster.private_file import write_private

MAX_TOKENS = 1_000
KEPT_S = 30 * 86_400.0
"""So long after its end a token is listed still."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """`listen`: where the gateway takes connections without a certificate, for tokens alone (`HOST:PORT`); empty: nowhere."""

    listen: str = ""
    tokens: tuple[Token, ...] = field(default=())


class TokenFile:
    """Of the domain in `home`. What a command has written counts at once, in a gateway that runs too: a look at the file tells.
    Raises `BadInputError` where it cannot be read; then nobody has a token."""

    def __init__(self, home: DomainHome) -> None:
        self._path = home.root / "keys" / "tokens.json"
        self._known: tuple[object, _Kept, dict[str, Token]] = (None, _Kept(), {})

    def known(self) -> Mapping[str, Token]:
        """By id; also those that have ended."""
        return self._look()[1]

    def listen(self) -> str:
        return self._look()[0].listen

    def set_listen(self, address: str) -> None:
        with self._changing() as change:
            change(lambda kept: replace(kept, listen=address))

    def add(self, token: Token, now: float) -> None:
        """Raises `BadInputError` where there are `MAX_TOKENS`."""
        with self._changing() as change:
            change(lambda kept: replace(kept, tokens=_with(kept.tokens, token, now)))

    def revoke(self, its_id: str, now: float) -> Token:
        """Raises `BadInputError` where there is none of that id."""
        with self._changing() as change:
            change(lambda kept: replace(kept, tokens=_revoked(kept.tokens, its_id, now)))
        return self.known()[its_id]

    @contextmanager
    def _changing(self) -> Iterator[Callable[[Callable[[_Kept], _Kept]], None]]:
        """One command after the other."""
        with self._path.with_name(".tokens.lock").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield lambda change: write_private(
                self._path, msgspec.json.format(msgspec.json.encode(change(self._look()[0])))
            )

    def _look(self) -> tuple[_Kept, dict[str, Token]]:
        stamp = self._stamp()
        if stamp != self._known[0]:
            kept = self._read() if stamp is not None else _Kept()
            # Read after the look: one that is replaced in between is read again the next time.
            self._known = stamp, kept, {token.id: token for token in kept.tokens}
        return self._known[1:]

    def _stamp(self) -> object:
        try:
            told = self._path.stat()
        except FileNotFoundError:
            return None
        return told.st_mtime_ns, told.st_ino, told.st_size

    def _read(self) -> _Kept:
        try:
            return from_json(self._path.read_bytes(), _Kept)
        except (OSError, msgspec.MsgspecError) as error:
            todo = "mend it, or remove it and make the tokens anew"
            raise BadInputError(f"tokens cannot be read: {error}", where=str(self._path), todo=todo) from error


def _with(tokens: tuple[Token, ...], token: Token, now: float) -> tuple[Token, ...]:
    kept = tuple(one for one in tokens if now < min(one.expires, one.revoked or one.expires) + KEPT_S)
    if len(kept) >= MAX_TOKENS:
        raise BadInputError(f"there are {MAX_TOKENS} tokens", where="token", todo="give each a shorter time")
    if any(one.id == token.id for one in kept):
        raise BadInputError("there is a token of that id", where="token", todo="draw another")
    return (*kept, token)


def _revoked(tokens: tuple[Token, ...], its_id: str, now: float) -> tuple[Token, ...]:
    if all(one.id != its_id for one in tokens):
        raise BadInputError(f"no token {its_id[:40]!r}", where="token", todo="see `ioi ras token list`")
    return tuple(replace(one, revoked=one.revoked or now) if one.id == its_id else one for one in tokens)
