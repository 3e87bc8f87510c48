"""Rules that need no room in a cluster: who may ask, and what is a message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from ioi_dagster.adapters.http.conformance.asker import Asker, BrokenError
from ioi_dagster.adapters.http.doors import MAX_JSON
from ioi_dagster.adapters.http.protocol import PREFIX, VERSION, Health
from ioi_dagster.decoding import from_json
from ioi_dagster.model.negotiation import MAX_GROUPS, MAX_LEASES, MAX_REQUESTS, MAX_WAIT_S, Bid
from ioi_dagster.policy.proof import VALID_S

NOBODY_CAN = "conformance.nobody-can"


def _says_who_it_is(asker: Asker) -> None:
    health = asker.read(Health, *asker.ask("GET", PREFIX + "health", b"", {}))
    if health.domain != asker.subject.domain or VERSION not in health.protocols or health.epoch < 1:
        raise BrokenError(str(health))


def _refuses(status: int, code: str, method: str = "POST", door: str = "announce", **change: Any) -> Callable:
    def probe(asker: Asker) -> None:
        made: dict[str, Any] = {name: value(asker) if callable(value) else value for name, value in change.items()}
        body = made.pop("body", None) or msgspec.json.encode(asker.announcement())
        asker.refused(status, code, asker.send(method, door, body, **made))

    return probe


def _with(make: Callable[[Asker], Any], *path: str | int, **change: Any) -> Callable[[Asker], bytes]:
    """A message of which the part at `path` is changed."""

    def body(asker: Asker) -> bytes:
        plain = from_json(msgspec.json.encode(make(asker)))
        part = plain
        for name in path:
            part = part[name]
        part |= change
        return msgspec.json.encode(plain)

    return body


def _group(**change: Any) -> Callable[[Asker], bytes]:
    return _with(lambda asker: asker.announcement(), "announce", "groups", 0, **change)


def _announce(**change: Any) -> Callable[[Asker], bytes]:
    return _with(lambda asker: asker.announcement(), "announce", **change)


def _request(**change: Any) -> Callable[[Asker], bytes]:
    return _with(lambda asker: asker.award(asker.request("never", 1)), "requests", 0, **change)


def _malformed(body: Any, door: str = "announce") -> Callable:
    return _refuses(400, "gateway.malformed", door=door, body=body)


def _written(old: bytes, new: bytes) -> Callable[[Asker], bytes]:
    """An announcement that has something in its text that JSON has not, or that no number is."""
    return lambda asker: _announce(wait_s=0.125)(asker).replace(old, new)


def _ignores_fields_that_it_does_not_know(asker: Asker) -> None:
    asker.read(Bid, *asker.send("POST", "announce", _group(of_a_later_version=1)(asker)))


def _says_that_nobody_can(asker: Asker) -> None:
    status, body = asker.send(
        "POST", "announce", msgspec.json.encode(asker.announcement(asker.group(capability=NOBODY_CAN)))
    )
    bid = asker.read(Bid, status, body)
    if bid.points or not all(refusal.code and refusal.text for refusal in bid.refusals) or not bid.refusals:
        raise BrokenError(f"{bid.points} and {bid.refusals}, not a refusal alone")


RULES: dict[str, Callable[[Asker], None]] = {
    "health tells the domain, its epoch and the versions it speaks": _says_who_it_is,
    "another version of the protocol is refused by name": _refuses(404, "protocol.version", path="/v0/announce"),
    "a door that is not there is refused by name": _refuses(404, "protocol.no_door", door="no-such-door"),
    "a request that is not signed is refused": _refuses(401, "proof.missing", proof=""),
    "a request that was signed for another domain is refused": _refuses(
        401, "proof.audience_mismatch", audience="elsewhere.example"
    ),
    "a request that was signed for another door is refused": _refuses(
        401, "proof.path_mismatch", proof=lambda asker: asker.proof("POST", PREFIX + "award", b"")
    ),
    "a request that was signed for another body is refused": _refuses(
        401, "proof.body_mismatch", proof=lambda asker: asker.proof("POST", PREFIX + "announce", b"another")
    ),
    "a request that was signed long ago is refused": _refuses(401, "proof.stale", at=-2 * VALID_S),
    "a request that was signed in the future is refused": _refuses(401, "proof.stale", at=2 * VALID_S),
    "a request without a run permit is refused": _refuses(403, "permit.missing", permit=""),
    "a permit that does not name the domain is refused": _refuses(
        403, "permit.domain", permit=lambda asker: asker.permit(domains=("elsewhere.example",))
    ),
    "a permit that has expired is refused": _refuses(
        403, "permit.expired", permit=lambda asker: asker.permit(expires=asker.subject.now() - 1)
    ),
    "a permit of another run is refused": _refuses(
        403, "permit.run_mismatch", permit=lambda asker: asker.permit(run="another")
    ),
    "an announcement in another domain's name is refused": _refuses(
        403,
        "gateway.other_origin",
        body=lambda asker: msgspec.json.encode(asker.announcement(origin="elsewhere.example")),
    ),
    "a cluster that is not there is refused": _refuses(
        404,
        "gateway.no_cluster",
        body=lambda asker: msgspec.json.encode(replace(asker.announcement(), cluster="no-such-cluster")),
    ),
    "what is no JSON is refused": _malformed(b"\x00rubbish"),
    "a message without a field that it needs is refused": _malformed(b'{"cluster": "c"}'),
    "a negative amount is refused": _malformed(_group(count=-1)),
    "an absurd amount is refused": _malformed(_group(count=10**18)),
    "a number that is written as text is refused": _malformed(_group(count="1")),
    "a number that JSON has not is refused": _malformed(_written(b"0.125", b"NaN")),
    "a number without an end is refused": _malformed(_written(b"0.125", b"1e999")),
    "lists in lists without an end are refused": _malformed(b"[" * 100_000),
    "a longer wait than may be is refused": _malformed(_announce(wait_s=MAX_WAIT_S + 1)),
    "a negative round is refused": _malformed(_announce(round=-1)),
    "a fence that JSON's numbers do not hold exactly is refused": _malformed(_request(fence=2**53), "award"),
    "a negative fence is refused": _malformed(_request(fence=-1), "award"),
    "a priority beyond its bounds is refused": _malformed(_group(priority=2**31)),
    "a tenant without a name is refused": _malformed(_group(tenant="")),
    "a name that is too long is refused": _malformed(_group(capability="x" * 501)),
    "less than nothing of a resource is refused": _malformed(_group(resources=[["memory", -1]])),
    "an absurd amount of a resource is refused": _malformed(_group(resources=[["memory", 1e19]])),
    "too many resources are refused": _malformed(_group(resources=[[f"r{n}", 1] for n in range(17)])),
    "too many groups are refused": _malformed(
        lambda asker: msgspec.json.encode(asker.announcement(*[asker.group()] * (MAX_GROUPS + 1)))
    ),
    "too many requests are refused": _malformed(
        lambda asker: msgspec.json.encode(asker.award(*[asker.request("never", 1)] * (MAX_REQUESTS + 1))), "award"
    ),
    "too many leases in a renewal are refused": _malformed(
        lambda asker: msgspec.json.encode(asker.renewal(*["none"] * (MAX_LEASES + 1))), "renew"
    ),
    "an unknown data class is refused": _malformed(_group(data_class="cosmic")),
    "a message that is too large is refused": _refuses(413, "gateway.too_large", body=b" " * (MAX_JSON + 1)),
    "fields of a later version are ignored": _ignores_fields_that_it_does_not_know,
    "what nobody there can do is refused in the bid": _says_that_nobody_can,
}
