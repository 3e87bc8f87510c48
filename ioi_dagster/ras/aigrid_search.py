"""Filters and searches of AIGr.id as its parser takes them: which kind of thing is meant, and a filter for each document of it.

A block is kept when the block, the cluster that it is on and the metrics of both pass the filters that are there for them; a
cluster or vDAG likewise. That is what AIGr.id's search server does by lists of ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.filter_tree import Filter, compiled, read_filter, why_not

QUERIES = {
    "clusterQuery": "cluster",
    "clusterMetricsQuery": "clusterMetrics",
    "blockQuery": "block",
    "blockMetricsQuery": "blockMetrics",
    "vdagQuery": "vdag",
    "vdagMetricsQuery": "vdagMetrics",
    "componentQuery": "component",
    "policyQuery": "policy",
    "policyFunctionQuery": "policyFunction",
    "policyGraphQuery": "policyGraph",
}
"""The document that each query is about."""
KINDS = frozenset(kind for kind in QUERIES.values() if not kind.endswith("Metrics"))


@dataclass(frozen=True, slots=True)
class Search:
    """`kind` of what is looked for; `filters` by document; `ranking` is the rule of the policy that orders what is found, as it
    stands (empty: none), and `limit` how many it gives (0: all)."""

    kind: str
    filters: dict[str, Filter] = field(default_factory=dict)
    ranking: dict[str, Any] = field(default_factory=dict)
    limit: int = 0

    def keeps(self, documents: Mapping[str, Mapping[str, Any]]) -> bool:
        """`documents`: by the names in `QUERIES`; one that is missing passes no filter."""
        return all(
            compiled(tree)(documents[name]) if name in documents else False for name, tree in self.filters.items()
        )

    def why_not(self, documents: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """What does not hold, with the document that it is about."""
        found: list[str] = []
        for name, tree in self.filters.items():
            if name not in documents:
                found.append(f"{name}: nothing is known of it")
            else:
                found += [f"{name}: {reason}" for reason in why_not(tree, documents[name])]
        return tuple(found)


def read_search(document: Any, where: str = "search") -> Search:
    """A filter or a search, bare or in its envelope, also the `filter` alone. Raises `BadInputError`."""
    body, where = _unwrapped(document, where)
    ranking = body.get("rankingPolicyRule", {})
    ranking = ranking.get("values", ranking) if isinstance(ranking, dict) else ranking
    if not isinstance(ranking, dict):
        raise BadInputError("rankingPolicyRule is no object", where=where, todo="write the rule of a policy")
    parameters = ranking.get("parameters", {})
    parameters = parameters if isinstance(parameters, dict) else {}
    rule = parameters.get("filterRule", {}) if ranking else body
    if not isinstance(rule, dict):
        raise BadInputError("filterRule is no object", where=where, todo="write an object with matchType and filter")
    queries = rule.get("filter", {} if ranking else rule)
    if not isinstance(queries, dict):
        raise BadInputError("filter is no object", where=where, todo=f"write one or more of {', '.join(QUERIES)}")
    odd = [name for name in queries if name not in QUERIES and name != "matchType"]
    if odd:
        raise BadInputError(
            f"{str(odd[0])[:40]!r} is no query", where=f"{where}.filter", todo=f"one of {', '.join(QUERIES)}"
        )
    filters = {
        QUERIES[name]: read_filter(query, f"{where}.filter.{name}")
        for name, query in queries.items()
        if name in QUERIES and query
    }
    kind = rule.get("matchType", body.get("matchType")) or _main(filters)
    if kind not in KINDS:
        raise BadInputError(f"matchType is {str(kind)[:40]!r}", where=where, todo=f"one of {', '.join(sorted(KINDS))}")
    limit = parameters.get("return", 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadInputError("return is no count", where=where, todo="write how many are wanted")
    return Search(kind, filters, ranking, limit)


def _main(filters: Mapping[str, Filter]) -> str:
    """Where nothing is said: what it filters, a block before the cluster that it is on."""
    asked = {name.removesuffix("Metrics") for name in filters}
    return next(
        (kind for kind in ("block", "vdag", "component", "cluster") if kind in asked), next(iter(sorted(asked)), "")
    )


def _unwrapped(document: Any, where: str) -> tuple[dict[str, Any], str]:
    for name in ("body", "spec", "values"):
        if isinstance(document, dict) and isinstance(document.get(name), dict):
            document, where = document[name], f"{where}.{name}"
    if not isinstance(document, dict):
        raise BadInputError("is no filter or search", where=where, todo="write an object with matchType and filter")
    return document, where
