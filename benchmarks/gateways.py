"""Gateways of domains as processes of their own, each with its own folder, keys and authority, that know each other."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ioi_dagster.adapters.http.protocol import Telling
from ioi_dagster.adapters.http.tls import tls_to
from ioi_dagster.certificates import Authority
from ioi_dagster.domain import DomainConfig, DomainHome
from ioi_dagster.local.home import POLICIES
from ioi_dagster.local.identity import prepare_certificates, prepare_folders, renew_record
from ioi_dagster.model.topology import DomainSpec
from ioi_dagster.signing import Signed

NETWORK = "book"
Place = tuple[int, int]


@dataclass
class Gateway:
    """Of one domain. `process` is None where it does not run; `machine`: where it does, this one where that is None."""

    home: DomainHome
    url: str
    machine: Any = None
    process: subprocess.Popen[bytes] | None = None
    _asks: Any = field(default=None, repr=False)

    def start(self) -> None:
        log = (self.home.logs / "gateway.log").open("ab")
        environment = {**os.environ, "IOI_DOMAIN_HOME": str(self.home.root), "DO_NOT_TRACK": "1"}
        command = [sys.executable, "-m", "ioi_dagster.local.gateway_main"]
        command = command if self.machine is None else self.machine.command(command)
        with log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        self.process = None

    def freeze(self) -> None:
        """It holds its connections and answers nothing, as a machine behind a cut line does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def tell(self, state: Sequence[Signed] = (), withdraw: Sequence[str] = (), timeout_s: float = 60.0) -> None:
        """Have it state records. Raises `RuntimeError` with its answer where it refuses."""
        import httpx

        if self._asks is None:
            context: ssl.SSLContext = tls_to(self.home, self.home.name)
            self._asks = httpx.Client(verify=context, trust_env=False, timeout=timeout_s)
        body = msgspec.json.encode(Telling(tuple(state), tuple(withdraw)))
        headers = {"authorization": f"Bearer {self.home.token()}"}
        # Its certificate names the domain, not the address.
        name = {"sni_hostname": self.home.name}
        answer = self._asks.post(f"{self.url}/v1/feeds/tell", content=body, headers=headers, extensions=name)
        if answer.status_code != 200:
            raise RuntimeError(answer.text[:500])

    def query(self, sql: str, *values: Any) -> list[Any]:
        """Of its feeds as they are kept; empty where there are none yet."""
        path = self.home.root / "registry.sqlite"
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
                return connection.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            return []

    def places(self) -> dict[str, Place]:
        """Origin → how far its public feed is here."""
        rows = self.query("select origin, epoch, seq from feed where audience = 'public' and seq > 0")
        return {origin: (epoch, seq) for origin, epoch, seq in rows}

    def stated(self, origin: str) -> set[str]:
        """Items that are stated in its public feed, as far as is known here."""
        sql = "select item from feed_entry where origin = ? and audience = 'public' and live"
        return {row[0] for row in self.query(sql, origin)}


class Gateways:
    """`count` of them below `folder`, ended when this is left; spread over `machines` (of `benchmarks.netns`) where there are
    some, one after the other."""

    def __init__(self, folder: Path, count: int, machines: Sequence[Any] = ()) -> None:
        names = [f"d{number}.example" for number in range(count)]
        homes = [DomainHome(folder / "domains" / name) for name in names]
        where = [machines[number % len(machines)] if machines else None for number in range(count)]
        self.all = [
            Gateway(
                home,
                f"https://{machine.address}:{7443 + number}" if machine else f"https://127.0.0.1:{_free()}",
                machine,
            )
            for number, (home, machine) in enumerate(zip(homes, where, strict=True))
        ]
        peers = {one.home.name: one.url for one in self.all}
        authorities = {name: f"{name}-authority" for name in names}
        records: list[Signed] = []
        for one in self.all:
            name, now = one.home.name, time.time()
            prepare_folders(one.home)
            authority = Authority.make(authorities[name], now)
            prepare_certificates(one.home, authority, now)
            spec = DomainSpec(name, authorities[name], ())
            others = {other: url for other, url in peers.items() if other != name}
            config = DomainConfig(NETWORK, name, spec, one.url, (), others, str(POLICIES), (), authorities, {})
            one.home.save_config(config)
            records.append(renew_record(one.home, authority, NETWORK, spec, one.url, now))
        for one in self.all:
            for signed in records:
                one.home.put_member(signed)

    def __enter__(self) -> Gateways:
        for one in self.all:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Who is told to end waits for questions that are open, up to ten seconds each.
        for one in self.all:
            one.stop(signal.SIGKILL)

    def agreed(self, among: Sequence[Gateway] | None = None) -> bool:
        """Has each of them the public feeds of all of them as far as their owners have?"""
        asked = self.all if among is None else among
        seen = {one.home.name: one.places() for one in asked}
        return all(name in seen[name] and its.get(name) == seen[name][name] for its in seen.values() for name in seen)


def wait_for(what: str, done: Any, seconds: float, look_s: float = 0.1) -> float:
    """How long it took until `done()`. Raises `TimeoutError`."""
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} took more than {seconds:g} s")
        time.sleep(look_s)
    return time.monotonic() - began


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
