"""Reads values out of YAML nodes, and notes everything that is wrong with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.amounts import MOST, amount
from ioi_dagster.model.topology import MAX_SPEED, MIN_SPEED

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Names become folders, URNs, process names and Dask resources."""
_RANGES: dict[str, tuple[float, float]] = {
    "slots": (1, 1_024),
    "memory": (64 * 2**20, 2**50),
    "price": (0, 1e9),
    "speed": (MIN_SPEED, MAX_SPEED),
    "bandwidth": (1_000, 1e15),
    "latency": (0, 3_600),
    "weight": (0.01, 1_000),
    "min": (0, 1_000),
    "max": (1, 1_000),
    **dict.fromkeys(("boot_s", "give_up_s"), (1, 86_400)),
    **dict.fromkeys(("after_s", "within_s", "idle_s", "min_age_s", "up_pause_s", "down_pause_s"), (0, 86_400)),
    "busy_below": (0, 1),
    "node_hour": (0, 1e9),
    "per_hour": (0, 1e12),
    "per_day": (0, 1e12),
    "most": (1, 2**50),
    "survey_s": (1, 28_800),
}
_TEXT = "tag:yaml.org,2002:str"


@dataclass
class YamlReader:
    path: Path
    errors: list[str] = field(default_factory=list)

    def error(self, node: Any, text: str) -> None:
        self.errors.append(f"{self.path}:{node.start_mark.line + 1}: {text}")

    def mapping(self, node: Any, allowed: set[str], required: set[str], what: str) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.error(node, f"{what} must be a mapping")
            return {}
        values: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in allowed:
                self.error(key, f"unknown key {name!r} in {what}; known are {', '.join(sorted(allowed))}")
            elif name in values:
                self.error(key, f"key {name!r} is given twice in {what}")
            values[name] = value
        for name in sorted(required - set(values)):
            self.error(node, f"{what} lacks {name!r}")
        return values

    def sequence(self, node: Any, what: str, empty: bool = False) -> list[Any]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self.error(node, f"{what} must be a list")
            return []
        if not node.value and not empty:
            self.error(node, f"{what} may not be empty")
        return list(node.value)

    def text(self, node: Any, what: str) -> str:
        value = self.scalar(node, what, str, "")
        if node is not None and not value:
            self.error(node, f"{what} may not be empty")
        return value

    def name(self, node: Any, what: str = "name") -> str:
        value = self.text(node, what)
        if value and not _NAME.fullmatch(value):
            self.error(node, f"{what} {value[:80]!r} must be letters, digits, '.', '_' and '-', 63 at most")
        return value

    def number(self, values: dict[str, Any], what: str, kind: Callable[[Any], Any], default: Any) -> Any:
        return self.within(values.get(what), what, self.scalar(values.get(what), what, kind, default), default)

    def size(self, values: dict[str, Any], what: str, default: int) -> int:
        """A whole number of bytes, or a size as `4GiB`."""
        node = values.get(what)
        value = int(self.amount(node, what)) if _is_text(node) else self.scalar(node, what, int, default)
        return self.within(node, what, value, default)

    def within(self, node: Any, what: str, value: Any, default: Any) -> Any:
        low, high = _RANGES[what]
        if node is None or (math.isfinite(value) and low <= value <= high):
            return value
        self.error(node, f"{what} must be from {low:g} to {high:g}")
        return default

    def amount(self, node: Any, what: str) -> float:
        """A number from 0, or a size as `4GiB`; 0 where it is neither."""
        if not _is_text(node):
            value = self.scalar(node, what, float, 0.0)
            if 0 <= value <= MOST:
                return value
            self.error(node, f"{what} must be from 0 to {MOST:g}")
            return 0.0
        try:
            return amount(node.value)
        except BadInputError as error:
            self.error(node, f"{what} says {error}")
            return 0.0

    def scalar(self, node: Any, what: str, kind: Callable[[Any], Any], default: Any) -> Any:
        if node is None:
            return default
        if isinstance(node, yaml.ScalarNode):
            try:
                value = yaml.SafeLoader("").construct_object(node)
            except (yaml.YAMLError, ValueError, OverflowError):
                value = None
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is kind:
                return value
        self.error(node, f"{what} must be of type {getattr(kind, '__name__', kind)}")
        return default

    def items(self, node: Any) -> list[Any]:
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []

    def value(self, node: Any, name: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return None
        return next((value for key, value in node.value if key.value == name), None)

    def names(self, node: Any) -> list[tuple[str, int]]:
        found = (self.value(item, "name") for item in self.items(node))
        return [(n.value, n.start_mark.line + 1) for n in found if isinstance(n, yaml.ScalarNode)]


def _is_text(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TEXT
