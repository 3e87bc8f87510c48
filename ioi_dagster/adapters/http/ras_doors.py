"""The registry's doors: for members, the domain's own processes, and people and tools with tokens."""

from __future__ import annotations

from typing import Any

from ioi_dagster.adapters.http.doors import Door, For, Param, Rate
from ioi_dagster.model.token import TokenScope
from ioi_dagster.ras.asking import (
    Called,
    CalledPiece,
    Calling,
    Demand,
    Finding,
    FoundTold,
    History,
    Pointers,
    Registered,
    Registration,
    RegistryHealth,
    Resolved,
    Selected,
)

MAX_REGISTRATION = 8 * 2**20
MAX_CALL = 24 * 2**20
_URN = Param("urn", "urn:ioi:<domain>:<kind>:<name>", required=True)
_AS_OF = Param("as_of", "what stood at that time (Unix seconds by the clock of its owner); default: now", "number")
_ASKING, _LOOKING, _WRITING, _WATCHING, _CALLING = Rate(20, 60), Rate(100, 300), Rate(5, 20), Rate(2, 10), Rate(20, 100)


def _asks(path: str, asks: Any, answers: Any, text: str) -> Door:
    return Door("POST", path, For.SCOPED, asks, answers, text, scope=TokenScope.READ, rate=_ASKING)


def _looks(path: str, answers: Any, text: str, *query: Param) -> Door:
    its = {"query": query, "scope": TokenScope.READ, "rate": _LOOKING}
    return Door("GET", path, For.SCOPED, None, answers, text, **its)


def _calls(path: str, answers: Any, text: str, media: str = "application/json") -> Door:
    its = {"scope": TokenScope.INVOKE, "rate": _CALLING, "media": media, "most": MAX_CALL}
    return Door("POST", path, For.SCOPED, Calling, answers, text, **its)


RAS_DOORS = (
    _asks(
        "ras/find",
        Finding,
        FoundTold,
        "who can do what is said in words; what is refused and for what; where nothing fits, what came nearest",
    ),
    _asks("ras/discover", Demand, FoundTold, "the same by all that an intent may ask for"),
    _asks("ras/select", Demand, Selected, "choose the best, and pin it in a selection lock"),
    _looks(
        "ras/resolve",
        Resolved,
        "one version of a record: the one that is named, the last in a range, what an alias names, or what is given where "
        "nothing is said",
        _URN,
        Param("version", "this one, also where it was yanked"),
        Param(
            "range", "the last that is given in this range, in the words of the record's own scheme: >=1.2,<2 or ^1.2"
        ),
        Param("alias", "what this alias names, as production"),
        _AS_OF,
    ),
    _looks("ras/pointers", Pointers, "what aliases name, and how each version stands", _URN, _AS_OF),
    _looks("ras/history", History, "all that its owners have said of a name, as they have signed it", _URN),
    Door(
        "POST",
        "ras/register",
        For.SCOPED,
        Registration,
        Registered,
        "records and pointer events that were signed by who asks, or with a token by this domain; in one transaction",
        scope=TokenScope.REGISTER,
        rate=_WRITING,
        most=MAX_REGISTRATION,
    ),
    _calls("ras/invoke", Called, "call a block that does what is wanted, in one of the domain's own clusters"),
    _calls(
        "ras/invoke/stream",
        CalledPiece,
        "the same of a block whose result comes in pieces, each a line of JSON",
        "application/x-ndjson",
    ),
    Door(
        "GET",
        "ras/health",
        For.SCOPED,
        None,
        RegistryHealth,
        "is the registry ready, how much is in it, and how feeds stand",
        scope=TokenScope.READ,
        rate=_WATCHING,
    ),
    Door(
        "GET",
        "ras/metrics",
        For.SHOWN,
        None,
        str,
        "what was asked and how long it took, records and feeds, for Prometheus",
        scope=TokenScope.METRICS,
        rate=_WATCHING,
        media="text/plain; version=0.0.4; charset=utf-8",
    ),
)
