"""What the run page shows of where a step ran and why there, or of why it ran nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import MetadataValue

from ioi_dagster.host import tags
from ioi_dagster.host.demand import demand_of, tenant_of
from ioi_dagster.host.private import DagsterEvent, EngineEventData
from ioi_dagster.host.work import Outcome
from ioi_dagster.model.amounts import shown
from ioi_dagster.model.story import Chapter, Entry

_TOLD = (
    # A line of metadata a chapter, in the order of the story: its key, and is only the last word of it told?
    (Chapter.CANDIDATES, "ioi/candidates", True),
    (Chapter.WAIT, "ioi/waited", False),
    (Chapter.BID, "ioi/bids", True),
    (Chapter.AWARD, "ioi/award", False),
    (Chapter.COPY, "ioi/copies", False),
    (Chapter.LOSS, "ioi/losses", False),
    (Chapter.REFUSED, "ioi/refused", False),
)
_CHOICE = frozenset({Chapter.CANDIDATES, Chapter.BID, Chapter.AWARD})
"""Left out where there was nothing to choose, as on the one cluster of a run alone."""


def placement_event(step_context: Any, outcome: Outcome) -> DagsterEvent | None:
    """An engine event of the step with the facts that `ioi explain` tells of it; None where there is nothing to tell."""
    lease = outcome.lease
    if lease is not None:
        text, where = f"Ran on {lease.node} of {lease.cluster} ({lease.domain})", _where(outcome)
    elif outcome.story:
        text, where = "Not placed: no place took it", {}
    else:
        return None
    run, step = step_context.run_id, outcome.step
    demanded = asked(step_context.step.tags, step_context.run_tags, bool(outcome.permit))
    metadata = {
        **told(outcome.story),
        **demanded,
        **where,
        "ioi/explain": MetadataValue.text(f"ioi explain run {run} '{step}'"),
    }
    return DagsterEvent.engine_event(step_context, text, EngineEventData(metadata=metadata))


def asked(step: Mapping[str, str], run: Mapping[str, str], shares: bool) -> dict[str, MetadataValue]:
    """Who it counts for, where it `shares` a federation or says so itself, and what it asked for besides a slot."""
    demand = demand_of(step, run)
    resources = ", ".join(f"{name} {shown(name, amount)}" for name, amount in demand.resources)
    found = {
        "ioi/tenant": tenant_of(run) if shares or tags.TENANT in run else "",
        "ioi/resources": resources,
        "ioi/gang": demand.gang,
        "ioi/priority": str(demand.priority) if demand.priority else "",
    }
    return {key: MetadataValue.text(text) for key, text in found.items() if text}


def told(story: Sequence[Entry]) -> dict[str, MetadataValue]:
    """The step's story up to its award."""
    texts: dict[Chapter, list[str]] = {}
    choice = False
    for entry in story:
        if entry.chapter is Chapter.WAIT and "round" in entry.facts:
            # Why it waited for a time stands in what is told once it has a place.
            continue
        texts.setdefault(entry.chapter, []).append(entry.text)
        facts = entry.facts
        choice = choice or len(facts.get("places", ())) > 1 or bool(facts.get("rejected")) or bool(facts.get("silent"))
    return {
        key: MetadataValue.text(texts[chapter][-1] if last_only else "; ".join(texts[chapter]))
        for chapter, key, last_only in _TOLD
        if chapter in texts and (choice or chapter not in _CHOICE)
    } | _seconds(story)


def _seconds(story: Sequence[Entry]) -> dict[str, MetadataValue]:
    """How long it waited for places in all."""
    waits = [entry.facts["seconds"] for entry in story if entry.chapter is Chapter.WAIT and "seconds" in entry.facts]
    return {"ioi/waited_s": MetadataValue.float(round(sum(waits), 3))} if waits else {}


def _where(outcome: Outcome) -> dict[str, MetadataValue]:
    lease = outcome.lease
    assert lease is not None
    return {
        "ioi/domain": MetadataValue.text(lease.domain),
        "ioi/cluster": MetadataValue.text(lease.cluster),
        "ioi/node": MetadataValue.text(lease.node),
        "ioi/capability": MetadataValue.text(lease.capability),
        "ioi/data_class": MetadataValue.text(str(outcome.data_class)),
        "ioi/lease": MetadataValue.text(lease.id),
        "ioi/fence": MetadataValue.int(lease.fence),
        "ioi/attempt": MetadataValue.text(outcome.attempt),
        "ioi/seconds": MetadataValue.float(round(outcome.seconds, 3)),
        "ioi/permit": MetadataValue.text(outcome.permit or "none: no policy root is configured"),
        **({"ioi/fused_after": MetadataValue.text(outcome.fused_after)} if outcome.fused_after else {}),
    }
