"""Values that one schema allows and another does not: tried, not derived, and each looked at with both schemas.

Tried are values at and beside the limits of either schema, in otherwise small values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ioi_dagster.ras.compatibility.branches import Branch, branches_of, rest_of
from ioi_dagster.ras.compatibility.document import Budget, Document, Node, is_number
from ioi_dagster.ras.compatibility.patterns import example
from ioi_dagster.ras.compatibility.validity import FORMAT_EXAMPLES, Finding, Judge

MAX_VARIANTS = 48
"""Values tried in one place."""
MAX_LEVELS = 8
MAX_LENGTH = 200
"""Of texts and lists that are tried."""
_OTHER = "some other name"


class Limits:
    """Numbers, lengths and texts that either schema names: what is interesting lies at and beside them."""

    def __init__(self, *documents: Document) -> None:
        self.numbers: list[Any] = [0, 1, 0.5, -1]
        self.lengths: set[int] = {0, 1}
        self.texts: list[str] = ["", "x"]
        level = [document.root for document in documents]
        while level:
            for value in level:
                if isinstance(value, dict):
                    self._note(value)
            level = [
                item
                for value in level
                for item in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
            ]
        self.numbers = list(dict.fromkeys(self.numbers))[:40]

    def _note(self, schema: dict[str, Any]) -> None:
        for keyword, value in schema.items():
            if is_number(value):
                if keyword.startswith(("min", "max")) and keyword[3:] in ("Length", "Items", "Properties", "Contains"):
                    self.lengths |= {max(int(value) + step, 0) for step in (-1, 0, 1) if value <= MAX_LENGTH}
                elif abs(value) < 2**53:
                    self.numbers += [value, value + 1, value - 1, value + 0.5, value / 2]
        if isinstance(schema.get("format"), str) and schema["format"] in FORMAT_EXAMPLES:
            self.texts.append(FORMAT_EXAMPLES[schema["format"]])
        if isinstance(schema.get("pattern"), str) and (text := example(schema["pattern"])) is not None:
            self.texts.append(text)


class Seeker:
    """One search. Raises `SpentError` and `TooManyError`."""

    def __init__(self, budget: Budget, limits: Limits) -> None:
        self._budget, self._limits, self._judge = budget, limits, Judge(budget)

    def refused(self, given: Node, wanted: Node) -> tuple[Any, Finding] | None:
        """A value of `given` that `wanted` refuses, and why; None where none was found."""
        for value in self._values((given,), 0):
            if self._judge.judge(value, given).ok:
                found = self._judge.judge(value, wanted)
                if found.ok is False:
                    return value, found
        return None

    def _some(self, nodes: tuple[Node, ...], level: int) -> list[Any]:
        found = []
        for value in self._values(nodes, level):
            if len(found) >= MAX_VARIANTS:
                break
            if all(self._judge.judge(value, node).ok for node in nodes):
                found.append(value)
        return found

    def _values(self, nodes: tuple[Node, ...], level: int) -> Iterator[Any]:
        if level > MAX_LEVELS:
            return
        for branch in branches_of(nodes, self._budget):
            self._budget.spend()
            if branch.values is not None:
                yield from branch.values
                continue
            for kind in ("null", "boolean", "integer", "fraction", "string", "object", "array"):
                if kind in branch.types:
                    yield from getattr(self, f"_{kind}")(branch, level)

    def _null(self, branch: Branch, level: int) -> Iterator[Any]:
        yield None

    def _boolean(self, branch: Branch, level: int) -> Iterator[Any]:
        yield from (True, False)

    def _integer(self, branch: Branch, level: int) -> Iterator[Any]:
        ends = [end for end in (branch.low, branch.high) if not math.isinf(end)]
        tried = [
            *(
                step
                for end in ends
                for step in (math.floor(end), math.ceil(end), math.floor(end) + 1, math.ceil(end) - 1)
            )
        ]
        tried += [number for number in self._limits.numbers if number == int(number)]
        for step in branch.multiples[:2]:
            tried += [step * math.ceil(end / step) for end in ends] + [step, 2 * step, -step]
        yield from dict.fromkeys(int(number) for number in tried if number == int(number))

    def _fraction(self, branch: Branch, level: int) -> Iterator[Any]:
        ends = [end for end in (branch.low, branch.high) if not math.isinf(end)]
        tried = [*ends, *(end + 0.25 for end in ends), *(end - 0.25 for end in ends), sum(ends) / 2]
        tried += [*self._limits.numbers, *branch.multiples, 0.25]
        yield from dict.fromkeys(number for number in tried if number != int(number))

    def _string(self, branch: Branch, level: int) -> Iterator[Any]:
        texts = [example(text) for keyword, text in branch.texts if keyword == "pattern"]
        texts += [FORMAT_EXAMPLES.get(text) for keyword, text in branch.texts if keyword == "format"]
        yield from dict.fromkeys(text for text in texts if text is not None)
        low, high = branch.size("string")
        for length in sorted({*self._limits.lengths, low}):
            if low <= length <= min(high, MAX_LENGTH):
                yield "x" * int(length)
        yield from self._limits.texts

    def _array(self, branch: Branch, level: int) -> Iterator[Any]:
        low, high = branch.size("array")
        if low > MAX_LENGTH:
            return
        low = int(low)
        kinds = [self._some(branch.item(place), level + 1) for place in range(min(branch.prefix + 1, MAX_LENGTH))]
        for needed in branch.contains[:2]:
            kinds.append(self._some((needed.at(needed.keywords["contains"]), *branch.item(branch.prefix)), level + 1))

        def at(place: int) -> list[Any]:
            return kinds[min(place, branch.prefix)]

        for length in sorted({*self._limits.lengths, low, low + 1, branch.prefix, branch.prefix + 1}):
            if not low <= length <= min(high, MAX_LENGTH):
                continue
            self._budget.spend(1 + length)
            if length == 0:
                yield []
            elif all(at(place) for place in range(min(length, branch.prefix + 1))):
                base = [at(place)[place % len(at(place)) if branch.unique else 0] for place in range(length)]
                yield base
                for place in range(min(length, branch.prefix + 1)):
                    yield from ([*base[:place], other, *base[place + 1 :]] for other in at(place)[1:])
                for extra in kinds[branch.prefix + 1 :]:
                    yield from ([*base[:-1], item] for item in extra[:4])

    def _object(self, branch: Branch, level: int) -> Iterator[Any]:
        known = [*dict.fromkeys([*sorted(branch.required), *self._named(branch)])][:MAX_LENGTH]
        kinds = {name: self._some(branch.named(name), level + 1) for name in known}
        if any(not kinds[name] for name in branch.required if name in kinds):
            return
        base = {name: kinds[name][0] for name in known if name in branch.required}
        full = {name: kinds[name][0] for name in known if kinds[name]}
        yield base
        for name in known:
            self._budget.spend(1 + len(kinds[name]))
            yield from ({**base, name: value} for value in kinds[name])
        yield full
        others = self._some(branch.named(_OTHER), level + 1)
        yield from ({**base, _OTHER: value} for value in others)
        longest = max(self._limits.lengths) if others else 0
        for length in sorted(self._limits.lengths):
            if len(base) < length <= min(longest, MAX_LENGTH):
                self._budget.spend(length)
                yield {**base, **{f"{_OTHER} {place}": others[0] for place in range(length - len(base))}}

    def _named(self, branch: Branch) -> list[str]:
        names = [name for node in branch.objects for name in node.keywords.get("properties", ())]
        for node in branch.objects:
            texts = [example(pattern) for pattern in node.keywords.get("patternProperties", ())]
            names += [text for text in texts if text]
            if rest_of(node) is False:
                continue
        return names
