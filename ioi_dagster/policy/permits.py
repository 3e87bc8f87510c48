"""Issuing and checking permits. Checks return a refusal with a code of its own for each thing that can be wrong."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ioi_dagster.errors import BadInputError, SignatureError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.permit import RunPermit, StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys

MAX_ENCODED = 16 * 1024
KEY_REMEDY = (
    "its domain has taken the key back, or its newest record is still to come, which it does by itself: sign it anew by the "
    "present key, as a domain's own runs do by themselves"
)
"""Of whatever is signed by a key that is not known (any more)."""
MAX_KNOWN = 1_000
"""Run permits that are kept as read; the oldest goes."""
EARLY_S = 86_400.0
"""A permit is good for so long before its time: its issuer's clock is ahead, or was when it was issued."""
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "DataClass": (DataClass,),
    "tuple[str, ...]": (tuple,),
}
"""Exact types: JSON's `true` is no number, and a text that reads as infinity is no time."""

T = TypeVar("T", RunPermit, StepPermit)


def issue(key: SigningKey, permit: RunPermit | StepPermit) -> Signed:
    """Sign a permit's claims. Raises `BadInputError` when the issuer named in it is not the key's domain."""
    if permit.issuer != key.domain:
        raise BadInputError(f"{key.domain} cannot issue a permit in the name of {permit.issuer}")
    return key.sign(permit.claims())


def encode(signed: Signed) -> str:
    """For a tag or a header: base64 of JSON."""
    document = {"body": signed.body, "key_id": signed.key_id, "signature": signed.signature}
    return base64.urlsafe_b64encode(json.dumps(document, separators=(",", ":")).encode()).decode()


def decode(text: str) -> Signed | Refusal:
    """Never raises: what cannot be read is `permit.malformed`."""
    if len(text) > MAX_ENCODED:
        return _no("malformed", f"the permit is longer than {MAX_ENCODED} characters")
    try:
        document = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, UnicodeError, RecursionError):
        return _no("malformed", "the permit is not base64 of JSON")
    return from_plain(document)


def from_plain(document: Any) -> Signed | Refusal:
    """A `Signed` from a plain object that came from outside."""
    if not isinstance(document, Mapping) or set(document) != {"body", "key_id", "signature"}:
        return _no("malformed", "the permit is not a signed document")
    body, key_id, signature = document["body"], document["key_id"], document["signature"]
    if not isinstance(body, dict) or not isinstance(key_id, str) or not isinstance(signature, str):
        return _no("malformed", "the permit's parts have the wrong types")
    return Signed(body, key_id, signature)


def read_run_permit(signed: Signed, trusted: TrustedKeys, *, now: float) -> RunPermit | Refusal:
    """Signature, issuer and validity; not yet what the permit is for. What a peer can check."""
    return _read(signed, trusted, RunPermit, "run-permit/1", now)


class ReadPermits:
    """Run permits as they come with requests. A run shows the same text each time, so what was read well stays known, by the
    whole of that text, as long as the key counts that has signed it. From then on the rest of its life goes by a monotonic clock:
    what was good is not early, nor over before its time, since somebody has set the clock of a machine."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted
        self._known: dict[str, tuple[RunPermit, float, str]] = {}

    def read(self, text: str, now: float, monotonic: float) -> RunPermit | Refusal:
        """As `decode` and `read_run_permit` say; `now` in Unix seconds, by the clock of who shows it, which has issued it."""
        known = self._known.get(text)
        if known is not None:
            permit, until, key_id = known
            if key_id in self._trusted.keys:
                return permit if monotonic < until else _expired()
            del self._known[text]
        signed = decode(text)
        if isinstance(signed, Refusal):
            return signed
        permit = read_run_permit(signed, self._trusted, now=now)
        if isinstance(permit, RunPermit):
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[text] = permit, monotonic + permit.expires - now, signed.key_id
        return permit


def check_run_permit(
    signed: Signed, trusted: TrustedKeys, *, issuer: str, expected: Mapping[str, str], now: float
) -> RunPermit | Refusal:
    """All of `read_run_permit`, and every field in `expected` (recomputed by the caller) must equal the permit's. It is
    `issuer`'s own affair: what was signed here is not from the future, whatever the clock says since."""
    permit = _read(signed, trusted, RunPermit, "run-permit/1", now, early=True)
    if isinstance(permit, Refusal):
        return permit
    if permit.issuer != issuer:
        return _no("foreign_issuer", f"the permit was issued by {permit.issuer}, not by {issuer}")
    for name, value in expected.items():
        if getattr(permit, name) != value:
            return _no(f"{name}_mismatch", f"the permit is for another {name} than the one that was to start")
    return permit


def check_step_permit(
    signed: Signed, trusted: TrustedKeys, *, lease: Lease, payload: str, audience: str, now: float
) -> StepPermit | Refusal:
    """Gate 4's check: `payload` is the digest of the bytes to be run, `audience` the node's own domain."""
    permit = _read(signed, trusted, StepPermit, "step-permit/1", now)
    if isinstance(permit, Refusal):
        return permit
    wanted = {
        "run": lease.run,
        "step": lease.step,
        "fence": lease.fence,
        "copy": lease.copy,
        "lease": lease.id,
        "capability": lease.capability,
        "cluster": lease.cluster,
        "node": lease.node,
        "audience": audience,
        "payload": payload,
    }
    for name, value in wanted.items():
        if getattr(permit, name) != value:
            return _no(f"{name}_mismatch", f"the step permit is for another {name}")
    return permit


def _read(
    signed: Signed, trusted: TrustedKeys, kind: type[T], name: str, now: float, early: bool = False
) -> T | Refusal:
    """`early`: one that is not valid yet will do."""
    try:
        signer = trusted.verify(signed)
    except SignatureError as error:
        return _no("signature", str(error), KEY_REMEDY if signed.key_id not in trusted.keys else "")
    except Exception as error:  # canonicalisation of hostile content
        return _no("malformed", f"the permit cannot be read: {type(error).__name__}")
    body = dict(signed.body)
    if body.pop("kind", None) != name:
        return _no("kind", f"not a {name}")
    if set(body) != {field.name for field in fields(kind)}:
        return _no("malformed", "the permit's fields are not those of its kind")
    for key, value in body.items():
        if isinstance(value, list):
            body[key] = tuple(value)
    try:
        for key in ("highest", "data_class"):
            if key in body:
                body[key] = DataClass(body[key])
        permit = kind(**body)
        wrong = [
            field.name for field in fields(kind) if type(getattr(permit, field.name)) not in _TYPES[str(field.type)]
        ]
        if wrong:
            return _no("malformed", f"the permit's {wrong[0]} has the wrong type")
        late = _out_of_time(permit, max(now, float(permit.not_before)) if early else now)
    except (ValueError, TypeError):
        return _no("malformed", "the permit's fields have the wrong values")
    if permit.issuer != signer:
        return _no("foreign_issuer", f"{signer} signed a permit in the name of {permit.issuer}")
    return late or permit


def _out_of_time(permit: RunPermit | StepPermit, now: float) -> Refusal | None:
    if now + EARLY_S < float(permit.not_before):
        return _no("not_yet_valid", "the permit is not valid yet")
    return _expired() if now >= float(permit.expires) else None


def _expired() -> Refusal:
    return _no("expired", "the permit has expired", "launch the run again")


def _no(code: str, text: str, remedy: str = "") -> Refusal:
    return Refusal(f"permit.{code}", text, "permit check", remedy)
