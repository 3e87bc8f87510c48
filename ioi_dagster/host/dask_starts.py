"""Starts of steps over Dask: what a node is sent, what comes of it, and those of an earlier process that are under way still."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ioi_dagster.adapters.dask.client import DaskFleetClient
from ioi_dagster.adapters.dask.versions import own_versions
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.governors.answers import checked_award
from ioi_dagster.host.fleets import EarlierStart, Fleet, OnDone, Start
from ioi_dagster.model.negotiation import (
    Award,
    Lease,
    ReleaseRequest,
)
from ioi_dagster.model.start import StartAnswer, StartRequest


def submit(dask: DaskFleetClient, starts: Sequence[Start], on_done: OnDone) -> None:
    """Send starts of one node and one priority to Dask, in one task."""
    by_key = {start.key: start.without_work() for start in starts}
    requests = {start.key: msgspec.msgpack.encode(_request(start)) for start in starts}
    first = by_key[starts[0].key]

    def done(key: str, answer: bytes | None, why: str | None) -> None:
        on_done(by_key[key], *_read(answer, why))

    if len(starts) == 1:
        dask.submit(first.key, requests[first.key], first.lease.node, first.priority, done, first.own_process)
    else:
        dask.submit_batch(requests, first.lease.node, first.priority, done)


def adopt(dask: DaskFleetClient, start: Start, on_done: OnDone) -> None:
    """Take the answer of a start that another process has sent."""

    def done(_key: str, answer: bytes | None, why: str | None) -> None:
        on_done(start, *_read(answer, why))

    dask.adopt(start.key, start.lease.node, done)


def _read(answer: bytes | None, why: str | None) -> tuple[StartAnswer | None, str | None]:
    """One that cannot be read is a loss: nobody may wait for it for ever."""
    if answer is None:
        return None, why
    try:
        return from_msgpack(answer, StartAnswer), None
    except msgspec.MsgspecError as error:
        return None, f"its answer cannot be read: {error}"


def found(dask: DaskFleetClient, fleet: Fleet, wanted: Sequence[EarlierStart]) -> list[Lease]:
    """An award is answered with the lease that is held under its fence already. Where that has expired, or is for another node,
    somebody else may have the slot: then the step is not adopted."""
    there = set(dask.claim([one.key for one in wanted]))
    claimed = {one.request.step: one for one in wanted if one.key in there}
    if not claimed:
        return []
    run = wanted[0].request.run
    requests = tuple(one.request for one in claimed.values())
    award = Award(fleet.cluster, run, 0, wanted[0].origin, requests)
    leases = checked_award(fleet.award(award), award, fleet.domain).awarded.leases
    good = [lease for lease in leases if lease.node == claimed[lease.step].node]
    fleet.release(ReleaseRequest(run, tuple(lease.id for lease in leases if lease not in good)))
    for one in claimed.values():
        if one.request.step not in {lease.step for lease in good}:
            dask.end(one.node, [one.key])
    return good


def _request(start: Start) -> StartRequest:
    return StartRequest(
        kind="step",
        lease=start.lease,
        permit=msgspec.to_builtins(start.permit) if start.permit else None,
        capability=start.capability,
        payload=start.work,
        timeout_s=start.timeout_s,
        own_process=start.own_process,
        versions=own_versions(),
        preemptible=start.preemptible,
    )
