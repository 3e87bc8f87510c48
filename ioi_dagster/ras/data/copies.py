"""Copies of assets: run-time state that who holds one tells, leased as all of that is; and what each is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from urllib.parse import quote

import msgspec

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import MAX_PARTS, SHA256, Asset
from ioi_dagster.ras.leases import LeasedState

MAX_URL = 1_000


@dataclass(frozen=True, slots=True)
class Copy:
    """What `domain` holds of `asset` (a URN) in the folder at `url`. `of`: digest of the record of that version; `held`: digest
    by name of part, as they were when the holder read them last, at `as_of` (seconds of the epoch, by its clock). `original`: it
    is where its owner made it, and nobody else removes it."""

    domain: str
    url: str
    asset: str
    version: str
    of: str
    held: Mapping[str, str]
    as_of: float = 0.0
    original: bool = False

    @property
    def where(self) -> tuple[str, str]:
        return (self.domain, self.url)


class Worth(StrEnum):
    """What a copy is against the version that its owner has in force: all of it; some of it and nothing else; an older version;
    something else than its owner has ever signed."""

    WHOLE = "whole"
    PARTIAL = "partial"
    STALE = "stale"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class Standing:
    """A copy and its worth. `usable`: names of parts of the version in force → where the same bytes lie below the copy's URL.
    `why`: what is wrong with it, in words."""

    copy: Copy
    worth: Worth
    usable: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


def standing(asset: Asset, copy: Copy, earlier: Iterable[Asset] = ()) -> Standing:
    """Of a copy against the version in force; `earlier`: versions before it that are still known."""
    if copy.asset != asset.urn:
        return Standing(copy, Worth.DIVERGED, why=f"it is of {copy.asset}")
    if copy.of == asset.digest:
        return _of_this(asset, copy)
    its = next((one for one in earlier if one.digest == copy.of), None)
    if its is None:
        return Standing(copy, Worth.DIVERGED, why=f"no version of {asset.owner} has the digest {copy.of[:19]}")
    own = _of_this(its, copy)
    if own.worth is Worth.DIVERGED:
        return own
    lies = {copy.held[name]: name for name in own.usable}
    usable = {part.name: lies[part.digest] for part in asset.parts if part.digest in lies}
    return Standing(copy, Worth.STALE, usable, f"it is of version {its.version}, and {asset.version} is in force")


def standings(asset: Asset, copies: Iterable[Copy], earlier: Sequence[Asset] = ()) -> tuple[Standing, ...]:
    """In order of domain and URL."""
    return tuple(standing(asset, copy, earlier) for copy in sorted(copies, key=lambda one: one.where))


def _of_this(asset: Asset, copy: Copy) -> Standing:
    wanted = {part.name: part.digest for part in asset.parts}
    odd = sorted(name for name, digest in copy.held.items() if wanted.get(name) != digest)
    if odd:
        return Standing(copy, Worth.DIVERGED, why=f"{', '.join(odd[:3])}: not what {asset.owner} has signed")
    if len(copy.held) == len(wanted):
        return Standing(copy, Worth.WHOLE, {name: name for name in wanted})
    why = f"{len(copy.held)} of {len(wanted)} parts"
    return Standing(copy, Worth.PARTIAL, {name: name for name in copy.held}, why)


def tell_copy(state: LeasedState, copy: Copy, ttl_s: float, now: float) -> Refusal | None:
    """Set or renew it: without a renewal within `ttl_s` nobody counts on it any more."""
    return state.put(_group(copy.asset) + quote(f"{copy.domain} {copy.url}"), asdict(copy), ttl_s, now, copy.domain)


def withdraw_copy(state: LeasedState, copy: Copy) -> None:
    """It is gone, or about to go: from now on nobody is sent there."""
    state.drop(_group(copy.asset) + quote(f"{copy.domain} {copy.url}"))


def copies_of(state: LeasedState, urn: str, now: float) -> tuple[Copy, ...]:
    """Those whose lease has not ended."""
    return tuple(read_copy(value) for value in state.items(now, _group(urn)).values())


def read_copy(value: object, teller: str = "") -> Copy:
    """What a domain tells of a copy. Raises `BadInputError` for what makes no sense; `teller` speaks for himself only."""
    try:
        copy = converted(value, Copy)
    except msgspec.ValidationError as error:
        raise BadInputError(f"no copy: {error}", where=teller or "copies", todo=_TODO) from error
    wrong = (
        (bool(teller) and copy.domain != teller, f"it tells of a copy of {copy.domain[:100]}"),
        (len(copy.url) > MAX_URL or not copy.url.isprintable(), f"its URL is no printable one of {MAX_URL} at most"),
        (len(copy.held) > MAX_PARTS, f"it holds {len(copy.held)} parts; an asset has {MAX_PARTS} at most"),
        (not all(map(SHA256.fullmatch, (copy.of, *copy.held.values()))), "a digest is no sha256:<hex>"),
    )
    for is_wrong, what in wrong:
        if is_wrong:
            raise BadInputError(what, where=teller or copy.domain[:100], todo=_TODO)
    return copy


def _group(urn: str) -> str:
    return f"copies of {quote(urn, safe='')}/"


_TODO = "whoever holds it tells it anew"
