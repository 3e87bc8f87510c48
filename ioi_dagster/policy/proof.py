"""Who sends a request: a signature over what is asked of whom, so that nobody can pass on what was sent to him.

A run permit says what a run may do; the proof beside it says that its issuer asks this gateway for exactly this, now.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from ioi_dagster.errors import SignatureError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import decode, encode
from ioi_dagster.signing import SigningKey, TrustedKeys

VALID_S = 300.0
"""Clocks of owners differ; what a proof allows is idempotent or fenced."""
_KIND = "request/1"


@dataclass(frozen=True, slots=True)
class Caller:
    """A domain that proved itself; `body` is the digest of the body that it meant."""

    domain: str
    body: str


def prove(key: SigningKey, *, audience: str, method: str, path: str, body: str, now: float) -> str:
    """Header text for one request to `audience`; `body` is the digest of its bytes."""
    claims = {"kind": _KIND, "audience": audience, "method": method, "path": path, "body": body}
    return encode(key.sign({**claims, "at": float(int(now)), "nonce": uuid.uuid4().hex}))


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
        return _no("signature", str(error), audience)
    except Exception as error:  # canonicalisation of hostile content
        return _no("malformed", f"the proof cannot be read: {type(error).__name__}", audience)
    claims = signed.body
    for name, value in (("kind", _KIND), ("audience", audience), ("method", method), ("path", path)):
        if claims.get(name) != value:
            return _no(f"{name}_mismatch", f"the request was signed for another {name}", audience)
    at, body = claims.get("at"), claims.get("body")
    if not isinstance(at, int | float) or not isinstance(body, str):
        return _no("malformed", "the proof's fields have the wrong types", audience)
    if abs(now - at) > VALID_S:
        return _no("stale", f"the request was signed more than {VALID_S:g} s ago or ahead", audience)
    return Caller(domain, body)


def _no(code: str, text: str, by: str) -> Refusal:
    return Refusal(f"proof.{code}", text, by)
