"""The table of tenants of `ioi status`: the tree of quotas of each cluster with what everybody in it has, by resource."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from ioi_dagster.cli_tables import Column, Fitted
from ioi_dagster.model.amounts import shown
from ioi_dagster.model.amounts import told as told_amount
from ioi_dagster.model.negotiation import SLOTS

_AMOUNTS = ("used", "guarantee", "limit", "borrowed", "lent")
_COLUMNS = (
    Column("cluster"),
    Column("cohort, tenant, class", short="tenant"),
    Column("weight", 10, right=True),
    Column("share", 5, right=True),
    Column("entitled", 7, "due", right=True),
    Column("resource", 3, "of"),
    Column("used", right=True),
    Column("guarantee", 2, "own", right=True),
    Column("limit", 8, right=True),
    Column("borrowed", 6, right=True),
    Column("lent", 9, right=True),
    Column("running", 0, "runs", right=True, wraps=12),
    Column("waiting", 0, "waits", right=True),
    Column("oldest", 4, "since", right=True),
)
OTHERS = "(other classes)"


def tenants_table(clusters: Mapping[str, Mapping[str, Any]]) -> Fitted:
    """`clusters`: the snapshot of each cluster governor. `share` is of the resource that somebody has most of, `entitled` what
    fairness would give now; `borrowed` is beyond the guarantee; what is `lent` others use; `oldest` is how long the first waits.
    A resource has a line where there is something to say of it."""
    table = Fitted(*_COLUMNS, title="tenants")
    for cluster, snapshot in clusters.items():
        for number, (label, view) in enumerate(_tree(snapshot)):
            table.add_row("" if number else cluster, Text(label), *_row(view))
    return table


def asked_table(clusters: Mapping[str, Mapping[str, Any]]) -> Fitted:
    """What became of what tenants asked of each cluster since its governor started: announcements, bids with room for them, why
    others had none, leases, why requests were refused all the same, and steps that were stopped for a quota."""
    columns = (
        *(Column("cluster"), Column("tenant"), Column("rounds", 2, right=True), Column("with room", 3, right=True)),
        *(Column("without room", 1, wraps=14), Column("leased", right=True), Column("refused", wraps=14)),
        Column("stopped", right=True),
    )
    table = Fitted(*columns, title="asked for since the start")
    for cluster, snapshot in clusters.items():
        for number, (tenant, its) in enumerate(snapshot.get("asked", {}).items()):
            cells = [
                "" if number else cluster,
                tenant or "(others)",
                str(its["rounds"]),
                str(its["offered"]),
                _codes(its["refused"]),
                str(its["leased"]),
                _codes(its["rejected"]),
                str(its["stopped"] or "–"),
            ]
            table.add_row(*map(Text, cells))
    return table


def _codes(counts: Mapping[str, int]) -> str:
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"{count} × {code.removeprefix('cluster.')}" for code, count in found) or "–"


def _tree(snapshot: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """From the top down, each with its name set in. Of a single cohort that says nothing itself only the tenants."""
    tenants, cohorts = snapshot["tenants"], snapshot.get("cohorts", {})
    if len(cohorts) < 2 and not any(any(view["limit"].values()) or view["cohort"] for view in cohorts.values()):
        for name in tenants:
            yield from _tenant(name, snapshot, "")
        return

    def cohort(name: str, depth: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        below = [one for one, view in cohorts.items() if view["cohort"] == name]
        members = [one for one, view in tenants.items() if view["cohort"] == name]
        inner = [row for one in below for row in cohort(one, depth + "  ")]
        if inner or members or any(cohorts[name]["guarantee"].values()):
            yield f"{depth}{name}", cohorts[name]
        for one in members:
            yield from _tenant(one, snapshot, depth + "  ")
        yield from inner

    for name, view in cohorts.items():
        if not view["cohort"]:
            yield from cohort(name, "")


def _tenant(name: str, snapshot: Mapping[str, Any], depth: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield f"{depth}{name}", snapshot["tenants"][name]
    for one, view in snapshot.get("classes", {}).get(name, {}).items():
        yield f"{depth}  {one or OTHERS}", view


def _row(view: Mapping[str, Any]) -> list[Text]:
    told = {name for key in _AMOUNTS for name, amount in view[key].items() if amount or key == "limit"}
    resources = sorted(told - {SLOTS})
    resources = [SLOTS, *resources] if SLOTS in told or not told else resources

    def column(key: str) -> str:
        return "\n".join(_amount(view[key], name, zero="0" if key in ("used", "limit") else "–") for name in resources)

    wait = view["oldest_wait_s"]
    cells = [
        f"{view['weight']:g}",
        f"{view['share']:.0%}",
        f"{view['entitled']:.0%}",
        "\n".join(resources),
        *(column(key) for key in _AMOUNTS),
        _running(view),
        str(view["waiting"] or "–"),
        f"{wait:.0f} s" if view["waiting"] else "–",
    ]
    return [Text(cell) for cell in cells]


def _running(view: Mapping[str, Any]) -> str:
    told = [f"{view['stopping']} stopping"] if view["stopping"] else []
    over = ", ".join(told_amount(name, amount) for name, amount in sorted(view["over"].items()))
    told += [f"{over} over its limit by what may not be stopped"] if over else []
    return f"{view['running']} ({'; '.join(told)})" if told else str(view["running"])


def _amount(amounts: Mapping[str, float], name: str, zero: str) -> str:
    if name not in amounts:
        return "–"
    return shown(name, amounts[name]) if amounts[name] else zero
