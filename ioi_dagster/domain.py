"""A domain's own folder: its keys, its trust, its static membership, its registry, its logs.

Nothing here is shared between domains; a peer is known only by its gateway's address and its public key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.signing import SigningKey, TrustedKeys


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """`scheduler` is Dask's (`tcp://…`), `governor` the cluster governor's HTTP address. Both are loopback or private."""

    name: str
    scheduler: str
    governor: str


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """What a domain's processes know at start. `peers` maps a domain's name to its gateway's address; `policies` is the
    folder with the built policy bundle; `scopes` are the policy scopes from the network down to this domain. `authorities`
    and `limits` say of every member which certificate authority it has and the highest class it may be given."""

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
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def work(self) -> Path:
        """Scratch of the domain's workers; a domain that retains nothing leaves it empty after a run."""
        return self.root / "work"

    @property
    def trust(self) -> Path:
        return self.root / "trust"

    @property
    def ledger(self) -> Path:
        """Fences, commits and stories of the runs that this domain owns."""
        return self.root / "ledger.sqlite"

    def config(self) -> DomainConfig:
        path = self.root / "domain.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=DomainConfig)
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

    def token(self) -> str:
        """The bearer token that this domain's own processes use among themselves."""
        return (self.root / "keys" / "token").read_text().strip()

    def trusted(self) -> TrustedKeys:
        return TrustedKeys.load(self.trust)


def home_domain() -> DomainHome | None:
    """The domain that this process works for: `$IOI_DOMAIN_HOME` in a domain's own processes, else the owner of runs
    started here, `$IOI_HOME/domains/$IOI_DOMAIN`; None when no policy root is configured."""
    own = os.environ.get("IOI_DOMAIN_HOME")
    if own:
        return DomainHome(Path(own))
    root, name = os.environ.get("IOI_HOME"), os.environ.get("IOI_DOMAIN")
    return DomainHome(Path(root) / "domains" / name) if root and name else None
