"""Which of several versions comes last, by the scheme that its record names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from ioi_dagster.ras.urn import Scheme


@dataclass(frozen=True, slots=True)
class Known:
    """What is told of one version of a record: `supersedes` is the digest of the record in whose place it comes, or empty."""

    version: str
    scheme: Scheme
    digest: str = ""
    supersedes: str = ""


def order(version: str, scheme: Scheme) -> tuple[Any, ...]:
    """A key that sorts: by PEP 440, or by the precedence of Semantic Versioning 2.0.0 (https://semver.org, item 11; what
    follows a `+` decides only between equals, by its letters). What is not of its scheme comes before all that is, and one that
    is not ordered before one that is."""
    return (_RANKS[scheme], *_READ[scheme](version), version)


def last(versions: Sequence[Known]) -> Known | None:
    """The last of `versions` that is no pre-release, or the last pre-release where there is nothing else. Of versions without an
    order, the only one that none of the others supersedes; none where that leaves several."""
    ordered = [known for known in versions if known.scheme is not Scheme.OPAQUE]
    if ordered:
        final = [known for known in ordered if not _is_early(known)]
        return max(final or ordered, key=lambda known: order(known.version, known.scheme))
    gone = {known.supersedes for known in versions}
    left = [known for known in versions if known.digest not in gone]
    return left[0] if len(left) == 1 else None


def _pep440(version: str) -> tuple[Any, ...]:
    try:
        return (1, Version(version))
    except InvalidVersion:
        return (0,)


_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)


def _semver(version: str) -> tuple[Any, ...]:
    found = _SEMVER.fullmatch(version)
    if found is None:
        return (0,)
    numbers = tuple(int(part) for part in found.groups()[:3])
    early = found.group(4)
    # Numbers come before words, and a longer list after its beginning; a final version after all that lead to it.
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in early.split(".")) if early else ()
    return (1, numbers, not early, parts)


def _is_early(known: Known) -> bool:
    key = _READ[known.scheme](known.version)
    if not key[0]:
        return True
    return key[1].is_prerelease if known.scheme is Scheme.PEP440 else not key[2]


_READ = {Scheme.OPAQUE: lambda version: (), Scheme.PEP440: _pep440, Scheme.SEMVER: _semver}
_RANKS = {Scheme.OPAQUE: 0, Scheme.PEP440: 1, Scheme.SEMVER: 2}
