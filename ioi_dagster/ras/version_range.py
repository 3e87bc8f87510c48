"""Which versions are wanted, in the words of the scheme that orders them.

- PEP 440: specifiers as of packages, `>=1.2,<2`, `~=1.4`.
- Semantic Versioning 2.0.0: `>=1.2.0 <2.0.0`, `^1.2`, `~1.2.3`, `1.x`, alternatives with `||`. A pre-release is taken only
  where a bound is one of the same three numbers.
- opaque: the versions themselves, alternatives with `||`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.urn import Scheme

MAX_RANGE = 200
Test = Callable[[str], bool]


@lru_cache(maxsize=4096)
def in_range(version: str, scheme: Scheme, wanted: str) -> bool:
    """`wanted` empty or `*`: every version is. Raises `BadInputError` where `wanted` is none of the scheme."""
    return _test(scheme, wanted)(version)


def order_of(version: str, scheme: Scheme) -> tuple[Any, ...]:
    """Sorts versions of one scheme; what is none of it comes first, and opaque ones are in no order but that of letters."""
    if scheme is Scheme.PEP440:
        try:
            return (1, Version(version))
        except InvalidVersion:
            return (0, version)
    if scheme is Scheme.SEMVER:
        found = _SEMVER.fullmatch(version)
        return (1, *_key(found)) if found else (0, version)
    return (0, version)


@lru_cache(maxsize=256)
def _test(scheme: Scheme, wanted: str) -> Test:
    if len(wanted) > MAX_RANGE:
        raise BadInputError(f"a range of {len(wanted)} characters", where="versions", todo=f"{MAX_RANGE} at most")
    if wanted.strip() in ("", "*"):
        return lambda version: True
    return {Scheme.PEP440: _pep440, Scheme.SEMVER: _semver, Scheme.OPAQUE: _opaque}[scheme](wanted)


def _pep440(wanted: str) -> Test:
    try:
        specifiers = SpecifierSet(wanted)
    except InvalidSpecifier:
        raise BadInputError(
            f"{wanted[:60]!r} is no range of versions of PEP 440", where="versions", todo="write it as in >=1.2,<2"
        ) from None

    def test(version: str) -> bool:
        try:
            return specifiers.contains(Version(version))
        except InvalidVersion:
            return False

    return test


def _opaque(wanted: str) -> Test:
    listed = {one.strip().removeprefix("==") for one in wanted.split("||")}
    return listed.__contains__


_SEMVER = re.compile(r"(\d{1,15})\.(\d{1,15})\.(\d{1,15})(?:-([0-9A-Za-z.-]{1,60}))?(?:\+[0-9A-Za-z.-]{1,60})?")
_PART = re.compile(
    r"(\^|~|>=|<=|>|<|==?)?\s*v?(\d{1,15}|[xX*])(?:\.(\d{1,15}|[xX*]))?(?:\.(\d{1,15}|[xX*]))?(?:-([0-9A-Za-z.-]{1,60}))?"
)
_Bounds = list[tuple[str, tuple[Any, ...]]]


def _key(found: re.Match[str]) -> tuple[Any, ...]:
    """Of precedence, clause 11."""
    return (*(int(found[place]) for place in (1, 2, 3)), _pre(found[4]))


def _pre(text: str | None) -> tuple[Any, ...]:
    """A version without one comes after those with one; numbers before words."""
    if not text:
        return (1,)
    return (0, *((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in text.split(".")))


def _semver(wanted: str) -> Test:
    alternatives = [_bounds(one, wanted) for one in wanted.split("||")]

    def test(version: str) -> bool:
        found = _SEMVER.fullmatch(version)
        return found is not None and any(_within(_key(found), bounds) for bounds in alternatives)

    return test


def _within(key: tuple[Any, ...], bounds: _Bounds) -> bool:
    early = key[3] != _pre(None)
    if early and not any(bound[:3] == key[:3] and bound[3] not in (_pre(None), _LOWEST) for _, bound in bounds):
        return False
    return all(_COMPARED[operator](key, bound) for operator, bound in bounds)


_LOWEST: tuple[Any, ...] = (0,)
"""Before every pre-release."""
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda key, bound: key >= bound,
    ">": lambda key, bound: key > bound,
    "<": lambda key, bound: key < bound,
    "<=": lambda key, bound: key <= bound,
}


def _bounds(text: str, wanted: str) -> _Bounds:
    bounds: _Bounds = []
    left = text.replace(",", " ").strip()
    while left:
        found = _PART.match(left)
        if found is None or (left[found.end() :] and not left[found.end()].isspace()):
            raise BadInputError(
                f"{wanted[:60]!r} is no range of semantic versions",
                where="versions",
                todo="write it as in ^1.2 or >=1.2.0 <2",
            )
        bounds += _of_part(found)
        left = left[found.end() :].strip()
    return bounds


def _of_part(found: re.Match[str]) -> _Bounds:
    numbers = []
    for part in found.groups()[1:4]:
        if part is None or not part.isdecimal():
            break
        numbers.append(int(part))
    operator, pre, said = found[1] or "", _pre(found[5]), len(numbers)
    low = (*numbers, *[0] * (3 - said), pre if said == 3 else _LOWEST)
    if said == 0:
        return []
    after = (*_next(numbers, said - 1), _LOWEST)
    if operator == "^":
        first = next((place for place, number in enumerate(numbers) if number), said - 1)
        return [(">=", low), ("<", (*_next(numbers, first), _LOWEST))]
    if operator == "~":
        return [(">=", low), ("<", (*_next(numbers, min(1, said - 1)), _LOWEST))]
    if operator in ("", "=", "=="):
        return [(">=", low), ("<=", low)] if said == 3 else [(">=", low), ("<", after)]
    if said == 3 or operator in (">=", "<"):
        return [(operator, low)]
    return [(">=", after)] if operator == ">" else [("<", after)]


def _next(numbers: list[int], place: int) -> tuple[int, ...]:
    return (*numbers[:place], numbers[place] + 1, *[0] * (2 - place))
