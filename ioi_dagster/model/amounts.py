"""Amounts of resources as people write them: `4`, `0.5`, `4GiB`; and as they are shown to them."""

from __future__ import annotations

import math
import re

from ioi_dagster.errors import BadInputError

MEMORY = "memory"
"""The resource whose amounts are bytes."""
MOST = 1e18
RESOURCE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What a resource may be called."""
_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
}
_BY_WORD = {unit.lower(): factor for unit, factor in _UNITS.items()}
_AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]{0,3})")


def amount(text: str) -> float:
    """`4`, `0.5`, `4GiB`, `500 MB` as a number, of bytes where a unit is given. Raises `BadInputError`."""
    found = _AMOUNT.fullmatch(text.strip())
    factor = _BY_WORD.get(found[2].lower()) if found else None
    if found is None or factor is None or float(found[1]) * factor > MOST:
        raise BadInputError(f"{text[:80]!r} is no amount", todo="write it as 2, 0.5 or 4GiB")
    return float(found[1]) * factor


def shown(resource: str, value: float) -> str:
    """The amount for a person: memory in binary units, others as they are."""
    if resource != MEMORY or not math.isfinite(value):
        return f"{value:g}"
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        if value >= _UNITS[unit]:
            return f"{value / _UNITS[unit]:.4g} {unit}"
    return f"{value:g} B"


def told(resource: str, value: float) -> str:
    """The amount with what it is of: `1 slot`, `4 GiB memory`."""
    return f"{shown(resource, value)} {'slot' if (resource, value) == ('slots', 1) else resource}"


def counted(count: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def apart(ahead_s: float) -> str:
    """`12 min ahead`, `1 h behind`: how one clock is to another."""
    size = abs(ahead_s)
    units = ((172_800.0, 86_400.0, "days"), (5_400.0, 3_600.0, "h"), (90.0, 60.0, "min"))
    amount = next((f"{size / unit:.3g} {name}" for least, unit, name in units if size >= least), f"{size:.0f} s")
    return f"{amount} {'ahead' if ahead_s >= 0 else 'behind'}"
