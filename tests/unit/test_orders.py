"""Orders as they are written down: said twice, cut off, damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ioi_dagster.adapters.files import written
from ioi_dagster.adapters.files.drains import Drain, DrainFile
from ioi_dagster.adapters.files.orders import OrderFile
from ioi_dagster.adapters.http.protocol import RunAnswer, RunOrder
from ioi_dagster.adapters.link.caller import RefusedError
from ioi_dagster.adapters.opa.wasm import WasmEngine
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.clock import ManualClock
from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError, NotAllowedError, UnreachableError
from ioi_dagster.local.home import POLICIES
from ioi_dagster.local.ordering import MAX_REFUSED, Ordering
from ioi_dagster.model.intervention import MAX_CAP, Action
from ioi_dagster.model.order import InForce, Order, Orders, Target, Verb
from ioi_dagster.model.quota import QuotaTree
from ioi_dagster.policy.gate import Gate
from tests.realms import owned

PAUSE = Order(Target.BLOCK, "ocr", Verb.PAUSE, why="a bad model", who="ann", at=1.0)
CAP = Order(Target.TENANT, "t", Verb.CAP, 2, who="bob", at=2.0)


def test_what_is_ordered_is_in_force_and_on_record(tmp_path: Path) -> None:
    file = OrderFile(tmp_path)
    assert (file.read(), file.changed_at(), file.all()) == (Orders(), 0, [])
    assert file.give(PAUSE, "d1") == "paused; what runs goes on to its end"
    assert file.give(CAP, "d2") == "may run 2 at once"
    expected = Orders({"ocr": InForce(stopped=PAUSE)}, {"t": InForce(capped=CAP)})
    assert OrderFile(tmp_path).read() == expected
    assert file.give(PAUSE, "d3") == "paused already"
    resume = Order(Target.BLOCK, "ocr", Verb.RESUME, who="bob", at=3.0)
    assert [file.give(resume, ""), file.give(resume, "")] == ["goes on", "was not paused"]
    assert file.read() == Orders({}, {"t": InForce(capped=CAP)})
    assert [(one.order, one.decision) for one in file.all()][:3] == [(PAUSE, "d1"), (CAP, "d2"), (PAUSE, "d3")]


def test_what_was_cancelled_is_on_record_and_holds_nothing_up(tmp_path: Path) -> None:
    file = OrderFile(tmp_path)
    cancel = Order(Target.BLOCK, "ocr", Verb.CANCEL, why="a bad model", who="ann", at=1.0)
    assert file.give(cancel, "d1") == "what runs of it is cancelled; what waits may start"
    assert file.read() == Orders({"ocr": InForce(cancelled=cancel)})
    assert [*file.read().listed()] == []
    file.give(PAUSE, "d2")
    assert file.read() == Orders({"ocr": InForce(stopped=PAUSE, cancelled=cancel)})


def test_what_was_cut_off_while_it_was_written_down_is_not_in_force_and_spoils_nothing(tmp_path: Path) -> None:
    file = OrderFile(tmp_path)
    file.give(CAP, "d1")
    with (tmp_path / "orders.jsonl").open("ab") as record:
        record.write(b'\n{"order": {"target": "blo')
    assert file.read() == Orders({}, {"t": InForce(capped=CAP)})
    file.give(PAUSE, "d2")
    assert [one.decision for one in file.all()] == ["d1", "d2"]


def test_a_list_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "orders.json").write_bytes(b'{"blocks": {"ocr": {"stopped": {"target": "block", "name": ""}}}}')
    with pytest.raises(BadInputError, match=r"orders\.json: not a list of what is ordered"):
        OrderFile(tmp_path).give(PAUSE, "")
    assert OrderFile(tmp_path).all() == []


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (Order(Target.NODE, "n", Verb.PRIORITISE, 2), "a node has no prioritise: .* — prioritise a tenant"),
        (Order(Target.NODE, "n", Verb.REROUTE), "a node has no reroute: .* — drain it with `--within 0`"),
        (
            Order(Target.NODE, "n", Verb.RETURN, away="c"),
            "a node has no return: .* — let it go on by `ioi node resume`",
        ),
        (Order(Target.BLOCK, "b", Verb.REROUTE), "a reroute is away from where, .* — name a cluster"),
        (Order(Target.TENANT, "t", Verb.RETURN), "a return is away from where, or back to where — name a cluster"),
        (Order(Target.TENANT, "t", Verb.PAUSE, away="c"), "a pause is of no cluster"),
        (Order(Target.NODE, "n", Verb.CAP, 0), "a node of no slots takes nothing — pause it"),
        (Order(Target.BLOCK, "b", Verb.CANCEL, 3), "a cancel has no number"),
        (Order(Target.TENANT, "t", Verb.PRIORITISE, 0), "0 is no weight"),
        (Order(Target.TENANT, "t", Verb.PAUSE, 3), "a pause has no number"),
        (Order(Target.BLOCK, "b", Verb.PAUSE, within_s=3.0), "a pause ends nothing"),
        (Order(Target.BLOCK, "b", Verb.DRAIN, within_s=86_401.0), r"<= 86400.*within_s"),
        (Order(Target.BLOCK, "b", Verb.DRAIN, within_s=float("nan")), r"within_s"),
        (Order(Target.BLOCK, "b", Verb.CAP, MAX_CAP + 1), rf"<= {MAX_CAP}.*value"),
        (Order(Target.BLOCK, "b", Verb.PAUSE, why="w" * 501), r"length <= 500.*why"),
        (Order(Target.BLOCK, "b" * 501, Verb.PAUSE), r"length <= 500.*name"),
        (Order(Target.BLOCK, "", Verb.PAUSE), r"length >= 1.*name"),
    ],
)
def test_what_makes_no_sense_is_refused(order: Order, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        order.check()


def test_what_could_not_be_read_again_is_refused_before_anything_of_it_is_written(tmp_path: Path) -> None:
    file = OrderFile(tmp_path)
    file.give(CAP, "d1")
    for many in (Order(Target.BLOCK, "b", Verb.PAUSE, why="w" * 501), replace(PAUSE, why="w" * written.MAX_BYTES)):
        with pytest.raises(BadInputError, match="could not be read again"):
            file.give(many, "d2")
    drains = DrainFile(tmp_path)
    with pytest.raises(BadInputError, match="could not be read again"):
        drains.drain("c", "n", Drain("w" * 501, 1.0))
    assert (file.read(), [one.decision for one in file.all()]) == (Orders({}, {"t": InForce(capped=CAP)}), ["d1"])
    assert drains.read() == {}


def test_no_more_is_ordered_than_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = OrderFile(tmp_path)
    file.give(CAP, "d1")
    monkeypatch.setattr(written, "MAX_BYTES", len((tmp_path / "orders.json").read_bytes()) + 40)
    with pytest.raises(BadInputError, match="more than"):
        file.give(PAUSE, "d2")
    assert file.give(replace(CAP, value=None), "d3") == "may run any number at once"
    assert [one.decision for one in file.all()] == ["d1", "d3"]


def test_an_order_that_has_no_room_on_the_disk_is_not_on_record(tmp_path: Path) -> None:
    file = OrderFile(tmp_path)
    file.give(CAP, "d1")
    (tmp_path / "orders.new").mkdir()  # stands for a disk that takes nothing
    with pytest.raises(OSError, match=r"orders\.new"):
        file.give(PAUSE, "d2")
    assert (file.read(), [one.decision for one in file.all()]) == (Orders({}, {"t": InForce(capped=CAP)}), ["d1"])


@pytest.fixture
def desk(tmp_path: Path) -> Ordering:
    """Of a domain with the policy as shipped."""
    gate = Gate(WasmEngine.load(POLICIES / "bundle" / "bundle.tar.gz"), ("book",), ManualClock())
    return Ordering(owned(tmp_path, "lab").home, gate, lambda: 7.0, seen)


def seen(_home: DomainHome) -> set[str]:
    """The tenants of which its clusters have heard."""
    return {"t", "visitors"}


def test_who_has_ordered_and_when_is_found_out_not_said(desk: Ordering) -> None:
    said = Order(Target.TENANT, "t", Verb.CAP, 2, who="the director", at=1.0)
    given = desk.give(said, "ann", "lab")
    assert given.order == Order(Target.TENANT, "t", Verb.CAP, 2, who="ann", at=7.0)
    assert given.decision
    (shown,) = desk.in_force()
    assert (shown["name"], shown["who"], shown["value"]) == ("t", "ann", 2)


def test_a_node_is_paused_drained_and_resumed_and_said_again_it_is_so_already(desk: Ordering) -> None:
    def node(verb: Verb, name: str = "lab-1", **more: Any) -> str:
        return desk.give(Order(Target.NODE, name, verb, why="hot", **more), "ann", "lab").answer

    def in_force() -> list[tuple[str, str, int | None]]:
        return [(one["name"], one["verb"], one["value"]) for one in desk.in_force()]

    assert node(Verb.PAUSE) == "is paused; what runs there goes on to its end"
    assert node(Verb.PAUSE) == "was paused already"
    assert in_force() == [("lab-1", "pause", None)]
    assert node(Verb.DRAIN, within_s=60.0) == "is drained"
    assert in_force() == [("lab-1", "drain", None)]
    assert [node(Verb.RESUME), node(Verb.RESUME)] == ["takes steps again", "was not drained"]
    assert [node(Verb.CAP, value=2), node(Verb.CAP, value=2)] == ["may run 2 at once", "may run 2 at once already"]
    assert node(Verb.CAP, "lab-c", value=3) == "may run 3 at once"
    assert in_force() == [("lab-c/lab-1", "cap", 2), ("lab-c", "cap", 3)]
    # As it is shown it may be said.
    assert node(Verb.CAP, "lab-c/lab-1", value=None) == "may run any number at once"
    assert node(Verb.CANCEL) == "what runs of it is cancelled; what waits may start"
    assert in_force() == [("lab-c", "cap", 3)]


def test_who_cancels_what_runs_says_why(desk: Ordering) -> None:
    for target, name in ((Target.BLOCK, "dagster.step"), (Target.TENANT, "t"), (Target.NODE, "lab-1")):
        with pytest.raises(NotAllowedError, match=rf"intervene\.no_reason.*work of others \({target} {name}\), and no"):
            desk.give(Order(target, name, Verb.CANCEL), "ann", "lab")
        assert desk.give(Order(target, name, Verb.CANCEL, why="w"), "ann", "lab").decision


def test_a_name_that_is_too_long_with_its_domain_is_refused(desk: Ordering) -> None:
    with pytest.raises(BadInputError, match=r"length <= 500.*who"):
        desk.give(Order(Target.TENANT, "t", Verb.CAP, 2), "a" * 500, "cloud")


@pytest.mark.parametrize(
    ("order", "subject", "of", "code"),
    [
        (CAP, "ann", "cloud", "intervene.foreign"),
        (CAP, "", "lab", "intervene.no_subject"),
        (Order(Target.TENANT, "t", Verb.PAUSE), "ann", "lab", "intervene.no_order_reason"),
    ],
)
def test_what_policy_forbids_is_neither_in_force_nor_on_record(
    desk: Ordering, order: Order, subject: str, of: str, code: str
) -> None:
    with pytest.raises(NotAllowedError, match=code):
        desk.give(order, subject, of)
    assert desk.in_force() == []


def test_which_runs_there_are_is_not_told_to_other_domains(desk: Ordering) -> None:
    with pytest.raises(NotAllowedError, match=r"intervene\.foreign"):
        desk.say(RunOrder("r", Action.PAUSE, "ann"), "cloud")
    with pytest.raises(BadInputError, match="lab has no runs"):
        desk.say(RunOrder("r", Action.PAUSE, "ann"), "lab")


class Lenient:
    """A policy that forbids nothing, as one that knows nothing of orders from elsewhere. By scope, whom it lets in: None where it
    says nothing of that."""

    name, revision = "lenient", "1"

    def __init__(self, let_in: dict[str, list[str] | None]) -> None:
        self._let_in = {f"ioi/{scope}/intervene/verdict": domains for scope, domains in let_in.items()}
        self.entrypoints = frozenset(self._let_in)

    def evaluate(self, entrypoint: str, document: Any) -> Any:
        domains = self._let_in[entrypoint]
        owed = [] if domains is None else [{"kind": "let_in", "params": {"domains": domains}}]
        return {"allow": True, "deny": [], "obligations": owed, "ttl_s": 0}


def lenient(folder: Path, **let_in: list[str] | None) -> tuple[Ordering, list[str]]:
    decided: list[str] = []
    gate = Gate(Lenient(let_in), tuple(let_in), ManualClock(), lambda kind, *_: decided.append(kind))
    return Ordering(owned(folder, "lab").home, gate, lambda: 7.0, seen), decided


def test_that_policy_does_not_forbid_it_lets_no_other_domain_order_anything(tmp_path: Path) -> None:
    desk, _ = lenient(tmp_path, book=None)
    with pytest.raises(NotAllowedError, match=r"intervene\.foreign"):
        desk.give(CAP, "ann", "cloud")
    with pytest.raises(NotAllowedError, match=r"intervene\.foreign"):
        desk.say(RunOrder("r", Action.PAUSE, "ann"), "cloud")
    assert desk.in_force() == []
    desk.give(CAP, "ann", "lab")


def test_a_domain_that_policy_names_orders_as_the_own_people_do(tmp_path: Path) -> None:
    desk, _ = lenient(tmp_path, book=["cloud"])
    assert desk.give(CAP, "ann", "cloud").order.who == "ann@cloud"
    with pytest.raises(NotAllowedError, match=r"intervene\.foreign"):
        desk.give(CAP, "ann", "archive")


def test_where_two_scopes_name_domains_only_those_are_let_in_that_both_name(tmp_path: Path) -> None:
    desk, _ = lenient(tmp_path, book=["cloud", "archive"], lab=["archive", "uni"], pool=None)
    for domain in ("cloud", "uni"):
        with pytest.raises(NotAllowedError, match=r"intervene\.foreign"):
            desk.give(CAP, "ann", domain)
    assert desk.in_force() == []
    assert desk.give(CAP, "ann", "archive").order.who == "ann@archive"


def test_who_is_refused_again_and_again_fills_no_record(tmp_path: Path) -> None:
    desk, decided = lenient(tmp_path, book=None)
    for _ in range(100):
        with pytest.raises(NotAllowedError):
            desk.give(CAP, "ann", "cloud")
        with pytest.raises(NotAllowedError):
            desk.say(RunOrder("r", Action.PAUSE, "ann"), "cloud")
    assert len(decided) == MAX_REFUSED
    desk.give(CAP, "ann", "lab")  # nobody else has to do with it


def test_what_is_not_there_is_refused_with_what_is(desk: Ordering) -> None:
    with pytest.raises(BadInputError, match=r"lab has no block 'dagster\.stpe' — did you mean dagster\.step\?"):
        desk.give(Order(Target.BLOCK, "dagster.stpe", Verb.CAP, 1), "ann", "lab")
    with pytest.raises(BadInputError, match="no node or cluster is called 'n9' — known: lab-1, lab-c"):
        desk.give(Order(Target.NODE, "n9", Verb.DRAIN), "ann", "lab")
    assert desk.in_force() == []


TENANT_VERBS = [(Verb.PAUSE, None), (Verb.RESUME, None), (Verb.CAP, 2), (Verb.PRIORITISE, 2)]


@pytest.mark.parametrize(("verb", "value"), TENANT_VERBS)
def test_a_tenant_of_whom_nobody_has_heard_is_misspelt_unless_that_is_said(
    desk: Ordering, verb: Verb, value: int | None
) -> None:
    order = Order(Target.TENANT, "visitor", verb, value, why="w")
    with pytest.raises(BadInputError, match=r"lab knows no tenant 'visitor' — did you mean visitors\?.*--unseen"):
        desk.give(order, "ann", "lab")
    assert desk.in_force() == []
    for _ in range(2):
        assert desk.give(order, "ann", "lab", unseen=True).answer
    # What is ordered is known from then on.
    assert (verb is Verb.RESUME) == (desk.in_force() == [])
    if verb is not Verb.RESUME:
        desk.give(replace(order, verb=Verb.RESUME, value=None), "ann", "lab")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnreachableError("lab-c", "no answer within 2 s"), "lab-c is unreachable"),
        (RefusedError("not_ready", "it begins"), r"it begins \[not_ready\]"),
        (msgspec.ValidationError("Expected `object`, got `array`"), "Expected `object`"),
    ],
)
def test_a_tenant_is_not_called_misspelt_where_a_cluster_that_may_know_it_does_not_tell(
    tmp_path: Path, error: Exception, text: str
) -> None:
    def silent(_home: DomainHome) -> set[str]:
        raise error

    desk = Ordering(owned(tmp_path, "lab").home, Gate(Lenient({"book": None}), ("book",), ManualClock()), seen=silent)
    with pytest.raises(BadInputError, match=rf"whether lab knows a tenant 't' cannot be told: {text}.*--unseen"):
        desk.give(CAP, "ann", "lab")
    assert desk.give(replace(CAP, name="default"), "ann", "lab").answer == "may run 2 at once"


def said_to(desk: Ordering, home: DomainHome, run: str) -> RunAnswer:
    ledger = Ledger(home.ledger)
    ledger.end("run-1", ledger.take_over("run-1", "books", 1.0), 2.0)
    ledger.take_over("run-2", "pages", 3.0)
    ledger.close()
    return desk.say(RunOrder(run, Action.PAUSE, "ann", why="w"), "lab")


def test_a_run_that_has_ended_needs_nothing_done_and_one_that_nobody_knows_is_told_with_those_under_way(
    desk: Ordering, tmp_path: Path
) -> None:
    home = DomainHome(tmp_path / "domains" / "lab")
    answer = said_to(desk, home, "run-1")
    assert (answer.run, answer.answer, bool(answer.decision)) == (
        "run-1",
        "gone: nothing to do; run run-1 has ended",
        True,
    )
    assert desk.heard(answer) == answer
    with pytest.raises(BadInputError, match="nothing is known of run x — under way: run-2 of pages"):
        said_to(desk, home, "x")


def test_word_that_names_nobody_is_refused_with_the_runs_answer(desk: Ordering, tmp_path: Path) -> None:
    home = DomainHome(tmp_path / "domains" / "lab")
    said = said_to(desk, home, "run-2")
    assert desk.heard(said).answer == ""
    ledger = Ledger(home.ledger)
    ledger.answered(said.number, "the run has no step 'orc'; did you mean ocr?", refused=True)
    ledger.close()
    with pytest.raises(BadInputError, match=r"the run has no step 'orc' — did you mean ocr\?"):
        desk.heard(said)


def test_who_has_no_place_in_the_quotas_has_no_weight(desk: Ordering, tmp_path: Path) -> None:
    weigh = Order(Target.TENANT, "visitors", Verb.PRIORITISE, 5)
    assert desk.give(weigh, "ann", "lab").answer == "has weight 5", "anybody has one here"
    home = owned(tmp_path / "other", "cloud").home
    config = home.config()
    (cluster,) = config.spec.clusters
    named = replace(cluster, quotas=QuotaTree.of_weights({"scans": 1.0}))
    home.save_config(replace(config, spec=replace(config.spec, clusters=(named,))))
    gate = Gate(WasmEngine.load(POLICIES / "bundle" / "bundle.tar.gz"), ("book",), ManualClock())
    strict = Ordering(home, gate, lambda: 7.0, seen)
    with pytest.raises(
        BadInputError, match=r"no quotas of cloud have a place for tenant 'visitors'.*known: scans.*ioi quota"
    ):
        strict.give(weigh, "ann", "cloud")
    assert strict.in_force() == []
    assert strict.give(replace(weigh, name="scans"), "ann", "cloud").answer == "has weight 5"
    assert strict.give(Order(Target.TENANT, "visitors", Verb.CAP, 1), "ann", "cloud").answer == "may run 1 at once"
