"""`ioi protocol`: what domains say to each other, and whether a gateway keeps to it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx

from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.adapters.http.conformance import Ask, Subject
from ioi_dagster.adapters.http.tls import tls_to
from ioi_dagster.decoding import from_json
from ioi_dagster.errors import BadInputError, UnreachableError
from ioi_dagster.local.home import home_domain_of
from ioi_dagster.local.joining import invited_context, read_invitation
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.member import first_record
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.selection import Query

ANSWER_S = 10.0


@contextmanager
def subject(
    home: Path,
    domain: str,
    clock: Callable[[], float] = time.time,
    call: Path | None = None,
    invitation: Path | None = None,
) -> Iterator[Subject]:
    """The gateway of `domain` as the home domain of the federation in `home` finds it: one of its clusters, and a block
    that it offers for public data. `call`: a file with what that block may be called with; `invitation`: one of that
    domain's, for anybody. Raises `BadInputError` where it is not known, offers none, or a file is not what it should be,
    `UnreachableError` where it does not answer."""
    payload = None if call is None else _payload(call)
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
    guest_tls = None if invitation is None else _by_invitation(invitation, domain)
    guests = nullcontext() if guest_tls is None else _asking(gateways[domain], domain, guest_tls)
    with _asking(gateways[domain], domain, tls) as ask, guests as guest:
        yield Subject(ask, key, domain, cluster, capability, clock, call=payload, guest=guest)


@contextmanager
def _asking(gateway: str, domain: str, tls: ssl.SSLContext) -> Iterator[Ask]:
    def ask(method: str, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[int, bytes] | None:
        its = httpx.Timeout(ANSWER_S, read=seconds)
        sni = {"sni_hostname": domain}
        try:
            answer = http.request(method, path, content=body, headers=headers, extensions=sni, timeout=its)
        except httpx.ReadTimeout:
            return None
        except httpx.HTTPError as error:
            raise UnreachableError(f"gateway of {domain}", f"{path}: {type(error).__name__}") from error
        return answer.status_code, answer.content

    with httpx.Client(base_url=gateway, trust_env=False, verify=tls) as http:
        yield ask


def _by_invitation(file: Path, domain: str) -> ssl.SSLContext:
    invitation = read_invitation(file)
    host = first_record(invitation.record)
    if isinstance(host, Refusal) or host.domain != domain:
        whose = host.text if isinstance(host, Refusal) else f"it is one of {host.domain}"
        todo = f"give one of {domain}: `ioi domain invite`"
        raise BadInputError(f"the invitation cannot be used for {domain}: {whose}", where=str(file), todo=todo)
    return invited_context(invitation, host)


def _payload(file: Path) -> Payload:
    try:
        return Payload(from_json(file.read_bytes(), dict[str, Any]))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{file} cannot be read as a JSON object: {error}", todo="correct it") from error


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
