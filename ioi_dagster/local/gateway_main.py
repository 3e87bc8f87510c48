"""`python -m ioi_dagster.local.gateway_main`: one domain's gateway process. Environment: `IOI_DOMAIN_HOME`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from ioi_dagster.adapters.dask.client import DaskRunner
from ioi_dagster.adapters.dask.worker_preload import read_blocks
from ioi_dagster.adapters.http.gateway import Gateway, GatewayContext
from ioi_dagster.adapters.http.server import Server
from ioi_dagster.adapters.http.tls import client_context, tls_of
from ioi_dagster.adapters.http.transport import Pool
from ioi_dagster.adapters.link.caller import ClusterLine
from ioi_dagster.adapters.opa.wasm import WasmEngine
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.certificates import write_private
from ioi_dagster.clock import SystemClock
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.local.member_book import FolderBook
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision
from ioi_dagster.model.member import MemberRecord
from ioi_dagster.policy.decision_log import DecisionLog
from ioi_dagster.policy.documents import placement_document
from ioi_dagster.policy.gate import Gate
from ioi_dagster.ras.record import Kind, make_record


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(serve())


async def serve() -> None:
    """Until SIGTERM or SIGINT."""
    home = DomainHome(Path(os.environ["IOI_DOMAIN_HOME"]))
    config, clock = home.config(), SystemClock()
    bundle = Path(config.policies) / "bundle" / "bundle.tar.gz"
    engine = WasmEngine.load(bundle)
    gate = Gate(engine, config.scopes, clock, DecisionLog(home.root / "decisions.jsonl"))

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
        clusters={item.name: ClusterLine(item.name, item.governor, home.token()) for item in config.clusters},
        clock=clock,
        peers=peers,
        pool_to=lambda record: _asking(home, record),
        book=FolderBook(home),
        epoch=_next_epoch(home.root / "gateway.epoch", clock.wall()),
    )
    address = urlsplit(config.gateway)
    assert address.hostname and address.port
    gateway, told = Gateway(context), asyncio.Event()
    server, loop = Server(gateway), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await server.listen(address.hostname, address.port, tls)
    membership = asyncio.create_task(gateway.members.run())
    # What is there by now stays: no collection needs to look at it again.
    gc.freeze()
    await told.wait()
    membership.cancel()
    gateway.members.close()
    await server.close()


def _asking(home: DomainHome, peer: MemberRecord) -> Pool:
    """What asks the gateway of `peer` how it is."""
    tls = client_context(home.client_certificate, peer.authorities)
    return Pool(peer.gateway, connections=4, name=peer.domain, tls=tls)


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

    import msgspec

    put(Kind.DOMAIN, home.name, msgspec.to_builtins(config.spec))
    put(Kind.POLICY, "bundle", {"revision": revision, "scopes": list(config.scopes)})
    for cluster in config.spec.clusters:
        put(Kind.CLUSTER, cluster.name, {"price": cluster.price, "nodes": [node.name for node in cluster.nodes]})
        for node in cluster.nodes:
            put(Kind.NODE, f"{cluster.name}:{node.name}", {"slots": node.slots, "memory": node.memory})
    for block in read_blocks(home):
        spec = msgspec.to_builtins(block)
        put(Kind.BLOCK, block.name, spec, record_version(block.version, digest(spec)))
    # What the owner no longer offers, or offers otherwise, is not found any more.
    store.keep_only(current)


def record_version(version: str, digest: str) -> str:
    """The block's version and the digest of its whole spec, in the one local part that PEP 440 allows."""
    return f"{version}{'.' if '+' in version else '+'}{digest[7:15]}"


if __name__ == "__main__":
    main()
