"""Alone only where nobody asks for permits: a policy root or a domain's node is not passed by."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ioi_dagster.adapters.dask import node
from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.node_plugin import NodePlugin
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.clock import ManualClock
from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.host.network import open_network
from ioi_dagster.model.refusal import Refusal


def test_a_policy_root_without_a_domain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IOI_DOMAIN", "IOI_DOMAIN_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IOI_HOME", "/somewhere")
    refusal = open_network(cast(Any, None), 1, None)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.remedy) == (
        "permit.no_domain",
        "set IOI_DOMAIN, or unset IOI_HOME to run alone",
    )


def test_a_domains_node_is_not_made_one_without_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    governor = NodeGovernor("n1", "main", EVERYTHING, governed=True)
    host = NodeHost("n1", governor, ReplicaHost([], "n1", clock), lambda request: None, clock)
    monkeypatch.setattr(node, "_host", host)
    worker = SimpleNamespace(name="n1", address="tcp://127.0.0.1:4711")
    with pytest.raises(RuntimeError, match="takes steps with permits only"):
        asyncio.run(NodePlugin("some:runner").setup(cast(Any, worker)))
    assert node.installed() is host
