"""Which items are worth another run: those that were lost with their node, and those refused before a better block came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ioi_dagster.signing import digest


@dataclass(frozen=True, slots=True)
class Item:
    """One result: `lost` when the machinery gave up on it, `poor` when its quality was refused."""

    name: str
    digest: str
    lost: bool
    poor: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """What was acted upon: items already re-run for a loss, and the block versions their quality was judged with."""

    lost: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Run these again. `key` is the same for the same cause, so that a repeated tick starts nothing twice."""

    items: tuple[str, ...]
    why: str
    key: str


def recommend(
    items: Sequence[Item], versions: Mapping[str, str], cursor: Cursor
) -> tuple[Recommendation | None, Cursor]:
    """At most one recommendation a tick, and the cursor after it."""
    now = tuple(sorted(versions.items()))
    lost = [item for item in items if item.lost and _mark(item) not in cursor.lost]
    better = bool(cursor.versions) and now != cursor.versions and bool(versions)
    poor = [item for item in items if item.poor] if better else []
    # An unreachable registry gives no versions: the older ones stay, lest its return looks like news.
    after = Cursor((*cursor.lost, *map(_mark, lost))[-10_000:], now or cursor.versions)
    chosen = tuple(dict.fromkeys(item.name for item in (*lost, *poor)))
    if not chosen:
        return None, after
    causes = []
    if lost:
        causes.append(f"{len(lost)} lost with their node")
    if poor:
        changed = ", ".join(f"{name} {version}" for name, version in now if (name, version) not in cursor.versions)
        causes.append(f"{len(poor)} of refused quality, and there is {changed}")
    key = digest({"items": sorted(chosen), "lost": sorted(map(_mark, lost)), "versions": [list(v) for v in now]})
    return Recommendation(chosen, " and ".join(causes), key), after


def _mark(item: Item) -> str:
    return f"{item.name}@{item.digest[:16]}"
