"""What `ioi explain run` tells: trigger, policy, and of each step candidates, wait, bids, award, attempts and commit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from ioi_dagster.adapters.sql.ledger import Ledger, StepRow
from ioi_dagster.governors.flow_texts import asked_to_tell
from ioi_dagster.model.progress import of_facts
from ioi_dagster.model.story import Chapter, Entry

_FIRST = (Chapter.TRIGGER, Chapter.POLICY)
_NO_PLACE = frozenset({Chapter.CANDIDATES, Chapter.WAIT, Chapter.LOSS})
"""A step of a run in progress whose story ends so has no place now."""

_COLOURS = {
    "policy": "magenta",
    "candidates": "blue",
    "bid": "cyan",
    "award": "green",
    "copy": "yellow",
    "loss": "bold red",
    "refused": "red",
    "commit": "bold green",
    "wait": "yellow",
    "map": "cyan",
}


def collect(ledger: Ledger, run: str, step: str | None, now: float) -> list[Entry]:
    """The story of a run, or of one of its steps, in the order in which it is told. `now`: Unix seconds.

    `step` without its mapping key: all that it is mapped to. Empty where nothing is known. Of a run that goes on, a step that
    has no place yet says for how long.
    """
    story = ledger.story(run, step)
    if step and not any(entry.step == step for entry in story):
        story = [e for e in ledger.story(run) if e.step.startswith(f"{step}[") or (not e.step and e.chapter in _FIRST)]
        if not any(entry.step for entry in story):
            return []
        step = None
    told = in_order(story, ledger.steps(run), step)
    last, ended = ledger.last_progress(run), next((row[3] for row in ledger.runs(run, 1)), None)
    if ended is not None:
        return told
    return _with_waits(told, of_facts(last.facts).why() if last else "", now)


def in_order(story: Sequence[Entry], rows: Sequence[StepRow], step: str | None = None) -> list[Entry]:
    """Trigger and policy first; then each step from its candidates to its commit, in the order in which they began; what
    befell the run as a whole comes last. Of one step only what happened to it, and what its clusters did meanwhile.

    `story` is in the order in which it was written; `rows` say when and where the attempts that count ran.
    """
    first = sorted((e for e in story if not e.step and e.chapter in _FIRST), key=lambda e: _FIRST.index(e.chapter))
    ran = {row.attempt: row for row in rows if row.attempt and row.node and row.started and row.ended}
    if step is not None:
        return [*first, *_once(_with_attempts(_meanwhile(story, step), ran))]
    steps: dict[str, list[Entry]] = {}
    whole: list[Entry] = []
    for entry in story:
        if entry.step:
            steps.setdefault(entry.step, []).append(entry)
        elif entry.chapter not in _FIRST:
            whole.append(entry)
    return [*first, *(e for its in steps.values() for e in _once(_with_attempts(its, ran))), *_once(whole)]


def table(story: Sequence[Entry], step: str | None) -> Table:
    """`step`: what was asked for; each row says which step it is about where they are several."""
    one = all(entry.step in ("", step) for entry in story)
    title = f"run {story[0].run}" + (f", step {escape(step)}" if step else "")
    shown = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in ("time", *(() if one else ("step",)), "chapter", "what happened"):
        shown.add_column(column, overflow="fold")
    for entry in story:
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at)) + f".{int(entry.at % 1 * 1000):03d}"
        middle = () if one else (escape(entry.step),)
        colour = _COLOURS.get(entry.chapter, "white")
        shown.add_row(clock, *middle, f"[{colour}]{entry.chapter}[/]", escape(entry.text))
    return shown


def _meanwhile(story: Sequence[Entry], step: str) -> list[Entry]:
    """The step's own entries, and between its first and its commit what befell the clusters that may take it: no look-around
    of later."""
    own = [number for number, entry in enumerate(story) if entry.step == step]
    places = {place for number in own for place in story[number].facts.get("places", ())}
    commits = [number for number in own if story[number].chapter is Chapter.COMMIT]
    end = commits[-1] if commits else len(story)
    return [
        entry
        for number, entry in enumerate(story)
        if entry.step == step or (not entry.step and own[0] < number < end and entry.facts.get("cluster") in places)
    ]


def _with_attempts(entries: Iterable[Entry], ran: dict[str, StepRow]) -> Iterator[Entry]:
    """Before each commit the attempt that it is of."""
    for entry in entries:
        row = ran.get(str(entry.facts.get("attempt"))) if entry.chapter is Chapter.COMMIT else None
        if row is not None and row.started is not None and row.ended is not None:
            seconds = row.ended - row.started
            text = f"attempt {row.attempt} ran {seconds:.2f} s on {row.node} of {row.cluster} ({row.domain})"
            yield Entry(entry.run, entry.step, Chapter.START, text, row.started, {"seconds": seconds, "node": row.node})
        yield entry


def _with_waits(told: Sequence[Entry], why: str, now: float) -> list[Entry]:
    """After the last word on a step that has no place now: since when it waits, and why by what was told of it last. `why`: what
    the run said last of all that wait, for a step of which nothing was told."""
    last = {entry.step: number for number, entry in enumerate(told) if entry.step}
    out: list[Entry] = []
    own: dict[str, Entry] = {}
    """By step, the last reason of a wait that is not over."""
    for number, entry in enumerate(told):
        out.append(entry)
        if entry.chapter is Chapter.WAIT and "waited" in entry.facts:
            own[entry.step] = entry
        elif entry.chapter is not Chapter.CANDIDATES:
            own.pop(entry.step, None)
        if last.get(entry.step) == number and entry.chapter in _NO_PLACE:
            text = _waits_now(entry, own.get(entry.step), why, now)
            out.append(Entry(entry.run, entry.step, Chapter.WAIT, text, now))
    return out


def _waits_now(last: Entry, own: Entry | None, why: str, now: float) -> str:
    if own is None:
        return f"waits for {now - last.at:.1f} s now" + (f"; the run's waiting steps: {why}" if why else "")
    waited, facts = now - own.at + own.facts["waited"], own.facts
    return f"waits for {waited:.1f} s now: {facts['why']}{asked_to_tell(facts.get('parked', ()))}"


def _once(entries: Iterable[Entry]) -> list[Entry]:
    """What was told again and again in the same words, once: when it began, how often, and until when."""
    told: list[Entry] = []
    counts: list[int] = []
    until: list[float] = []
    for entry in entries:
        same = told and (told[-1].step, told[-1].chapter, told[-1].text) == (entry.step, entry.chapter, entry.text)
        if same:
            counts[-1], until[-1] = counts[-1] + 1, entry.at
        else:
            told, counts, until = [*told, entry], [*counts, 1], [*until, entry.at]
    return [
        replace(entry, text=f"{entry.text} ({count} times in {end - entry.at:.1f} s)") if count > 1 else entry
        for entry, count, end in zip(told, counts, until, strict=True)
    ]
