"""Which steps of its run a step is to run near to, or apart from, by the words of its tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.extent import Mappings
from ioi_dagster.host.private import ExecutionPlan, ExecutionStep, keys_of, unresolved_key

MAX_KEYS = 1_000
"""Of how many steps one step may ask to be near to, or apart from."""


class Beside:
    """Of one plan, as it was before anything was mapped. A word in a tag is a step's name, or else a group: all steps that have
    the word in the same tag. A mapped step is meant as a whole, except by one that is mapped with it: that means its own."""

    def __init__(self, plan: ExecutionPlan) -> None:
        self._steps: dict[str, Any] = {step.key.removesuffix("[?]"): step for step in plan.step_dict.values()}
        self._groups: dict[tuple[str, str], list[Any]] = {}
        for step in plan.step_dict.values():
            for tag in (tags.NEAR, tags.APART):
                for word in tags.words(step.tags or {}, tag):
                    self._groups.setdefault((tag, word), []).append(step)

    def nothing_meant(self) -> Iterator[str]:
        """What to tell of words that name no step and no group. Where a part of a job is run, that may be as it should."""
        for (tag, word), members in self._groups.items():
            if word not in self._steps and len(members) == 1 and not members[0].key.endswith("[?]"):
                yield f"{tag} of {members[0].key} names {word!r}, which is no step of this run, and no other step names it"

    def keys(self, step: ExecutionStep, tag: str, mappings: Mappings) -> tuple[str, ...]:
        """The keys of the other steps that `tag` of `step` means. Raises `BadInputError` where they are too many."""
        own, mapping_key = unresolved_key(step), getattr(step.handle, "mapping_key", None)
        found: dict[str, None] = {}
        for word in tags.words(step.tags, tag):
            named = self._steps.get(word)
            for other in [named] if named is not None else self._groups.get((tag, word), ()):
                keys = keys_of(other, mappings)
                if mapping_key is not None and other.key != own:
                    twin = f"{other.key.removesuffix('[?]')}[{mapping_key}]"
                    keys = [twin] if twin in keys else keys
                found.update(dict.fromkeys(keys))
        found.pop(step.key, None)
        if len(found) > MAX_KEYS:
            what = f"the tag {tag} means {len(found)} steps"
            raise BadInputError(what, where=step.key, todo=f"name {MAX_KEYS} at most")
        return tuple(found)
