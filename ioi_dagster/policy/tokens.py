"""Tokens for people and tools: made, shown once, and checked. Only the digest of a secret is kept.

A token reads `ioi_<id>_<secret>`: found by its id, so that what is compared in constant time is one digest, and a scanner for
leaked secrets knows it by its beginning.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.token import Token, TokenScope

PREFIX = "ioi_"
MAX_TTL_S = 366 * 86_400.0
MAX_TOKEN = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}")
_AUDIENCE = re.compile(r"public|local|partner:[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NOBODY = Token("", "", hashlib.sha256(b"").hexdigest(), (), 0.0, 0.0)
_NEW = "ask its owner for a new one: `ioi ras token new`"


def make_token(
    name: str,
    scopes: Sequence[TokenScope],
    ttl_s: float,
    now: float,
    secret: bytes,
    audience: str = "public",
    highest: DataClass = DataClass.PUBLIC,
) -> tuple[str, Token]:
    """(what its holder shows, what is kept). `secret`: 38 random bytes or more, `now` Unix seconds. Raises `BadInputError`."""
    for wrong, what, todo in (
        (not _NAME.fullmatch(name), f"{name[:60]!r} is no name of who is to use it", "as in ann, or search-bot"),
        (not scopes, "a token for nothing", f"--scope {'|'.join(TokenScope)}"),
        (not 0 < ttl_s <= MAX_TTL_S, f"it would hold for {ttl_s:g} s", f"up to {MAX_TTL_S / 86_400:g} days"),
        (not _AUDIENCE.fullmatch(audience), f"{audience[:60]!r} is no audience", "public, local or partner:<domain>"),
        (len(secret) < 38, "too short a secret", "draw 38 bytes"),
    ):
        if wrong:
            raise BadInputError(what, where="token", todo=todo)
    its_id, its = secret[:6].hex(), secret[6:].hex()
    kept = tuple(dict.fromkeys(scopes))
    return f"{PREFIX}{its_id}_{its}", Token(its_id, name, _digest(its), kept, now, now + ttl_s, audience, highest)


def check_token(
    text: str, known: Mapping[str, Token], scope: TokenScope | None, by: str, now: float
) -> Token | Refusal:
    """Whose it is, of those that are `known` by id. `scope`: what it is to be used for; None: a door that no token opens. Takes
    as long for an id that nobody has as for a wrong secret."""
    body = text.removeprefix(PREFIX) if len(text) <= MAX_TOKEN else ""
    its_id, _, secret = body.partition("_")
    token = known.get(its_id, _NOBODY)
    same = hmac.compare_digest(token.digest, _digest(secret))
    if not same or token is _NOBODY:
        return Refusal("token.unknown", "the token is none of this domain's", by, _NEW)
    if token.revoked:
        return Refusal("token.revoked", f"the token of {token.name} was revoked by its owner", by, _NEW)
    if now >= token.expires:
        return Refusal("token.expired", f"the token of {token.name} has expired", by, _NEW)
    if scope is None or scope not in token.scopes:
        its, wanted = ", ".join(token.scopes), scope or "what only domains may do"
        text = f"the token of {token.name} is for {its}, and this is {wanted}"
        return Refusal(
            "token.scope", text, by, "ask its owner for one with that scope" if scope else "sign the request"
        )
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
