"""A cluster whose node is on another machine (`netns`), reached by TLS as any that is not on the loopback interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.netns import FarMachine
from ioi_dagster.domain import DomainHome
from ioi_dagster.local.supervisor import dask_tls


@dataclass(frozen=True, slots=True)
class FarNode:
    """The only node, with one slot, of a cluster of `home` whose topology names none."""

    machine: FarMachine
    home: DomainHome
    cluster: str
    name: str

    def listen(self) -> None:
        """The cluster's scheduler can be reached from the other machine, by those of the domain's authority. Before it starts."""
        config, here = self.home.config(), self.machine.here
        clusters = tuple(
            replace(item, scheduler=item.scheduler.replace("tcp://127.0.0.1", f"tls://{here}"))
            if item.name == self.cluster
            else item
            for item in config.clusters
        )
        self.home.save_config(replace(config, clusters=clusters))

    def command(self, scratch: Path) -> list[str]:
        """A worker with a nanny, on the other machine."""
        address = next(item.scheduler for item in self.home.config().clusters if item.name == self.cluster)
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--protocol", "tls", "--nanny"]
        command += ["--host", self.machine.there, "--nthreads", "1", "--name", self.name, "--no-dashboard"]
        command += ["--resources", f"node:{self.name}=1", "--local-directory", str(scratch)]
        return self.machine.command([*command, "--preload", "ioi_dagster.adapters.dask.worker_preload"])

    def environment(self) -> Mapping[str, str]:
        own = {
            "IOI_DOMAIN_HOME": str(self.home.root),
            "IOI_CLUSTER": self.cluster,
            "IOI_NODE": self.name,
            "IOI_STEP_RUNNER": "ioi_dagster.host.step_runner:run",
        }
        return {**os.environ, **dask_tls(self.home.root), **own}
