"""The processes of one domain alone, as children of a command."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ioi_dagster.adapters.http.client import own_gateway
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import IoiError, UnreachableError
from ioi_dagster.local.federation import START_S
from ioi_dagster.local.keeper import TRIES, WINDOW_S, Keeper, start_supervisor

READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A domain whose processes are kept alive. `ready`: its gateway has answered, and every node has joined."""

    ready: bool
    _check: Callable[[], None]

    def check(self) -> None:
        """Raises `UnreachableError` where its supervisor ends again and again: nobody restarts what dies there."""
        self._check()


@contextlib.contextmanager
def running(home: DomainHome, stopped: Callable[[], bool]) -> Iterator[Running]:
    """The domain's supervisor, which is itself started again when it dies, and what that keeps alive; ended with the block. Not
    ready where `stopped()` came first. Raises `UnreachableError` when nothing comes for a minute."""
    keeper = Keeper([home.name], lambda _: start_supervisor(home))

    def check() -> None:
        if keeper.dead():
            why = f"it ended more than {TRIES} times in {WINDOW_S:g} s; see {home.root / 'supervisor.log'}"
            raise UnreachableError(f"the supervisor of {home.name}", why)

    keeper.open()
    try:
        yield Running(_wait(home, check, stopped), check)
    finally:
        keeper.close()


def _wait(home: DomainHome, check: Callable[[], None], stopped: Callable[[], bool]) -> bool:
    clusters = home.config().spec.clusters
    wanted = {f"node/{c.name}/{node.name}" for c in clusters for node in c.always} | {
        f"cluster/{c.name}" for c in clusters
    }
    client, seen, until = own_gateway(home), -1, time.monotonic() + READY_S
    try:
        while not stopped():
            check()
            there: set[str] = set()
            with contextlib.suppress(IoiError):
                there = set(client.state(START_S)) & wanted
            if there == wanted:
                return True
            if len(there) > seen:
                seen, until = len(there), time.monotonic() + READY_S
            if time.monotonic() > until:
                todo = f"see the logs in {home.logs}"
                missing = ", ".join(sorted(wanted - there))
                raise UnreachableError(f"{missing} of {home.name}", f"nothing has joined for {READY_S:g} s — {todo}")
            time.sleep(0.1)
        return False
    finally:
        client.close()
