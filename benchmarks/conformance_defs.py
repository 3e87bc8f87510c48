"""The conformance jobs for every executor that is compared, dagster-dask's among them."""

from dagster_dask import dask_executor

from definitions.conformance.defs import EXECUTORS
from definitions.conformance.jobs import build

defs = build({**EXECUTORS, "dask": dask_executor})
