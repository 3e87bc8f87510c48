"""The conformance jobs as code locations, for every executor that they are run on."""

from dagster import in_process_executor, multiprocess_executor

from definitions.conformance.cached import build_cached
from definitions.conformance.cases import build
from ioi_dagster import governed_executor

EXECUTORS = {"governed": governed_executor, "multiprocess": multiprocess_executor, "in_process": in_process_executor}

defs = build(EXECUTORS)
cached = build_cached(EXECUTORS)
