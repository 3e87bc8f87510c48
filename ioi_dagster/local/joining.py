"""One domain by its owner's hand: made, invited, joined, its keys changed, taken out of the network."""

from __future__ import annotations

import contextlib
import secrets
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ioi_dagster.adapters.http.client import GatewayClient, own_gateway
from ioi_dagster.adapters.http.tls import client_context
from ioi_dagster.adapters.sql.feed_own import OwnRecords
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.certificates import Authority, Role
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import ClusterAddress, DomainConfig, DomainHome
from ioi_dagster.errors import BadInputError, FinalError, IoiError, SignatureError, UnreachableError
from ioi_dagster.local.federation import governor_address, offered
from ioi_dagster.local.identity import (
    certificates,
    forget_damaged,
    identity_locked,
    locked,
    prepare_authority,
    prepare_certificates,
    prepare_folders,
    prepare_inviting,
    public,
    put_authority,
    renew_record,
    replace_certificate,
    replaced_certificates,
    sharing,
    take_back,
    what_dask_takes,
)
from ioi_dagster.local.member_book import (
    LEAVING,
    LEFT,
    TAKING_PART,
    FolderBook,
    change_config,
    know_all,
    own_record,
    take_in,
)
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.capability import BlockSpec
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec
from ioi_dagster.model.member import (
    INVITED,
    Invitation,
    Invited,
    MemberRecord,
    claims_others,
    first_record,
    sign_record,
)
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.ports import free_ports
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import Signed, SigningKey

MAX_INVITATION = 256 * 2**10
POLL_S = 0.1


def authority_of(home: DomainHome, name: str) -> Path:
    """The folder of the certificate authority `name` beside the domains of `home`."""
    return home.root.parent.parent / "authorities" / name


def init(
    home: DomainHome,
    network: str,
    spec: DomainSpec,
    listen: str,
    policies: Path,
    blocks: list[BlockSpec],
    now: float,
    topology: Path | None = None,
    links: tuple[Link, ...] = (),
    data: DataSpec | None = None,
) -> MemberRecord:
    """Folders, keys, certificates, configuration and the first record of a domain. `listen`: `host:port` of its
    gateway, port 0 for a free one; `topology`: the file that `spec` is from, if any; `links`, `data`: see
    `DomainConfig`. Raises
    `BadInputError` where the domain is there already."""
    if (home.root / "domain.json").exists():
        raise BadInputError("this domain is there already", where=str(home.root), todo="see it with `ioi domain show`")
    if home.name.startswith(INVITED):
        raise BadInputError(f"a domain's name may not begin with {INVITED!r}", todo="choose another name")
    prepare_folders(home)
    home.made_by_hand(topology)
    forget_damaged(home)
    prepare_authority(authority_of(home, spec.authority), spec.authority, now)
    host, _, port = listen.rpartition(":")
    ports = free_ports(1 + 2 * len(spec.clusters))
    clusters = tuple(
        ClusterAddress(
            cluster.name,
            f"tls://{host}:{ports.pop()}",
            governor_address(home.root / f"governor-{cluster.name}.sock", ports.pop()),
        )
        for cluster in spec.clusters
    )
    config = DomainConfig(
        network=network,
        home=home.name,
        spec=spec,
        gateway=f"https://{host}:{int(port) or ports.pop()}",
        clusters=clusters,
        peers={},
        policies=str(policies.resolve()),
        scopes=(network, f"{network}/{spec.scope}"),
        authorities={home.name: spec.authority},
        limits={home.name: spec.handles},
        links=links,
        data=(data or DataSpec()).at(str(home.root)),
    )
    home.save_config(config)
    write_private(home.root / "blocks.json", msgspec.json.encode(offered(spec, blocks)))
    sign_again(home, now)
    return own_record(home)


def take_data(home: DomainHome, say: Callable[[str], None]) -> None:
    """Where the domain keeps data is what its topology file says by now; without a file, or where it cannot be read, all stays: a
    file that was moved keeps no domain down."""
    if home.topology is None:
        return
    try:
        stated = load_topology(home.topology).data.get(home.name, DataSpec()).at(str(home.root))
    except BadInputError as error:
        say(f"where {home.name} keeps data stays as it was: {error}")
        return
    if stated != home.config().data:
        change_config(home, lambda config: replace(config, data=stated))


def sign_again(home: DomainHome, now: float) -> None:
    """The domain's record says what its configuration, keys and authority are now, and its configuration who the members are;
    certificates that end soon are renewed."""
    know_all(home)
    with identity_locked(home):
        config = home.config()
        authority = Authority.load(authority_of(home, config.spec.authority))
        prepare_certificates(home, authority, now)
        renew_record(home, authority, config.network, config.spec, config.gateway, now)


def invite(home: DomainHome, guest: str, give: DataClass, hours: float, now: float) -> Invitation:
    """For one guest, named or not. Who has it may join until it expires."""
    number, expires = secrets.token_hex(8), now + 3_600 * hours
    own = FolderBook(home).records()[home.name]
    with identity_locked(home):
        inviting = prepare_inviting(home, now)
    certificate = inviting.issue(INVITED + number, Role.CLIENT, now, max(hours / 24, 1 / 24))
    FolderBook(home).put_invited(Invited(number, give, expires, guest))
    return Invitation(number, own, certificate.decode(), expires)


def read_invitation(path: Path) -> Invitation:
    """Raises `BadInputError` where it is none."""
    todo = "ask the owner for another: `ioi domain invite`"
    try:
        if path.stat().st_size > MAX_INVITATION:
            raise BadInputError(f"an invitation has {MAX_INVITATION} bytes at most", where=str(path), todo=todo)
        return from_json(path.read_bytes(), Invitation)
    except msgspec.MsgspecError as error:
        raise BadInputError(f"this is no invitation: {error}", where=str(path), todo=todo) from error


def join(home: DomainHome, invitation: Invitation, give: DataClass, now: float, anew: bool = False) -> MemberRecord:
    """Trust on both sides: the host has this domain's record, and this domain the host's. `give`: the highest class
    that the host may be given. `anew`: a host that is known already counts by the invitation alone, since its keys were
    lost. Returns the host's record; raises `BadInputError` and `FinalError` with what is wrong."""
    with taking_part_locked(home):
        return _join(home, invitation, give, now, anew)


def _join(home: DomainHome, invitation: Invitation, give: DataClass, now: float, anew: bool) -> MemberRecord:
    host = first_record(invitation.record)
    if isinstance(host, Refusal):
        raise BadInputError(f"the invitation cannot be used: {host.text}", todo="ask for another: `ioi domain invite`")
    if host.domain == home.name:
        text = f"the invitation is of a domain that is called {home.name}, as this one is"
        raise BadInputError(text, todo="one of both is made anew under another name: `ioi domain init`")
    if invitation.expires < now:
        raise BadInputError(f"the invitation of {host.domain} has expired", todo="ask for another: `ioi domain invite`")
    known = None if anew else home.members().get(host.domain)
    if known is not None:
        _check_known(home, known, invitation.record)
    config = home.config()
    if host.network != config.network and len(home.members()) > 1:
        text = f"{host.domain} is of the network {host.network}, and {home.name} is a member of {config.network}"
        raise BadInputError(text, todo="leave that one first: `ioi domain leave`")
    others = [record for name, record in home.members().items() if name != host.domain]
    claim = claims_others(host, others)
    if claim is not None:
        raise BadInputError(claim.text, todo=claim.remedy)
    (home.root / LEAVING).unlink(missing_ok=True)
    if host.network != config.network:
        scopes = (host.network, f"{host.network}/{config.spec.scope}")
        change_config(home, lambda config: replace(config, network=host.network, scopes=scopes))
    sign_again(home, now)
    client = GatewayClient(host.gateway, host.domain, tls=invited_context(invitation, host))
    try:
        answer = client.join(FolderBook(home).records()[home.name])
    finally:
        client.close()
    newest = first_record(answer.record)
    oldest = max(host.serial, known.serial if known is not None else 0)
    if isinstance(newest, Refusal) or newest.domain != host.domain or newest.serial < oldest:
        raise BadInputError(f"{host.domain} answered with a record that is not its own", todo="ask its owner")
    take_in(home, answer.record, newest, give)
    return newest


def invited_context(invitation: Invitation, host: MemberRecord) -> ssl.SSLContext:
    """For connections to the gateway of `host` that the invitation opens."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(invitation.certificate)
        file.flush()
        return client_context(Path(file.name), host.authorities)


def _check_known(home: DomainHome, known: MemberRecord, signed: Signed) -> None:
    """Anybody may call his domain as a member is called, and invite to it."""
    try:
        known.trusted.verify(signed)
    except SignatureError:
        text = f"the invitation is not signed by a key that {home.name} knows of {known.domain}"
        todo = "ask its owner for one by another way; if it has lost its keys: `ioi domain join --anew`"
        raise BadInputError(text, todo=todo) from None


def rotate(home: DomainHome, revoke: bool, now: float, patience_s: float, say: Callable[[str], None]) -> MemberRecord:
    """A new signing key and new certificates, beside the old ones for an overlap; with `revoke` the old ones count no
    more as soon as the new ones are known. Dask knows no revocations, so then the authority is a new one too, unless others have
    it: then it is told to `say` what still counts. Peers learn it by the record; those that did not within `patience_s` seconds
    are told to `say`. Other commands of the domain wait meanwhile."""
    with identity_locked(home):
        return _rotate(home, revoke, now, patience_s, say)


def _rotate(home: DomainHome, revoke: bool, now: float, patience_s: float, say: Callable[[str], None]) -> MemberRecord:
    keys = home.root / "keys"
    old, new = home.signing_key(), SigningKey.generate(home.name)
    folder = authority_of(home, home.config().spec.authority)
    authority = Authority.load(folder)
    record = own_record(home)
    others = sharing(home, authority, now) if revoke else []
    next_ = Authority.make(record.authority, now) if revoke and not others else authority
    both = replace(record, serial=record.serial + 1, keys=(public(old), public(new)), issued=float(int(now)))
    if next_ is not authority:
        both = replace(both, authorities=(authority.trusted(now), next_.trusted(now)))
    home.put_own(sign_record(both, old))
    _wait_until_known(home, both.serial, patience_s, say)
    old.save(keys / "old.key")
    new.save(keys / "domain.key")
    _register_again(home, new, say)
    if others:
        say(what_dask_takes(home, record.authority, others))
    if next_ is not authority:
        put_authority(folder, next_)
    for role in certificates(home):
        replace_certificate(home, next_, role, now)
    told = replace(both, serial=both.serial + 1, keys=(public(new), public(old)))
    if revoke:
        (keys / "old.key").unlink()
        if others:
            next_ = take_back(folder, replaced_certificates(home))
        home.replaced_certificates.unlink()
        told = replace(told, keys=(public(new),), authorities=(next_.trusted(now),))
    home.put_own(sign_record(told, new))
    try:
        _wait_until_known(home, told.serial, patience_s, say)
    finally:
        # Dask's processes are started anew by it, and then all that they need is there.
        write_private(home.authority_certificate, told.authorities[0].certificate.encode())
    return told


def _register_again(home: DomainHome, key: SigningKey, say: Callable[[str], None]) -> None:
    """What is registered is signed by the new key while the old one still counts: its gateway would find nothing any more that it
    has to offer, until it starts anew."""
    if not home.registry.exists():
        return
    try:
        store = SqlRecordStore(home.registry, home.trusted())
        store.check_may_sign()
        own, _ = OwnRecords(store, home.name).news(None)
        events = [one.event.signed for one in own.pointed if one.event.signer == home.name]
        outcomes = [
            *store.put_many([key.sign(signed.body) for signed in own.records]),
            *store.point_many([key.sign(signed.body) for signed in events]),
        ]
        for refused in [one for one in outcomes if isinstance(one, FinalError)]:
            say(f"not all of its registry could be signed anew: {refused}")
    except Exception as error:  # whatever the file has: keys that are to be taken back are not kept for it
        say(
            f"its registry could not be signed anew: {error} — start its gateway anew, or nothing that it offers is found"
        )


def leave(
    home: DomainHome, patience_s: float, now: float, say: Callable[[str], None], give_up: bool = False
) -> MemberRecord:
    """Nothing new of others is taken; what runs here and the domain's own runs end first; then everybody is told. `give_up`: its
    own runs are not waited for, and lose what they have elsewhere. Raises `UnreachableError` where the domain's own gateway does
    not run, or steps or runs have not ended, or a cluster does not tell whether any have, after `patience_s` seconds: nothing was
    told then, and the domain takes part as before. One command at a time leaves or joins."""
    with taking_part_locked(home):
        return _leave(home, patience_s, now, say, give_up)


def taking_part_locked(home: DomainHome) -> contextlib.AbstractContextManager[None]:
    """For whoever has the domain join or leave, or puts one out: of two at once, one would take back what the other has done."""
    return locked(home.root / TAKING_PART)


def _leave(home: DomainHome, patience_s: float, now: float, say: Callable[[str], None], give_up: bool) -> MemberRecord:
    if has_left(home):
        raise BadInputError(f"{home.name} has left already", todo="`ioi domain join` comes back, with a new invitation")
    (home.root / LEAVING).touch()
    try:
        _wait_until_idle(home, patience_s, say, give_up)
    except BaseException:
        (home.root / LEAVING).unlink(missing_ok=True)
        raise
    with identity_locked(home):
        record = own_record(home)
        told = replace(record, serial=record.serial + 1, left=True, issued=float(int(now)))
        home.put_own(sign_record(told, home.signing_key()))
    _wait_until_known(home, told.serial, patience_s, say)
    for path in home.trust.glob("*.json"):
        if path.stem != home.name:
            path.unlink()
    change_config(home, lambda config: replace(config, peers={}, authorities=_own(config), limits=_own(config, True)))
    (home.root / LEAVING).write_text(LEFT)
    return told


def has_left(home: DomainHome) -> bool:
    """Has it left, and did those who are there have the time to learn it?"""
    try:
        return (home.root / LEAVING).read_text() == LEFT
    except FileNotFoundError:
        return False


def _own(config: DomainConfig, limit: bool = False) -> dict[str, Any]:
    name = config.spec.name
    return {name: config.limits[name] if limit else config.authorities[name]}


def _wait_until_idle(home: DomainHome, patience_s: float, say: Callable[[str], None], give_up: bool) -> None:
    until, said = time.monotonic() + patience_s, ""
    while True:
        left, silent = _leases(home)
        runs = [] if give_up else _open_runs(home)
        told = [f"{left} step{'s run' if left > 1 else ' runs'} here still"] if left else []
        told += [f"{', '.join(silent)} does not tell what it runs"] if silent else []
        told += [_not_ended(runs)] if runs else []
        if not told:
            return
        if "; ".join(told) != said:
            said = "; ".join(told)
            say(said)
        if time.monotonic() > until:
            raise UnreachableError("the end of what runs here", _why_not_idle(left, silent, runs, patience_s))
        time.sleep(POLL_S)


def _why_not_idle(left: int, silent: list[str], runs: list[str], patience_s: float) -> str:
    if silent:
        todo = "see its scheduler's log and `ioi status`, and try again when it answers"
        return f"{', '.join(silent)} does not tell after {patience_s:g} s what it runs — {todo}"
    if runs:
        them, they = ("it", "it has") if len(runs) == 1 else ("them", "they have")
        todo = f"give it more --patience, stop {them}, or have {them} lose what {they} elsewhere: --give-up-runs"
        return f"after {patience_s:g} s of its own {_not_ended(runs)} — {todo}"
    return f"{left} leases are held after {patience_s:g} s — give it more --patience, or stop those runs"


def _open_runs(home: DomainHome) -> list[str]:
    """The domain's own runs, which may have steps in other domains: what those make is refused once it has left."""
    if not home.ledger.exists():
        return []
    ledger = Ledger(home.ledger)
    try:
        return [f"{run[:8]} ({job})" for run, job in ledger.open_runs()]
    finally:
        ledger.close()


def _not_ended(runs: list[str], most: int = 5) -> str:
    more = [f"{len(runs) - most} more"] if len(runs) > most else []
    names = ", ".join([*runs[:most], *more])
    return f"run {names} has not ended" if len(runs) == 1 else f"runs {names} have not ended"


def _leases(home: DomainHome) -> tuple[int, list[str]]:
    """Leases that the domain's clusters hold, and those clusters that do not tell: what they run is not known. Raises
    `UnreachableError` where its gateway does not answer."""
    client = own_gateway(home)
    try:
        clusters = client.status()["clusters"]
    finally:
        client.close()
    silent = sorted(name for name, snapshot in clusters.items() if "leases" not in snapshot)
    running = (len(snapshot.get(part, ())) for snapshot in clusters.values() for part in ("leases", "abandoned"))
    return sum(running), silent


def _wait_until_known(home: DomainHome, serial: int, patience_s: float, say: Callable[[str], None]) -> None:
    """Until every peer that is there has told that it has the record of that serial. Without a gateway that runs, they
    learn it when it does."""
    until, missing = time.monotonic() + patience_s, ["?"]
    client = own_gateway(home)
    try:
        while missing and time.monotonic() < until:
            rows = client.members()
            missing = [name for name, row in rows.items() if row["state"] == "alive" and row["has_ours"] < serial]
            if missing:
                time.sleep(POLL_S)
    except IoiError as error:
        missing = [name for name in home.members() if name != home.name]
        say(f"its own gateway does not tell who knows it: {error}")
    finally:
        client.close()
    if missing and missing != ["?"]:
        say(f"not known yet to {', '.join(sorted(missing))}: they learn it when they are there")


def listening(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`. Raises `BadInputError`."""
    parts = urlsplit(f"//{address}")
    try:
        if parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise BadInputError(f"{address!r} is no address", todo="write host:port, as 10.1.2.3:7443; port 0 takes a free one")
