"""Steps of a run that a worker of other versions joins."""

import time
from collections.abc import Iterator

from dagster import Definitions, DynamicOut, DynamicOutput, job, op

from ioi_dagster import governed_executor
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.model.story import Chapter


@op(out=DynamicOut(int))
def three() -> Iterator[DynamicOutput[int]]:
    for number in range(3):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def stands_until_one_is_refused(context, number: int) -> None:
    ledger, until = Ledger(ledger_path()), time.monotonic() + 100
    try:
        while not any(entry.chapter is Chapter.REFUSED for entry in ledger.story(context.run_id)):
            assert time.monotonic() < until, "no start was refused"
            time.sleep(0.1)
    finally:
        ledger.close()


@job(executor_def=governed_executor)
def joined() -> None:
    three().map(stands_until_one_is_refused)


defs = Definitions(jobs=[joined])
