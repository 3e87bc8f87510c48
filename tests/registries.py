"""Registries of domains at gateways of their own, over real sockets, that answer what a test says and when it says so."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.host.governance import Checked
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.permit import RunPermit
from ioi_dagster.policy.permits import issue
from ioi_dagster.ras.selection import Candidate, Discovery
from tests.realms import introduce, realm

POLICIES = Path(__file__).parents[1] / "policies"
NETWORK, HOME = "book", "library"


class Registry:
    """The gateway of `domain`, of whose doors those of discovery and of members are open. `frozen`: it takes questions of
    discovery and answers them when it is thawed. `asked`: how many of them have come. `meanwhile` is called before each
    answer. `view`: which members it sees."""

    def __init__(self, domain: str, *clusters: str, scheduler: str = "") -> None:
        self.domain, self.asked = domain, 0
        self.answer = Discovery(
            tuple(Candidate(domain, name, "", "block", DataClass.RESTRICTED, scheduler=scheduler) for name in clusters)
        )
        self.view: dict[str, dict[str, Any]] = {}
        self.meanwhile: Callable[[], Any] = lambda: None
        self._thawed, self._counting = threading.Event(), threading.Lock()
        self._thawed.set()
        its = self

        class Door(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                open_ = self.path == "/v1/registry/discover"
                self.answer(open_, its._answered() if open_ else b"{}")

            def do_GET(self) -> None:
                self.answer(self.path == "/v1/members", msgspec.json.encode(its.view))

            def answer(self, open_: bool, body: bytes) -> None:
                self.send_response(200 if open_ else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._serving.start()

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def close(self) -> None:
        self.thaw()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join(10)

    def _answered(self) -> bytes:
        with self._counting:
            self.asked += 1
        self._thawed.wait()
        self.meanwhile()
        return msgspec.json.encode(self.answer)


def library(root: Path, *peers: Registry, authorities: dict[str, str], limits: dict[str, DataClass]) -> DomainHome:
    """A domain without a gateway of its own, which knows where those of `peers` are. Whose records it has is up to the test;
    `authorities` and `limits` are its own too."""
    its = realm(root / "domains", HOME)
    introduce(its)
    gateways = {peer.domain: peer.url for peer in peers}
    config = DomainConfig(
        network=NETWORK,
        home=HOME,
        spec=replace(its.spec, authority=authorities[HOME], clusters=()),
        gateway=gateways.pop(HOME, "http://127.0.0.1:1"),
        clusters=(),
        peers=gateways,
        policies=str(POLICIES),
        scopes=(NETWORK,),
        authorities=authorities,
        limits=limits,
    )
    its.home.save_config(config)
    return its.home


def permitted(home: DomainHome, highest: DataClass) -> Checked:
    """A run's permit as gate 1 issues it, for all domains."""
    now = time.time()
    permit = RunPermit(
        run=uuid.uuid4().hex,
        subject="ann",
        job="j",
        job_snapshot="",
        plan="",
        config="",
        selection="",
        code=__name__,
        highest=highest,
        domains=tuple(sorted(home.config().authorities)),
        decision_ids=("d",),
        revision="",
        not_before=float(int(now)),
        expires=float(int(now + 3_600)),
        nonce=uuid.uuid4().hex,
        issuer=home.name,
    )
    return Checked(permit, issue(home.signing_key(), permit))
