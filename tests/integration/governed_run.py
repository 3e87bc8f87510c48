"""`python -m tests.integration.governed_run MODULE JOB CONFIG TAGS`: a run of a federation, in a process of its own."""

import json
import sys

from dagster import DagsterInstance

from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of
from ioi_dagster.local.home import PROJECT


def main() -> int:
    module, name, config, run_tags = sys.argv[1:]
    job = job_of(module, name, PROJECT)
    with DagsterInstance.get() as instance:
        run_id, _ = create_governed_run(instance, job, json.loads(config), json.loads(run_tags))
        return 0 if execute_governed_run(instance, job, run_id) else 1


if __name__ == "__main__":
    sys.exit(main())
