"""Domains that sign records of themselves, for tests of membership."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ioi_dagster.certificates import Authority, Trusted
from ioi_dagster.model.member import MemberRecord, sign_record
from ioi_dagster.signing import Signed, SigningKey


@dataclass(frozen=True)
class Author:
    """A domain with a key and an authority."""

    name: str
    key: SigningKey
    trusted: Trusted
    authority: str = ""
    old: tuple[SigningKey, ...] = field(default=())

    def record(self, serial: int = 1, **changes: Any) -> MemberRecord:
        keys = tuple(base64.b64encode(key.public_bytes).decode() for key in (self.key, *self.old))
        values: dict[str, Any] = {
            "network": "n",
            "domain": self.name,
            "serial": serial,
            "gateway": f"https://{self.name}:1",
            "authority": self.authority or f"{self.name}-authority",
            "authorities": (self.trusted,),
            "keys": keys,
            "clusters": (f"{self.name}-c",),
            **changes,
        }
        return MemberRecord(**values)

    def signed(self, serial: int = 1, **changes: Any) -> Signed:
        return sign_record(self.record(serial, **changes), self.key)


@cache
def author(name: str) -> Author:
    """The same each time."""
    return Author(name, SigningKey.generate(name), Authority.make(f"{name}-authority", 0.0).trusted(0.0))
