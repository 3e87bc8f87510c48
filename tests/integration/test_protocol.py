"""The wire between domains for real: its rules, asked of each gateway as somebody with another implementation would, and results
that come in pieces, whatever happens to those who make and read them."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distributed import Client
from distributed.security import Security
from typer.testing import CliRunner

from definitions.documents.catalogue import BLOCKS
from ioi_dagster.adapters.http.client import GatewayClient, own_gateway
from ioi_dagster.adapters.http.streams import Stream
from ioi_dagster.adapters.http.tls import TlsTo
from ioi_dagster.cli import app
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import RetryableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.local.federation import Federation
from ioi_dagster.local.home import TOPOLOGY, open_federation
from ioi_dagster.local.joining import invite
from ioi_dagster.model.block import Made, Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Award, Lease, LeaseRequest
from ioi_dagster.model.permit import RunPermit, StepPermit
from ioi_dagster.policy.permits import issue
from ioi_dagster.signing import digest_bytes
from tests.conftest import eventually
from tests.integration.block_project import TELLING, notes

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(180)]
DOMAINS = ("library.example", "lab.example", "cloud.example")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wire")


@pytest.fixture(scope="module")
def federation(folder: Path) -> Iterator[Federation]:
    """The shipped one, whose cloud offers a block that streams besides, and whose lab wants TLS."""
    before, between, cloud = TOPOLOGY.read_text().partition("- name: cloud.example")
    before = before.replace("- name: lab.example", "- name: lab.example\n    dask_tls: true", 1)
    topology = folder / "topology.yaml"
    topology.write_text(before + between + cloud.replace("blocks: [", "blocks: [telling, ", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IOI_TEST_FOLDER", str(folder))
        with open_federation(folder / "home", topology, [*BLOCKS, TELLING]) as federation:
            federation.wait_ready(90)
            yield federation


@pytest.fixture(autouse=True)
def at_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("IOI_TEST_FOLDER", str(folder))
    yield
    for name in ("notes", "go"):
        (folder / name).unlink(missing_ok=True)


def test_every_domain_keeps_every_rule_and_has_all_its_capacity_afterwards(
    federation: Federation, folder: Path
) -> None:
    runner, home = CliRunner(), str(folder / "home")
    for name in DOMAINS:
        eventually(lambda name=name: not leases(federation, name))  # of the tests before this one
        (folder / "invitation").write_bytes(
            msgspec.json.encode(invite(federation.domain(name), "", DataClass.PUBLIC, 1.0, time.time()))
        )
        invited = ["--invitation", str(folder / "invitation")]
        result = runner.invoke(app, ["protocol", "check", name, "--home", home, "--json", *invited])
        outcomes = json.loads(result.stdout)
        assert [outcome for outcome in outcomes if not outcome["holds"]] == []
        assert len(outcomes) == 113
        assert result.exit_code == 0
        assert leases(federation, name) == []
        assert set(federation.domain(name).members()) == {*DOMAINS}, "no guest was let in"
    another = runner.invoke(app, ["protocol", "check", DOMAINS[0], "--home", home, *invited])
    assert "it is one of cloud.example" in str(another.exception)
    unknown = runner.invoke(app, ["protocol", "check", "nobody.example", "--home", home])
    assert "knows no domain 'nobody.example'" in str(unknown.exception)


def leases(federation: Federation, name: str) -> list[Any]:
    """All that the domain's clusters hold."""
    client = own_gateway(federation.domain(name))
    clusters = client.status()["clusters"]
    client.close()
    return [lease for cluster in clusters.values() for lease in cluster["leases"]]


def test_a_cluster_of_another_authority_takes_code_from_nobody_on_this_machine(federation: Federation) -> None:
    cloud, library = (federation.domain(name) for name in ("cloud.example", "library.example"))
    (cluster,) = cloud.config().clusters
    assert cluster.scheduler.startswith("tls://")
    assert takes(cluster.scheduler, cloud, cloud)
    assert not takes(cluster.scheduler, cloud, library)
    assert not takes(cluster.scheduler.replace("tls", "tcp"))


def test_a_cluster_whose_owner_wants_tls_takes_nobody_without_a_certificate_of_its_authority(
    federation: Federation,
) -> None:
    lab, library, cloud = (federation.domain(name) for name in ("lab.example", "library.example", "cloud.example"))
    (cluster,) = lab.config().clusters
    assert cluster.scheduler.startswith("tls://")
    assert takes(cluster.scheduler, lab, library)
    assert not takes(cluster.scheduler, lab, cloud)
    assert not takes(cluster.scheduler.replace("tls", "tcp"))
    (plain,) = library.config().clusters
    assert takes(plain.scheduler), "nobody has asked for it there"


def takes(scheduler: str, asked: DomainHome | None = None, asking: DomainHome | None = None) -> bool:
    """Does a Dask scheduler of `asked` take a client with the certificate of `asking`, or with none?"""
    security = None
    if asked is not None and asking is not None:
        shown = str(asking.client_certificate)
        authority = str(asked.authority_certificate)
        security = Security(tls_ca_file=authority, tls_client_cert=shown, tls_client_key=shown, require_encryption=True)
    try:
        with Client(scheduler, timeout=5, security=security, set_as_default=False):
            return True
    except OSError:
        return False


class Caller:
    """A run of the library's that calls the cloud's block, one lease at a time."""

    def __init__(self, federation: Federation) -> None:
        home = federation.domain("library.example")
        self._key, self._run, self._fences = home.signing_key(), f"run-{uuid.uuid4().hex}", count(1)
        permit = RunPermit(
            run=self._run,
            job="j",
            subject="ann",
            issuer=home.name,
            **dict.fromkeys(("job_snapshot", "plan", "config", "selection", "code", "revision"), ""),
            highest=DataClass.PUBLIC,
            domains=DOMAINS,
            decision_ids=(),
            not_before=time.time() - 10,
            expires=time.time() + 600,
            nonce="n",
        )
        url = federation.domain("cloud.example").config().gateway
        self.client = GatewayClient(
            url, "cloud.example", self._key, issue(self._key, permit), TlsTo(home, "cloud.example")
        )

    def lease(self) -> Lease:
        request = LeaseRequest(self._run, "s", next(self._fences), "text.telling", DataClass.PUBLIC)
        leases: list[Lease] = []

        def granted() -> bool:
            leases[:] = self.client.award(Award("cloud-main", self._run, 1, "library.example", (request,))).leases
            return bool(leases)

        eventually(granted, 60, "a lease of the cloud's")
        return leases[0]

    def call(self, asked: dict[str, Any], lease: Lease | None = None, **change: Any) -> Stream:
        lease, payload = lease or self.lease(), Payload({"text": "", "size": 1, **asked})
        permit = StepPermit.of(
            lease,
            issuer="library.example",
            data_class=DataClass.PUBLIC,
            payload=digest_bytes(encode_payload(payload)),
            nonce=f"call under {lease.id}",
            now=time.time() - 10,
        )
        signed = issue(self._key, permit)
        given: dict[str, Any] = {"timeout": 90.0, "idle_s": 60.0} | change
        stream = self.client.stream(lease, signed, lease.capability, payload, **given)
        assert isinstance(stream, Stream), stream
        return stream


@pytest.fixture(scope="module")
def caller(federation: Federation) -> Iterator[Caller]:
    caller = Caller(federation)
    yield caller
    caller.client.close()


def numbers(stream: Stream) -> list[int]:
    return [piece.document["number"] for piece in stream]


def test_a_foreign_result_comes_in_pieces_once_for_all_who_ask_for_it(caller: Caller) -> None:
    lease = caller.lease()
    asked = {"pieces": 3_000, "size": 2_000}
    first = caller.call(asked, lease)
    assert numbers(first) == list(range(3_000))
    assert first.end is not None
    assert (first.made, first.end.node) == (Made("telling", "1"), "cloud-1")
    assert numbers(caller.call(asked, lease)) == list(range(3_000))
    assert len(notes("stream 0")) == 1


def test_who_hangs_up_has_the_foreign_block_stopped(caller: Caller) -> None:
    stream = caller.call({"pieces": 2, "text": "wait", "at": 1})
    pieces = iter(stream)
    next(pieces)
    eventually(lambda: notes("waiting"), 60, "the block waits")
    stream.close()
    eventually(lambda: notes("closed"), 60, "the block is stopped")


def test_what_a_killed_worker_began_is_gone_on_with_by_the_same_block(caller: Caller, folder: Path) -> None:
    asked = {"pieces": 5, "text": "wait", "at": 3}
    stream = caller.call(asked)
    pieces = iter(stream)
    began = [next(pieces) for _ in range(3)]
    os.kill(began[0].document["pid"], signal.SIGKILL)
    with pytest.raises(RetryableError, match="the worker died"):
        next(pieces)
    assert (stream.number, stream.end) == (3, None)
    (folder / "go").touch()
    again = caller.call(asked, after=stream.number, made=stream.made)
    assert again.first == 3
    rest = list(again)
    assert [piece.document["number"] for piece in (*began, *rest)] == [0, 1, 2, 3, 4]
    assert rest[0].document["pid"] != began[0].document["pid"]
    assert (len(notes("stream 0")), len(notes("stream 3"))) == (1, 1)
