"""The table of `ioi status` of nodes that come and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from ioi_dagster.cli_tables import Column, Fitted


def scaling_table(clusters: Mapping[str, Mapping[str, Any]]) -> Fitted:
    """Of each group in each of `clusters` (name → snapshot): how many nodes are wanted, there and idle, what they cost beside
    what they may, and why that changed last."""
    columns = (
        *(Column("cluster"), Column("group"), Column("wanted"), Column("there"), Column("idle", 4), Column("of", 3)),
        *(Column("an hour", 5), Column("last day", 6), Column("changed", 2), Column("why", 1, wraps=24)),
    )
    table = Fitted(*columns, title="nodes that come and go")
    for cluster, snapshot in clusters.items():
        for name, group in snapshot.get("scaling", {}).items():
            ago = group["changed_s_ago"]
            why = "; ".join(filter(None, (group["why"], f"no more: {group['held']}" if group["held"] else "")))
            table.add_row(
                cluster,
                Text(name),
                str(group["wanted"]),
                str(group["there"]),
                str(group["idle"]),
                f"{group['min']}–{group['max']}",
                _cost(group["cost_hour"], group["per_hour"]),
                _cost(group["cost_day"], group["per_day"]),
                "never" if ago is None else f"{ago:.0f} s ago",
                Text(why, "red" if group["held"] else ""),
            )
    return table


def _cost(amount: float, cap: float | None) -> str:
    return f"{amount:.4g}" if cap is None else f"{amount:.4g} of {cap:.4g}"
