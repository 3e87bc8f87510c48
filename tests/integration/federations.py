"""A federation of one domain, for tests that want other nodes than the shipped one has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import prepare_dagster
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.capability import BlockSpec
from tests.integration.reviewed import policies_that_know

CLUSTER = "library-main"
READY_S = 120


def topology_of(nodes: str, quotas: str = "") -> str:
    """YAML of library.example with one cluster. `nodes` and `quotas`: theirs, as flow sequences."""
    return f"""
network: book
home: library.example
domains:
  - name: library.example
    authority: partners
    handles: restricted
    clusters:
      - name: {CLUSTER}
        nodes: {nodes}
""" + (f"        quotas: {quotas}\n" if quotas else "")


@contextmanager
def federation_of(
    folder: Path, module: str, topology: str, blocks: Sequence[BlockSpec] = BLOCKS
) -> Iterator[Federation]:
    """One that is ready, below `folder`, whose owner has reviewed the steps of `module`. This process belongs to it: the test
    uses `clean_environment`."""
    file, home = folder / "topology.yaml", folder / "home"
    file.write_text(topology)
    with Federation(load_topology(file), home, policies_that_know(module, folder / "policies"), blocks) as federation:
        os.environ.update(federation.environment(), DAGSTER_HOME=str(prepare_dagster(home)))
        federation.wait_ready(READY_S)
        yield federation
