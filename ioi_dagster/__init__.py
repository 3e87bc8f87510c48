"""Coordination and orchestration of compound AI graphs over many owners' machines, as a Dagster extension.

Everything public is a lazy attribute (PEP 562), so that a gateway, a scheduler or a worker that needs one part
never imports Dagster.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "governed_executor": "ioi_dagster.host.executor",
    "GovernedRunCoordinator": "ioi_dagster.host.coordinator",
    "GovernedRunLauncher": "ioi_dagster.host.launcher",
    "GovernorsResource": "ioi_dagster.host.resources",
    "RASResource": "ioi_dagster.host.resources",
    "RegistryComponent": "ioi_dagster.host.registry_assets",
    "registry_sensor": "ioi_dagster.host.registry_sensor",
    "ExchangeIOManager": "ioi_dagster.host.io_manager",
    "LocalFilesIOManager": "ioi_dagster.host.staged_io",
    "MemoryIOManager": "ioi_dagster.host.memory_io",
    "FsspecIOManager": "ioi_dagster.host.staged_io",
    "flow": "ioi_dagster.host.flow_map",
    "MapItemError": "ioi_dagster.host.flow_map",
    "run_scoped": "ioi_dagster.host.run_scoped",
    "tidying_schedule": "ioi_dagster.host.tidying",
    "checkpoint": "ioi_dagster.compound.checkpoint",
    "block_op": "ioi_dagster.host.assets",
}

__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ioi_dagster' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
