"""Makes a worker of any Dask cluster a node: for a project that has a cluster and no federation."""

from __future__ import annotations

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from ioi_dagster.adapters.dask.forks import guard_forks, ports_of
from ioi_dagster.adapters.dask.memory import watch_memory
from ioi_dagster.adapters.dask.node import NodeHost, install, installed
from ioi_dagster.adapters.dask.node_beat import look_after, replica_memory
from ioi_dagster.adapters.dask.profiling import can_freeze, stop_profile
from ioi_dagster.adapters.dask.project_code import project_code
from ioi_dagster.adapters.dask.replacing import Outdated, replaces_itself
from ioi_dagster.adapters.dask.replicas import ReplicaHost
from ioi_dagster.adapters.dask.run_scope import end_with
from ioi_dagster.adapters.dask.versions import own_versions
from ioi_dagster.clock import SystemClock
from ioi_dagster.governors.cluster import EVERYTHING
from ioi_dagster.governors.node import NodeGovernor

CLUSTER = "alone"
NAME = "ioi-node"
MEMORY = 0.9


class NodePlugin(WorkerPlugin):
    """Installs an ungoverned node and the abstract resource by which starts are pinned to it.

    Registered with the cluster, so that workers that join later become nodes too. The worker needs this package and the
    project's code, as any Dask worker needs what it runs.
    """

    name = NAME

    def __init__(self, step_runner: str) -> None:
        self._step_runner = step_runner

    async def setup(self, worker: Worker) -> None:
        node, clock = node_name(worker.name, worker.address), SystemClock()
        before = installed()
        if before is not None and before.governor.governed:
            raise RuntimeError(
                f"{before.node} is a node of a domain: it takes steps with permits only, of governed runs"
            )
        if before is None or before.node != node:
            governor = NodeGovernor(node, CLUSTER, EVERYTHING, governed=False, versions=own_versions())
            replicas = ReplicaHost([], node, clock, replica_memory(worker))
            host = NodeHost(
                node,
                governor,
                replicas,
                lambda request: None,
                clock,
                self._step_runner,
                outdated=Outdated(node, restarts=worker.nanny is not None),
            )
            install(host)
            project_code.watch()
            replaces_itself(worker, host)
            look_after(worker, host)
            guard_forks(lambda: ports_of(worker))
            if can_freeze():
                stop_profile(worker)
            limit = worker.memory_manager.memory_limit
            if limit:
                # Before its nanny ends it (at 95 %), which would tell nobody which step it was.
                watch_memory(host.running, int(MEMORY * limit), replicas.free_memory)
        else:
            # Another run made it a node: its replicas stay warm, and the steps that run here stay known.
            before.step_runner = self._step_runner
        if f"node:{node}" not in worker.state.total_resources:
            # Not again: the scheduler would forget which of them are in use.
            await worker.set_resources(**{f"node:{node}": worker.state.nthreads})

    async def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker ends, and when another run registers the plugin."""
        await end_with(worker)


def node_name(worker_name: object, address: str) -> str:
    """One life of a worker: its name, which Dask lets be a number, and its port.

    A worker that its nanny starts again has the same name, but Dask does not give it what was pinned to the one before
    (seen: such a task stays in `no-worker`), so it is another node.
    """
    name, port = str(worker_name), address.rpartition(":")[2]
    return name if name.endswith(port) else f"{name}-{port}"
