"""Domains' folders with keys, certificates and each other's records, as their owners would have made them."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from ioi_dagster.certificates import Authority
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.local.identity import prepare_certificates, prepare_folders, renew_record
from ioi_dagster.local.joining import authority_of
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec


@dataclass(frozen=True)
class Realm:
    home: DomainHome
    authority: Authority
    spec: DomainSpec


def realm(root: Path, name: str, authority: Authority | None = None, now: float | None = None) -> Realm:
    """A domain with one cluster of one node, and an authority of its own unless it is given one. `now`: Unix seconds at
    which its certificates were issued."""
    home, at = DomainHome(root / name), time.time() if now is None else now
    prepare_folders(home)
    authority = authority or Authority.make(f"{name}-authority", time.time())
    prepare_certificates(home, authority, at)
    spec = DomainSpec(name, f"{name}-authority", (ClusterSpec(f"{name}-c", (NodeSpec(f"{name}-1"),)),))
    return Realm(home, authority, spec)


def introduce(*realms: Realm, gateways: dict[str, str] | None = None) -> None:
    """Each has the newest record of all."""
    for one in realms:
        address = (gateways or {}).get(one.home.name, "https://127.0.0.1:1")
        signed = renew_record(one.home, one.authority, "n", one.spec, address, time.time())
        for other in realms:
            other.home.put_member(signed)


def owned(root: Path, name: str) -> Realm:
    """A domain as `ioi domain init` makes it."""
    one = realm(root / "domains", name)
    introduce(one)
    one.authority.save(authority_of(one.home, one.spec.authority))
    its = {name: one.spec.authority}, {name: one.spec.handles}
    config = DomainConfig("n", name, one.spec, "https://127.0.0.1:1", (), {}, "", (), *its)
    one.home.save_config(config)
    return one


def shake(asks: ssl.SSLContext, asked: ssl.SSLContext) -> None:
    """A handshake in memory. Raises `ssl.SSLError` where either side refuses the other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asks.wrap_bio(back, there)
    server = asked.wrap_bio(there, back, server_side=True)
    open_ = [client, server]
    while open_:
        for side in list(open_):
            try:
                side.do_handshake()
                open_.remove(side)
            except ssl.SSLWantReadError:
                pass


def into_dask(lab: DomainHome, shown: Path) -> None:
    """As a client that shows that certificate reaches a scheduler of the lab, see `supervisor.dask_tls`."""
    from distributed.security import Security

    node, authority = str(lab.node_certificate), str(lab.authority_certificate)
    asked = Security(
        tls_ca_file=authority, tls_scheduler_cert=node, tls_scheduler_key=node, require_encryption=True
    ).get_listen_args("scheduler")["ssl_context"]
    asks = Security(
        tls_ca_file=authority, tls_client_cert=str(shown), tls_client_key=str(shown), require_encryption=True
    ).get_connection_args("client")["ssl_context"]
    shake(asks, asked)
