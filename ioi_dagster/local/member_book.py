"""What a domain knows of the network's members, in its folder, where its gateway and its owner's commands write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainConfig, DomainHome, TrustFolder
from ioi_dagster.errors import BadInputError
from ioi_dagster.governors.network import Keep
from ioi_dagster.local.identity import is_locked, locked
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.member import INVITED, Invited, MemberRecord
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import Signed

LEAVING = "leaving"
"""The file that says so: its domain takes nothing new while the command runs that makes it leave, and once it says `LEFT`."""
LEFT = "left"
TAKING_PART = "taking-part.lock"
"""Locked by that command."""


class FolderBook:
    """Implements `adapters.http.membership.MemberBook` on the folder of a domain."""

    def __init__(self, home: DomainHome) -> None:
        self._home, self._folder = home, TrustFolder(home.trust)

    def records(self) -> dict[str, Signed]:
        return self._folder.signed()

    def read(self) -> dict[str, MemberRecord]:
        return self._folder.all()

    def authorities(self) -> dict[str, str]:
        return {name: record.authority for name, record in self._folder.records().items()}

    def chain(self, domain: str, after: int) -> tuple[Signed, ...]:
        if domain == self._home.name:
            found = self._home.own_chain()
        else:
            found = [one for name, one in self.records().items() if name == domain]
        return tuple(signed for signed in found if signed.body["serial"] > after)

    def keep(self, kept: Keep, give: DataClass | None = None) -> None:
        take_in(self._home, kept.signed, kept.record, give)

    def may_be_given(self, domain: str) -> DataClass:
        return self._home.config().limits.get(domain, DataClass.PUBLIC)

    def invited(self, name: str) -> Invited | None:
        if not name.startswith(INVITED) or not name.removeprefix(INVITED).isalnum():
            return None
        try:
            return from_json(self._invitation(name.removeprefix(INVITED)).read_bytes(), Invited)
        except FileNotFoundError:
            return None

    def used(self, invited: Invited) -> None:
        write_private(self._invitation(invited.id), msgspec.json.encode(invited))

    def put_invited(self, invited: Invited) -> None:
        """Remember whom the owner has invited."""
        folder = self._home.root / "invitations"
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self._invitation(invited.id), msgspec.json.encode(invited))

    def changed_at(self) -> object:
        return self._folder.changed_at()

    def leaving(self) -> bool:
        try:
            said = (self._home.root / LEAVING).read_text()
        except FileNotFoundError:
            return False
        # A command that was killed leaves the file behind, and may have told others or not.
        return said == LEFT or is_locked(self._home.root / TAKING_PART) or own_record(self._home).left

    def _invitation(self, number: str) -> Path:
        return self._home.root / "invitations" / f"{number}.json"


def take_in(home: DomainHome, signed: Signed, record: MemberRecord, give: DataClass | None = None) -> None:
    """A member, by a record that was checked. `give`: as `know` says; it is written first, so that who is a member is given
    that and nothing else wherever this process is killed, and `know_all` makes up for the rest."""
    if give is not None:
        change_config(home, lambda config: replace(config, limits={**config.limits, record.domain: give}))
    home.put_member(signed)
    know(home, record, give)


def know_all(home: DomainHome) -> None:
    """As `know` for each member whose record is kept: whoever was to write it down may have been killed."""
    for name, record in TrustFolder(home.trust).all().items():
        if name != home.name:
            know(home, record)


def know(home: DomainHome, record: MemberRecord, give: DataClass | None = None) -> None:
    """The domain's configuration names a member as its record says. `give`: the highest class that it may be given from
    now on; who is new may be given what is public."""

    def named(config: DomainConfig) -> DomainConfig:
        name = record.domain
        peers, limits = dict(config.peers), dict(config.limits)
        authorities = {**config.authorities, name: record.authority}
        if record.left:
            for known in (peers, limits, authorities):
                known.pop(name, None)
        else:
            peers[name] = record.gateway
            limits[name] = give or limits.get(name, DataClass.PUBLIC)
        return replace(config, peers=peers, limits=limits, authorities=authorities)

    change_config(home, named)


def change_config(home: DomainHome, change: Callable[[DomainConfig], DomainConfig]) -> None:
    """Save what `change` makes of the configuration as it is."""
    with locked(home.root / "config.lock"):
        config = home.config()
        changed = change(config)
        if changed != config:
            home.save_config(changed)


def own_record(home: DomainHome) -> MemberRecord:
    """Raises `BadInputError` where the domain has none."""
    record = TrustFolder(home.trust).all().get(home.name)
    if record is None:
        raise BadInputError("it has no record of itself", where=str(home.root), todo="run `ioi domain init`")
    return record
