"""Who is told of the links of a topology file, and that live runs and simulated ones see their graphs alike."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import JobDefinition, in_process_executor, job, op
from typer.testing import CliRunner

from ioi_dagster.cli import app
from ioi_dagster.domain import DomainHome
from ioi_dagster.governors.flow import FlowGovernor
from ioi_dagster.governors.flow_messages import GraphKnown
from ioi_dagster.host import tags
from ioi_dagster.host.foresight import graph_of
from ioi_dagster.host.private import create_execution_plan
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import POLICIES
from ioi_dagster.local.joining import init
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.negotiation import OWN_STEP
from ioi_dagster.model.placement import Link, Made
from ioi_dagster.simulate.scenario import Scenario, Workflow, WorkflowStep, grid
from ioi_dagster.simulate.world import simulate

FILE = """\
network: book
home: lab
domains:
  - {name: lab, authority: x, clusters: [{name: lab-main, nodes: [{name: lab-1}]}]}
  - {name: far, authority: x, clusters: [{name: far-main, nodes: [{name: far-1}]}]}
  - {name: farther, authority: x, clusters: [{name: farther-main, nodes: [{name: farther-1}]}]}
links:
  - {between: [lab, far], bandwidth: 20MB, latency: 0.05}
  - {source: far, target: farther, bandwidth: 5MB, latency: 0.1}
"""
LAB_FAR = (Link("lab", "far", 0.05, 20e6), Link("far", "lab", 0.05, 20e6))
OUT = Link("far", "farther", 0.1, 5e6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "topology.yaml"
    path.write_text(FILE)
    return path


def test_each_domain_of_a_federation_knows_the_links_that_it_is_an_end_of(tmp_path: Path, file: Path) -> None:
    federation = Federation(load_topology(file), tmp_path / "home", POLICIES, ())
    federation.prepare()
    federation.stop()
    known = {name: federation.domain(name).config().links for name in ("lab", "far", "farther")}
    assert known == {"lab": LAB_FAR, "far": (*LAB_FAR, OUT), "farther": (OUT,)}


def test_a_domain_that_its_owner_makes_has_its_links_from_his_file(tmp_path: Path, file: Path) -> None:
    home = tmp_path / "home"
    command = ["domain", "init", "lab", "--home", str(home), "--topology", str(file)]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert DomainHome(home / "domains" / "lab").config().links == LAB_FAR
    bare = DomainHome(home / "domains" / "bare")
    init(
        bare, "book", replace(load_topology(file).domain("far"), name="bare"), "127.0.0.1:0", POLICIES, [], time.time()
    )
    assert bare.config().links == ()


@op
def read() -> int:
    return 1


@op(tags={tags.RESOURCES: "gpu=0.5, memory=4GiB"})
def scan(value: int) -> int:
    return value


@op
def tell(one: int, other: int) -> None: ...


@job(executor_def=in_process_executor)
def pages():
    value = read()
    tell(value, scan(value))


def test_a_simulated_run_sees_its_graph_as_a_live_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(pages, JobDefinition)
    links = (Link("d0", "d1", 0.1, 1e8), Link("d1", "d0", 0.2, 2e8))
    took = {"read": 2.0, "scan": 4.0, "tell": 1.0}
    made = {("read", "result"): Made(1e9, 1e9), ("scan", "result"): Made(2e8, 2e8)}
    live = graph_of(create_execution_plan(pages), took, made, (), {}, lambda _: (), "d0", links)
    told: list[GraphKnown] = []
    handle = FlowGovernor.handle

    def listening(its: FlowGovernor, event: Any, now: float, more: bool = False) -> Any:
        told.extend([event] if isinstance(event, GraphKnown) else [])
        return handle(its, event, now, more)

    monkeypatch.setattr(FlowGovernor, "handle", listening)
    steps = {
        "read": WorkflowStep(2.0, capability=OWN_STEP),
        "scan": WorkflowStep(
            4.0, ("read",), inputs={"read": 1e9}, capability=OWN_STEP, resources={"gpu": 0.5, "memory": 4.0 * 2**30}
        ),
        "tell": WorkflowStep(1.0, ("read", "scan"), inputs={"read": 1e9, "scan": 2e8}, capability=OWN_STEP),
    }
    topology = replace(grid(2, 1), links=links)
    simulate(Scenario(topology, (Workflow("w", steps),), capabilities=(OWN_STEP,)))
    assert told[:1] == [live]
