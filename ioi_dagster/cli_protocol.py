"""`ioi protocol`: what domains say to each other, and whether a gateway keeps to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ioi_dagster.adapters.http.client import GatewayClient, exchanged
from ioi_dagster.adapters.http.conformance import Subject
from ioi_dagster.adapters.http.tls import tls_to
from ioi_dagster.adapters.http.transport import Pool
from ioi_dagster.errors import BadInputError, UnreachableError
from ioi_dagster.local.home import home_domain_of
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.ras.selection import Query

ANSWER_S = 10.0


@contextmanager
def subject(home: Path, domain: str, clock: Callable[[], float] = time.time) -> Iterator[Subject]:
    """The gateway of `domain` as the home domain of the federation in `home` finds it: one of its clusters, and a block that
    it offers for public data. Raises `BadInputError` where it is not known or offers none, `UnreachableError` where it does not
    answer."""
    own = home_domain_of(home)
    config, key = own.config(), own.signing_key()
    gateways = {config.spec.name: config.gateway, **config.peers}
    if domain not in gateways:
        raise BadInputError(f"{own.name} knows no domain {domain!r}", todo=f"name one of {', '.join(sorted(gateways))}")
    tls = tls_to(own, domain)
    client = GatewayClient(gateways[domain], domain, key, tls=tls)
    try:
        cluster, capability = _offered(client, Query("", DataClass.PUBLIC, own.name, config.spec.authority))
    finally:
        client.close()
    pool = Pool(gateways[domain], connections=1, name=domain, tls=tls)

    def ask(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            return exchanged(pool, method, path, body, headers, ANSWER_S)
        except OSError as error:
            raise UnreachableError(f"gateway of {domain}", f"{path}: {type(error).__name__}") from error

    yield Subject(ask, key, domain, cluster, capability, clock)


def _offered(client: GatewayClient, query: Query) -> tuple[str, str]:
    """(cluster, capability)"""
    names = {str(signed.body.get("spec", {}).get("capability", "")) for signed in client.records("block")} - {""}
    why = "it has registered no block"
    for name in sorted(names):
        found = client.discover(Query(name, query.data_class, query.origin, query.authority))
        if found.candidates:
            return found.candidates[0].cluster, name
        why = "; ".join(item.refusal.text for item in found.rejected) or why
    raise BadInputError(f"{client.domain} offers nothing that could be asked for: {why}", todo="see `ioi status`")
