"""What is known near to a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MOST, LOOKED_AT = 8, 2_000
"""So many names are told, and are compared, at most."""


def near(name: str, known: Iterable[str]) -> str:
    """For a person who has misspelt `name`: those of `known` that are most like it, where there are some, else the first."""
    names = sorted(set(known))
    if not names:
        return "none is known"
    like = get_close_matches(name, names[:LOOKED_AT], MOST, 0.6)
    if like:
        return f"did you mean {' or '.join(like)}?"
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"known: {', '.join(names[:MOST])}{more}"
