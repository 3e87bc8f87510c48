"""Where a domain keeps data, and which places of others it opens, as its owner says. Nothing of it is in the record that members
read; credentials are named here, and lie among the domain's own keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

SURVEY_S = 300.0
MOST = 2**40
"""Bytes that one move brings at most, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """A folder of the domain's, behind a URL that fsspec knows; without a scheme it is below the domain's own folder.
    `credentials`: the name of fsspec's options for it, empty: none; `most`: bytes that one move may bring there."""

    name: str
    url: str
    credentials: str = ""
    most: int = MOST


@dataclass(frozen=True, slots=True)
class DoorSpec:
    """URLs of `domain` that begin with `url` are opened by this domain, with those credentials."""

    domain: str
    url: str
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The first of `stores` is where data goes if none is named. `survey_s`: so often the domain's gateway looks at what is in
    them."""

    stores: tuple[StoreSpec, ...] = ()
    doors: tuple[DoorSpec, ...] = ()
    survey_s: float = SURVEY_S

    def at(self, folder: str) -> DataSpec:
        """With whole URLs, where the domain's own folder is at the absolute path `folder`."""
        return replace(self, stores=tuple(replace(one, url=whole_url(one.url, folder)) for one in self.stores))


def whole_url(url: str, folder: str) -> str:
    """`url` itself where it has a scheme, else the folder that it names, seen from `folder`."""
    if "://" in url:
        return url
    # As fsspec writes and reads paths: as they are, and not as a browser would.
    return f"file://{url}" if url.startswith("/") else f"file://{folder}/{url.rstrip('/')}"


def doors_between(stated: Mapping[str, DataSpec], name: str) -> tuple[DoorSpec, ...]:
    """Those that the domain states, and the stores of all others of one file, whose URLs are whole: who writes it for several
    domains knows where they keep data."""
    own = stated.get(name, DataSpec()).doors
    others = [DoorSpec(other, store.url) for other, its in stated.items() if other != name for store in its.stores]
    said = {(door.domain, door.url) for door in own}
    return (*own, *(door for door in others if (door.domain, door.url) not in said))
