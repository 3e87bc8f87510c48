"""Workflows of the shapes that scientific pipelines have, drawn by a seed: with what their steps read of each other.

The shapes are those of the families that WfCommons publishes (https://wfcommons.org, the WfInstances repository describes each);
run times, sizes of files and widths are drawn, none is taken from a trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from ioi_dagster.simulate.scenario import Workflow, WorkflowStep

MB = 1e6


class Sketch:
    """A workflow that grows step by step."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.made: dict[str, WorkflowStep] = {}

    def step(
        self,
        kind: str,
        seconds: float,
        after: Iterable[str] = (),
        mb: float = 1.0,
        *,
        reads: float = 0.0,
        spread: float = 0.4,
    ) -> str:
        """A step of about `seconds` that needs about `mb` of each step of `after` and reads a file of `reads` MB from outside."""
        rng, needs = self.rng, tuple(after)
        key = f"{kind}-{len(self.made)}"
        work = max(0.1, seconds * rng.lognormvariate(0.0, spread))
        inputs = {one: mb * MB * rng.uniform(0.5, 1.5) for one in needs}
        outside = reads * MB * rng.uniform(0.5, 1.5) if reads else 0.0
        self.made[key] = WorkflowStep(work, needs, inputs=inputs, reads=outside)
        return key

    def steps(
        self, count: int, kind: str, seconds: float, after: Iterable[str] = (), mb: float = 1.0, **more: float
    ) -> list[str]:
        after = list(after)
        return [self.step(kind, seconds, after, mb, **more) for _ in range(count)]


def search(sketch: Sketch, size: int) -> None:
    """A database is split, each part searched at length, the findings joined (as BLAST)."""
    split = sketch.step("split", 2)
    found = sketch.steps(size, "search", 1_500, [split], 0.02, reads=400, spread=0.08)
    sketch.step("sort", 1, [sketch.step("join", 2, found, 0.02)], 0.5)


def align(sketch: Sketch, size: int) -> None:
    """Reads and an index meet in many short alignments (as BWA)."""
    before = [sketch.step("reduce", 30), sketch.step("index", 70)]
    found = sketch.steps(size, "align", 3, before, 0.05, reads=0.2)
    sketch.step("write", 1, [sketch.step("join", 2, found, 0.05)], 0.5)


def misfit(sketch: Sketch, size: int) -> None:
    """Many short steps and one that sifts them (as Seismology)."""
    sketch.step("sift", 2, sketch.steps(size, "deconvolve", 0.5, reads=0.01, spread=0.9), 0.01)


def chromosomes(sketch: Sketch, size: int) -> None:
    """Per chromosome a fan of parsers, a merge, and many studies of it beside a second small input (as 1000Genome)."""
    for _ in range(max(1, size // 22)):
        merged = sketch.step("merge", 120, sketch.steps(10, "parse", 60, reads=1_000, spread=0.15), 0.3)
        sifted = sketch.step("sift", 5, reads=20)
        for kind, seconds in (("overlap", 60), ("frequency", 90)):
            sketch.steps(5, kind, seconds, [merged, sifted], 0.2)


def lanes(sketch: Sketch, size: int) -> None:
    """Per lane a split and many chains of four that meet again; a last chain joins the lanes (as Epigenomics)."""
    width = sketch.rng.randint(4, 16)
    ends = []
    for _ in range(max(1, size // (4 * width + 2))):
        split = sketch.step("split", 20, reads=300)
        chains = []
        for _ in range(width):
            last = split
            for kind, seconds, mb in (("filter", 2, 20), ("translate", 1, 12), ("pack", 1, 8), ("map", 45, 4)):
                last = sketch.step(kind, seconds, [last], mb)
            chains.append(last)
        ends.append(sketch.step("merge", 4, chains, 2))
    last = sketch.step("merge-all", 15, ends, 20)
    sketch.step("density", 20, [sketch.step("order", 10, [last], 40)], 30)


def seasons(sketch: Sketch, size: int) -> None:
    """Per field four simulations that lean on a first one, summaries at the end (as Cycles)."""
    ends, outputs = [], []
    for _ in range(max(1, size // 4)):
        base = sketch.step("baseline", 30, reads=1, spread=0.2)
        outputs.append(sketch.step("season", 28, [base], 0.02, spread=0.2))
        more = sketch.step("fertilised", 28, [base], 0.02, spread=0.2)
        ends.append(sketch.step("parse", 0.3, [outputs[-1], more], 0.02))
    summaries = [sketch.step("summary", 0.5, outputs, 0.02), sketch.step("effect", 0.5, ends, 0.02)]
    sketch.step("plots", 120, summaries, 0.05)


def mosaic(sketch: Sketch, size: int) -> None:
    """Images are projected, differences of neighbours fitted, one model corrects all, the mosaic is added up (as Montage)."""
    count = max(3, size // 9)
    views = []
    for _ in range(3):
        projected = sketch.steps(count, "project", 8, reads=3)
        differences = [
            sketch.step("difference", 0.3, [a, b], 5)
            for i, a in enumerate(projected)
            for b in projected[i + 1 : i + sketch.rng.choice((2, 3))]
        ]
        model = sketch.step("model", 20, [sketch.step("concat", 1, differences, 0.01)], 0.1)
        fixed = [sketch.step("background", 0.5, [one, model], 4) for one in projected]
        added = sketch.step("add", 15, [sketch.step("table", 0.5, fixed, 0.01), *fixed], 5)
        views.append(sketch.step("view", 3, [added], 150))
    sketch.step("view", 5, views, 60)


def variants(sketch: Sketch, size: int) -> None:
    """Per sample a long chain, then a fan of calls, merged by region in the end (as SoyKB)."""
    samples, regions = max(1, size // 16), 10
    calls: list[list[str]] = [[] for _ in range(regions)]
    for _ in range(samples):
        last = sketch.step("align", 60, reads=2_000)
        for kind, seconds in (("sort", 30), ("dedup", 40), ("groups", 30), ("targets", 200), ("realign", 150)):
            last = sketch.step(kind, seconds, [last], 60)
        for region in calls:
            region.append(sketch.step("call", 100, [last], 0.2, spread=0.7))
    merged = [sketch.step("merge", 60, region, 1) for region in calls]
    sketch.step("filter", 20, [sketch.step("combine", 100, merged, 5)], 10)


def archives(sketch: Sketch, size: int) -> None:
    """Large archives are unpacked and searched, all after one index; the whole is bound by what moves (as SRA Search)."""
    index = sketch.step("index", 30)
    found = [
        sketch.step("search", 80, [index, sketch.step("unpack", 120, spread=0.9)], 500)
        for _ in range(max(2, size // 2))
    ]
    sketch.step("merge", 5, found, 100)


def modules(sketch: Sketch, size: int) -> None:
    """Modules of few steps, some for each sample and some once, reports that need nearly all (as nf-core pipelines)."""
    rng = sketch.rng
    made = [sketch.step("prepare", 1, reads=10) for _ in range(4)]
    samples = rng.randint(2, 6)
    last = [[one] for one in sketch.steps(samples, "check", 0.3, made[:1], 0.1)]
    stage = 0
    while len(sketch.made) < size:
        stage += 1
        seconds = rng.choice((0.2, 1, 2, 5, 30, 150))
        for its in last:
            before = rng.sample(its, min(len(its), rng.randint(1, 2))) + rng.sample(made, rng.randint(0, 1))
            its.append(sketch.step(f"module-{stage}", seconds, before, 5))
        if rng.random() < 0.3:
            made.append(sketch.step(f"join-{stage}", seconds, [its[-1] for its in last], 3))
    sketch.step("report", 10, [one for its in last for one in its] + made, 0.2)


FAMILIES: dict[str, Callable[[Sketch, int], None]] = {
    "search": search,
    "align": align,
    "misfit": misfit,
    "chromosomes": chromosomes,
    "lanes": lanes,
    "seasons": seasons,
    "mosaic": mosaic,
    "variants": variants,
    "archives": archives,
    "modules": modules,
}


def draw(family: str, size: int, seed: int, *, name: str = "", **more: str | float) -> Workflow:
    """A workflow of about `size` steps. Raises `KeyError` for a family that is not in `FAMILIES`."""
    sketch = Sketch(random.Random(f"drawn/{family}/{size}-{seed}"))
    FAMILIES[family](sketch, size)
    return Workflow(name or f"{family}-{seed}", sketch.made, **more)  # pyright: ignore[reportArgumentType]
