"""What the arbiter says: why a request is refused or waits, and everybody's books."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ioi_dagster.governors.fairness.books import Books
from ioi_dagster.governors.fairness.eviction import Ledger
from ioi_dagster.governors.fairness.machines import EPSILON, Need, Shape
from ioi_dagster.governors.fairness.tree import Entry, Leaf, Line, Unit
from ioi_dagster.governors.fairness.values import Request, Snapshot, TenantView
from ioi_dagster.model.amounts import MEMORY, counted, shown, told
from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.refusal import Refusal

BY = "fair arbitration"


def unknown_tenant(request: Request, books: Books) -> Refusal:
    known = ", ".join(sorted(books.tenants)[:8])
    return Refusal(
        "fair.unknown_tenant", f"{request.tenant!r} is not one of the tenants ({known})", BY, "give it a quota"
    )


def too_many_tenants(request: Request, books: Books) -> Refusal:
    text = f"{len(books.tenants)} tenants ask for something here, and {request.tenant!r} would be one more"
    return Refusal("fair.too_many_tenants", text, BY, "fewer tenants, or later")


def not_offered(resources: Iterable[str], books: Books) -> Refusal:
    offered = ", ".join(sorted(books.machines.resources))
    text = f"no node has {', '.join(sorted(resources))}; nodes have {offered}"
    return Refusal("fair.not_offered", text, BY, "ask for what nodes have")


def never(leaf: Leaf, shape: Shape, books: Books) -> Refusal | None:
    """Not even an idle cluster would do. Where nodes come and go, those count that are there or may come, and slots only for
    gangs."""
    machines = books.machines
    able = machines.could_hold(shape)
    grows = bool(machines.coming) or able < shape.copies
    """The whole is more than it is now, once what would take this is there."""
    if able < shape.copies and machines.coming:
        able += machines.could_come(shape)
    if able < shape.copies and not (books.elastic and _may_grow(shape, books)):
        members = shape.pool.members
        largest = [max((machines.size[m][n] for m in members), default=0.0) for n in range(books.width)]
        text = f"it needs {_amounts(shape.need, books)} on one node; "
        text += f"the most on any of the {counted(len(members), 'node')} allowed: "
        text += _amounts([(number, largest[number]) for number, _ in shape.need], books)
        if shape.copies > 1:
            text += f"; {able} of its {shape.copies} copies would fit into the empty nodes"
        return Refusal("fair.too_large", text, BY, "ask for less, allow more nodes, or add a node of that size")
    over = books.over(leaf, shape.total)
    if over is not None and not (grows and over[0] is books.root):
        unit, number, may = over
        name, amount = machines.resources[number], dict(shape.total)[number]
        text = f"it needs {told(name, amount)}; {_name(unit, leaf)} may use {shown(name, may)} at most"
        return Refusal("fair.over_limit", text, BY, f"raise that quota to {told(name, amount)}, or ask for less")
    return None


def _may_grow(shape: Shape, books: Books) -> bool:
    """No node is there, or some lack nothing but slots, which they have more or less of as they are told."""
    sizes = [books.machines.size[number] for number in shape.pool.members]
    slots = books.machines.number.get(SLOTS)
    lasting = [(number, amount) for number, amount in shape.need if number != slots]
    enough = any(all(size[number] + EPSILON >= amount for number, amount in lasting) for size in sizes)
    return (not sizes and not books.machines.coming) or (shape.copies == 1 and enough)


def claims_not(entry: Entry, books: Books) -> Refusal:
    """Why it may not start now."""
    leaf, shape, machines = entry.leaf, entry.shape, books.machines
    if not machines.count(shape, 1)[0]:
        text = f"no node has {_amounts(shape.need, books)} free for it"
        if shape.copies > 1:
            text = f"no nodes have {_amounts(shape.need, books)} free for each of {shape.copies} at once"
        return Refusal("fair.full", text, BY, "it is asked again")
    limiter = books.limiter(leaf, shape.total)
    if limiter is not None and limiter[0] is books.root:
        text = f"{_uses(leaf, limiter[1], books)}, and what is free is kept by tenants that do not lend it"
        return Refusal("fair.kept", text, BY, "have them lend more, or give it a guarantee")
    if limiter is not None:
        unit, number = limiter
        limit = unit.limits.cap[number] if unit.limits else 0.0
        name, wants = machines.resources[number], dict(shape.total)[number]
        text = f"{_who(unit, leaf)} uses {told(name, unit.used[number])} and may use {shown(name, limit)} at most"
        text += f"; this needs {shown(name, wants)}" if unit.used[number] + EPSILON < limit else ""
        return Refusal("fair.limit", text, BY, "raise what it borrows, or wait for what it runs")
    unit = next((one for one in leaf.path() if one.entitled - one.share + EPSILON < shape.size), leaf)
    shares = [amount * part for amount, part in zip(unit.used, machines.inverse, strict=True)]
    number = max((number for number, _ in shape.total), key=lambda number: shares[number])
    name, entitled = machines.resources[number], unit.entitled * machines.total[number]
    text = f"{_who(unit, leaf)} uses {told(name, unit.used[number])} and is entitled to "
    text += f"{shown(name, entitled) if name == MEMORY else f'{entitled:.3g}'} while other tenants wait"
    return Refusal("fair.not_its_turn", text, BY, "it is asked again")


def _uses(leaf: Leaf, number: int, books: Books) -> str:
    unit = books.tenants[leaf.tenant]
    return f"{leaf.tenant} uses {told(books.machines.resources[number], unit.used[number])}"


def _who(unit: Unit, leaf: Leaf) -> str:
    if unit is leaf and leaf.name != leaf.tenant:
        return f"{leaf.name or 'the rest'} of {leaf.tenant}"
    return leaf.tenant if unit is leaf or unit.name == leaf.tenant else f"cohort {unit.name}"


def waits(entry: Entry, books: Books, ledger: Ledger, now: float) -> Refusal:
    leaf, line, shape, machines = entry.leaf, entry.line, entry.shape, books.machines
    waited = f"it has waited {max(0.0, now - entry.request.arrived):.0f} s"
    unable = machines.could_hold(shape) < shape.copies
    if line.head is not entry and not unable:
        before = sum(
            other.left
            for key, _, other in line.queue
            if key <= entry.key and other is not entry and books.is_waiting(other)
        )
        text = f"{before} of {leaf.tenant}'s own requests are before it; {waited}"
        return Refusal("fair.behind", text, BY, "raise its priority, or cancel those before it")
    if line in ledger.awaited:
        text = f"{len(ledger.awaited[line])} requests are being stopped to make room for it; {waited}"
        return Refusal("fair.evicting", text, BY, "nothing: it starts when they have stopped")
    limiter = books.limiter(leaf, shape.total)
    if limiter is not None:
        unit, number = limiter
        name, limit = machines.resources[number], unit.limits.cap[number] if unit.limits else 0.0
        wants = dict(shape.total)[number]
        if unit is books.root and unit.kept[number] > EPSILON:
            text = f"{told(name, unit.kept[number])} that are idle are kept by tenants that do not lend them; {waited}"
            return Refusal("fair.kept", text, BY, "a higher lending limit of theirs, or a guarantee")
        if unit is not books.root:
            text = f"{_name(unit, leaf)} uses {shown(name, unit.used[number])} of the {told(name, limit)} that it may; "
            text += f"this needs {shown(name, wants)}"
            return Refusal(
                "fair.limit", f"{text}; {waited}", BY, "a higher borrowing limit, or the end of what it runs"
            )
    if unable:
        text = f"no node that is there now could take {_amounts(shape.need, books)}; {waited}"
        return Refusal("fair.no_node", text, BY, "the return of a node that is large enough")
    if line.holds:
        names = ", ".join(sorted(machines.names[m] for m in line.holds)[:8])
        text = f"{names} is being emptied for it; {waited}"
        return Refusal("fair.holding", text, BY, "nothing: it starts when what runs there has ended")
    text = f"no node has {_amounts(shape.need, books)} free for it; {waited}"
    text += f", and {leaf.tenant} has {leaf.share:.1%} of the cluster where {leaf.entitled:.1%} would be its fair share"
    return Refusal("fair.no_room", text, BY, "more nodes, or a higher weight or guarantee")


def snapshot(books: Books, ledger: Ledger, now: float) -> Snapshot:
    leaving: dict[Unit, list[Entry]] = {}
    for entry in ledger.leaving.values():
        for unit in entry.leaf.path():
            leaving.setdefault(unit, []).append(entry)

    def views(units: Mapping[str, Unit]) -> dict[str, TenantView]:
        return {name: _view(unit, books, leaving.get(unit, []), now) for name, unit in sorted(units.items())}

    classes = {
        name: views({child.name: child for child in unit.children})
        for name, unit in sorted(books.tenants.items())
        if unit.children
    }
    machines = books.machines
    held = {machines.names[m]: line.leaf.tenant for m, line in sorted(machines.held.items()) if isinstance(line, Line)}
    used = _all(books.root.used, books)
    return Snapshot(_all(machines.total, books), used, views(books.tenants), views(books.cohorts), classes, held)


def _view(unit: Unit, books: Books, leaving: list[Entry], now: float) -> TenantView:
    leaves = list(unit.leaves())
    oldest = min(
        (line.head.request.arrived for leaf in leaves for line in leaf.lines.values() if line.head), default=now
    )
    guarantee = unit.limits.guarantee if unit.limits is not None else [0.0] * books.width
    cap = unit.limits.cap if unit.limits is not None else [math.inf] * books.width
    borrowed = [max(0.0, used - have) for used, have in zip(unit.used, guarantee, strict=True)]
    idle = [max(0.0, have - used) for used, have in zip(unit.used, guarantee, strict=True)]
    free = [total - used for total, used in zip(books.machines.total, books.root.used, strict=True)]
    over = [used - most for used, most in zip(unit.used, cap, strict=True)]
    for entry in leaving:
        for number, amount in entry.shape.total if not entry.aside else ():
            over[number] -= amount
    assert unit.parent is not None
    return TenantView(
        cohort=unit.parent.name,
        weight=unit.weight,
        share=unit.share,
        entitled=unit.entitled if unit.want and max(unit.want) > EPSILON else 0.0,
        used=_all(unit.used, books),
        guarantee=_all(guarantee, books),
        borrowed=_all(borrowed, books),
        lent=_all([max(0.0, part - max(0.0, have)) for part, have in zip(idle, free, strict=True)], books),
        limit={name: amount for name, amount in _all(cap, books).items() if math.isfinite(amount)},
        running=sum(len(leaf.running) for leaf in leaves),
        waiting=sum(leaf.waiting for leaf in leaves),
        oldest_wait_s=max(0.0, now - oldest),
        stopping=len(leaving),
        over={name: amount for name, amount in _all(over, books).items() if amount > EPSILON},
    )


def _all(amounts: list[float], books: Books) -> dict[str, float]:
    return dict(zip(books.machines.resources, amounts, strict=True))


def _amounts(need: Need | list[tuple[int, float]], books: Books) -> str:
    return ", ".join(told(books.machines.resources[number], amount) for number, amount in need) or "nothing"


def _name(unit: Unit, leaf: Leaf) -> str:
    if unit.parent is None:
        return "the cluster"
    return f"tenant {leaf.tenant}" if unit is leaf or unit.name == leaf.tenant else f"cohort {unit.name}"
