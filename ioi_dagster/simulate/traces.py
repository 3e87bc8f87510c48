"""Workflows as they ran somewhere: from files in the WfFormat of WfCommons (https://docs.wfcommons.org, schema version 1.5).

Of a trace is taken how long each task ran, which tasks it follows, and the bytes that it read of those and from outside, and
those that it wrote. Each task takes one slot, whatever cores and memory it had.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.negotiation import Amount, Name, StepKey
from ioi_dagster.simulate.scenario import Seconds, Workflow, WorkflowStep, decode

MAX_FILES, MAX_TASKS, MAX_LINKS, MAX_TRACE_BYTES = 2_000, 1_000_000, 100_000, 128 * 2**20
TODO = "take traces of schema version 1.5, as https://github.com/wfcommons/WfInstances has them, or convert it"


@dataclass(frozen=True, slots=True)
class _File:
    id: StepKey
    sizeInBytes: Amount | None = None  # noqa: N815 - as it is written


@dataclass(frozen=True, slots=True)
class _Task:
    id: StepKey
    parents: Annotated[tuple[StepKey, ...], Meta(max_length=MAX_LINKS)] = ()
    inputFiles: Annotated[tuple[StepKey, ...], Meta(max_length=MAX_LINKS)] = ()  # noqa: N815
    outputFiles: Annotated[tuple[StepKey, ...], Meta(max_length=MAX_LINKS)] = ()  # noqa: N815


@dataclass(frozen=True, slots=True)
class _Specification:
    tasks: Annotated[tuple[_Task, ...], Meta(max_length=MAX_TASKS)]
    files: tuple[_File, ...] = ()


@dataclass(frozen=True, slots=True)
class _Ran:
    id: StepKey
    runtimeInSeconds: Seconds  # noqa: N815


@dataclass(frozen=True, slots=True)
class _Execution:
    tasks: Annotated[tuple[_Ran, ...], Meta(max_length=MAX_TASKS)] = ()


@dataclass(frozen=True, slots=True)
class _Body:
    specification: _Specification
    execution: _Execution = field(default_factory=_Execution)


@dataclass(frozen=True, slots=True)
class _Trace:
    workflow: _Body
    name: Name = "trace"


def read_traces(folder: Path, every_s: float = 1.0, tenants: tuple[str, ...] = ("default",)) -> tuple[Workflow, ...]:
    """All of `*.json` in the folder and those below it, by path: one every `every_s` seconds, of each of `tenants` in turn.
    Raises `BadInputError` that names each file that is none, and what is wrong in it."""
    files = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not 0 < len(files) <= MAX_FILES:
        what = f"{len(files):,} traces" if files else "no trace"
        raise BadInputError(f"{what} in it", where=str(folder), todo=f"give a folder of 1 to {MAX_FILES:,} JSON files")
    found: list[Workflow] = []
    wrong: list[str] = []
    for number, file in enumerate(files):
        try:
            name = str(file.relative_to(folder).with_suffix(""))
            found.append(_read(file, name, number * every_s, tenants[number % len(tenants)]))
        except BadInputError as error:
            wrong.append(f"{error.where}: {error.what}")
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise BadInputError("\n".join(wrong[:20]) + more, where=str(folder), todo=TODO)
    return tuple(found)


def _read(file: Path, name: str, arrives: float, tenant: str) -> Workflow:
    """Raises `BadInputError`."""
    body = decode(file, _Trace, MAX_TRACE_BYTES, ours=False).workflow
    tasks = {task.id: task for task in body.specification.tasks}
    took = {task.id: task.runtimeInSeconds for task in body.execution.tasks}
    wrong = [
        f"task {parent!r}, which {task.id!r} follows, is not there"
        for task in tasks.values()
        for parent in task.parents
        if parent not in tasks
    ]
    wrong += [f"how long task {key!r} ran is not said" for key in tasks if key not in took]
    if len(tasks) < len(body.specification.tasks):
        wrong.append("two tasks have one id")
    if not tasks:
        wrong.append("it has no tasks")
    if wrong:
        raise BadInputError("; ".join(wrong[:3]) + ("; …" if len(wrong) > 3 else ""), where=str(file))
    sizes = {one.id: one.sizeInBytes or 0.0 for one in body.specification.files}
    maker = {one: task.id for task in tasks.values() for one in task.outputFiles}
    return Workflow(name, {key: _step(task, took[key], sizes, maker) for key, task in tasks.items()}, arrives, tenant)


def _step(task: _Task, seconds: float, sizes: dict[str, float], maker: dict[str, str]) -> WorkflowStep:
    needs = tuple(dict.fromkeys(task.parents))
    inputs = dict.fromkeys(needs, 0.0)
    outside = 0.0
    for one in dict.fromkeys(task.inputFiles):
        if maker.get(one) in inputs:
            inputs[maker[one]] += sizes.get(one, 0.0)
        elif one not in maker:
            outside += sizes.get(one, 0.0)
    read = {need: size for need, size in inputs.items() if size}
    wrote = sum(sizes.get(one, 0.0) for one in dict.fromkeys(task.outputFiles))
    return WorkflowStep(seconds, needs, inputs=read, reads=outside, writes=wrote)
