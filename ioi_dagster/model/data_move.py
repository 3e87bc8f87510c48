"""That data goes from one domain to another: who asks policy about it, and what is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision


@dataclass(frozen=True, slots=True)
class Place:
    """A domain as data sees it. `handles`: the highest class that it may be given; `region` in which it keeps it (empty: not
    said); `authority`: its certificate authority."""

    domain: str
    handles: DataClass = DataClass.INTERNAL
    region: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class DataMove:
    """`size` bytes of version `version` of `asset` (a URN) are to go from `source` to `target`; `owner`: whose it is; `regions`
    in which it has to stay (empty: anywhere)."""

    asset: str
    version: str
    owner: str
    data_class: DataClass
    size: int
    source: Place
    target: Place
    regions: tuple[str, ...] = ()


MovePolicy = Callable[[DataMove], Decision]
"""Allows, holds or denies it, with reasons; never raises. An obligation that comes with an allowance is not met here."""
