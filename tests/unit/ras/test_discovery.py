"""From an intent to a choice: every refusal with its reason, who beats whom, and a lock that replays."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definitions.documents.catalogue import READ
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Charge, Contract, Slo
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.runtime import Accelerator, Offer, Requirement, read_requirement, shortfalls
from ioi_dagster.model.trust import Attestation, Scan, Trust, TrustDemand
from ioi_dagster.ras.discovery import Intent, Registry, discover
from ioi_dagster.ras.filter_tree import read_filter
from ioi_dagster.ras.lock import Standing, lock, read_lock, replay
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.index import CapabilityIndex
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.ras.summary import Details, Liveness, Living, Status, Summary, details_of, summaries_of
from ioi_dagster.ras.urn import Scheme
from ioi_dagster.ras.utility import Figures, dominates, dominators, scores
from ioi_dagster.ras.version_range import in_range, order_of
from ioi_dagster.ras.why_not import Verdict, why_not_chosen
from ioi_dagster.signing import SigningKey

NOW = 1_000.0
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def summary(name: str, **changes: object) -> Summary:
    version = str(changes.pop("version", "1.0.0"))
    made = Summary(
        f"urn:ioi:lab.example:block:{name}", Kind.BLOCK, version, f"sha256:{name}{version}", "lab.example", "read"
    )
    return replace(made, **changes)


class Known:
    """Details by URN."""

    def __init__(self, **details: Details) -> None:
        self.by_name = details

    def details(self, summary: Summary) -> Details:
        return self.by_name.get(
            summary.urn.rsplit(":", 1)[1], Details(Contract("read", "Reader", inputs=TEXT, outputs=TEXT))
        )


def registry(*summaries: Summary, alive: bool = True, **details: Details) -> Registry:
    living = {one.urn: Living() for one in summaries} if alive else {}
    return Registry("registry of lab.example", summaries, Known(**details), living, NOW)


def refused(intent: Intent, *summaries: Summary, **details: Details) -> list[str]:
    there = replace(registry(*summaries), source=Known(**details))
    return [one.refusal.code for one in discover(intent, there).rejected]


@pytest.mark.parametrize(
    ("intent", "one", "code"),
    [
        (Intent(kinds=(Kind.MODEL,)), summary("a"), "ras.kind"),
        (Intent(capability="write"), summary("a"), "ras.no_capability"),
        (Intent(versions=">=2"), summary("a"), "ras.version"),
        (Intent(), summary("a", status=Status.DELETED), "ras.deleted"),
        (Intent(), summary("a", status=Status.YANKED), "ras.yanked"),
        (Intent(), summary("a", status=Status.DEPRECATED, successor="b"), "ras.deprecated"),
        (Intent(), summary("a", valid_until=NOW), "ras.expired"),
        (Intent(asker="other.example"), summary("a", audience="partner:cloud.example"), "ras.audience"),
        (Intent(trust=TrustDemand(DataClass.RESTRICTED)), summary("a"), "ras.data_class"),
        (Intent(trust=TrustDemand(owners=("cloud.example",))), summary("a"), "ras.owner"),
        (Intent(trust=TrustDemand(allowed={"lab.example": DataClass.PUBLIC})), summary("a"), "ras.class_abroad"),
        (Intent(trust=TrustDemand(regions=("eu",))), summary("a"), "ras.residency"),
        (Intent(trust=TrustDemand(attestations=("sbom",))), summary("a"), "ras.attestation"),
        (Intent(trust=TrustDemand(scan=Scan.CLEAN)), summary("a"), "ras.scan"),
        (Intent(needs=Requirement(memory_mb=1)), summary("a"), "ras.runtime"),
        (Intent(inputs={"type": "string"}), summary("a"), "ras.types"),
        (Intent(outputs={"type": "object", "propertyNames": {"format": "email"}}), summary("a"), "ras.types_unknown"),
        (Intent(filter=read_filter({"variable": "gpus", "operator": ">", "value": 0})), summary("a"), "ras.filter"),
    ],
)
def test_each_filter_refuses_with_its_own_code_and_a_remedy(intent: Intent, one: Summary, code: str) -> None:
    found = discover(intent, registry(one))
    assert [(rejected.summary, rejected.refusal.code) for rejected in found.rejected] == [(one, code)]
    assert found.rejected[0].refusal.text and found.rejected[0].refusal.remedy
    assert found.options == ()
    assert code in {refusal.code for refusal in why_not_chosen(intent, registry(one), one.urn).refusals}


def test_who_meets_the_demands_passes() -> None:
    trust = Trust(DataClass.RESTRICTED, ("eu",), (Attestation("sbom", "auditor.example"),), Scan.CLEAN, ("fair-use",))
    demand = TrustDemand(
        DataClass.INTERNAL, regions=("eu", "ch"), attestations=("sbom",), attestors=("auditor.example",)
    )
    demand = replace(demand, scan=Scan.WARNINGS, accepts=("fair-use",))
    details = Details(Contract("read", "Reader", inputs=TEXT, outputs=TEXT), trust, offers=Offer(memory_mb=2))
    intent = Intent(
        capability="read", versions=">=1,<2", inputs=TEXT, outputs=TEXT, trust=demand, needs=Requirement(memory_mb=1)
    )
    partner = summary("a", audience="partner:cloud.example")
    found = discover(replace(intent, asker="cloud.example"), registry(partner, a=details))
    assert [option.summary for option in found.options] == [partner]


def test_the_dead_are_refused_and_of_the_unknown_only_who_asks_for_the_living() -> None:
    one, other = summary("a"), summary("b", kind=Kind.MODEL)
    dead = replace(registry(one, other), living={one.urn: Living(Liveness.DEAD)})
    assert [rejected.summary for rejected in discover(Intent(), dead).rejected] == [one]
    unheard = registry(one, other, alive=False)
    assert discover(Intent(), unheard).rejected == ()
    assert [rejected.refusal.code for rejected in discover(Intent(least=Liveness.ALIVE), unheard).rejected] == [
        "ras.lease"
    ]


def test_a_policy_has_the_last_word_and_unknown_types_pass_only_where_that_is_asked_for() -> None:
    one = summary("a")
    no = Refusal("policy.no", "not today", "policy", "tomorrow")
    asked = replace(registry(one), policy=lambda summary, details: no)
    assert [rejected.refusal for rejected in discover(Intent(), asked).rejected] == [no]
    intent = Intent(outputs={"type": "object", "propertyNames": {"format": "email"}}, unknown_types=True)
    (option,) = discover(intent, registry(one)).options
    assert "not known" in option.unknown[0]


def test_words_order_what_is_left_and_say_when_nothing_fits() -> None:
    ocr, weather = summary("ocr"), summary("weather")
    index = CapabilityIndex(
        [
            Entry(ocr.entry, "Reader", "Reads the text of a scanned page."),
            Entry(weather.entry, "Weather", "Tells tomorrow's rain and wind."),
        ]
    )
    there = replace(registry(ocr, weather), ranker=index)
    found = discover(Intent(words="read the text of this scanned page"), there)
    assert [option.summary for option in found.options] == [ocr]
    nothing = discover(Intent(words="book a violin teacher in Lisbon"), there)
    assert (nothing.options, len(nothing.closest)) == ((), 2)
    assert {one.refusal.code for one in nothing.rejected} == {"ras.not_relevant"}
    with pytest.raises(BadInputError, match="ranks no words"):
        discover(Intent(words="x"), registry(ocr))


def priced(cost: float | None, ms: float = 0.0) -> Details:
    charges = () if cost is None else (Charge("call", cost, "EUR"),)
    return Details(Contract("read", "Reader", charges=charges, slo=Slo(p50_ms=ms)))


def test_the_front_and_the_order_by_weights() -> None:
    a, b, c, d = map(summary, "abcd")
    there = registry(d, c, b, a, a=priced(1, 90), b=priced(9, 10), c=priced(9, 95), d=priced(None, 20))
    intent = Intent(currency="EUR", weights={"cost": 1})
    found = discover(intent, there)
    assert [option.summary for option in found.options] == [a, b, c, d]
    assert {option.summary: option.dominated_by for option in found.options} == {
        a: (),
        b: (),
        c: (a.entry, b.entry),
        d: (),
    }
    assert found.options[-1].score.missing == ("cost",)
    quick = discover(replace(intent, weights={"latency_ms": 1}), there)
    assert quick.chosen is not None and quick.chosen.summary == b
    why = why_not_chosen(intent, there, c.urn)
    assert (why.verdict, why.ahead, why.lacks) == (Verdict.OUTRANKED, (a.entry, b.entry), {"cost": 1.0})
    assert why_not_chosen(intent, there, a.urn).verdict is Verdict.CHOSEN
    assert why_not_chosen(intent, there, "urn:ioi:lab.example:block:z").verdict is Verdict.ABSENT


amounts = st.none() | st.sampled_from([0.0, 0.5, 1.0])
some_figures = st.builds(Figures, relevance=amounts, cost=amounts, latency_ms=amounts, reputation=amounts)


@settings(max_examples=60, deadline=None)
@given(figures=st.lists(some_figures, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_who_is_beaten_is_never_ahead_and_somebody_is_unbeaten(figures: list[Figures], seed: int) -> None:
    weights = {"relevance": 1, "cost": 2, "latency_ms": 0.5, "reputation": 1}
    told, beaten = scores(figures, weights), dominators(figures)
    assert not all(beaten)
    for place, by in enumerate(beaten):
        assert all(told[one].utility >= told[place].utility for one in by)
        assert all(not dominates(figures[place], figures[one]) for one in by)
    summaries = [summary(f"b{place}", version=f"1.{place}.0", urn="urn:ioi:lab.example:block:b") for place in range(12)]
    shuffled = random.Random(seed).sample(summaries, len(summaries))
    assert discover(Intent(), registry(*shuffled)) == discover(Intent(), registry(*summaries))
    assert discover(Intent(), registry(*shuffled)).options[0].summary.version == "1.11.0"


@pytest.mark.parametrize("weights", [{"beauty": 1}, {"cost": -1}, {"cost": float("nan")}, {"cost": 0}, {"cost": True}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(BadInputError):
        scores([Figures()], weights)


def test_a_lock_replays_and_tells_exactly_what_has_become_of_its_records() -> None:
    a, b = summary("a"), summary("b")
    there = registry(b, a, summary("c", status=Status.YANKED), a=priced(1), b=priced(2))
    intent = Intent(words="", inputs=None, currency="EUR", weights={"cost": 1})
    pinned = lock(intent, discover(intent, there), "lab.example", NOW)
    assert read_lock(pinned.document()) == pinned
    assert (pinned.chosen.digest, pinned.rejected) == (a.digest, {"ras.yanked": 1})
    again = replay(pinned, lambda one: Standing(one.digest), NOW)
    assert (again.chosen, again.refusals, again.notes) == (pinned.chosen, (), ())
    for now, code in (
        (None, "lock.gone"),
        (Standing("sha256:other"), "lock.changed"),
        (Standing(a.digest, Status.YANKED), "lock.yanked"),
        (Standing(a.digest, Status.DELETED), "lock.deleted"),
        (Standing(a.digest, revoked="its key was revoked"), "lock.revoked"),
        (Standing(a.digest, valid_until=NOW), "lock.expired"),
    ):
        told = replay(pinned, lambda one, now=now: now if one.digest == a.digest else Standing(one.digest), NOW)
        assert [refusal.code for refusal in told.refusals] == [code]
        assert told.next_best is not None and told.next_best.digest == b.digest
    note = replay(pinned, lambda one: Standing(one.digest, Status.DEPRECATED, "urn:x"), NOW)
    assert (note.refusals, "deprecated" in note.notes[0]) == ((), True)


def test_a_lock_that_was_tampered_with_is_refused() -> None:
    there = registry(summary("a"), summary("b"), a=priced(1), b=priced(2))
    intent = Intent(currency="EUR", weights={"cost": 1})
    document = lock(intent, discover(intent, there), "lab.example", NOW).document()
    for wrong in (
        document | {"considered": document["considered"][::-1]},
        document | {"considered": document["considered"][:1] * 2},
        document | {"considered": []},
        document | {"more": 1},
        document | {"schema": "x"},
        document | {"asked": {"words": "x" * 2_000_000}},
        {"schema": document["schema"]},
        None,
    ):
        with pytest.raises(BadInputError):
            read_lock(wrong)


@dataclass(frozen=True, slots=True)
class RecordSource:
    """Over records that are looked up by digest."""

    get: Callable[[str], Record]

    def details(self, summary: Summary) -> Details:
        return details_of(self.get(summary.digest), summary.capability)


def test_records_of_blocks_are_found_as_they_are_registered() -> None:
    key = SigningKey.generate("lab.example")
    record = make_record(key, Kind.BLOCK, "page-ocr", "1.0.0", READ)
    odd = make_record(key, Kind.BLOCK, "odd", "1.0.0", {"contract": {"id": READ.contract.id, "name": 5}})
    asked_by = Intent(capability=READ.capability)
    there = Registry("registry", summaries_of(record), RecordSource({record.digest: record}.__getitem__), {}, NOW)
    assert [option.summary.digest for option in discover(asked_by, there).options] == [record.digest]
    with pytest.raises(BadInputError, match="contract that is none"):
        summaries_of(odd)
    altered = replace(summaries_of(record)[0], digest=odd.digest)
    there = Registry("registry", [altered], RecordSource(lambda _: odd), {}, NOW)
    assert [one.refusal.code for one in discover(asked_by, there).rejected] == ["ras.unreadable"]


def test_runtime_requirements_meet_offers() -> None:
    wanted = Requirement(
        ">=3.11", ("linux",), ("amd64",), (Accelerator("nvidia", "", 2, 16_000),), 4, 8_000, frameworks={"torch": ">=2"}
    )
    offer = Offer(
        "3.12", "linux", "x86_64", (Accelerator("nvidia", "a100", 2, 40_000),), 8, 8_000, frameworks={"torch": "2.4"}
    )
    assert shortfalls(wanted, offer) == ()
    less = replace(offer, python="3.10", accelerators=(Accelerator("nvidia", "t4", 4, 8_000),), memory_mb=None)
    assert [short.what for short in shortfalls(wanted, less)] == ["python", "memory", "accelerator"]
    assert [short.there for short in shortfalls(Requirement(reaches=("a.example",)), Offer())] == ["not known"]
    assert shortfalls(Requirement(reaches=("a.example",)), Offer(reaches=("*.example",))) == ()
    for wrong in ({"ram": 1}, {"python": "new"}, {"cpus": -1}, {"os": "linux"}, 5):
        with pytest.raises(BadInputError):
            read_requirement(wrong, "block x")


@pytest.mark.parametrize(
    ("version", "scheme", "wanted", "is_in"),
    [
        ("1.4.0", Scheme.PEP440, ">=1.2,<2", True),
        ("2.0", Scheme.PEP440, ">=1.2,<2", False),
        ("odd", Scheme.PEP440, ">=1", False),
        ("1.4.0", Scheme.SEMVER, "^1.2", True),
        ("0.3.0", Scheme.SEMVER, "^0.2.1", False),
        ("1.2.9", Scheme.SEMVER, "~1.2.3", True),
        ("1.3.0", Scheme.SEMVER, "~1.2.3", False),
        ("1.3.0", Scheme.SEMVER, "1.x", True),
        ("2.0.0", Scheme.SEMVER, ">=1.0.0 <2.0.0 || >=3", False),
        ("3.1.0", Scheme.SEMVER, ">=1.0.0 <2.0.0 || >=3", True),
        ("2.0.0-rc.1", Scheme.SEMVER, ">=1.0.0", False),
        ("2.0.0-rc.2", Scheme.SEMVER, ">=2.0.0-rc.1", True),
        ("main", Scheme.OPAQUE, "main || dev", True),
        ("1.0", Scheme.OPAQUE, "*", True),
    ],
)
def test_ranges_of_versions(version: str, scheme: Scheme, wanted: str, is_in: bool) -> None:
    assert in_range(version, scheme, wanted) is is_in


def test_versions_are_ordered_by_their_scheme_and_ranges_of_none_are_refused() -> None:
    semver = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.10.0"]
    mixed = random.Random(1).sample(semver, len(semver))
    assert sorted(mixed, key=lambda version: order_of(version, Scheme.SEMVER)) == semver
    for scheme, wanted in ((Scheme.PEP440, "^1"), (Scheme.SEMVER, ">=one"), (Scheme.SEMVER, "1" * 300)):
        with pytest.raises(BadInputError):
            in_range("1.0.0", scheme, wanted)
