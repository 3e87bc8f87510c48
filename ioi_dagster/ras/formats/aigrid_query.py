"""Filters and searches of AIGr.id: kept as templates, so that they can be found and used again as they are."""

from __future__ import annotations

from typing import Any

from ioi_dagster.ras.formats.aigrid import envelope, locate, opened
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, draft
from ioi_dagster.ras.formats.format import Facts, Format, full
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import digest

NAME = "aigrid-query"


def fits(value: Any) -> bool:
    return "matchType" in value and ("filter" in value or "rankingPolicyRule" in value)


def tells(value: Any) -> str:
    return "it has matchType and a filter or a rule that ranks" if locate(value, fits) is not None else ""


def within(document: Any) -> Path:
    return locate(document, fits) or ()


def read(outer: Place) -> list[Draft]:
    path = within(outer.value)
    place = outer.at(*map(str, path)) if path else outer
    ranking = opened(place.get("rankingPolicyRule"))
    query = {"match": place.needed("matchType")} | full(filter=place.get("filter").object(), ranking=ranking.object())
    # It has no name: what it asks is all that it is.
    name = f"query-{digest(query)[7:19]}"
    title = f"{query['match']} {'search' if ranking else 'filter'}"
    return [draft(outer, NAME, Kind.TEMPLATE, name, "", {"title": title, "query": query})]


def write(facts: Facts) -> dict[str, Any]:
    ranking = facts.object("query", "ranking")
    return full(
        matchType=facts.text("query", "match"),
        filter=facts.object("query", "filter"),
        rankingPolicyRule={"values": ranking} if ranking else {},
    )


FORMAT = Format(NAME, "AIGr.id filter or search", tells, read, write, within, envelope)
