"""What `ioi doctor` looks at: a table of checks, each with the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from ioi_dagster.adapters.dask.profiling import can_freeze
from ioi_dagster.errors import IoiError
from ioi_dagster.local.home import DAGSTER_YAML
from ioi_dagster.model.amounts import counted
from ioi_dagster.policy.proof import CLOCK_REMEDY

MAX_TOLD = 12
"""So many differences are told one by one."""


@dataclass
class Finding:
    """`state`: ok, note (an extra is absent) or mend."""

    what: str
    state: str
    found: str
    remedy: str = ""


def examine(home: Path) -> list[Finding]:
    """Every check, in order; none of them changes anything."""
    return [check(home) for check in _CHECKS]


def _python(_home: Path) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "mend", version, "use Python 3.11 to 3.13")
    if can_freeze():
        found = f"{version}: Dask's profiler can freeze a worker under it, so ours are not profiled"
        return Finding("Python", "note", found, "use 3.11.9 or later where workers are started by others")
    return Finding("Python", "ok", version)


def _package(name: str, extra: str) -> Callable[[Path], Finding]:
    def check(_home: Path) -> Finding:
        if importlib.util.find_spec(name) is not None:
            return Finding(f"package {name}", "ok", "installed")
        return Finding(f"package {name}", "mend", "missing", f"make setup (extra {extra})")

    return check


def _tool(name: str, what_for: str, remedy: str) -> Callable[[Path], Finding]:
    def check(_home: Path) -> Finding:
        path = shutil.which(name)
        return Finding(name, "ok", path) if path else Finding(name, "note", f"absent; needed for {what_for}", remedy)

    return check


def _topology(home: Path) -> Finding:
    from ioi_dagster.local.home import domains_in, topology_in
    from ioi_dagster.local.topology_file import load_topology

    file, told = home, []
    try:
        by_hand = [one for one in domains_in(home) if one.by_hand.exists()]
        files = (
            sorted({one.topology for one in by_hand if one.topology is not None}) if by_hand else [topology_in(home)]
        )
        for file in files:
            topology = load_topology(file)
            told.append(f"{file}: {counted(len(topology.domains), 'domain')}, home {topology.home}")
    except IoiError as error:
        return Finding("topology", "mend", str(error), f"edit {file}")
    return Finding("topology", "ok", "; ".join(told) or "none: its domains were made of nodes alone")


def _what_runs(home: Path) -> Finding:
    from ioi_dagster.local.drift import BY_QUOTA, BY_START, drift

    try:
        compared = drift(home)
    except IoiError as error:
        return Finding("what runs", "note", f"not compared with its file: {error}", "mend the file first")
    found = [one for its in compared for one in its.differences]
    if not found:
        files = ", ".join(str(its.file) for its in compared)
        return Finding("what runs", "ok", f"what {files} says" if files else "nothing that was started with a file")
    told = [one.what for one in found[:MAX_TOLD]] + ([f"and {len(found) - MAX_TOLD} more"] if found[MAX_TOLD:] else [])
    files = ", ".join(str(its.file) for its in compared if its.differences)
    remedy = BY_QUOTA if all(one.by_quota for one in found) else BY_START
    return Finding("what runs", "mend", f"not what {files} says: {'; '.join(told)}", remedy)


def _bundle(home: Path) -> Finding:
    from ioi_dagster.adapters.opa.wasm import WasmEngine
    from ioi_dagster.local.home import policies_in

    try:
        policies = policies_in(home)
        engine = WasmEngine.load(policies / "bundle" / "bundle.tar.gz")
    except IoiError as error:
        return Finding("policy bundle", "mend", str(error), "ioi policy build")
    return Finding("policy bundle", "ok", f"{policies}: {len(engine.entrypoints)} policies, {engine.revision[:19]}")


def _home_folder(home: Path) -> Finding:
    if home.exists() and not home.is_dir():
        return Finding("home", "mend", f"{home} is a file", "give another --home")
    folder = next(parent for parent in (home, *home.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        return Finding("home", "mend", f"{folder} cannot be written", "give another --home")
    free = shutil.disk_usage(folder).free
    if free < 2**30:
        return Finding("home", "mend", f"{free >> 20} MiB free on {folder}", "make room: 1 GiB is needed")
    there = "" if home.exists() else " (not there yet: it is made by the first run)"
    return Finding("home", "ok", f"{home}{there}, {free >> 30} GiB free")


def _dagster_yaml(home: Path) -> Finding:
    path = home / "dagster" / "dagster.yaml"
    path = path if path.exists() else DAGSTER_YAML
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        return Finding("dagster.yaml", "mend", f"{path}: {error}", "delete it; `ioi up` writes it anew")
    anew = "delete it; `ioi up` writes it anew"
    for gate, key, wanted in (
        (1, "run_coordinator", "GovernedRunCoordinator"),
        (2, "run_launcher", "GovernedRunLauncher"),
    ):
        if _below(values, key, "class") != wanted:
            return Finding("dagster.yaml", "mend", f"{path}: gate {gate} is not configured ({key})", anew)
    limits = _below(values, "concurrency", "runs", "tag_concurrency_limits")
    closed = isinstance(limits, list) and {"key": "ioi/held", "limit": 0} in limits
    if "concurrency" in values and not closed:
        remedy = "add {key: ioi/held, limit: 0} to concurrency.runs.tag_concurrency_limits"
        return Finding("dagster.yaml", "mend", f"{path}: a concurrency block lets held runs start", remedy)
    return Finding("dagster.yaml", "ok", str(path))


def _below(value: object, *keys: str) -> object:
    """What lies under `keys`; None where something else than a mapping is on the way."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _supervisors(home: Path) -> Finding:
    from ioi_dagster.local.federation import read_supervisor
    from ioi_dagster.local.home import domains_in

    looping = [
        f"{row['name']} of {domain.name}"
        for domain in domains_in(home)
        for row in read_supervisor(domain)
        if row.get("crash_loop")
    ]
    if looping:
        return Finding(
            "processes", "mend", f"keep crashing: {', '.join(looping)}", f"read the logs under {home}/domains"
        )
    return Finding("processes", "ok", "none keeps crashing")


def _certificates(home: Path) -> Finding:
    from ioi_dagster.certificates import RENEW_DAYS, days_left, read_certificate
    from ioi_dagster.local.home import domains_in

    left: dict[str, float] = {}
    for domain in domains_in(home):
        for path in (domain.gateway_certificate, domain.client_certificate):
            try:
                days = days_left(read_certificate(path), time.time())
            except (OSError, ValueError):
                remedy = "start the domain again: it makes what is missing"
                return Finding("certificates", "mend", f"{path} cannot be read", remedy)
            left[domain.name] = min(days, left.get(domain.name, days))
    soon = {name: days for name, days in left.items() if days < RENEW_DAYS}
    if soon:
        told = ", ".join(
            f"{name} {'expired' if days < 0 else f'for {days:.0f} days more'}" for name, days in soon.items()
        )
        expired = any(days < 0 for days in soon.values())
        return Finding(
            "certificates", "mend" if expired else "note", told, "start the domain again, or ioi domain rotate"
        )
    return Finding("certificates", "ok", f"good for {min(left.values()):.0f} days" if left else "none yet")


def _clocks(home: Path) -> Finding:
    """By the gateways that answer."""
    from ioi_dagster.adapters.http.client import own_gateway
    from ioi_dagster.cli_status import clocks_differ
    from ioi_dagster.local.home import domains_in

    told, asked = [], 0
    for domain in domains_in(home):
        try:
            client = own_gateway(domain)
        except (IoiError, OSError):
            continue
        try:
            seen = client.members()
        except IoiError:
            continue
        finally:
            client.close()
        asked += 1
        told += [f"of {name}, {domain.name} sees: {how}" for name, row in seen.items() if (how := clocks_differ(row))]
    if told:
        return Finding("clocks", "mend", "; ".join(told), CLOCK_REMEDY)
    return Finding(
        "clocks", "ok", f"none differs, by the word of {counted(asked, 'gateway')}" if asked else "nobody to ask"
    )


_CHECKS: tuple[Callable[[Path], Finding], ...] = (
    _python,
    _package("dagster_webserver", "ui"),
    _package("rapidocr", "documents"),
    _package("lingua", "documents"),
    _package("great_expectations", "quality"),
    _tool("opa", "editing policies", "go install github.com/open-policy-agent/opa@v1.22.2"),
    _tool("chromium", "the browser test", "apt-get install -y chromium"),
    _topology,
    _what_runs,
    _bundle,
    _home_folder,
    _dagster_yaml,
    _supervisors,
    _certificates,
    _clocks,
)
