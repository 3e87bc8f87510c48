"""Domains whose clocks differ, over a real gateway: what is bridged, what is refused, and what a run tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ioi_dagster.adapters.http.client import GatewayClient
from ioi_dagster.cli_doctor import Finding, _clocks
from ioi_dagster.clock import ManualClock
from ioi_dagster.domain import DomainConfig
from ioi_dagster.errors import GatewayRefusedError
from ioi_dagster.framing import encode_payload
from ioi_dagster.host.federated_fleets import INVOKE_S
from ioi_dagster.host.network import FederatedNetwork
from ioi_dagster.local.gateway_main import _asking
from ioi_dagster.local.member_book import FolderBook
from ioi_dagster.model.block import Payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.negotiation import Lease, Renewed, RenewRequest
from ioi_dagster.policy.proof import CLOCK_REMEDY
from ioi_dagster.signing import Signed
from tests.conftest import eventually
from tests.integration.test_mutual_tls import gateway
from tests.realms import introduce, owned, realm
from tests.registries import POLICIES, permitted
from tests.unit.test_gateway import NoRecords
from tests.unit.test_streamed_calls import SENT, Node

pytestmark = pytest.mark.integration
MINUTE, HOUR = 60.0, 3_600.0
GIVE: dict[str, DataClass] = dict.fromkeys(("library", "lab"), DataClass.RESTRICTED)


class Holds:
    """The governor of a cluster that holds every lease."""

    async def ask(self, door: str, message: Any, kind: type, timeout_s: float) -> Any:
        return Renewed((message.lease.id,) if door == "verify" else message.leases)


@dataclass
class Ticking:
    """The time of day of `wall_`, which a test sets, and time that passes: a gateway probes by it."""

    wall_: ManualClock

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return self.wall_.wall()


@dataclass
class Apart:
    """A run of the library, and the lab, which it asks: each has a clock of its own."""

    network: FederatedNetwork
    clock: ManualClock
    theirs: ManualClock
    node: Node

    @property
    def client(self) -> GatewayClient:
        return self.network._registry.client("lab")

    def lease(self, step: str) -> Lease:
        return Lease("lab-c/1/1", self.network._run, step, 1, 0, "echo", "lab-c", "lab", "lab-1", 1, origin="library")

    def permit(self, lease: Lease) -> Signed:
        return self.network.step_permit(lease, DataClass.INTERNAL, encode_payload(SENT))

    def why(self) -> str:
        """Why a run finds no place at the lab."""
        found = self.network.find("echo", DataClass.INTERNAL, (), True)
        ((_, refusal),) = [(who, refusal) for who, refusal in found.rejected if who == "lab"]
        return str(refusal)

    def renewed(self) -> None:
        ids = ("lab-c/1/1",)
        assert self.client.renew("lab-c", RenewRequest(self.network._run, ids)) == Renewed(ids)

    def called(self, step: str) -> Payload:
        lease = self.lease(step)
        answer = self.client.invoke(lease, self.permit(lease), "echo", SENT, timeout=INVOKE_S)
        assert isinstance(answer, tuple), answer
        return answer[0]

    def streamed(self, step: str) -> list[Any]:
        lease = self.lease(step)
        stream = self.client.stream(lease, self.permit(lease), "echo", SENT, timeout=INVOKE_S, idle_s=30.0)
        assert not hasattr(stream, "code"), stream
        return [piece.document["number"] for piece in stream]  # pyright: ignore[reportGeneralTypeIssues]


@pytest.fixture
def apart(tmp_path: Path) -> Callable[[float], Any]:
    @contextmanager
    def made(ahead_s: float) -> Iterator[Apart]:
        """By so much is the lab's clock ahead."""
        library, lab = (realm(tmp_path / "domains", name) for name in ("library", "lab"))
        clock, theirs, node = ManualClock(0.0, time.time()), ManualClock(0.0, time.time() + ahead_s), Node()
        introduce(library, lab)
        door = Holds()
        with gateway(
            lab,
            clock=theirs,
            store=NoRecords(),
            decide=lambda *_: Decision("d", Verdict.ALLOW),
            runners={"lab-c": node},
            clusters={"lab-c": door},
        ) as url:
            its = {one.home.name: one.spec.authority for one in (library, lab)}
            peers, spec = {"lab": url}, replace(library.spec, clusters=())
            own = "https://127.0.0.1:1"
            config = DomainConfig("n", "library", spec, own, (), peers, str(POLICIES), ("n",), its, GIVE)
            library.home.save_config(config)
            network = FederatedNetwork(library.home, permitted(library.home, DataClass.INTERNAL), clock)
            try:
                yield Apart(network, clock, theirs, node)
            finally:
                network.close()

    return made


NOTHING_OFFERED = "[ras.no_capability]"


@pytest.mark.parametrize("ahead_s", [30.0, -12 * MINUTE, 2 * HOUR, -23 * HOUR])
def test_a_run_works_with_a_domain_whose_clock_differs(apart, ahead_s):
    """Its requests and permits are dated by the clock of who is asked."""
    with apart(ahead_s) as both:
        assert NOTHING_OFFERED in both.why()
        assert both.client.ahead_s == pytest.approx(ahead_s, abs=30)
        assert both.called("whole") == SENT
        assert both.streamed("in pieces") == [0, 1, 2]


def test_a_stream_is_asked_for_once_more_by_the_clock_that_the_refusal_tells(apart):
    with apart(0.0) as both:
        assert both.called("before") == SENT
        both.theirs.epoch -= HOUR
        lease = both.lease("in pieces")
        permit = both.permit(lease)
        stream = both.client.stream(lease, permit, "echo", SENT, timeout=INVOKE_S, idle_s=30.0)
        assert [piece.document["number"] for piece in stream] == [0, 1, 2]  # pyright: ignore[reportGeneralTypeIssues]
        assert len(both.node.starts) == 2, "each call is begun once"


@pytest.mark.parametrize("whose", ["clock", "theirs"])
@pytest.mark.parametrize("jump_s", [HOUR, -HOUR])
def test_a_clock_that_jumps_and_is_set_right_again_stops_nothing(apart, whose, jump_s):
    """Leases are renewed all the time."""
    with apart(0.0) as both:
        set_ = getattr(both, whose)
        assert both.called("before") == SENT
        set_.epoch += jump_s
        both.renewed()
        assert both.called("meanwhile") == SENT
        set_.epoch -= jump_s
        both.renewed()
        assert both.called("afterwards") == SENT
        assert both.streamed("in pieces") == [0, 1, 2]
        assert both.client.ahead_s == pytest.approx(0.0, abs=30)


@pytest.mark.parametrize(("ahead_s", "how"), [(25 * HOUR, "25 h behind"), (-30 * HOUR, "30 h ahead")])
def test_more_than_a_day_apart_a_run_hears_whose_clock_differs_and_by_how_much(apart, ahead_s, how):
    with apart(ahead_s) as both:
        why = both.why()
        assert f"the clock of library is {how} of that of lab, which says " in why
        assert "[proof.stale]" in why and "[domain.unreachable]" in why
        with pytest.raises(GatewayRefusedError, match=f"clock of library is {how}"):
            both.called("whole")
        assert both.node.starts == []
        both.theirs.epoch -= ahead_s
        assert both.called("when it is right") == SENT


def test_each_gateway_sees_how_far_the_others_clock_is_off_and_the_doctor_says_so(tmp_path):
    ash, birch = (owned(tmp_path, name) for name in ("ash", "birch"))
    clocks = {"ash": ManualClock(0.0, time.time()), "birch": ManualClock(0.0, time.time() + 12 * MINUTE)}
    with ExitStack() as stack:
        urls = {}
        for one in (ash, birch):
            asks = partial(_asking, one.home)
            its = gateway(one, book=FolderBook(one.home), clock=Ticking(clocks[one.home.name]), http_to=asks)
            urls[one.home.name] = stack.enter_context(its)
        introduce(ash, birch, gateways=urls)
        for one in (ash, birch):
            one.home.save_config(replace(one.home.config(), gateway=urls[one.home.name]))
        told = "of birch, ash sees: its clock is 12 min ahead; of ash, birch sees: its clock is 12 min behind"
        eventually(lambda: _clocks(tmp_path).found == told, 20, "what each sees")
        assert _clocks(tmp_path) == Finding("clocks", "mend", told, CLOCK_REMEDY)
        clocks["birch"].epoch -= 12 * MINUTE
        eventually(lambda: _clocks(tmp_path).state == "ok", 20, "the clock that is right again")
    assert _clocks(tmp_path) == Finding("clocks", "ok", "nobody to ask")
