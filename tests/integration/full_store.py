"""A run whose outputs do not fit on the disk where its nodes write them. Run as `unshare --user --map-root-user --mount python
-m … FOLDER`, since it mounts a disk of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dagster import DagsterInstance, execute_job, reconstructable

from tests.integration import bad_steps
from tests.integration.test_bad_steps import EIGHT, failures, succeeded


def main(home: Path) -> None:
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    stores = {name: disk / name for name in ("files", "memory")}
    config = {
        "resources": {name: {"config": {"folder": str(folder)}} for name, folder in stores.items()},
        "execution": {"config": {"workers": 1}},
    }
    with (
        DagsterInstance.get() as instance,
        execute_job(reconstructable(bad_steps.filling), instance, run_config=config) as result,
    ):
        failed, good = failures(result), succeeded(result)
    assert failed.keys() == {"too_large_for_the_disk", "too_large_for_its_copy"}, failed
    full = "does not take the value: [Errno 28] No space left on device"
    assert f"{stores['files']} {full}" in failed["too_large_for_the_disk"], failed
    assert (
        f"the durable copy of an output of step 'too_large_for_its_copy' was not written: {stores['memory']} {full}"
        in failed["too_large_for_its_copy"]
    ), failed
    assert good == EIGHT | {"fits", "takes_what_fits"}, good
    (staged,) = (path for path in (disk / "files" / "staged").rglob("*") if path.is_file())
    (published,) = (path for path in (disk / "files" / "runs").rglob("*") if path.is_file())
    assert published.samefile(staged), "what fitted, under the name of its attempt and that of its step"
    assert not [path for path in (disk / "memory").rglob("*") if path.is_file()]


if __name__ == "__main__":
    os.environ |= {"DAGSTER_HOME": sys.argv[1], "IOI_TEST_FOLDER": sys.argv[1]}
    main(Path(sys.argv[1]))
