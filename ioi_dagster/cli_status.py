"""What `ioi status` shows: each domain as its own gateway sees it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.cli_scaling import scaling_table
from ioi_dagster.cli_tables import Column, Fitted, Tables
from ioi_dagster.cli_tenants import asked_table, tenants_table
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.local.federation import read_supervisor
from ioi_dagster.local.home import domains_in
from ioi_dagster.model.amounts import apart, counted
from ioi_dagster.policy.proof import CLOCKS_S

EVERY_S = 1.0
DOUBTFUL = 0.8
"""Who is trusted less stands out."""


def watch(home: Path, console: Console, as_json: bool) -> None:
    """Show the status again every second until interrupted: on a terminal in its place, `as_json` a line each time.

    Raises `BadInputError` where no federation was ever started."""
    found = collect(home)
    try:
        if as_json:
            while True:
                # One that reads on goes on reading: nothing may stay in a buffer.
                print(json.dumps(found), flush=True)
                time.sleep(EVERY_S)
                found = collect(home)
        screen = console.is_terminal
        live = Live(render(found, screen), console=console, screen=screen, auto_refresh=False)
        try:
            # Not by `with`: who interrupts the beginning would not get his screen back.
            live.start(refresh=True)
            while True:
                time.sleep(EVERY_S)
                found = collect(home)
                live.update(render(found, screen), refresh=True)
        finally:
            live.stop()
    except KeyboardInterrupt:
        if console.is_terminal and not as_json:
            console.print(render(found))
    except BrokenPipeError:
        # Who read it has had enough. What Python still has to write when it ends goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def collect(home: Path) -> dict[str, Any]:
    """Domain → its status, or the error that it gave. Raises `BadInputError` where no federation was ever started."""
    domains = domains_in(home)
    if not domains:
        raise BadInputError("no federation was ever started here", where=str(home), todo="run `ioi up`")
    found: dict[str, Any] = {}
    for domain in domains:
        client = own_gateway(domain)
        try:
            found[domain.name] = client.status()
        except IoiError as error:
            found[domain.name] = {"error": str(error)}
        finally:
            client.close()
        found[domain.name]["processes"] = read_supervisor(domain)
    return found


def render(status: dict[str, Any], screen: bool = False) -> RenderableType:
    """Tables of nodes with their load, members that do not see each other, tenants with their shares, blocks with who
    offers them, what blocks do on nodes, and leases; of these, those that have a row, and on a
    `screen` those that have room."""
    nodes = Fitted(
        *(Column("domain", 3), Column("handles", 6), Column("cluster"), Column("node"), Column("slots", 2)),
        *(Column("free"), Column("memory", 1, "mem"), Column("warm", 4, wraps=14), Column("restarts", 5, "again")),
        Column("state", wraps=16),
    )
    leases = Fitted(
        *(Column("cluster", 2), Column("node"), Column("run"), Column("step", wraps=20), Column("fence", 1)),
        title="leases",
    )
    replicas = _replicas_table()
    shares: dict[str, Any] = {}
    silent: list[str] = []
    for domain, facts in status.items():
        if "error" in facts:
            silent.append(domain)
            continue
        restarts = {row["name"]: row["restarts"] for row in facts["processes"]}
        for cluster, snapshot in facts["clusters"].items():
            if "error" in snapshot:
                nodes.add_row(domain, facts["spec"]["handles"], cluster, "–", *[""] * 5, Text(snapshot["error"], "red"))
                continue
            running = [*snapshot["leases"], *snapshot["abandoned"]]
            for name, node in snapshot["nodes"].items():
                nodes.add_row(
                    domain,
                    facts["spec"]["handles"],
                    cluster,
                    name,
                    str(node["slots"]),
                    str(node["free"]),
                    f"{node['memory']:.0%}",
                    ", ".join(node["warm"]) or "–",
                    str(restarts.get(name, 0)),
                    _state_of(node, any(lease["node"] == name for lease in running)),
                )
                for block in node.get("blocks", ()):
                    replicas.add_row(name, *_replicas_row(block))
            shares[cluster] = snapshot
            for lease in snapshot["leases"]:
                leases.add_row(cluster, lease["node"], lease["run"][:8], Text(lease["step"]), str(lease["fence"]))
            for lease in snapshot["abandoned"]:
                step = Text(f"{lease['step']} (is being stopped: its lease has run out)")
                leases.add_row(cluster, lease["node"], lease["run"][:8], step, str(lease["fence"]))
    notes = [Text(status[domain]["error"], "red") for domain in silent]
    if silent and len(silent) == len(status):
        notes.append(Text("no domain answers: `ioi up` starts them; `ioi run` does while it runs"))
    scaling, members, tenants, asked = (
        *(scaling_table(shares), _members_table(status)),
        *(tenants_table(shares), asked_table(shares)),
    )
    blocks, orders, standing = _blocks_table(status), _orders_table(status), _standing_table(status)
    refused = _refused_table(status)
    return Tables(
        (nodes, scaling, members, tenants, asked, blocks, replicas, leases, orders, standing, refused),
        notes,
        matter=(nodes, members, scaling, tenants, orders, leases, blocks, replicas, standing, asked, refused),
        screen=screen,
    )


def _standing_table(status: dict[str, Any]) -> Fitted:
    """How clusters stand with each domain, whom it trusts least first."""
    columns = (
        *(Column("by"), Column("cluster"), Column("trust"), Column("kept", 5), Column("broken", 2), Column("late", 3)),
        *(Column("lost", 4), Column("told", 6), Column("why", 1, wraps=20)),
    )
    table = Fitted(*columns, title="trust, by what the domain's runs have seen")
    for domain, facts in status.items():
        for row in sorted(facts.get("standing", ()), key=lambda one: (one["trust"], one["cluster"])):
            counts = (f"{row[name]:.1f}" for name in ("kept", "broken", "late", "lost"))
            trust = Text(f"{row['trust']:.0%}", "" if row["trust"] >= DOUBTFUL else "yellow")
            told = f"{row['told_s_ago']:.0f} s ago"
            table.add_row(domain, Text(row["cluster"]), trust, *counts, told, Text(row["why"]))
    return table


def _refused_table(status: dict[str, Any]) -> Fitted:
    """What each gateway refused since it was started, the most frequent first."""
    table = Fitted(Column("domain"), Column("at", wraps=20), Column("code", wraps=20), Column("times"), title="refused")
    for domain, facts in status.items():
        for row in facts.get("refused", ()):
            at, code = row["door"] or "elsewhere", row["code"] or "of many kinds"
            table.add_row(domain, Text(at), Text(code), str(row["count"]))
    return table


def _state_of(node: dict[str, Any], busy: bool) -> Text:
    """Does it live, and does it take anything?"""
    if node.get("liveness", "alive") != "alive":
        return Text(f"{node['liveness']}: {node['why']}", "red")
    if node.get("draining"):
        word = "paused" if node.get("paused") else "draining" if busy else "drained"
        return Text(f"{word}: {node['draining']}", "yellow")
    if node.get("crowded"):
        return Text(f"slowed: {node['crowded']}", "yellow")
    if node.get("leaving"):
        return Text("leaving: nothing runs there", "yellow")
    return Text("takes steps")


def _orders_table(status: dict[str, Any]) -> Fitted:
    """What is ordered and holds."""
    columns = (
        *(Column("domain", 3), Column("what", 4), Column("name"), Column("order"), Column("by", 2), Column("since", 1)),
        Column("why", wraps=16),
    )
    table = Fitted(*columns, title="in force")
    for domain, facts in status.items():
        for order in facts.get("orders", ()):
            number = "" if order["value"] is None else f" {order['value']}"
            within = "" if order["within_s"] is None else f" within {order['within_s']:g} s"
            away = f" away from {order['away']}" if order["away"] else ""
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(order["at"]))
            cells = (
                order["name"],
                f"{order['verb']}{number}{within}{away}",
                order["who"] or "–",
                since,
                order["why"] or "–",
            )
            table.add_row(domain, order["target"], *map(Text, cells))
    return table


def _members_table(status: dict[str, Any]) -> Fitted:
    """Whom a domain does not see as alive, since when and why, and whose clock differs. Each has eyes of its own: in a split
    both sides have rows."""
    columns = (Column("seen by"), Column("member"), Column("state"), Column("seen last", 1), Column("why", 2, wraps=16))
    table = Fitted(*columns, title="members that do not see each other, or whose clocks differ")
    for domain, facts in status.items():
        for name, row in facts.get("peers", {}).items():
            clock = clocks_differ(row)
            if row["state"] != "alive" or clock:
                ago = row["seen_s_ago"]
                seen = "never" if ago is None else f"{ago:.0f} s ago"
                table.add_row(domain, Text(name), Text(row["state"]), seen, Text(row["why"] or clock))
    return table


CLOCK_TOLD_S = 5.0
"""A clock that differs by less is no matter to tell of."""


def clocks_differ(seen: Mapping[str, Any]) -> str:
    """Of a member as a domain sees it, which is alive: `its clock is 12 min ahead`. Empty where it is not so, or not known."""
    ahead_s = seen.get("clock_ahead_s") if seen.get("state") == "alive" else None
    if not isinstance(ahead_s, int | float) or abs(ahead_s) < CLOCK_TOLD_S:
        return ""
    return f"its clock is {apart(ahead_s)}{'' if abs(ahead_s) <= CLOCKS_S else ': nothing can be asked of it'}"


def _blocks_table(status: dict[str, Any]) -> Fitted:
    """A row a block, with everybody who offers it. The version is named once where all have the same.

    Replicas and calls (running, waiting) are those of all nodes that report. `handles`: each owner's limit for it.
    """
    columns = (
        *(Column("block"), Column("version", 1), Column("offered by", 2, wraps=24)),
        *(Column("replicas"), Column("running", short="runs"), Column("waiting", short="waits")),
    )
    table = Fitted(*columns, title="blocks")
    offers: dict[str, list[tuple[str, str, str]]] = {}
    for domain, facts in status.items():
        for block in facts.get("blocks", ()):
            offer = (domain, block.get("of", block["version"]), block.get("handles", ""))
            offers.setdefault(block["urn"].rpartition(":")[2], []).append(offer)
    live = [row for facts in status.values() for row in _live_blocks(facts)]
    for name, its in sorted(offers.items()):
        versions = dict.fromkeys(version for _, version, _ in its)
        told = [_offer(domain, version if len(versions) > 1 else "", handles) for domain, version, handles in its]
        mine = [row for row in live if row["block"] == name]
        replicas, running, waiting = (
            sum(sum(row["replicas"].values()) for row in mine),
            sum(row["running"] for row in mine),
            sum(row["queue"] for row in mine),
        )
        counts = (str(replicas), str(running), str(waiting)) if mine else ("–", "–", "–")
        table.add_row(Text(name), Text("\n".join(versions)), Text(", ".join(told)), *counts)
    return table


def _offer(domain: str, version: str, handles: str) -> str:
    more = ", ".join(filter(None, (version, f"up to {handles}" if handles else "")))
    return f"{domain} ({more})" if more else domain


def _live_blocks(facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the domain's nodes report of their blocks."""
    for snapshot in facts.get("clusters", {}).values():
        for node in snapshot.get("nodes", {}).values():
            yield from node.get("blocks", ())


def _replicas_table() -> Fitted:
    return Fitted(
        *(Column("node"), Column("block"), Column("version", 2), Column("", 1), Column("replicas", wraps=14)),
        *(Column("running", short="runs"), Column("waiting", short="waits"), Column("circuit", wraps=10)),
        title="replicas",
    )


def _replicas_row(block: dict[str, Any]) -> list[Text]:
    """A version of a block on one node, as its governor reported it."""
    replicas = ", ".join(f"{count} {state}" for state, count in sorted(block["replicas"].items())) or "–"
    circuit = (
        block["breaker"]
        if block["breaker"] == "closed"
        else f"{block['breaker']} after {counted(block['failures'], 'failure')}"
    )
    return [
        Text(block["block"]),
        Text(block["version"]),
        Text(block["state"]),
        Text(replicas),
        Text(str(block["running"])),
        Text(str(block["queue"])),
        Text(circuit, "" if block["breaker"] == "closed" else "red"),
    ]
