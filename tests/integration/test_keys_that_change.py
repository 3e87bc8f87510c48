"""Runs that are under way while their domain changes its keys, over real gateways: what goes on, and what is placed again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRun

from ioi_dagster.adapters.http import invoking
from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.errors import RetryableError
from ioi_dagster.framing import encode_payload
from ioi_dagster.host.federated_fleets import INVOKE_S
from ioi_dagster.host.network import FederatedNetwork
from ioi_dagster.local import joining
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import Lease, Renewed, RenewRequest
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import KEY_REMEDY
from ioi_dagster.signing import Signed
from tests.conftest import eventually
from tests.integration.test_clocks_that_differ import GIVE, Holds
from tests.integration.test_mutual_tls import gateway
from tests.realms import Realm, introduce, owned
from tests.registries import POLICIES, permitted
from tests.unit.test_gateway import NoRecords
from tests.unit.test_streamed_calls import SENT, Node

pytestmark = pytest.mark.integration


@dataclass
class UnderWay:
    """A run of the library, with a call at the lab."""

    library: Realm
    lab: Realm
    network: FederatedNetwork
    node: Node
    monkeypatch: pytest.MonkeyPatch

    def client(self, domain: str) -> GatewayClient:
        return self.network._registry.client(domain)

    def lease(self, fence: int = 1) -> Lease:
        its = "lab-c/1/1", self.network._run, "step", fence, 0, "echo", "lab-c", "lab", "lab-1", 1
        return Lease(*its, origin="library")

    def permit(self, lease: Lease) -> Signed:
        return self.network.step_permit(lease, DataClass.INTERNAL, encode_payload(SENT))

    def call(self, lease: Lease, permit: Signed) -> Payload | Refusal:
        answer = self.client("lab").invoke(lease, permit, "echo", SENT, timeout=INVOKE_S)
        return answer if isinstance(answer, Refusal) else answer[0]

    def stream(self, lease: Lease) -> Any:
        stream = self.client("lab").stream(lease, self.permit(lease), "echo", SENT, timeout=INVOKE_S, idle_s=30.0)
        assert not isinstance(stream, Refusal), stream
        return stream

    def goes_on(self) -> None:
        """At its own gateway as at the other, where it shows its permit too."""
        for domain in ("library", "lab"):
            assert self.client(domain).state(10.0) == {}
        ids = ("lab-c/1/1",)
        assert self.client("lab").renew("lab-c", RenewRequest(self.network._run, ids)) == Renewed(ids)

    def rotate(self, revoke: bool) -> None:
        """The lab hears of each record before the next."""
        home = self.library.home
        self.monkeypatch.setattr(
            joining, "_wait_until_known", lambda *_: self.lab.home.put_member(home.own_chain()[-1])
        )
        joining.rotate(home, revoke, time.time(), 0.0, lambda _: None)


@pytest.fixture
def under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UnderWay]:
    library, lab = (owned(tmp_path, name) for name in ("library", "lab"))
    introduce(library, lab)
    node, allow = Node(), lambda *_: Decision("d", Verdict.ALLOW)
    serving = partial(gateway, store=NoRecords(), decide=allow)
    with ExitStack() as stack:
        own = stack.enter_context(serving(library))
        there = stack.enter_context(serving(lab, runners={"lab-c": node}, clusters={"lab-c": Holds()}))
        its = {one.home.name: one.spec.authority for one in (library, lab)}
        changes = {
            "gateway": own,
            "peers": {"lab": there},
            "policies": str(POLICIES),
            "authorities": its,
            "limits": GIVE,
        }
        library.home.save_config(replace(library.home.config(), **changes))
        network = FederatedNetwork(library.home, permitted(library.home, DataClass.INTERNAL))
        stack.callback(network.close)
        yield UnderWay(library, lab, network, node, monkeypatch)


def test_a_run_goes_on_under_the_new_key_of_its_domain_and_tells_it(under_way: UnderWay) -> None:
    under_way.goes_on()
    assert under_way.network.issued_anew() == []
    before = under_way.library.home.signing_key().key_id
    for revoke in (False, True, True):
        under_way.rotate(revoke)
        under_way.goes_on()
        now = under_way.library.home.signing_key().key_id
        told = f"the permit of decision d is issued anew under {now}: the domain has another key than {before}"
        assert (under_way.network.issued_anew(), under_way.network.issued_anew()) == ([told], [])
        before = now
    checked = replace(under_way.network._checked, anew="it is issued anew")
    resumed = FederatedNetwork(under_way.library.home, checked)
    _, said = resumed.opening(DagsterRun("job"))
    resumed.close()
    assert said == "gate 3: the permit of decision d is for this run and still good; it is issued anew"


def test_what_is_on_its_way_while_the_key_is_taken_back_is_signed_anew(under_way: UnderWay) -> None:
    """It was signed by the old key, and comes when that counts no more."""
    client, made = under_way.client("lab"), []
    headers = client._headers

    def slow(*given: Any) -> dict[str, str]:
        shown = headers(*given)
        made.append(shown)
        if len(made) == 1:
            under_way.rotate(True)
        return shown

    under_way.monkeypatch.setattr(client, "_headers", slow)
    under_way.goes_on()
    assert len(made) == 3, "the first once more, and the second"


def test_a_call_abroad_ends_as_if_no_key_had_been_taken_back(under_way: UnderWay) -> None:
    under_way.node.wait_at = 0
    lease = under_way.lease()
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(under_way.call, lease, under_way.permit(lease))
        eventually(lambda: under_way.node.starts, what="the call at the node")
        try:
            under_way.rotate(True)
            under_way.goes_on()
        finally:
            under_way.node.go.set()
        assert called.result(30) == SENT
    assert len(under_way.node.starts) == 1


def test_a_streamed_call_ends_with_the_certificate_that_it_was_asked_with_and_is_made_anew(under_way: UnderWay) -> None:
    """What is left of it at the node is stopped."""
    for name in ("LOOK_AGAIN_S", "REJOIN_S"):
        under_way.monkeypatch.setattr(invoking, name, 0.0)
    node = under_way.node
    node.count, node.wait_at = 5, 3
    stream = under_way.stream(under_way.lease())
    pieces = iter(stream)
    assert [next(pieces).document["number"] for _ in range(3)] == [0, 1, 2]
    under_way.rotate(True)
    node.wait_at = 4
    with pytest.raises(RetryableError, match=r"lab gives no more of it: .*\[tls\.(revoked|foreign|stranger)\]"):
        list(pieces)
    assert node.stopped.wait(30)
    assert node.given == 4
    node.go.set()
    again = under_way.stream(under_way.lease(2))
    assert [piece.document["number"] for piece in again] == list(range(5))


def test_a_start_whose_permit_was_signed_before_is_refused_and_reaches_no_node(under_way: UnderWay) -> None:
    before = under_way.library.home.signing_key().key_id
    lease = under_way.lease()
    permit = under_way.permit(lease)
    under_way.rotate(True)
    why = f"no trusted key {before!r}"
    refusal = Refusal("permit.signature", why, "permit check", KEY_REMEDY)
    assert (under_way.call(lease, permit), under_way.node.starts) == (refusal, [])
    again = under_way.lease(2)
    assert under_way.call(again, under_way.permit(again)) == SENT
    assert len(under_way.node.starts) == 1
