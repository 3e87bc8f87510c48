"""Jobs of ops: outputs, dynamic steps, retries, skips, failures, limits, values and config."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetMaterialization,
    AssetObservation,
    Config,
    DynamicOut,
    DynamicOutput,
    ExpectationResult,
    Failure,
    GraphOut,
    In,
    Nothing,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    graph,
    op,
)

from definitions.conformance.registry import op_job


@op
def one() -> int:
    return 1


@op
def add_one(number: int) -> int:
    return number + 1


@op
def add(left: int, right: int) -> int:
    return left + right


@op
def fails() -> int:
    raise ValueError("meant to fail")


@op
def fails_with_metadata(context: OpExecutionContext) -> int:
    raise Failure("meant to fail", metadata={"why": "because"}, allow_retries=False)


@op(out=DynamicOut(int))
def some() -> Iterator[DynamicOutput[int]]:
    for number in range(4):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op(out=DynamicOut(int))
def none() -> Iterator[DynamicOutput[int]]:
    yield from ()


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@op
def fails_on_two(number: int) -> int:
    if number == 2:
        raise ValueError("not two")
    return number


@op(retry_policy=RetryPolicy(max_retries=2))
def succeeds_at_third(context: OpExecutionContext) -> int:
    if context.retry_number < 2:
        raise ValueError("again")
    return context.retry_number


@op
def asks_for_retry(context: OpExecutionContext) -> int:
    if context.retry_number < 1:
        raise RetryRequested(max_retries=1, seconds_to_wait=0.2)
    return context.retry_number


@op(retry_policy=RetryPolicy(max_retries=1))
def fails_for_good() -> int:
    raise ValueError("always")


@op(out={"yes": Out(int, is_required=False), "no": Out(int, is_required=False)})
def branch() -> Iterator[Output[int]]:
    yield Output(1, "yes")


@op(out={"left": Out(int), "right": Out(str)})
def two_outputs() -> Iterator[Output[Any]]:
    yield Output(1, "left", metadata={"size": 1})
    yield Output("x", "right")


@op
def takes_text(text: str) -> str:
    return text


@op(ins={"start": In(Nothing)}, out=Out(Nothing))
def after() -> None:
    return None


@op
def tells(context: OpExecutionContext) -> None:
    context.log.info("said on the log")
    print("said on stdout")
    context.log_event(AssetMaterialization("told", metadata={"n": 1}))
    context.log_event(AssetObservation("told", metadata={"n": 2}))
    context.log_event(ExpectationResult(success=False, label="expected"))
    context.add_output_metadata({"n": 3})


@op(pool="conformance")
def pooled() -> int:
    return 1


@op(tags={"kind": "limited"})
def limited() -> int:
    return 1


@op(tags={"dagster/priority": "5"})
def urgent() -> int:
    return 1


@op
def unpicklable() -> Any:
    return lambda: 1


@op
def takes_anything(value: Any) -> None:
    return None


@op
def large() -> bytes:
    return b"\0" * 20_000_000


@op
def measures(data: bytes) -> int:
    return len(data)


@op(name="x" * 180)
def long_name() -> int:
    return 1


class Words(Config):
    text: str
    times: int = 2


@op
def configured(config: Words) -> str:
    return config.text * config.times


@op
def leaves_quietly() -> None:
    """Ends with an exception that is not an `Exception`."""
    raise SystemExit(3)


# Jobs ---------------------------------------------------------------------------------------------------------------


@op_job()
def fan_out() -> None:
    total(some().map(add_one).collect())


@op_job()
def fan_out_in_two_stages() -> None:
    mapped = some().map(add_one)
    total(mapped.map(add_one).collect())
    total.alias("again")(mapped.collect())


@op_job()
def empty_fan_out() -> None:
    total(none().map(add_one).collect())


@op_job()
def fan_out_with_a_failure() -> None:
    total(some().map(fails_on_two).collect())


@op_job()
def retry_policy() -> None:
    add_one(succeeds_at_third())


@op_job()
def retry_requested() -> None:
    add_one(asks_for_retry())


@op_job()
def retries_used_up() -> None:
    add_one(fails_for_good())
    one()


@op_job()
def skipped_branch() -> None:
    yes, no = branch()
    add_one(yes)
    add_one.alias("after_no")(add_one.alias("on_no")(no))


@op_job()
def failure_stops_what_depends() -> None:
    add(add_one(fails()), add_one.alias("fine")(one()))
    add_one.alias("also_fine")(one.alias("other")())


@op_job()
def failure_with_metadata() -> None:
    add_one(fails_with_metadata())


@op_job()
def several_outputs() -> None:
    left, right = two_outputs()
    add_one(left)
    takes_text(right)


@op_job()
def order_without_data() -> None:
    after.alias("second")(start=after.alias("first")(start=one()))


@op_job()
def events_of_users() -> None:
    tells()


@op_job()
def pools() -> None:
    for number in range(3):
        pooled.alias(f"pooled_{number}")()


@op_job()
def tag_limits() -> None:
    for number in range(3):
        limited.alias(f"limited_{number}")()


@op_job()
def priority() -> None:
    urgent()
    one()


@op_job()
def values_that_cannot_be_stored() -> None:
    takes_anything(unpicklable())


@op_job()
def large_values() -> None:
    measures(large())


@op_job()
def long_step_keys() -> None:
    add_one(long_name())


@op_job()
def config_of_ops() -> None:
    takes_text(configured())


@op_job()
def nested_graphs() -> None:
    twice()


@graph
def inner(number: int) -> Any:
    return add_one(number)


@graph(out=GraphOut())
def twice() -> Any:
    return add_one.alias("outer")(inner(one()))


@op_job()
def fan_out_of_a_graph() -> None:
    total(some().map(inner).collect())


@op(tags={"dagster/priority": "-1"})
def late() -> int:
    return 1


@op_job()
def priority_in_order() -> None:
    late()
    one()
    urgent()


@op(out={"early": Out(int), "never": Out(int)})
def gives_one_and_fails() -> Iterator[Output[int]]:
    yield Output(1, "early")
    raise ValueError("after the first")


@op_job()
def half_of_the_outputs() -> None:
    early, never = gives_one_and_fails()
    add_one(early)
    add_one.alias("on_never")(never)


@op
def prints() -> None:
    print("conformance: stdout")
    print("conformance: stderr", file=sys.stderr)
    os.system("echo conformance: child process")  # noqa: S605


@op_job()
def captured_logs() -> None:
    prints()
    prints.alias("prints_too")()


class HowMany(Config):
    count: int = 3


@op(out=DynamicOut(int))
def so_many(config: HowMany) -> Iterator[DynamicOutput[int]]:
    for number in range(config.count):
        yield DynamicOutput(number, mapping_key=f"n{number}")


@op_job()
def large_fan_out() -> None:
    total(so_many().map(add_one).collect())


@op_job()
def long_chain() -> None:
    number = one()
    for position in range(199):
        number = add_one.alias(f"link_{position}")(number)
