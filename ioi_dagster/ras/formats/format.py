"""What a format of another registry is to us."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ioi_dagster.model.capability import Contract
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.ras.formats.document import Path
from ioi_dagster.ras.formats.draft import Draft, Place, contracts_of, is_numbered
from ioi_dagster.ras.urn import Kind

UNKNOWN_EFFECT = Effect.AT_MOST_ONCE.value
"""Of what does not say what a second call does."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is written into a document: a record without its signature."""

    kind: Kind
    name: str
    version: str
    spec: Mapping[str, Any]

    @property
    def called(self) -> str:
        """Its name as it stood in the document that it came from."""
        return self.text("original", "name") or self.name

    @property
    def released(self) -> str:
        """Its version as it stood there; empty where it has none of its own."""
        return self.text("original", "version") or ("" if is_numbered(self.version) else self.version)

    @property
    def contracts(self) -> tuple[Contract, ...]:
        return contracts_of(self.spec)

    @property
    def parts(self) -> tuple[Contract, ...]:
        """Its contracts but for the one that stands for all of it."""
        return tuple(contract for contract in self.contracts if contract.id != self.called)

    def text(self, *names: str) -> str:
        found = self.get(*names)
        return found if isinstance(found, str) else ""

    def texts(self, *names: str) -> list[str]:
        found = self.get(*names)
        return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []

    def objects(self, *names: str) -> list[dict[str, Any]]:
        found = self.get(*names)
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    def object(self, *names: str) -> dict[str, Any]:
        found = self.get(*names)
        return found if isinstance(found, dict) else {}

    @property
    def links(self) -> dict[str, str]:
        """Title → URL."""
        found = [(one.get("title"), one.get("url")) for one in self.objects("links")]
        return {title: url for title, url in found if isinstance(title, str) and isinstance(url, str)}

    def get(self, *names: str) -> Any:
        found: Any = self.spec
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found


@dataclass(frozen=True, slots=True)
class Format:
    """`tells` says why a value is taken for a document of it, or nothing. `read` makes drafts; raises `BadInputError`. `write`
    says what it can of a record; `within` is where that stands in a document that was read, `wrap` makes a whole one of it."""

    name: str
    title: str
    tells: Callable[[Any], str]
    read: Callable[[Place], list[Draft]]
    write: Callable[[Facts], dict[str, Any]]
    within: Callable[[Any], Path] = lambda document: ()
    wrap: Callable[[dict[str, Any]], Any] = lambda written: written


def whole(name: str, title: str, description: str, tags: Iterable[str] = (), **more: Any) -> Contract:
    """The contract of what names none: it is found by its words all the same."""
    settings: dict[str, Any] = {"effect": UNKNOWN_EFFECT} | more
    return Contract(name, title or name, description, tuple(tags), **settings)


def full(**fields: Any) -> dict[str, Any]:
    """Those that say something."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, ())}


def link(url: str, title: str = "") -> list[dict[str, Any]]:
    return [full(url=url, title=title)] if url else []


def has(value: Any, *names: str) -> bool:
    """Is it an object with all of these?"""
    return isinstance(value, dict) and all(name in value for name in names)
