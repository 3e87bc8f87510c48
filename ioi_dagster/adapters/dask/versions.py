"""Do a cluster and this process understand each other? Asked before anything is sent."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from distributed.core import rpc
from distributed.versions import get_versions

from ioi_dagster.errors import FinalError
from ioi_dagster.model.versions import EXACT, MINOR, differences

ANSWER_S = 3.0
ON_NODES_ONLY = frozenset({"dagster", "ioi-dagster", "cloudpickle"})
"""A scheduler passes these by."""


@cache
def own_versions() -> dict[str, str]:
    """Of this process, for `model.versions`."""
    known = get_versions(packages=list(EXACT))["packages"]
    return {package: known[package] for package in (*MINOR, *EXACT) if known.get(package)}


async def plain_versions(scheduler: str) -> dict[str, Any]:
    """What `check_versions` takes, of the scheduler alone and without a client: every version of it answers that. Raises
    `OSError` where nobody does."""
    async with rpc(scheduler, timeout=ANSWER_S) as remote:
        answer = await asyncio.wait_for(remote.versions(packages=list(EXACT)), ANSWER_S)
    return {"client": get_versions(packages=list(EXACT)), "scheduler": answer, "workers": {}}


def check_versions(where: str, answer: Any) -> None:
    """Raise `FinalError` naming each difference between this process and the cluster at `where`.

    `answer` is that of `Client.get_versions(packages=EXACT)`: `client`, `scheduler` and `workers`, each with `packages`.
    """
    ours = answer["client"]["packages"]
    theirs = {"its scheduler": answer["scheduler"]} | {
        f"its worker {address}": worker for address, worker in sorted(answer["workers"].items())
    }
    differing: dict[str, list[str]] = {}
    for who, said in theirs.items():
        passed_by = ON_NODES_ONLY if who == "its scheduler" else ()
        for text in differences(said["packages"] if said else {}, ours, passed_by):
            differing.setdefault(text, []).append(who)
    if differing:
        told = "; ".join(f"{text} ({', '.join(who[:3])})" for text, who in differing.items())
        raise FinalError(
            f"the Dask cluster at {where} cannot take steps of this run: {told} — install the same versions on both sides, or"
            " leave out `address` to run on workers of the run's own"
        )
