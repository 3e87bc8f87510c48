"""A domain's own folder: its keys and certificates, whom it trusts, its registry, its logs.

Nothing here is shared between domains; a peer is known by the record that it signed of itself.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ioi_dagster.certificates import Trusted
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec
from ioi_dagster.model.member import MAX_CHAIN, MemberRecord, read_record
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """`scheduler` is Dask's (`tcp://…`, `tls://…`), `governor` the cluster governor's (`unix:PATH`,
    `tcp://HOST:PORT`). Both are loopback or private."""

    name: str
    scheduler: str
    governor: str


def hidden(scheduler: str) -> bool:
    """Can nobody on the way listen: TLS, or an address of this machine itself?"""
    parts = urlsplit(scheduler)
    if parts.scheme == "tls":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """What a domain's processes know at start. `peers` maps a domain's name to its gateway's address; `policies` is the
    folder with the built policy bundle; `scopes` are the policy scopes from the network down to this domain.
    `authorities` and `limits` say of every member which certificate authority it has and the highest class it may be
    given. `introductions`: whether a domain of which a member tells becomes one too, with what is public; else only who is
    invited or invites. `expelled`: those that the owner has put out, and why; they are members again by a new invitation
    alone. `vouched`: whom a member has introduced, and that member. Its gateway goes by all but these three as it was at its
    start. `links`: what is told of what lies between this domain and others; a run goes by them as they were at its start.
    `data`: where it keeps data, with whole URLs; `regions`: in which others keep theirs, as far as its owner knows."""

    network: str
    home: str
    spec: DomainSpec
    gateway: str
    clusters: tuple[ClusterAddress, ...]
    peers: dict[str, str]
    policies: str
    scopes: tuple[str, ...]
    authorities: dict[str, str]
    limits: dict[str, DataClass]
    introductions: bool = True
    expelled: dict[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    vouched: dict[str, str] = field(default_factory=dict)
    data: DataSpec = field(default_factory=DataSpec)
    regions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DomainHome:
    """Paths and secrets of one domain under `root` (`$IOI_HOME/domains/<name>`)."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def registry(self) -> Path:
        return self.root / "registry.sqlite"

    @property
    def standing(self) -> Path:
        """How clusters stand with the domain, by what its runs have seen."""
        return self.root / "standing"

    @property
    def originals(self) -> Path:
        """Which data its owner has registered, and where it lies (`adapters/fsspec/stores`)."""
        return self.root / "originals.json"

    @property
    def kept_where(self) -> Path:
        """In which domains the owner wants copies of his data."""
        return self.root / "kept-where.json"

    @property
    def store_credentials(self) -> Path:
        """fsspec's options by the names that `DataSpec` has for them, as JSON; its owner writes it."""
        return self.root / "keys" / "stores.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Scratch of the domain's workers; a domain that retains nothing leaves it empty after a run."""
        return self.root / "work"

    @property
    def by_hand(self) -> Path:
        """A file that is there where its owner has made the domain by his own command, and no federation knows it. It names the
        domain's topology file, if there is one."""
        return self.root / "by-hand"

    @property
    def topology(self) -> Path | None:
        """The file from which a domain that was made by hand has its quotas; None where it has none."""
        try:
            noted = self.by_hand.read_text()
        except FileNotFoundError:
            return None
        return Path(noted) if noted else None

    def made_by_hand(self, topology: Path | None) -> None:
        """It is, and has its quotas from that file."""
        self.by_hand.write_text("" if topology is None else str(topology.resolve()))

    @property
    def trust(self) -> Path:
        """The newest record of each member, the domain's own among them, in a file of its name."""
        return self.root / "trust"

    @property
    def gateway_certificate(self) -> Path:
        """PEM, with its key: what the gateway shows."""
        return self.root / "keys" / "gateway.pem"

    @property
    def client_certificate(self) -> Path:
        """PEM, with its key: what the domain's processes show to gateways."""
        return self.root / "keys" / "client.pem"

    @property
    def node_certificate(self) -> Path:
        """PEM, with its key: what the domain's Dask processes show to each other and to clients, where they use TLS."""
        return self.root / "keys" / "node.pem"

    @property
    def authority_certificate(self) -> Path:
        """PEM: the domain's own authority, for Dask."""
        return self.root / "keys" / "authority.pem"

    @property
    def replaced_certificates(self) -> Path:
        """Serial numbers of certificates that were replaced, a line each, hex: they are to be revoked with the present ones."""
        return self.root / "keys" / "replaced"

    @property
    def inviting_authority(self) -> Path:
        """The folder of the authority that issues what invitations show, and nothing else."""
        return self.root / "keys" / "inviting"

    @property
    def inviting_trusted(self) -> Path:
        """The same as the gateway knows it, without its key."""
        return self.root / "keys" / "inviting.json"

    def inviting(self) -> Trusted | None:
        """What the gateway lets in to join; None where nobody was ever invited. Neither members nor Dask know it: to both an
        invitation's certificate is a stranger's."""
        try:
            return from_json(self.inviting_trusted.read_bytes(), Trusted)
        except FileNotFoundError:
            return None

    @property
    def ledger(self) -> Path:
        """Fences, commits and stories of the runs that this domain owns."""
        return self.root / "ledger.sqlite"

    def config(self) -> DomainConfig:
        path = self.root / "domain.json"
        try:
            return from_json(path.read_bytes(), DomainConfig)
        except (OSError, msgspec.MsgspecError) as error:
            raise BadInputError(
                f"cannot read the domain's configuration: {error}", where=str(path), todo="run `ioi up` or `ioi run`"
            ) from error

    def changed_at(self) -> int:
        """When the configuration was saved last (ns); 0 where there is none."""
        try:
            return (self.root / "domain.json").stat().st_mtime_ns
        except OSError:
            return 0

    def save_config(self, config: DomainConfig) -> None:
        temporary = self.root / ".domain.json.new"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
        temporary.replace(self.root / "domain.json")

    def signing_key(self) -> SigningKey:
        return SigningKey.load(self.name, self.root / "keys" / "domain.key")

    def own_key(self) -> OwnKey:
        """For processes that outlive a change of keys."""
        return OwnKey(self.name, self.root / "keys" / "domain.key")

    def token(self) -> str:
        """The bearer token that this domain's own processes use among themselves."""
        return (self.root / "keys" / "token").read_text().strip()

    def trusted(self) -> TrustedKeys:
        """The keys of all members; members that come, change their keys or go count from then on."""
        return TrustedKeys(_KeysOf(TrustFolder(self.trust)))

    def members(self) -> dict[str, MemberRecord]:
        """Domain → its newest record; the domain's own among them."""
        return TrustFolder(self.trust).records()

    def put_member(self, signed: Signed) -> None:
        """Keep a record that was checked, instead of an older one of its domain."""
        write_private(self.trust / f"{signed.body['domain']}.json", msgspec.json.encode(signed))

    def put_own(self, signed: Signed) -> None:
        """Keep the domain's own newest record, and those before it for who has missed some. One of the same serial that was not
        kept to the end, since its writer was killed, is replaced: nobody was told of it."""
        before = [one for one in self.own_chain() if one.body["serial"] < signed.body["serial"]]
        write_private(self.root / "records.json", msgspec.json.encode([*before, signed][-MAX_CHAIN:]))
        self.put_member(signed)

    def own_chain(self) -> list[Signed]:
        """The domain's own records, oldest first; empty where there is none."""
        try:
            return from_json((self.root / "records.json").read_bytes(), list[Signed])
        except FileNotFoundError:
            return []


class OwnKey:
    """The key that a domain signs by, as it is now: a call returns the same one until its file was replaced, which a look at the
    file tells."""

    def __init__(self, domain: str, path: Path) -> None:
        self._domain, self._path = domain, path
        self._known = self._stamp(), SigningKey.load(domain, path)

    def __call__(self) -> SigningKey:
        stamp = self._stamp()
        if stamp != self._known[0]:
            # Read after the look: one that is replaced in between is read again the next time.
            self._known = stamp, SigningKey.load(self._domain, self._path)
        return self._known[1]

    def _stamp(self) -> tuple[int, int]:
        told = self._path.stat()
        return told.st_mtime_ns, told.st_ino


class TrustFolder:
    """The members' records as they are now; read again when one has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._seen = folder, -1
        self._signed: dict[str, Signed] = {}
        self._all: dict[str, MemberRecord] = {}
        self._records: dict[str, MemberRecord] = {}
        self._keys: dict[str, bytes] = {}

    def changed_at(self) -> int:
        """A number that differs when a record was put or removed (ns); 0 where there is no folder."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def records(self) -> dict[str, MemberRecord]:
        """Of those that take part. Raises `BadInputError` where one cannot be read: it was damaged after it had been checked."""
        self._look()
        return self._records

    def all(self) -> dict[str, MemberRecord]:
        """Also of those that have left."""
        self._look()
        return self._all

    def signed(self) -> dict[str, Signed]:
        """All of them as they were signed."""
        self._look()
        return self._signed

    def keys(self) -> dict[str, bytes]:
        """Key id → public key, of all members."""
        self._look()
        return self._keys

    def authorities(self) -> dict[str, tuple[Trusted, ...]]:
        """Domain → the authorities that may issue certificates for it."""
        return {name: record.authorities for name, record in self.records().items()}

    def _look(self) -> None:
        changed = self.changed_at()
        if changed == self._seen:
            return
        every: dict[str, MemberRecord] = {}
        signed: dict[str, Signed] = {}
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                text = from_json(path.read_bytes(), Signed)
                record = read_record(text)
            except FileNotFoundError:
                continue
            except (OSError, msgspec.MsgspecError) as error:
                raise BadInputError(
                    f"a member's record cannot be read: {error}", where=str(path), todo=_REJOIN
                ) from error
            if isinstance(record, Refusal):
                raise BadInputError(f"a member's record cannot be used: {record.text}", where=str(path), todo=_REJOIN)
            every[record.domain], signed[record.domain] = record, text
        self._all, self._signed = every, signed
        # To itself a domain that has left is known still: its own processes talk on until they end.
        own = self._folder.parent.name
        self._records = {name: record for name, record in every.items() if not record.left or name == own}
        self._keys = {key: raw for record in self._records.values() for key, raw in record.trusted.keys.items()}
        self._seen = changed


_REJOIN = "remove the file, and join the domain again (`ioi up` makes those of its own domains anew)"


@dataclass(frozen=True, slots=True)
class _KeysOf(Mapping[str, bytes]):
    folder: TrustFolder

    def __getitem__(self, key: str) -> bytes:
        return self.folder.keys()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.folder.keys())

    def __len__(self) -> int:
        return len(self.folder.keys())


def home_domain() -> DomainHome | None:
    """The domain that this process works for: `$IOI_DOMAIN_HOME` in a domain's own processes, else the owner of runs
    started here, `$IOI_HOME/domains/$IOI_DOMAIN`; None when no policy root is configured."""
    own = os.environ.get("IOI_DOMAIN_HOME")
    if own:
        return DomainHome(Path(own))
    root, name = os.environ.get("IOI_HOME"), os.environ.get("IOI_DOMAIN")
    return DomainHome(Path(root) / "domains" / name) if root and name else None
