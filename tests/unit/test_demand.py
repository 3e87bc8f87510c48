"""What the tags of steps and runs ask for is taken as it is meant, or refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.host import tags
from ioi_dagster.host.demand import Demand, demand_of, run_priority
from ioi_dagster.model.amounts import amount, shown


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
