"""In a scheduler: what its governor wants there to be of nodes reaches who starts and ends them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module

from ioi_dagster.adapters.files.wanted import Wanted, WantedFile
from ioi_dagster.clock import Clock
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.autoscale import WantNodes
from ioi_dagster.governors.cluster import WantedFound
from ioi_dagster.governors.node_source import NodeSource
from ioi_dagster.model.topology import NodeSpec

log = logging.getLogger("ioi.cluster")


def source_of(cluster: str, scheduler: str, group: NodeSpec) -> NodeSource | None:
    """What `launcher` names, given the cluster's name, the address of its scheduler and the group; None where the domain's
    supervisor starts the nodes. Raises `BadInputError` where there is no such thing."""
    launcher = _launcher(group)
    if not launcher:
        return None
    module, _, name = launcher.partition(":")
    try:
        return getattr(import_module(module), name)(cluster, scheduler, group)
    except (ImportError, AttributeError) as error:
        todo = "install its package beside the scheduler"
        raise BadInputError(f"launcher {launcher!r} of group {group.name} is not there: {error}", todo=todo) from error


class Scaling:
    """What is wanted is written down before anybody hears of it, so that a scheduler that is started anew knows it."""

    def __init__(
        self,
        file: WantedFile,
        clock: Clock,
        groups: Iterable[NodeSpec],
        source: Callable[[NodeSpec], NodeSource | None],
    ) -> None:
        """`source`: who starts and ends the nodes of a group; None where they need not be told. Raises what that does."""
        self._file, self._clock, self._source = file, clock, source
        self._groups = {group.name: group for group in groups}
        self._sources = {name: found for name, group in self._groups.items() if (found := source(group)) is not None}
        self._wanted: dict[str, Wanted] = {}
        self._unwritten = False
        self._unheard: dict[str, None] = {}
        """Groups whose source has not heard yet what is wanted."""
        self._gone: set[str] = set()
        """What is told once more only: that none is wanted."""
        self._thread = ThreadPoolExecutor(1, "ioi-scaling")
        self._calls: dict[str, tuple[Wanted, Future[None]]] = {}

    def found(self) -> list[WantedFound]:
        """What was wanted when an earlier scheduler ended. A file that cannot be read says nothing: nodes that are there are
        taken as they come."""
        try:
            self._wanted = self._file.read()
        except (BadInputError, OSError) as error:
            log.warning("which nodes were wanted is not known: %s", error)
        wall = self._clock.wall()
        for name, one in list(self._wanted.items()):
            if one.launched is not None and one.launched != self._groups.get(name):
                self._found_other(name, one, one.launched)
        self._unheard = dict.fromkeys(self._wanted)
        return [
            WantedFound(
                group,
                one.nodes,
                tuple((max(0.0, wall - at), amount) for at, amount in one.spent),
                max(0.0, wall - one.at),
            )
            for group, one in self._wanted.items()
            if group in self._groups
        ]

    def _found_other(self, name: str, one: Wanted, launched: NodeSpec) -> None:
        """Another launcher than that of the group of this name has started nodes, or that of a group that is no more: it ends
        them. That is written down under a name of its own until it has been heard."""
        before, now = _launcher(launched), self._groups.get(launched.name)
        key = f"{launched.name}:{before}"
        if now is not None and _launcher(now) == before:
            if name == key:
                del self._wanted[name]  # it has come back, and is told what is wanted now
            return
        if now is None and name != key:
            self._wanted[name] = Wanted((), "there is no such group", one.spent, one.at)
        self._wanted[key] = Wanted((), "its launcher starts none any more", (), one.at, launched)
        self._unwritten = True
        try:
            source = self._source(launched)
        except Exception as error:  # it is somebody else's code
            log.error("nodes of %s may go on: %s", launched.name, error)
            return
        if source is not None:
            log.info("%s has no group %s any more: its nodes are ended", before, launched.name)
            self._sources[key] = source
            self._gone.add(key)

    def want(self, wanted: WantNodes) -> None:
        wall = self._clock.wall()
        before = self._wanted.get(wanted.group)
        spent = tuple((round(wall - age_s, 1), amount) for age_s, amount in wanted.spent)
        self._wanted[wanted.group] = Wanted(
            wanted.nodes, wanted.why, spent, round(wall, 1), self._launched(wanted.group)
        )
        if before is None or before.nodes != wanted.nodes:
            log.info("%d nodes of %s are wanted: %s", len(wanted.nodes), wanted.group, wanted.why)
            self._unheard[wanted.group] = None
        self._unwritten = True
        self.look()

    def look(self) -> None:
        """Called every second: what could not be written or said is tried again."""
        if self._unwritten:
            try:
                self._file.write(self._wanted)
                self._unwritten = False
            except (BadInputError, OSError) as error:
                log.error("which nodes are wanted cannot be written: %s", error)
                return
        for group, (wanted, call) in list(self._calls.items()):
            if call.done():
                del self._calls[group]
                if (error := call.exception()) is not None:
                    log.error("the launcher of %s does not take what is wanted: %s", group, error)
                elif self._wanted[group].nodes == wanted.nodes:
                    self._unheard.pop(group, None)
                    if group in self._gone:
                        del self._wanted[group]
                        self._unwritten = True
        for group in [group for group in self._unheard if group not in self._calls]:
            source = self._sources.get(group)
            if source is None:
                del self._unheard[group]
                continue
            wanted = self._wanted[group]
            self._calls[group] = wanted, self._thread.submit(source.want, wanted.nodes)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _launched(self, name: str) -> NodeSpec | None:
        group = self._groups.get(name)
        return group if group is not None and _launcher(group) else None


def _launcher(group: NodeSpec) -> str:
    return group.autoscale.launcher if group.autoscale is not None else ""
