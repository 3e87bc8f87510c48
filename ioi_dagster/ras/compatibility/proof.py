"""Is every value of one schema a value of another? Proved, or not known; and where the proof ends.

After the usual way of subtyping for recursive types: what is being proved may be assumed further inside (Amadio, Cardelli:
Subtyping recursive types, 1993; Habib et al.: Finding data compatibility bugs with JSON subschemas, 2021, for what schemas add to
it). The assumption is sound because values are finite and each reference steps into a smaller part of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ioi_dagster.ras.compatibility.branches import NUMBERS, Branch, branches_of
from ioi_dagster.ras.compatibility.document import Budget, Node, SpentError
from ioi_dagster.ras.compatibility.rules import RULES
from ioi_dagster.ras.compatibility.validity import FINE, Finding, Judge

MAX_LEVELS = 40
"""Proofs within proofs."""


class Prover:
    """One question. Raises `SpentError` and `TooManyError`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.judge = Judge(budget)
        self._proved: set[object] = set()
        self._trail: list[object] = []
        self._open: set[object] = set()
        self._failed: dict[object, Finding] = {}
        self._texts: dict[object, str] = {}

    def covers(self, given: tuple[Node, ...], wanted: Node, path: str = "$") -> Finding:
        """Does `wanted` take all that satisfies all of `given`?"""
        self._budget.spend()
        if wanted.schema is True or wanted.schema == {} or any(self._same(node, wanted) for node in given):
            return FINE
        key = ("covers", frozenset(node.key for node in given), wanted.key)
        return self._once(key, path, lambda: self._covers(given, wanted, path))

    def apart(self, given: tuple[Node, ...], other: tuple[Node, ...], path: str = "$") -> Finding:
        """Is there nothing that satisfies all of both?"""
        self._budget.spend()
        key = ("apart", frozenset(node.key for node in given), frozenset(node.key for node in other))
        return self._once(key, path, lambda: self._apart(given, other, path))

    def _once(self, key: object, path: str, prove: Callable[[], Finding]) -> Finding:
        if key in self._proved or key in self._open:
            return FINE
        if key in self._failed:
            return self._failed[key]
        if len(self._open) >= MAX_LEVELS:
            raise SpentError
        self._open.add(key)
        mark = len(self._trail)
        try:
            found = prove()
        finally:
            self._open.discard(key)
        if found.ok:
            self._proved.add(key)
            self._trail.append(key)
        else:
            # What was proved meanwhile may have assumed this.
            self._proved.difference_update(self._trail[mark:])
            del self._trail[mark:]
            self._failed[key] = found
        return found

    def _same(self, one: Node, other: Node) -> bool:
        if one.schema is other.schema and one.document is other.document:
            return True
        if one.document.draft7 != other.document.draft7:
            return False
        text = self._text(one)
        alone = '"$ref"' not in text and '"$dynamicRef"' not in text
        return (alone or one.document.text == other.document.text) and text == self._text(other)

    def _text(self, node: Node) -> str:
        text = self._texts.get(node.key)
        if text is None:
            text = self._texts[node.key] = node.text
            self._budget.spend(1 + len(text) // 500)
        return text

    def _covers(self, given: tuple[Node, ...], wanted: Node, path: str) -> Finding:
        for branch in branches_of(given, self._budget):
            found = self.takes(branch, given, wanted, path)
            if not found.ok:
                return found
        return FINE

    def takes(self, branch: Branch, given: tuple[Node, ...], wanted: Node, path: str) -> Finding:
        """Does `wanted` take all of one alternative?"""
        self._budget.spend()
        if wanted.schema is False:
            return Finding(None, path, "nothing is accepted here")
        if any(self._same(node, wanted) for node in branch.absorbed):
            return FINE
        values = self._listed(branch, given)
        if values is not None:
            wrong = [f for value in values if not (f := self.judge.judge(value, wanted, path)).ok]
            return Finding(None, wrong[0].path, wrong[0].reason) if wrong else FINE
        for keyword, value in wanted.keywords.items():
            rule = RULES.get(keyword)
            found = rule(self, branch, given, value, wanted, path) if rule else FINE
            if not found.ok:
                return found
        return FINE

    def _listed(self, branch: Branch, given: tuple[Node, ...]) -> list[Any] | None:
        """All values of it, where they can be told one by one."""
        values = branch.values
        if values is None and branch.types <= {"null", "boolean"}:
            values = [None] * ("null" in branch.types) + [True, False] * ("boolean" in branch.types)
        if values is None:
            return None
        parts = (*given, *branch.absorbed)
        return [value for value in values if all(self.judge.judge(value, node).ok is not False for node in parts)]

    def either(self, branch: Branch, given: tuple[Node, ...], wanted: list[Node], path: str, alone: bool) -> Finding:
        """Is it within one of `wanted` (and apart from the others where it has to be `alone`), as a whole or type by type?"""
        reasons = []
        for place, node in enumerate(wanted):
            found = self.takes(branch, given, node, path)
            if found.ok and (not alone or self.apart_from(branch, given, wanted[:place] + wanted[place + 1 :], path)):
                return FINE
            reasons.append(found)
        if len(branch.types) > 1:
            parts = [branch.only(kind) for kind in sorted(branch.types)]
            if all(self.either(part, given, wanted, path, alone).ok for part in parts):
                return FINE
        first = next((f for f in reasons if not f.ok), Finding(None, path, "more than one may fit"))
        return Finding(
            None, first.path, f"not surely {'exactly ' * alone}one of {len(wanted)} alternatives: {first.reason}"
        )

    def apart_from(self, branch: Branch, given: tuple[Node, ...], others: Iterable[Node], path: str) -> bool:
        return all(self.branch_apart(branch, given, (other,), path).ok for other in others)

    def _apart(self, given: tuple[Node, ...], other: tuple[Node, ...], path: str) -> Finding:
        for branch in branches_of(given, self._budget):
            found = self.branch_apart(branch, given, other, path)
            if not found.ok:
                return found
        return FINE

    def branch_apart(self, branch: Branch, given: tuple[Node, ...], other: tuple[Node, ...], path: str) -> Finding:
        for its in branches_of(other, self._budget):
            self._budget.spend()
            if not self._are_apart(branch, given, its, other, path):
                return Finding(None, path, "may be both")
        return FINE

    def _are_apart(self, one: Branch, given: tuple[Node, ...], two: Branch, other: tuple[Node, ...], path: str) -> bool:
        shared = one.types & two.types
        for values, nodes in (
            (self._listed(one, given), (*other, *two.absorbed)),
            (self._listed(two, other), (*given, *one.absorbed)),
        ):
            if values is not None:
                return all(any(self.judge.judge(value, node).ok is False for node in nodes) for value in values)
        return all(self._type_apart(kind, one, two, path) for kind in shared)

    def _type_apart(self, kind: str, one: Branch, two: Branch, path: str) -> bool:
        if kind in NUMBERS:
            first, last = max(one.low, two.low), min(one.high, two.high)
            is_open = any((b.low_open and b.low == first) or (b.high_open and b.high == last) for b in (one, two))
            return first > last or (first == last and is_open)
        least = max(one.size(kind)[0], two.size(kind)[0])
        if least > min(one.size(kind)[1], two.size(kind)[1]):
            return True
        if kind == "array":
            places = range(int(min(least, max(one.prefix, two.prefix) + 1)))
            return any(self.apart(one.item(place), two.item(place), f"{path}[{place}]").ok for place in places)
        if kind == "object":
            names = sorted(one.required | two.required)
            return any(self.apart(one.named(name), two.named(name), f"{path}.{name}").ok for name in names)
        return False
