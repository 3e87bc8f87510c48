"""The main graph against a plain loop over the same functions and against Dagster's multiprocess executor.

`loop_ratio@N`: seconds of the governed run (its domains already up) over seconds of the plain loop ÷ cores, both with models
loaded in the measured time. `multiprocess_ratio@N`: pages a second against multiprocess, which runs fewer pages; with `--quick`
steps a second, of which multiprocess runs those up to the end of the reading.
`--pages N` runs another size, on which no floor is judged. At full size one round is run: the plain loop and the
governed run read 200 pages each, over which chance evens out within the round, and another round would double the time.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image, ImageEnhance

from benchmarks.frame import Report, quick
from definitions.documents.command import SHIPPED, run
from definitions.documents.plain_loop import run_plain
from ioi_dagster.local.home import PROJECT

FULL = {"pages": 200, "peer_pages": 6, "rounds": 1}
QUICK = {"pages": 1, "peer_pages": 1, "rounds": 1}
WHOLE, READING = "documents_multiprocess", "reading_multiprocess"


def make_pile(folder: Path, count: int, small: bool) -> None:
    """`count` distinct pages: shipped ones with a seeded crop, a small turn and another brightness."""
    rng = random.Random(20_26)
    names = ["pages/phototest.tif"] if small else sorted(f"book/{p.name}" for p in (SHIPPED / "book").iterdir())
    folder.mkdir(parents=True)
    lines = ["pages:"]
    for number in range(count):
        with Image.open(SHIPPED / names[number % len(names)]) as source:
            page = source.convert("RGB")
        margin = rng.randrange(1, 8)
        page = page.crop((margin, margin, page.width - margin, page.height - margin))
        page = page.rotate(rng.uniform(-0.4, 0.4), fillcolor=page.getpixel((0, 0)))  # pyright: ignore[reportArgumentType]
        ImageEnhance.Brightness(page).enhance(rng.uniform(0.93, 1.0)).save(folder / f"{number:04d}.jpg", quality=92)
        lines.append(f"  {number:04d}.jpg: {('public', 'internal', 'public')[number % 3]}")
    (folder / "manifest.yaml").write_text("\n".join(lines))


def governed(pile: Path, folder: Path) -> tuple[float, float, int]:
    """(seconds with the domains' start, seconds of the run, steps)"""
    summary = run(pile, folder / "out", (), folder / "home", lambda *_: None)
    for name in ("IOI_HOME", "IOI_DOMAIN", "DAGSTER_HOME"):
        os.environ.pop(name, None)
    if summary["run"]["status"] != "success":
        raise SystemExit(f"the governed run failed: {summary['run']}")
    return summary["run"]["seconds"], summary["run"]["run_seconds"], len(summary["placements"])


def multiprocess(pile: Path, folder: Path, name: str) -> tuple[float, int]:
    """(seconds, steps)"""
    from dagster import DagsterInstance

    from ioi_dagster.host.private import execute_run
    from ioi_dagster.host.runs import job_of

    home = folder / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    os.environ["DAGSTER_HOME"] = str(home)
    job = job_of("benchmarks.peers", name, PROJECT)
    config = {
        "resources": {"folders": {"config": {"source": str(pile), "out": str(folder / "out")}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    with DagsterInstance.get() as instance:
        created = instance.create_run_for_job(
            job.get_definition(), run_config=config, job_code_origin=job.get_python_origin()
        )
        started = time.monotonic()
        result = execute_run(job, created, instance, raise_on_error=False)
        seconds = time.monotonic() - started
        ran = len(instance.get_run_step_stats(created.run_id))
    os.environ.pop("DAGSTER_HOME")
    if not result.success:
        raise SystemExit("the run on multiprocess failed")
    return seconds, ran


def main() -> int:
    sizes = QUICK if quick() else FULL
    if "--pages" in sys.argv:
        sizes = {**sizes, "pages": int(sys.argv[sys.argv.index("--pages") + 1]), "peer_pages": 2}
    count, peers = sizes["pages"], sizes["peer_pages"]
    report = Report("documents")
    folder = Path(tempfile.mkdtemp(prefix="ioi-bench-"))
    try:
        make_pile(folder / "pile", count, small=quick())
        make_pile(folder / "peer", peers, small=quick())
        loops, runs, whole, others = [], [], [], []
        steps = its_steps = 0
        for number in range(sizes["rounds"]):
            started = time.monotonic()
            run_plain(folder / "pile")
            loops.append(time.monotonic() - started)
            seconds, run_seconds, steps = governed(folder / "pile", folder / f"governed-{number}")
            runs.append(run_seconds)
            whole.append(seconds)
            name = READING if quick() else WHOLE
            its_seconds, its_steps = multiprocess(folder / "peer", folder / f"multiprocess-{number}", name)
            others.append(its_seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    cores = os.cpu_count() or 1
    report.figures = {f"run_s@{count}": median(runs), f"with_start_s@{count}": median(whole)}
    report.peers = {f"loop_s@{count}": median(loops), f"multiprocess_s@{peers}": median(others)}
    mine, its = (steps, its_steps) if quick() else (count, peers)
    if quick():
        report.figures["steps"], report.peers["multiprocess_steps"] = mine, its
    report.ratios = {
        f"loop_ratio@{count}": median(runs) / (median(loops) / cores),
        f"multiprocess_ratio@{count}": (mine / median(runs)) / (its / median(others)),
    }
    report.floors = {
        "loop_ratio@200": (1.3, "max"),
        "multiprocess_ratio@200": (2.0, "min"),
        "multiprocess_ratio@1": (2.0, "min"),
    }
    report.aims = {"loop_ratio@200": (1.1, "max"), "multiprocess_ratio@200": (3.0, "min")}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
