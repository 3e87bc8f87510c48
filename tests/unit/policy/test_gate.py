from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.opa.build import build, find_opa, is_current, revision
from ioi_dagster.adapters.opa.bundle_file import BundleFile
from ioi_dagster.adapters.opa.rules import Rules
from ioi_dagster.adapters.opa.wasm import WasmEngine, check_limits
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import BadInputError, RetryableError
from ioi_dagster.local.home import POLICIES
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.decision import Verdict
from ioi_dagster.policy.compose import compose
from ioi_dagster.policy.decision_log import DecisionLog, verify
from ioi_dagster.policy.documents import REQUIRED, launch_document, placement_document
from ioi_dagster.policy.gate import Gate

BUNDLE = POLICIES / "bundle" / "bundle.tar.gz"
LIBRARY = ("book", "book/library")


@pytest.fixture(scope="module")
def engine() -> WasmEngine:
    return WasmEngine.load(BUNDLE)


def placement(
    data_class: str, domain: str, capability: str = "page.ocr", origin: str = "library.example"
) -> dict[str, Any]:
    authority, handles = {
        "library.example": ("partners", "restricted"),
        "lab.example": ("partners", "internal"),
        "cloud.example": ("cloud", "public"),
    }[domain]
    return placement_document(
        now=1,
        origin=origin,
        origin_authority="partners" if origin != "stranger.example" else "strangers",
        capability=capability,
        data_class=DataClass(data_class),
        domain=domain,
        authority=authority,
        handles=DataClass(handles),
    )


def launch(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "now": 1,
        "domain": "library.example",
        "subject": "ann",
        "trigger": "test",
        "run": "r",
        "job": "j",
        "code": "definitions.documents.defs",
        "tags": {},
        "steps": 3,
        "config_keys": [],
        "highest": "restricted",
    }
    return launch_document(**{**values, **changes})


def codes(gate: Gate, kind: str, document: dict[str, Any]) -> set[str]:
    return {refusal.code for refusal in gate.decide(kind, document).refusals}


@pytest.mark.parametrize(
    ("scope", "document", "expected"),
    [
        ("library", placement("restricted", "library.example"), set()),
        ("library", placement("restricted", "lab.example"), {"placement.class_too_high", "placement.restricted_leaves_home"}),
        ("library", placement("internal", "lab.example"), set()),
        ("library", placement("internal", "cloud.example"), {"placement.class_too_high", "placement.internal_leaves_authority"}),
        ("library", placement("public", "cloud.example"), set()),
        ("library", placement("public", "cloud.example", "dagster.step"), {"placement.own_code_abroad"}),
        ("lab", placement("public", "lab.example", origin="stranger.example"), {"lab.not_a_partner"}),
        ("lab", placement("restricted", "lab.example"),
         {"placement.class_too_high", "placement.restricted_leaves_home", "lab.above_internal"}),
        ("cloud", placement("internal", "cloud.example"),
         {"placement.class_too_high", "placement.internal_leaves_authority", "cloud.public_only"}),
        ("cloud", placement("public", "cloud.example", "dagster.step"), {"placement.own_code_abroad", "cloud.no_foreign_code"}),
    ],
)  # fmt: skip
def test_where_data_may_go(engine, scope, document, expected):
    assert codes(Gate(engine, ("book", f"book/{scope}"), ManualClock()), "placement", document) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"subject": ""}, {"launch.no_subject"}),
        ({"highest": "secret"}, {"launch.unknown_class"}),
        ({"steps": 100_001}, {"launch.too_many_steps"}),
        ({"code": "evil"}, {"launch.unknown_code"}),
    ],
)
def test_what_may_be_launched(engine, changes, expected):
    assert codes(Gate(engine, LIBRARY, ManualClock()), "launch", launch(**changes)) == expected


def test_approval_holds_until_it_is_given(engine):
    gate = Gate(engine, LIBRARY, ManualClock())
    wanted = launch(tags={"ioi/approval": "required"})
    assert gate.decide("launch", wanted).verdict is Verdict.HOLD
    assert gate.decide("launch", launch(tags={"ioi/approval": "required"}, approvals=["bob"])).verdict is Verdict.ALLOW


def test_nobody_approves_their_own_run(engine):
    gate = Gate(engine, LIBRARY, ManualClock())
    tags = {"ioi/approval": "required"}
    assert gate.decide("launch", launch(tags=tags, approvals=["ann"])).verdict is Verdict.HOLD
    assert gate.decide("launch", launch(tags=tags, approvals=["ann", "bob"])).verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    ("kind", "document"), [("launch", launch()), ("placement", placement("public", "lab.example"))]
)
def test_a_document_that_lacks_a_field_is_held_never_allowed(engine, kind, document):
    gate = Gate(engine, LIBRARY, ManualClock())
    assert gate.decide(kind, document).verdict is Verdict.ALLOW
    for path, _ in REQUIRED[kind]:
        top, _, leaf = path.partition(".")
        for value in ({}, {top: None}, {top: {**document[top], leaf: None}} if leaf else {top: 7}):
            changed = {key: item for key, item in document.items() if key != top} | value
            assert gate.decide(kind, changed).verdict is Verdict.HOLD, (path, value)
    assert gate.decide(kind, {}).verdict is Verdict.HOLD


def test_a_decision_that_cannot_be_recorded_is_held(engine):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    gate = Gate(engine, LIBRARY, ManualClock(), full)
    assert [gate.decide("placement", placement("public", "lab.example")).verdict for _ in range(2)] == [
        Verdict.HOLD
    ] * 2


@pytest.mark.parametrize("kind", ["place_in", "cap", "isolate"])
def test_an_obligation_that_nobody_enforces_is_a_deny(kind):
    answer = {"allow": True, "deny": [], "obligations": [{"kind": kind}], "ttl_s": 0}
    assert compose([("s", answer)]).verdict is Verdict.DENY


class Broken:
    name, revision = "broken", "sha256:0"
    entrypoints = frozenset({"ioi/book/launch/verdict"})

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def evaluate(self, entrypoint: str, document: dict[str, Any]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        RetryableError("away"),
        KeyError("x"),
        None,
        True,
        {},
        {"allow": True},
        {"allow": "true", "deny": []},
        {"allow": True, "deny": [{"code": "x"}]},
        {"allow": False, "deny": []},
        {"allow": True, "deny": {}, "ttl_s": 1},
        {"allow": True, "deny": [], "ttl_s": -1},
        {"allow": True, "deny": [], "ttl_s": True},
        {"allow": True, "deny": [], "obligations": ["x"]},
    ],
)
def test_an_engine_that_cannot_say_holds_and_never_allows(answer):
    decision = Gate(Broken(answer), ("book",), ManualClock()).decide("launch", launch())
    assert decision.verdict is Verdict.HOLD
    assert decision.refusals[0].code == "policy.undecidable"


def test_no_engine_and_no_policy_hold_too(engine):
    assert Gate(None, ("book",), ManualClock()).decide("launch", launch()).verdict is Verdict.HOLD
    assert Gate(engine, ("elsewhere",), ManualClock()).decide("launch", launch()).verdict is Verdict.HOLD


def test_an_unknown_obligation_is_a_deny():
    answer = {"allow": True, "deny": [], "obligations": [{"kind": "sing"}], "ttl_s": 0}
    assert compose([("s", answer)]).verdict is Verdict.DENY


def with_known_code(policies: Path, *modules: str) -> None:
    data = json.loads((policies / "data.json").read_text())
    data["ioi"]["library"]["code_locations"] = list(modules)
    (policies / "data.json").write_text(json.dumps(data))
    build(policies, policies / "bundle" / "bundle.tar.gz")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return Path(shutil.copytree(POLICIES, tmp_path / "policies"))


def test_a_gate_goes_by_the_bundle_that_is_built_now(policies):
    bundle = policies / "bundle" / "bundle.tar.gz"
    gate = Gate(None, LIBRARY, ManualClock(), newest=BundleFile(bundle).engine)
    denied = gate.decide("launch", launch(code="mine"))
    assert (denied.verdict, denied.revision) == (Verdict.DENY, revision(bundle))
    with_known_code(policies, "mine")
    allowed = gate.decide("launch", launch(code="mine"))
    assert (allowed.verdict, allowed.revision) == (Verdict.ALLOW, revision(bundle))
    with_known_code(policies, "another")
    assert gate.decide("launch", launch(code="mine")).verdict is Verdict.DENY


def test_a_bundle_that_cannot_be_read_leaves_the_one_that_was(policies):
    bundle = policies / "bundle" / "bundle.tar.gz"
    gate = Gate(None, LIBRARY, ManualClock(), newest=BundleFile(bundle).engine)
    was = gate.decide("launch", launch()).revision
    bundle.write_bytes(b"half of")
    assert gate.decide("launch", launch(run="r2")).revision == was
    bundle.unlink()
    assert gate.decide("launch", launch(run="r3")).verdict is Verdict.ALLOW


def test_a_bundle_that_could_never_be_read_holds_and_says_why(tmp_path):
    gate = Gate(None, LIBRARY, ManualClock(), newest=BundleFile(tmp_path / "none.tar.gz").engine)
    decision = gate.decide("launch", launch())
    assert decision.verdict is Verdict.HOLD
    assert "none.tar.gz" in decision.refusals[0].text and "ioi policy build" in decision.refusals[0].text


def test_a_denial_says_what_to_change_where_and_what_to_do_then(engine):
    gate = Gate(engine, LIBRARY, ManualClock(), where=Rules(POLICIES).where)
    (refusal,) = gate.decide("launch", launch(code="mine")).refusals
    rule = POLICIES / "domains" / "book" / "library" / "launch.rego"
    line = (
        rule.read_text()
        .splitlines()
        .index('\t"code": "launch.unknown_code", "policy": "book/library/launch", "domain": "library.example",')
    )
    assert refusal.remedy == (
        'have the library review it, which then adds "mine" to ioi.library.code_locations in policies/data.json; '
        f"the rule is policies/domains/book/library/launch.rego:{line + 1}; `ioi policy build` makes a change count"
    )


def test_each_rule_that_denies_is_found_in_its_file():
    rules, told = Rules(POLICIES), []
    for path in sorted((POLICIES / "domains").rglob("*.rego")):
        for code, policy in re.findall(r'"code": "([a-z._]+)", "policy": "([a-z/]+)"', path.read_text()):
            file, _, line = rules.where(policy, code).rpartition(":")
            assert POLICIES.parent / file == path
            assert f'"{code}"' in path.read_text().splitlines()[int(line) - 1]
            told.append(code)
    assert len(told) >= 16


@pytest.mark.parametrize("policy", ["../../../etc/passwd", "book/nothing", "", "book/library"])
def test_what_is_no_rule_of_the_folder_stands_nowhere(policy):
    assert Rules(POLICIES).where(policy, "launch.unknown_code") == ""


_verdicts = st.builds(
    lambda denies, hold: {
        "allow": not denies,
        "deny": [{"code": code} for code in denies],
        "obligations": [{"kind": "require_approval"}] if hold else [],
        "ttl_s": 1,
    },
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
    st.booleans(),
)
_STRICTNESS = {Verdict.ALLOW: 0, Verdict.HOLD: 1, Verdict.DENY: 2}


@given(st.lists(_verdicts, min_size=1, max_size=4), _verdicts)
def test_another_scope_can_only_tighten(answers, more):
    before = compose([("s", answer) for answer in answers]).verdict
    after = compose([("s", answer) for answer in [*answers, more]]).verdict
    assert _STRICTNESS[after] >= _STRICTNESS[before]


@pytest.mark.parametrize("document", [{"a": "x" * 2_000}, {"a": list(range(2_000))}, {"a": ["x" * 1_000] * 100}])
def test_an_oversized_input_is_refused_before_it_is_evaluated(document):
    with pytest.raises(BadInputError):
        check_limits(document, json.dumps(document).encode())


def test_a_deep_input_is_refused(engine):
    document: dict[str, Any] = {}
    for _ in range(40):
        document = {"a": document}
    assert Gate(engine, LIBRARY, ManualClock()).decide("launch", document).verdict is Verdict.HOLD


def test_a_text_in_the_input_cannot_forge_a_decision(engine):
    tags = {"x": '"}]}{"allow":true,"deny":[]}'}
    assert codes(Gate(engine, LIBRARY, ManualClock()), "launch", launch(subject="", tags=tags)) == {"launch.no_subject"}


def test_the_decision_log_shows_a_line_that_was_altered(engine, tmp_path):
    log = tmp_path / "decisions.jsonl"
    gate = Gate(engine, LIBRARY, ManualClock(), DecisionLog(log))
    for steps in (1, 2, 3):
        gate.decide("launch", launch(steps=steps))
    assert verify(log) is None
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1].replace("allow", "deny!"), lines[2]]))
    assert verify(log) == "line 2: it was altered"
    log.write_text("\n".join([lines[0], lines[2]]))
    assert verify(log) == "line 2: a line before it is missing or was altered"


def test_the_built_bundle_is_that_of_its_sources():
    assert is_current(POLICIES, BUNDLE), "run `ioi policy build`"


def test_a_changed_rule_is_noticed(tmp_path):
    copy = Path(shutil.copytree(POLICIES, tmp_path / "policies"))
    rule = copy / "domains" / "book" / "cloud" / "placement.rego"
    rule.write_text(rule.read_text().replace('!= "public"', '!= "internal"'))
    assert not is_current(copy, BUNDLE)
    assert revision(BUNDLE) == revision(copy / "bundle" / "bundle.tar.gz")


@pytest.mark.parametrize("command", [["fmt", "--fail", "--list"], ["check", "--strict"], ["test"]], ids=" ".join)
def test_opa_finds_the_policies_well_formed_strict_and_right(command):
    result = subprocess.run([find_opa(), *command, "lib", "domains"], cwd=POLICIES, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_two_processes_write_one_chain(engine, tmp_path):
    log = tmp_path / "decisions.jsonl"
    gates = [Gate(engine, LIBRARY, ManualClock(), DecisionLog(log)) for _ in range(2)]
    for steps in range(1, 7):
        gates[steps % 2].decide("launch", launch(steps=steps))
    assert len(log.read_text().splitlines()) == 6
    assert verify(log) is None


def test_a_decision_cut_off_costs_no_other(engine, tmp_path):
    log = tmp_path / "decisions.jsonl"
    gate = Gate(engine, LIBRARY, ManualClock(), DecisionLog(log))
    gate.decide("launch", launch(steps=1))
    with log.open("a") as file:
        file.write('{"kind": "launch", "ha')
    gate.decide("launch", launch(steps=2))
    first, torn, last = log.read_text().splitlines()
    assert json.loads(first)["verdict"] == json.loads(last)["verdict"] == "allow"
    assert torn == '{"kind": "launch", "ha'
    assert verify(log) == "line 2: not a decision"
