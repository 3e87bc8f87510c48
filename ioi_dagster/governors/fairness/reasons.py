"""What the arbiter says: why a request is refused or waits, and everybody's books."""

from __future__ import annotations

from collections.abc import Iterable

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.eviction import Ledger
from ioi_dagster.governors.fairness.machines import EPSILON, Need, Shape
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Unit
from ioi_dagster.governors.fairness.values import Request, Snapshot, TenantView
from ioi_dagster.model.refusal import Refusal

BY = "fair arbitration"


def unknown_tenant(request: Request, books: Books) -> Refusal:
    known = ", ".join(sorted(books.tenants)[:8])
    return Refusal(
        "fair.unknown_tenant", f"{request.tenant!r} is not one of the tenants ({known})", BY, "give it a quota"
    )


def not_offered(resources: Iterable[str], books: Books) -> Refusal:
    offered = ", ".join(books.machines.resources)
    text = f"no node has {', '.join(sorted(resources))}; nodes have {offered}"
    return Refusal("fair.not_offered", text, BY, "ask for what nodes have")


def never(request: Request, leaf: Leaf, shape: Shape, books: Books) -> Refusal | None:
    """Not even an idle cluster would do."""
    machines = books.machines
    able = machines.could_hold(shape)
    if able < shape.copies:
        members = machines.members(shape.pool)
        largest = [max((machines.size[m][n] for m in members), default=0.0) for n in range(books.width)]
        text = (
            f"it needs {_amounts(shape.need, books)} on one node; the most on any of the {len(members)} nodes allowed: "
        )
        text += _amounts([(number, largest[number]) for number, _ in shape.need], books)
        if shape.copies > 1:
            text += f"; {able} of its {shape.copies} copies would fit into the empty nodes"
        return Refusal("fair.too_large", text, BY, "ask for less, allow more nodes, or add a node of that size")
    units = list(leaf.path())
    for below, unit in zip([None, *units], units, strict=False):
        if unit.limits is None:
            continue
        for number, amount in shape.total:
            others = sum(child.most[number] for child in unit.children if child is not below)
            may = unit.limits.cap[number] - others
            if amount > may + EPSILON:
                name = machines.resources[number]
                text = f"it needs {amount:g} {name}; {_name(unit, leaf)} may use {may:g} at most"
                return Refusal("fair.over_limit", text, BY, f"raise that quota to {amount:g} {name}, or ask for less")
    return None


def waits(entry: Entry, books: Books, ledger: Ledger, now: float) -> Refusal:
    leaf, shape, machines = entry.leaf, entry.shape, books.machines
    waited = f"it has waited {max(0.0, now - entry.request.arrived):.0f} s"
    if leaf.head is not entry:
        before = sum(
            1 for key, _, other in leaf.queue if key <= entry.key and other is not entry and books.is_waiting(other)
        )
        text = f"{before} of {leaf.tenant}'s own requests are before it; {waited}"
        return Refusal("fair.behind", text, BY, "raise its priority, or cancel those before it")
    if leaf in ledger.awaited:
        text = f"{len(ledger.awaited[leaf])} requests are being stopped to make room for it; {waited}"
        return Refusal("fair.evicting", text, BY, "nothing: it starts when they have stopped")
    limiter = books.limiter(leaf, shape.total)
    if limiter is not None:
        unit, number = limiter
        name, limit = machines.resources[number], unit.limits.cap[number] if unit.limits else 0.0
        wants = dict(shape.total)[number]
        if unit is books.root and unit.kept[number] > EPSILON:
            text = f"{unit.kept[number]:g} {name} that are idle are kept by tenants that do not lend them; {waited}"
            return Refusal("fair.kept", text, BY, "a higher lending limit of theirs, or a guarantee")
        if unit is not books.root:
            text = f"{_name(unit, leaf)} uses {unit.used[number]:g} of the {limit:g} {name} that it may; this needs {wants:g}"
            return Refusal(
                "fair.limit", f"{text}; {waited}", BY, "a higher borrowing limit, or the end of what it runs"
            )
    if machines.could_hold(shape) < shape.copies:
        text = f"no node that is there now could take {_amounts(shape.need, books)}; {waited}"
        return Refusal("fair.no_node", text, BY, "the return of a node that is large enough")
    if leaf.holds:
        names = ", ".join(sorted(machines.names[m] for m in leaf.holds)[:8])
        text = f"{names} is being emptied for it; {waited}"
        return Refusal("fair.holding", text, BY, "nothing: it starts when what runs there has ended")
    text = f"no node has {_amounts(shape.need, books)} free for it; {waited}"
    text += f", and {leaf.tenant} has {leaf.share:.1%} of the cluster where {leaf.entitled:.1%} would be its fair share"
    return Refusal("fair.no_room", text, BY, "more nodes, or a higher weight or guarantee")


def snapshot(books: Books, now: float) -> Snapshot:
    tenants = {name: _tenant(unit, books, now) for name, unit in sorted(books.tenants.items())}
    machines = books.machines
    held = {machines.names[m]: leaf.tenant for m, leaf in sorted(machines.held.items()) if isinstance(leaf, Leaf)}
    return Snapshot(_all(machines.total, books), _all(books.root.used, books), tenants, held)


def _tenant(unit: Unit, books: Books, now: float) -> TenantView:
    leaves = list(unit.leaves())
    waiting = [entry for leaf in leaves for _, _, entry in leaf.queue if books.is_waiting(entry)]
    guarantee = unit.limits.guarantee if unit.limits is not None else [0.0] * books.width
    borrowed = [max(0.0, used - have) for used, have in zip(unit.used, guarantee, strict=True)]
    idle = [max(0.0, have - used) for used, have in zip(unit.used, guarantee, strict=True)]
    free = [total - used for total, used in zip(books.machines.total, books.root.used, strict=True)]
    assert unit.parent is not None
    return TenantView(
        cohort=unit.parent.name,
        share=unit.share,
        entitled=unit.entitled,
        used=_all(unit.used, books),
        guarantee=_all(guarantee, books),
        borrowed=_all(borrowed, books),
        lent=_all([max(0.0, part - max(0.0, have)) for part, have in zip(idle, free, strict=True)], books),
        running=sum(len(leaf.running) for leaf in leaves),
        waiting=len(waiting),
        oldest_wait_s=max((now - entry.request.arrived for entry in waiting), default=0.0),
    )


def _all(amounts: list[float], books: Books) -> dict[str, float]:
    return dict(zip(books.machines.resources, amounts, strict=True))


def _amounts(need: Need | list[tuple[int, float]], books: Books) -> str:
    return ", ".join(f"{amount:g} {books.machines.resources[number]}" for number, amount in need) or "nothing"


def _name(unit: Unit, leaf: Leaf) -> str:
    if unit.parent is None:
        return "the cluster"
    return f"tenant {leaf.tenant}" if unit is leaf or unit.name == leaf.tenant else f"cohort {unit.name}"
