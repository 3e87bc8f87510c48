"""Who asks here, and the gate of a domain of this home: what a command needs that is asked of policy, and no more."""

from __future__ import annotations

import getpass
import logging
from pathlib import Path

from ioi_dagster.adapters.opa.bundle_file import BundleFile
from ioi_dagster.adapters.opa.rules import Rules
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.policy.decision_log import DecisionLog
from ioi_dagster.policy.gate import Gate

log = logging.getLogger("ioi.gate")


def open_gate(home: DomainHome) -> Gate:
    """The home domain's gate, which goes by its policies as they were built last. Where they cannot be loaded every decision is a
    hold, with the reason."""
    config = home.config()
    policies = Path(config.policies)
    bundle = BundleFile(policies / "bundle" / "bundle.tar.gz")
    try:
        bundle.engine()
    except Exception as error:  # as the gate will say
        log.warning("policy engine not available: %s", error)
    record = DecisionLog(home.root / "decisions.jsonl")
    return Gate(None, config.scopes, SystemClock(), record, newest=bundle.engine, where=Rules(policies).where)


def me() -> str:
    """Who this process works for, by the operating system; empty where that does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
