"""One step that does nothing, for every executor that is clicked."""

from dagster import Definitions, ExecutorDefinition, JobDefinition, in_process_executor, job, multiprocess_executor, op

from ioi_dagster import governed_executor


@op
def one_step() -> int:
    return 1


def _one(name: str, executor: ExecutorDefinition) -> JobDefinition:
    @job(name=name, executor_def=executor)
    def one() -> None:
        one_step()

    return one


EXECUTORS = {"governed": governed_executor, "in_process": in_process_executor, "multiprocess": multiprocess_executor}

defs = Definitions(jobs=[_one(name, executor) for name, executor in EXECUTORS.items()])
