"""What the tags of steps and runs ask for is taken as it is meant, or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterInstance, job, op
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.clock import ManualClock
from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.demand import Demand, RunDemand, demand_of, due_at, run_demand, run_priority
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.run_story import told_in_story
from ioi_dagster.model.amounts import amount, shown


@op
def nothing() -> None: ...


@job
def a_job() -> None:
    nothing()


def test_a_step_without_tags_takes_a_slot() -> None:
    assert demand_of({}, {}) == Demand()


def test_what_tags_ask_for() -> None:
    step = {
        tags.RESOURCES: "memory=1.5 GiB, gpu=2,licence=0",
        tags.GANG: " world ",
        tags.CHECKPOINTABLE: "true",
        "dagster/priority": "3",
    }
    resources = (("gpu", 2.0), ("memory", 1.5 * 2**30))
    assert demand_of(step, {tags.PRIORITY: "10"}) == Demand(resources, 13, "world", True)


def test_a_steps_own_priority_stands_before_dagsters() -> None:
    step = {tags.PRIORITY: "-2", "dagster/priority": "3"}
    assert demand_of(step, {}).priority == -2
    assert run_priority({tags.PRIORITY: "4", "dagster/priority": "9"}) == 4


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            {tags.RESOURCES: "gpu"},
            "the tag ioi/resources says 'gpu': 'gpu' is no resource with an amount — write it as",
        ),
        ({tags.RESOURCES: "gpu=many"}, "'many' is no amount — write it as 2, 0.5 or 4GiB"),
        ({tags.RESOURCES: "gpu=-1"}, "'-1' is no amount"),
        ({tags.RESOURCES: "gpu=nan"}, "'nan' is no amount"),
        ({tags.RESOURCES: "gpu=1e400"}, "'1e400' is no amount"),
        ({tags.RESOURCES: "gpu=9999PiB"}, "'9999PiB' is no amount"),
        ({tags.RESOURCES: "gpu=1, gpu=2"}, "gpu is there twice"),
        ({tags.RESOURCES: "slots=2"}, "each step takes one slot"),
        ({tags.RESOURCES: "a/b=2"}, "'a/b=2' is no resource with an amount"),
        ({tags.RESOURCES: '{"gpu": 1}'}, "is no resource with an amount"),
        ({tags.RESOURCES: ", ".join(f"r{n}=1" for n in range(17))}, "names 17 resources — name 16 at most"),
        ({tags.GANG: " "}, "the tag ioi/gang says '' — give a name"),
        ({tags.GANG: "g" * 501}, "give a name of at most 500 letters"),
        ({tags.CHECKPOINTABLE: "yes"}, "the tag ioi/checkpointable says 'yes' — use `true` or `false`"),
        ({tags.PRIORITY: "high"}, "the tag ioi/priority says 'high' — give a whole number"),
        ({tags.PRIORITY: "9999999"}, "the tag ioi/priority says '9999999'"),
        ({"dagster/priority": "9999999"}, "the tag dagster/priority says '9999999'"),
    ],
)
def test_a_tag_that_cannot_be_meant_is_refused(step: dict[str, str], says: str) -> None:
    with pytest.raises(BadInputError) as caught:
        demand_of(step, {})
    assert says in str(caught.value)


def test_a_bad_priority_of_a_run_is_refused() -> None:
    with pytest.raises(BadInputError, match="ioi/priority"):
        run_priority({tags.PRIORITY: "1.5"})


@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        found = amount(text)
    except BadInputError:
        return
    assert 0 <= found <= 1e18


@given(st.integers(0, 10**17 // 1024).map(lambda blocks: blocks * 1024.0), st.sampled_from(["memory", "gpu"]))
def test_what_is_shown_of_an_amount_is_that_amount(value: float, resource: str) -> None:
    read = amount(shown(resource, value)) if "e" not in shown(resource, value) else float(shown(resource, value))
    assert read == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("says", "at"),
    [
        (None, None),
        ("90", 1_090.0),
        ("0", 1_000.0),
        ("1970-01-01T00:30:00+00:00", 1_800.0),
        ("1970-01-01T01:30+01:00", 1_800.0),
    ],
)
def test_a_deadline_is_a_time_with_its_zone_or_seconds_after_the_run_was_created(
    says: str | None, at: float | None
) -> None:
    assert tags.deadline_of({} if says is None else {tags.DEADLINE: says}, created=1_000.0) == at


@pytest.mark.parametrize("says", ["tomorrow", "1970-01-01T00:30:00", "-1", "nan", "inf", "2030-13-01T00:00Z", "2e9"])
def test_what_is_no_deadline_is_named(says: str) -> None:
    with pytest.raises(BadInputError, match=r"ioi/deadline says .*with its zone"):
        tags.deadline_of({tags.DEADLINE: says}, created=0.0)


def test_a_run_is_to_be_over_so_long_after_it_was_created_whichever_process_it_has() -> None:
    with DagsterInstance.ephemeral() as instance:
        runs = [instance.create_run_for_job(a_job, tags=its) for its in ({tags.DEADLINE: "100"}, {})]
        record = instance.get_run_record_by_id(runs[0].run_id)
        assert record is not None
        clock = ManualClock(7.0, record.create_timestamp.timestamp() + 23.0)
        assert [due_at(run, instance, clock) for run in runs] == [pytest.approx(77.0), None]


def test_what_a_run_asks_for_is_taken_as_it_is_meant() -> None:
    with DagsterInstance.ephemeral() as instance:
        its = {tags.TENANT: " lab ", tags.OBJECTIVE: "cheapest", tags.BUDGET: "2.5"}
        runs = [instance.create_run_for_job(a_job, tags=one) for one in (its, {})]
        asked = [run_demand(run, instance, ManualClock(), "fastest") for run in runs]
    assert asked == [RunDemand("cheapest", "lab", 2.5, None), RunDemand("fastest", "default", None, None)]


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        (tags.TENANT, ""),
        (tags.TENANT, "   "),
        (tags.TENANT, "t" * 300),
        (tags.OBJECTIVE, "quickest"),
        (tags.BUDGET, "lots"),
        (tags.BUDGET, "-1"),
        (tags.DEADLINE, "soon"),
        (tags.PRIORITY, "high"),
    ],
)
def test_a_run_that_asks_for_what_makes_no_sense_is_not_taken_up_and_its_story_says_why(
    tag: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("IOI_HOME", raising=False)
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(a_job, tags={tag: says})
        clock = ManualClock()
        with pytest.raises(BadInputError) as refused, told_in_story(run, clock):
            run_demand(run, instance, clock, "fastest")
    ledger = Ledger(ledger_path())
    told, known = ledger.not_begun(run.run_id[:8]), ledger.runs()
    ledger.close()
    assert told == [(run.run_id, "a_job", clock.wall(), str(refused.value))]
    assert known == []
    assert says.strip()[:80] in str(refused.value)
