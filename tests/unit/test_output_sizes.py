"""How much a step made is counted by output, as later runs of its job know it."""

from __future__ import annotations

from pathlib import Path

from ioi_dagster.adapters.files.store import StoreSpec
from ioi_dagster.clock import SystemClock
from ioi_dagster.host.exchange import Staged, StepOutput, StepResult
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.run_outputs import RunOutputs
from ioi_dagster.model.data_class import DataClass


def test_what_passes_through_the_run_is_counted_by_output_and_what_lies_in_a_store_is_not(tmp_path: Path) -> None:
    outputs = [
        StepOutput(("list", "pages", "a"), b"12345"),
        StepOutput(("list", "pages", "b"), b"123"),
        StepOutput(("list", "index", ""), b"1", partitions={"day": b"12", "night": b"1234"}),
    ]
    staged = [Staged(("list", "scans", ""), StoreSpec(str(tmp_path / "shared")), [])]
    kept = RunOutputs("run", ObjectStore(tmp_path), SystemClock(), lambda: None)
    stored = kept.store("attempt", StepResult([], outputs, staged=staged), DataClass.INTERNAL, assigns_class=False)
    assert stored.sizes == {"pages": (2, 8), "index": (1, 7)}
