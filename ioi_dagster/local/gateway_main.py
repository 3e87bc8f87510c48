"""`python -m ioi_dagster.local.gateway_main`: one domain's gateway process. Environment: `IOI_DOMAIN_HOME`."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import threading
from dataclasses import replace
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import msgspec
import uvicorn

from ioi_dagster.adapters.dask.client import DaskRunner
from ioi_dagster.adapters.files.blocks import read_blocks
from ioi_dagster.adapters.files.only_one import only_one
from ioi_dagster.adapters.files.standing import StandingFile
from ioi_dagster.adapters.files.tokens import TokenFile
from ioi_dagster.adapters.http.feeds import FeedDesk
from ioi_dagster.adapters.http.gateway import GatewayContext, create_app
from ioi_dagster.adapters.http.listening import Listener, TlsServer
from ioi_dagster.adapters.http.serving import MAX_CONNECTIONS, serving_protocol
from ioi_dagster.adapters.http.standing import StandingDesk
from ioi_dagster.adapters.http.tls import PEOPLE, client_context, people_context, tls_of
from ioi_dagster.adapters.http.transport import over_aiohttp
from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.opa.bundle_file import BundleFile
from ioi_dagster.adapters.sql.feed_own import OwnRecords
from ioi_dagster.adapters.sql.feed_records import FeedRecords
from ioi_dagster.adapters.sql.feeds import SqlFeeds
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.adapters.sql.registry_desk import SqlRegistryDesk
from ioi_dagster.adapters.sql.registry_tables import feeds as tables
from ioi_dagster.clock import Clock, SystemClock
from ioi_dagster.decoding import from_json
from ioi_dagster.domain import DomainConfig, DomainHome, TrustFolder
from ioi_dagster.local.data_desk import data_desk
from ioi_dagster.local.identity import end_overlaps
from ioi_dagster.local.member_book import FolderBook
from ioi_dagster.local.ordering import Ordering
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.policy.decision_log import DecisionLog
from ioi_dagster.policy.documents import placement_document
from ioi_dagster.policy.gate import Gate
from ioi_dagster.private_file import write_private
from ioi_dagster.ras.feeds.replica import Replica
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.signing import SigningKey

log = logging.getLogger("ioi.gateway")
BACKLOG = 2048
MAX_PEOPLE = 128
"""Connections of those who show a token and no certificate."""
SPARE_FILES = 1_024
"""Descriptors besides the connections that it takes: its own lines, files, libraries."""


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # It writes a line for each request that is passed on to a cluster.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    home = DomainHome(Path(os.environ["IOI_DOMAIN_HOME"]))
    # Of two each would know half of what is reported.
    with only_one(home.root / "gateway.lock", f"a gateway of {home.name}"):
        # Not in its loop: a command that changes keys may hold them for half a minute.
        over, its = threading.Event(), (home, SystemClock())
        threading.Thread(target=lambda: end_overlaps(*its, over.wait), name="old-keys", daemon=True).start()
        try:
            serve(home)
        finally:
            over.set()


def serve(home: DomainHome) -> None:
    """Answer for the domain until told to stop."""
    config, clock = home.config(), SystemClock()
    bundle = BundleFile(Path(config.policies) / "bundle" / "bundle.tar.gz")
    engine = bundle.engine()
    gate = Gate(None, config.scopes, clock, DecisionLog(home.root / "decisions.jsonl"), newest=bundle.engine)

    def decide(origin: str, authority: str, capability: str, data_class: DataClass) -> Decision:
        document = placement_document(
            now=clock.wall(),
            origin=origin,
            origin_authority=authority,
            capability=capability,
            data_class=data_class,
            domain=home.name,
            authority=config.spec.authority,
            handles=config.spec.handles,
            region=config.spec.region,
        )
        return gate.decide("placement", document)

    tls, peers = tls_of(home)
    store = SqlRecordStore(home.registry, home.trusted())
    register(home, config, store, engine.revision)
    context = GatewayContext(
        config=config,
        token=home.token(),
        trusted=home.trusted(),
        store=store,
        decide=decide,
        runners={cluster.name: DaskRunner(cluster.scheduler) for cluster in config.clusters},
        clock=clock,
        clusters={item.name: ClusterLine(item.name, item.governor, home.token()) for item in config.clusters},
        peers=peers,
        http_to=lambda record: _asking(home, record),
        shown=home.client_certificate.read_bytes,
        book=FolderBook(home),
        standing=StandingDesk(clock, StandingFile(home.standing)),
        orders=Ordering(home, gate),
        feeds=_feeds(home, store, clock),
        data=data_desk(home, config, store, gate, clock),
        epoch=_next_epoch(home.root / "gateway.epoch", clock.wall()),
        registry=SqlRegistryDesk(store, home.name),
        tokens=TokenFile(home).known,
        key=home.own_key(),
    )
    _allow_files(MAX_CONNECTIONS + MAX_PEOPLE + SPARE_FILES)
    address = urlsplit(config.gateway)
    assert address.hostname and address.port
    settings = uvicorn.Config(
        create_app(context),
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS + MAX_PEOPLE,
        http=serving_protocol(peers),
    )
    with contextlib.ExitStack() as open_:
        listener = open_.enter_context(_listening(address.hostname, address.port))
        also = people_listeners(home)
        for one in also:
            open_.enter_context(one.listens)
        TlsServer(settings, tls, also).run([listener])


def people_listeners(home: DomainHome) -> list[Listener]:
    """Where tokens are taken of who shows no certificate, if the owner has said where. The domain serves its members also where
    that address cannot be had."""
    address = TokenFile(home).listen()
    if not address:
        return []
    its = urlsplit(f"//{address}")
    try:
        listens = _listening(its.hostname or "", its.port or 0)
    except OSError as error:
        log.error("tokens are not taken at %s: %s — see `ioi ras token listen`", address, error)
        return []
    return [Listener(listens, people_context(home), serving_protocol(None, MAX_PEOPLE, {PEOPLE: True}))]


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _feeds(home: DomainHome, store: SqlRecordStore, clock: Clock) -> FeedDesk:
    """What the domain tells to other registries, and takes of them."""
    feeds = SqlFeeds(store.engine, tables, FeedRecords(store, home.name))
    replica = Replica(home.name, feeds.kept(), home.trusted(), feeds, Random())
    folder = TrustFolder(home.trust)
    root = home.root / "keys" / "feeds.root"
    if not root.exists() and not any(kept.at.feed.origin == home.name for kept in feeds.kept()):
        SigningKey.generate(home.name).save(root)

    def the_root() -> SigningKey | None:
        return SigningKey.load(home.name, root) if root.exists() else None

    return FeedDesk(
        home.name,
        feeds,
        replica,
        home.own_key(),
        the_root,
        folder.records,
        lambda record: _asking(home, record),
        clock,
        home.client_certificate.read_bytes,
        store.check_may_sign,
        OwnRecords(store, home.name),
    )


def _allow_files(count: int) -> None:
    """Many systems begin a process with 1,024 of them at most, and let it have more (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _asking(home: DomainHome, peer: MemberRecord) -> httpx.AsyncClient:
    """What asks the gateway of `peer` how it is."""
    tls = client_context(home.client_certificate, peer.authorities)
    transport = over_aiohttp(httpx.Limits(max_connections=4), tls, peer.domain)
    return httpx.AsyncClient(trust_env=False, transport=transport)


def _next_epoch(path: Path, now: float) -> int:
    """Higher than that of any start before, also where the clock was set back or the file is lost. `now`: Unix seconds."""
    try:
        before = int(path.read_text())
    except (OSError, ValueError):
        before = 0
    epoch = max(before + 1, int(now))
    write_private(path, str(epoch).encode())
    return epoch


def register(home: DomainHome, config: DomainConfig, store: SqlRecordStore, revision: str) -> None:
    """The domain's own records. Versions carry a digest of the content, so registering again is idempotent."""
    from ioi_dagster.signing import digest

    key = home.signing_key()

    current = []

    def put(kind: Kind, name: str, spec: dict, version: str | None = None) -> None:
        current.append(store.put(make_record(key, kind, name, version or f"0+{digest(spec)[7:19]}", spec).signed))

    # Whom its quotas name is its own affair, and records are read by all members.
    clusters = tuple(replace(cluster, quotas=QuotaTree.flat()) for cluster in config.spec.clusters)
    put(Kind.DOMAIN, home.name, msgspec.to_builtins(replace(config.spec, clusters=clusters)))
    put(Kind.POLICY, "bundle", {"revision": revision, "scopes": list(config.scopes)})
    for cluster in config.spec.clusters:
        put(Kind.CLUSTER, cluster.name, {"price": cluster.price, "nodes": list(cluster.members())})
        for node in cluster.members().values():
            put(Kind.NODE, f"{cluster.name}:{node.name}", {"slots": node.slots, "memory": node.memory})
    for block in read_blocks(home):
        spec = msgspec.to_builtins(block)
        put(Kind.BLOCK, block.name, spec, record_version(block.version, digest(spec)))
    withdraw_others(home.root / "stated.json", store, current)


def withdraw_others(path: Path, store: SqlRecordStore, current: list[Record]) -> None:
    """What the owner no longer offers, or offers otherwise, is not found any more. Only what a gateway itself has stated, as
    noted at `path`, is withdrawn by one: what he has registered by a command is his to withdraw, and what others tell is
    theirs."""
    try:
        stated = set(from_json(path.read_bytes(), list[tuple[str, str]]))
    except FileNotFoundError:
        stated = set()
    except msgspec.MsgspecError as error:
        text = "what blocks.json or domain.json no longer has may still be found: withdraw it by `ioi ras delete`"
        log.warning("%s cannot be read, and is made anew: %s — %s", path, error, text)
        stated = set()
    now = [(record.urn, record.version) for record in current]
    # Until it is done both are its own: it may be ended in between.
    write_private(path, msgspec.json.encode(sorted({*stated, *now})))
    store.keep_only(current, stated)
    write_private(path, msgspec.json.encode(sorted(now)))


def record_version(version: str, digest: str) -> str:
    """The block's version and the digest of its whole spec, in the one local part that PEP 440 allows."""
    return f"{version}{'.' if '+' in version else '+'}{digest[7:15]}"


if __name__ == "__main__":
    main()
