"""What a capability says of itself, and how much each word of it counts.

The weighting is BM25F (Robertson, Zaragoza: The Probabilistic Relevance Framework, 2009) with lengths compared to usual ones
instead of the catalogue's mean. So what an entry's words count depends on that entry alone: adding or removing others changes
none of it, whatever the order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.matching.words import MAX_TEXT, split_names, terms

MAX_EXAMPLES = 50
"""Of one entry; further ones are not looked at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`inputs` and `outputs`: JSON Schemas of objects, or a mapping of names to what is said of them. `examples`: requests that
    it answers."""

    id: str
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


def entry_of(contract: Contract) -> Entry:
    return Entry(
        contract.id,
        contract.name,
        contract.description,
        contract.tags,
        contract.inputs,
        contract.outputs,
        contract.examples,
    )


@dataclass(frozen=True, slots=True)
class _Field:
    weight: float
    usual: float
    """How many words it usually has."""


_NAME = _Field(2.5, 3)
_FIRST = _Field(1.3, 10)
"""The first sentence of a description says what the thing is for; what follows, how it was made."""
_REST = _Field(0.7, 15)
_TAGS = _Field(1.0, 3)
_INPUTS = _Field(0.5, 4)
_INPUT_TEXTS = _Field(0.3, 15)
_OUTPUTS = _Field(0.2, 2)

_LENGTH = 0.6
"""How far a long field's words count less (0: not at all, 1: in proportion)."""
_SATURATION = 2.0
_SPREAD = 0.3
"""How far an entry of many words counts less for each: a power of the length of its vector."""
_EXAMPLES = 0.7
"""What a word counts that is in all examples of an entry. More helps those with examples, and pushes those without under them."""

MOST = _SATURATION + 1.0
"""No word counts more."""


def word_weights(entry: Entry) -> dict[str, float]:
    """What each term counts, in (0, `MOST`)."""
    found: defaultdict[str, float] = defaultdict(float)
    for its, texts in _texts(entry):
        words = [term for text in texts for term in terms(text)]
        long = 1 - _LENGTH + _LENGTH * len(words) / its.usual
        for term, count in Counter(words).items():
            found[term] += its.weight * count / long
    for term, share in _shares(entry.examples).items():
        found[term] += _EXAMPLES * math.sqrt(share)
    weights = {term: mass * (_SATURATION + 1) / (mass + _SATURATION) for term, mass in found.items()}
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {term: min(weight / length**_SPREAD, MOST) for term, weight in weights.items()}


def text_of(entry: Entry) -> str:
    """For an encoder."""
    return " ".join([split_names(entry.name), entry.description, *entry.tags, *entry.examples[:MAX_EXAMPLES]])[
        :MAX_TEXT
    ]


def _texts(entry: Entry) -> Iterable[tuple[_Field, list[str]]]:
    first, _, rest = entry.description[:MAX_TEXT].partition(". ")
    yield _NAME, [split_names(entry.name)]
    yield _FIRST, [first]
    yield _REST, [rest]
    yield _TAGS, list(entry.tags)
    inputs, outputs = _properties(entry.inputs), _properties(entry.outputs)
    yield _INPUTS, [split_names(name) for name in inputs]
    yield _INPUT_TEXTS, [str(its.get("description", "")) for its in inputs.values() if isinstance(its, Mapping)]
    yield _OUTPUTS, [split_names(name) for name in outputs]


def _shares(examples: tuple[str, ...]) -> dict[str, float]:
    """In what share of the examples a term is: many examples weigh no more than few, so that nobody gains by sheer number."""
    its = examples[:MAX_EXAMPLES]
    counts = Counter(term for example in its for term in set(terms(example)))
    return {term: count / len(its) for term, count in counts.items()}


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else schema
