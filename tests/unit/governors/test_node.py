"""Gate 4: a node starts nothing that is not permitted, current and its own."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from ioi_dagster.adapters.dask.node import NodeHost
from ioi_dagster.adapters.dask.replica_thread import ReplicaLostError
from ioi_dagster.adapters.dask.replicas import BlockRefusedError, ReplicaHost
from ioi_dagster.clock import ManualClock
from ioi_dagster.decoding import from_msgpack
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.governors.failures import Cause
from ioi_dagster.governors.node import NodeGovernor
from ioi_dagster.model.block import Payload
from ioi_dagster.model.capability import BlockSpec, Contract
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import OWN_STEP, Lease
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.start import StartAnswer, StartRequest
from ioi_dagster.policy.permits import check_step_permit, from_plain, issue
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys, digest_bytes

HOME, STRANGER = SigningKey.generate("library.example"), SigningKey.generate("library.example")
TRUSTED = TrustedKeys({HOME.key_id: HOME.public_bytes})
LEASE = Lease("l1", "r", "s", 2, 0, "echo", "lab-main", "lab.example", "lab-1", 1, origin="library.example")
PAYLOAD = encode_payload(Payload({"say": "hello"}, {"part": b"\x00\xff"}))


class Echo:
    loads = 0

    def load(self) -> None:
        Echo.loads += 1

    def unload(self) -> None: ...

    def invoke(self, batch):
        for payload in batch:
            if payload.document.get("break"):
                raise RuntimeError("the block is broken")
        return batch


def permit_for(
    lease: Lease = LEASE, payload: bytes = PAYLOAD, key: SigningKey = HOME, nonce: str = "n", **changes
) -> dict:
    permit = StepPermit(
        run=lease.run,
        step=lease.step,
        fence=lease.fence,
        copy=lease.copy,
        lease=lease.id,
        capability=lease.capability,
        data_class=DataClass.PUBLIC,
        audience="lab.example",
        cluster=lease.cluster,
        node=lease.node,
        payload=digest_bytes(payload),
        not_before=0.0,
        expires=2e9,
        nonce=nonce,
        issuer="library.example",
    )
    return msgspec.to_builtins(issue(key, replace(permit, **changes)))


def host() -> NodeHost:
    def check(request: StartRequest):
        if request.permit is None:
            return None
        signed = from_plain(request.permit)
        if not isinstance(signed, Signed):
            return signed
        return check_step_permit(
            signed,
            TRUSTED,
            lease=request.lease,
            payload=digest_bytes(request.payload),
            audience="lab.example",
            now=ManualClock().wall(),
        )

    spec = BlockSpec("echo", "1", "echo", f"{__name__}:Echo", Contract("echo", "echo"))
    clock = ManualClock()
    governor = NodeGovernor("lab-1", "lab-main", frozenset({"echo"}), governed=True)
    return NodeHost("lab-1", governor, ReplicaHost([spec], "lab-1", clock), check, clock)


ran: list[bytes] = []


def run_step(work: bytes) -> bytes:
    ran.append(work)
    return b"done"


def steps_host() -> NodeHost:
    """A governed node that runs its owner's steps."""
    node = host()
    node.governor = NodeGovernor("lab-1", "lab-main", frozenset({OWN_STEP}), governed=True)
    node.step_runner = f"{__name__}:run_step"
    return node


def start(
    node: NodeHost, lease: Lease = LEASE, permit: dict | None = None, payload: bytes = PAYLOAD, kind: str = "block"
):
    request = StartRequest(kind, lease, permit, lease.capability, payload)
    return from_msgpack(node.start(msgspec.msgpack.encode(request)), StartAnswer)


def test_a_permitted_block_call_is_answered():
    answer = start(host(), permit=permit_for())
    assert answer.result is not None
    assert decode_payload(answer.result) == decode_payload(PAYLOAD)
    assert (answer.refusal, answer.error, answer.node) == (None, None, "lab-1")


@pytest.mark.parametrize(
    ("raised", "cause"), [(ReplicaLostError("it was lost during a call"), Cause.NODE_ERROR), (ValueError("no"), "")]
)
def test_a_replica_that_is_lost_is_told_from_an_error_of_the_block(raised, cause, monkeypatch):
    node = host()

    def invoke(*_):
        raise raised

    monkeypatch.setattr(node.replicas, "invoke", invoke)
    answer = start(node, permit=permit_for())
    assert str(raised) in (answer.error or "")
    assert answer.cause == cause


@pytest.mark.parametrize(
    ("lease", "permit", "code"),
    [
        (LEASE, None, "node.no_permit"),
        (LEASE, permit_for(key=STRANGER), "permit.signature"),
        (LEASE, permit_for(audience="cloud.example"), "permit.audience_mismatch"),
        (LEASE, permit_for(payload=b"other"), "permit.payload_mismatch"),
        (LEASE, permit_for(expires=1.0), "permit.expired"),
        (LEASE, permit_for(fence=1), "permit.fence_mismatch"),
        (LEASE, {"body": {}}, "permit.malformed"),
        (replace(LEASE, node="lab-2"), permit_for(replace(LEASE, node="lab-2")), "node.wrong_node"),
        (replace(LEASE, cluster="x"), permit_for(replace(LEASE, cluster="x")), "node.wrong_cluster"),
        (replace(LEASE, capability="fly"), permit_for(replace(LEASE, capability="fly")), "node.not_offered"),
    ],
)
def test_everything_else_is_refused_by_its_own_code_and_loads_nothing(lease, permit, code):
    before = Echo.loads
    answer = start(host(), lease, permit)
    assert answer.refusal is not None
    assert answer.refusal.code == code
    assert (answer.result, Echo.loads) == (None, before)


STEP_LEASE = replace(LEASE, capability=OWN_STEP)


@pytest.mark.parametrize(
    ("permit", "code"),
    [
        (None, "node.no_permit"),
        (permit_for(STEP_LEASE, step="another"), "permit.step_mismatch"),
        (permit_for(STEP_LEASE, run="another"), "permit.run_mismatch"),
        (permit_for(STEP_LEASE, payload=b"another"), "permit.payload_mismatch"),
        (permit_for(STEP_LEASE, expires=1.0), "permit.expired"),
        (permit_for(STEP_LEASE), None),
    ],
)
def test_each_step_needs_its_own_permit_or_none_of_its_code_runs(permit, code):
    ran.clear()
    answer = start(steps_host(), STEP_LEASE, permit, kind="step")
    assert (answer.refusal.code if answer.refusal else None, ran) == (code, [] if code else [PAYLOAD])


def test_a_drained_node_starts_what_a_step_waits_for_that_runs_there_and_nothing_else():
    """The step has begun, and there may be no other place for the parts of its map."""
    node, codes = steps_host(), []

    def asks(step: str) -> str | None:
        lease = replace(STEP_LEASE, step=step)
        refusal = start(node, lease, permit_for(lease, nonce=step), kind="step").refusal
        return refusal.code if refusal else None

    def mapped(work: bytes) -> bytes:
        node.step_runner = f"{__name__}:run_step"
        node.drain("a new disk")
        codes.extend(map(asks, ("s#1.1/0", "t#1.1/0", "t")))
        return b"done"

    globals()["mapped"] = mapped
    node.step_runner = f"{__name__}:mapped"
    assert asks("s") is None
    assert codes == [None, "node.draining", "node.draining"]
    assert asks("s#1.1/1") == "node.draining", "nobody waits for it any more"


OURS = {"python": "3.12.4.final.0", "dagster": "1.13.27", "dask": "2026.8.0"}


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({}, None),
        (OURS, None),
        ({**OURS, "python": "3.12.7.final.0"}, None),
        (
            {**OURS, "python": "3.13.0.final.0", "dagster": "1.12.0"},
            "python is 3.12.4.final.0 there and 3.13.0.final.0 here; dagster is 1.13.27 there and 1.12.0 here",
        ),
        ({**OURS, "cloudpickle": "3.0.0"}, "cloudpickle is missing there and 3.0.0 here"),
    ],
)
def test_a_step_of_a_run_of_other_versions_is_refused_and_names_them(theirs, told):
    ran.clear()
    node = steps_host()
    node.governor.versions = OURS
    lease = replace(STEP_LEASE, fence=3)
    request = StartRequest("step", lease, permit_for(lease), OWN_STEP, PAYLOAD, versions=theirs)
    answer = from_msgpack(node.start(msgspec.msgpack.encode(request)), StartAnswer)
    refused = told and Refusal(
        "node.other_versions",
        f"it cannot take steps of this run: {told}",
        "node lab-1",
        "install the same versions on both sides",
    )
    assert (answer.refusal, ran) == (refused, [] if told else [PAYLOAD])


def test_a_permit_for_one_capability_starts_no_other():
    request = StartRequest(
        "block", replace(LEASE, capability="other"), permit_for(replace(LEASE, capability="other")), "echo", PAYLOAD
    )
    answer = from_msgpack(host().start(msgspec.msgpack.encode(request)), StartAnswer)
    assert answer.refusal is not None
    assert answer.refusal.code == "node.other_capability"
    assert answer.result is None


def test_a_permit_is_used_once_and_an_older_fence_never():
    node = host()
    assert start(node, permit=permit_for()).refusal is None
    replayed = start(node, permit=permit_for()).refusal
    assert replayed is not None
    assert replayed.code == "node.replayed_permit"
    older = replace(LEASE, fence=1)
    stale = start(node, older, permit_for(older, nonce="m")).refusal
    assert stale is not None
    assert stale.code == "node.stale_fence"


def test_a_node_that_takes_blocks_only_runs_nobodys_code():
    answer = start(host(), permit=permit_for(), kind="step")
    assert answer.refusal is not None
    assert "blocks only" in answer.refusal.text


def test_a_broken_block_is_an_answer_and_rubbish_is_a_refusal():
    broken = encode_payload(Payload({"break": True}))
    answer = start(host(), permit=permit_for(payload=broken), payload=broken)
    assert answer.error is not None
    assert "the block is broken" in answer.error
    rubbish = from_msgpack(host().start(b"\x80\x04rubbish"), StartAnswer)
    assert rubbish.refusal is not None
    assert rubbish.refusal.code == "node.malformed"


def test_a_lease_of_an_older_epoch_starts_nothing():
    node = host()
    newer = replace(LEASE, epoch=2)
    assert start(node, newer, permit_for(newer)).refusal is None
    older = replace(LEASE, step="t")
    refused = start(node, older, permit_for(older, nonce="m")).refusal
    assert refused is not None
    assert refused.code == "node.old_epoch"


def test_a_full_node_unloads_what_is_idle_and_refuses_only_when_that_does_not_help():
    node, full = host(), [0.5]
    node.memory = lambda: full[0] if node.replicas.warm() else full[0] - 0.3
    assert start(node, permit=permit_for()).refusal is None
    assert node.replicas.warm() == {"echo"}
    full[0] = 0.99
    again = replace(LEASE, fence=3)
    assert start(node, again, permit_for(again, nonce="m")).refusal is None
    full[0] = 1.5
    third = replace(LEASE, fence=4)
    refused = start(node, third, permit_for(third, nonce="o")).refusal
    assert refused is not None
    assert refused.code == "node.memory"
    assert node.idle


def test_a_block_that_does_not_load_is_not_warm_and_its_calls_are_refused():
    class Broken(Echo):
        def load(self) -> None:
            raise OSError("no weights")

    globals()["Broken"] = Broken
    for entrypoint, why in (
        ("unused:unused", "ModuleNotFoundError: No module named 'unused'"),
        (f"{__name__}:Broken", "OSError: no weights"),
    ):
        spec = BlockSpec("echo", "1", "echo", entrypoint, Contract("echo", "echo"))
        replicas = ReplicaHost([spec], "n", ManualClock())
        with pytest.raises(BlockRefusedError) as refused:
            replicas.invoke("echo", Payload({}))
        text = f"echo 1 did not load: {why}"
        assert refused.value.refusal == Refusal("block.not_loaded", text, "node n", "place it elsewhere")
        assert replicas.warm() == frozenset()
