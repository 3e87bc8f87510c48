"""The conformance jobs for every executor that is compared, dagster-dask's among them."""

from dagster_dask import dask_executor

from definitions.conformance.cached import build_cached
from definitions.conformance.cases import build
from definitions.conformance.defs import EXECUTORS

ALL = {**EXECUTORS, "dask": dask_executor}

defs = build(ALL)
cached = build_cached(ALL)
