"""Do a cluster and this process understand each other? Asked before anything is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from distributed.core import rpc
from distributed.versions import get_versions

from ioi_dagster.errors import FinalError

EXACT = ("dask", "distributed", "cloudpickle", "msgpack", "dagster", "ioi-dagster")
"""What travels is made by one of these and read by another: Dask's messages, Dagster's serialised values, our own."""
MINOR = ("python",)
"""Here a third number makes no difference to what is sent."""
ANSWER_S = 3.0
ON_NODES_ONLY = frozenset({"dagster", "ioi-dagster", "cloudpickle"})
"""A scheduler passes these by."""


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
    differences: dict[str, list[str]] = {}
    for who, said in theirs.items():
        for package in (*MINOR, *EXACT):
            if who == "its scheduler" and package in ON_NODES_ONLY:
                continue
            here, there = ours.get(package), said["packages"].get(package) if said else None
            if _relevant(package, here) != _relevant(package, there):
                text = f"{package} is {there or 'missing'} there and {here or 'missing'} here"
                differences.setdefault(text, []).append(who)
    if differences:
        told = "; ".join(f"{text} ({', '.join(who[:3])})" for text, who in differences.items())
        raise FinalError(
            f"the Dask cluster at {where} cannot take steps of this run: {told} — install the same versions on both sides, or"
            " leave out `address` to run on workers of the run's own"
        )


def _relevant(package: str, version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if version and package in MINOR else version
