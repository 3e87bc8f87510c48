"""What a domain knows of the network's members, in its folder, where its gateway and its owner's commands write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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

    def keep(self, kept: Keep, give: DataClass | None = None, by: Invited | None = None) -> bool:
        return take_in(self._home, kept.signed, kept.record, give, by, kept.vouched)

    def forget(self, name: str) -> None:
        with _changing(self._home) as config:
            _forget(self._home, config, name)

    def expelled(self) -> Collection[str]:
        return self._home.config().expelled

    def vouched(self) -> Mapping[str, str]:
        return self._home.config().vouched

    def introductions(self) -> bool:
        return self._home.config().introductions

    def may_be_given(self, domain: str) -> DataClass:
        return self._home.config().limits.get(domain, DataClass.PUBLIC)

    def invited(self, name: str) -> Invited | None:
        if not name.startswith(INVITED) or not name.removeprefix(INVITED).isalnum():
            return None
        return _invited(_invitation(self._home, name.removeprefix(INVITED)))

    def put_invited(self, invited: Invited) -> None:
        """Remember whom the owner has invited."""
        path = _invitation(self._home, invited.id)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(path, msgspec.json.encode(invited))

    def changed_at(self) -> object:
        return self._folder.changed_at(), self._home.changed_at()

    def leaving(self) -> bool:
        try:
            said = (self._home.root / LEAVING).read_text()
        except FileNotFoundError:
            return False
        # A command that was killed leaves the file behind, and may have told others or not.
        return said == LEFT or is_locked(self._home.root / TAKING_PART) or own_record(self._home).left


def take_in(
    home: DomainHome,
    signed: Signed,
    record: MemberRecord,
    give: DataClass | None = None,
    by: Invited | None = None,
    vouched: str = "",
) -> bool:
    """A member, by a record that was checked. `give`: as `know` says; it is written first, so that who is a member is given that
    and nothing else wherever this process is killed, and `know_all` makes up for the rest. `by`: the guest's invitation as it was
    read, which is used by it from now on, whatever happens then. Who is expelled comes back by one that was made for it, or by
    the owner's own word (`give` alone). `vouched`: the member that introduces it. False, and nothing is done,
    for others who are expelled, and where the invitation has changed."""
    with _changing(home) as config:
        if by is not None and _invited(_invitation(home, by.id)) != by:
            return False
        name, meant = record.domain, by is None or by.domain == record.domain
        if name in config.expelled and (give is None or not meant):
            return False
        if by is not None and not by.used_by:
            write_private(_invitation(home, by.id), msgspec.json.encode(replace(by, used_by=name)))
        if give is not None:
            expelled = {one: why for one, why in config.expelled.items() if one != name}
            config = replace(config, limits={**config.limits, name: give}, expelled=expelled)
            home.save_config(replace(config, vouched=_but(config.vouched, name)))
        elif vouched or (by is not None and name in config.vouched):
            told = {name: vouched} if vouched else {}
            home.save_config(replace(config, vouched=_but(config.vouched, name) | told))
        home.put_member(signed)
    know(home, record, give)
    return True


def put_out(home: DomainHome, name: str, why: str) -> bool:
    """From now on the domain `name` is no member, whatever others tell: neither its keys nor its certificates count, and no
    invitation that it may have. False where it was put out already."""
    with _changing(home) as config:
        fresh = name not in config.expelled
        if fresh:
            config = replace(config, expelled={**config.expelled, name: why})
        _forget(home, config, name)
        for path in (home.root / "invitations").glob("*.json"):
            invited = _invited(path)
            # By one that cannot be read nobody comes; whose it is nobody knows.
            if invited is None or name in (invited.domain, invited.used_by):
                path.unlink(missing_ok=True)
    return fresh


def _forget(home: DomainHome, config: DomainConfig, name: str) -> None:
    home.save_config(replace(_without(config, name), vouched=_but(config.vouched, name)))
    (home.trust / f"{name}.json").unlink(missing_ok=True)


def _but(names: Mapping[str, str], name: str) -> dict[str, str]:
    return {one: its for one, its in names.items() if one != name}


def _invitation(home: DomainHome, number: str) -> Path:
    return home.root / "invitations" / f"{number}.json"


def _invited(path: Path) -> Invited | None:
    """None where it is not there, or cannot be read."""
    try:
        return from_json(path.read_bytes(), Invited)
    except (OSError, msgspec.MsgspecError):
        return None


def know_all(home: DomainHome) -> None:
    """As `know` for each member whose record is kept: whoever was to write it down may have been killed."""
    for name, record in TrustFolder(home.trust).all().items():
        if name != home.name:
            know(home, record)


def know(home: DomainHome, record: MemberRecord, give: DataClass | None = None) -> None:
    """The domain's configuration names a member as its record says. `give`: the highest class that it may be given from
    now on; who is new may be given what is public. Of who is expelled nothing stays."""

    def named(config: DomainConfig) -> DomainConfig:
        name = record.domain
        if name in config.expelled:
            (home.trust / f"{name}.json").unlink(missing_ok=True)
        if record.left or name in config.expelled:
            return _without(config, name)
        return replace(
            config,
            peers={**config.peers, name: record.gateway},
            limits={**config.limits, name: give or config.limits.get(name, DataClass.PUBLIC)},
            authorities={**config.authorities, name: record.authority},
        )

    change_config(home, named)


def change_config(home: DomainHome, change: Callable[[DomainConfig], DomainConfig]) -> None:
    """Save what `change` makes of the configuration as it is."""
    with _changing(home) as config:
        changed = change(config)
        if changed != config:
            home.save_config(changed)


def start_anew(home: DomainHome, config: DomainConfig) -> None:
    """Save what a topology makes of the domain. What its owner has said since stands: introductions, and who is put out, whom it
    does not name. Raises `BadInputError` where that cannot be read: whom he has put out would be a member again."""
    with locked(home.root / "config.lock"):
        said = _said(home)
        for name in said.expelled:
            config = _without(config, name)
        home.save_config(replace(config, introductions=said.introductions, expelled=said.expelled))


def meet(home: DomainHome, records: Mapping[str, Signed]) -> None:
    """The domain has these records, which were checked, and no others; of whom its owner has put out none."""
    with _changing(home) as config:
        met = {name: signed for name, signed in records.items() if name not in config.expelled}
        for old in home.trust.iterdir():
            if old.stem not in met:
                old.unlink()
        for signed in met.values():
            home.put_member(signed)


@dataclass(frozen=True, slots=True)
class _Said:
    """What of a configuration no topology says."""

    introductions: bool = True
    expelled: dict[str, str] = field(default_factory=dict)


def _said(home: DomainHome) -> _Said:
    path = home.root / "domain.json"
    try:
        return from_json(path.read_bytes(), _Said)
    except FileNotFoundError:
        return _Said()
    except (OSError, msgspec.MsgspecError) as error:
        raise BadInputError(
            f"whom {home.name} has expelled cannot be read: {error}",
            where=str(path),
            todo="mend the file; or remove it, start again, and expel them anew: `ioi domain expel`",
        ) from error


def introduce(home: DomainHome, on: bool) -> bool:
    """Whether whom a member tells of is one too, from now on. False where it was so already."""
    before = home.config().introductions
    change_config(home, lambda config: replace(config, introductions=on))
    return before is not on


@contextmanager
def _changing(home: DomainHome) -> Iterator[DomainConfig]:
    """The configuration as it is; nobody else changes it meanwhile."""
    with locked(home.root / "config.lock"):
        yield home.config()


def _without(config: DomainConfig, name: str) -> DomainConfig:
    peers, limits, authorities = dict(config.peers), dict(config.limits), dict(config.authorities)
    for known in (peers, limits, authorities):
        known.pop(name, None)
    return replace(config, peers=peers, limits=limits, authorities=authorities)


def own_record(home: DomainHome) -> MemberRecord:
    """Raises `BadInputError` where the domain has none."""
    record = TrustFolder(home.trust).all().get(home.name)
    if record is None:
        raise BadInputError("it has no record of itself", where=str(home.root), todo="run `ioi domain init`")
    return record
