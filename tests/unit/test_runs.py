"""What a command says of a run that failed."""

from __future__ import annotations

from dagster import DagsterInstance, job, op

from ioi_dagster.host.runs import why_failed


def test_a_failed_step_is_told_with_what_its_own_code_raised():
    @op
    def write():
        raise OSError(28, "No space left on device", "/out/index.sqlite")

    @job
    def writing():
        write()

    with DagsterInstance.ephemeral() as instance:
        result = writing.execute_in_process(instance=instance, raise_on_error=False)
        why = why_failed(instance, result.run_id)
    assert why[0] == "write: OSError: [Errno 28] No space left on device: '/out/index.sqlite'"
