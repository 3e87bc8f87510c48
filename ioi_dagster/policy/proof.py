"""Who sends a request: a signature over what is asked of whom, so that nobody can pass on what was sent to him.

A run permit says what a run may do; the proof beside it says that its issuer asks this gateway for exactly this, now.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from ioi_dagster.errors import SignatureError
from ioi_dagster.model.amounts import apart
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import KEY_REMEDY, decode, encode
from ioi_dagster.signing import SigningKey, TrustedKeys

VALID_S = 300.0
"""Before and after it was signed; what a proof allows is idempotent or fenced."""
CLOCKS_S = 86_400.0
"""By so much may clocks of owners differ, if who asks dates his requests by the clock of who is asked. What is signed and issued
is good for as long before its time."""
CLOCK_REMEDY = "set the clock of whichever is wrong, and have it kept right (NTP)"
_KIND = "request/1"


@dataclass(frozen=True, slots=True)
class Caller:
    """A domain that proved itself; `body` is the digest of the body that it meant, `clock` the time of day by its own clock (Unix
    seconds), by which its permits are dated."""

    domain: str
    body: str
    clock: float


def prove(
    key: SigningKey, *, audience: str, method: str, path: str, body: str, now: float, ahead_s: float = 0.0
) -> str:
    """Header text for one request to `audience`, whose clock is `ahead_s` ahead of the own one, which says `now`; `body` is the
    digest of its bytes."""
    claims = {"kind": _KIND, "audience": audience, "method": method, "path": path, "body": body}
    dated = {"at": float(int(now + ahead_s)), "clock": float(int(now))}
    return encode(key.sign({**claims, **dated, "nonce": uuid.uuid4().hex}))


def check_proof(
    text: str, trusted: TrustedKeys, *, audience: str, method: str, path: str, now: float
) -> Caller | Refusal:
    """Whose request it is. Compare `Caller.body` with the digest of what was received before acting on it."""
    signed = decode(text) if text else Refusal("proof.missing", "the request is not signed", audience)
    if isinstance(signed, Refusal):
        return signed if not text else _no("malformed", "the proof cannot be read", audience)
    try:
        domain = trusted.verify(signed)
    except SignatureError as error:
        return _no("signature", str(error), audience, KEY_REMEDY if signed.key_id not in trusted.keys else "")
    except Exception as error:  # canonicalisation of hostile content
        return _no("malformed", f"the proof cannot be read: {type(error).__name__}", audience)
    claims = signed.body
    for name, value in (("kind", _KIND), ("audience", audience), ("method", method), ("path", path)):
        if claims.get(name) != value:
            return _no(f"{name}_mismatch", f"the request was signed for another {name}", audience)
    at, body = claims.get("at"), claims.get("body")
    clock = claims.get("clock", at)
    if not isinstance(at, int | float) or not isinstance(clock, int | float) or not isinstance(body, str):
        return _no("malformed", "the proof's fields have the wrong types", audience)
    # Written so that what is no number at all is not within it either.
    if not (abs(now - at) <= VALID_S and abs(now - clock) <= CLOCKS_S + VALID_S):
        return _no(
            "stale",
            _differ(domain, max(clock, at, key=lambda its: abs(its - now)), audience, now),
            audience,
            CLOCK_REMEDY,
        )
    return Caller(domain, body, clock)


def _differ(domain: str, its: float, audience: str, now: float) -> str:
    whose = f"the clock of {domain} is {apart(its - now)} of that of {audience}"
    return f"{whose}, which says {_time_of_day(now)}, or the request was signed so long before it came"


def _time_of_day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _no(code: str, text: str, by: str, remedy: str = "") -> Refusal:
    return Refusal(f"proof.{code}", text, by, remedy)
