"""Loaded by each process of the lab at its start (see `site`): the governor of the cluster `IOI_CHAOS_LIAR` may lie."""

import os
import sys

if (
    os.environ.get("IOI_CLUSTER") == os.environ.get("IOI_CHAOS_LIAR")
    and "distributed.cli.dask_scheduler" in sys.orig_argv
):
    from tests.chaos.lies import learn_to_lie

    learn_to_lie()
