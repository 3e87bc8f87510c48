"""The jobs of `test_bad_runs.py`, as a code location."""

from dagster import Definitions

from tests.integration import bad_steps

defs = Definitions(jobs=[bad_steps.endless, bad_steps.sharing, bad_steps.stubborn])
