"""The ledger of a domain's runs: fences, commits (with the events they owe to Dagster) and the story. SQLAlchemy Core.

A step's row moves RUN → DONE once per fence: `UPDATE … WHERE fence = ? AND state = 'RUN'` lets one attempt through. What nobody
waits for any more is DROPPED.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import OperationalError

from ioi_dagster.adapters.sql.sqlite import open_sqlite
from ioi_dagster.errors import RetryableError
from ioi_dagster.model.intervention import Action, Intervention
from ioi_dagster.model.placement import Made
from ioi_dagster.model.story import Chapter, Entry

_meta = sa.MetaData()

LAST_RUNS, MOST_STEPS = 5, 5_000
"""So many runs of a job, and steps of theirs, are looked at for how long its steps take."""
_step = sa.Table(
    "run_step",
    _meta,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Text),
    sa.Column("domain", sa.Text),
    sa.Column("cluster", sa.Text),
    sa.Column("node", sa.Text),
    sa.Column("capability", sa.Text),
    sa.Column("data_class", sa.Text),
    sa.Column("commits", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("outputs", sa.Text),
    sa.Column("sizes", sa.Text),
    sa.Column("events", sa.LargeBinary),
    sa.Column("published", sa.Boolean, nullable=False, server_default=sa.false()),
)
_run = sa.Table(
    "run",
    _meta,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("job", sa.Text),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("subject", sa.Text),
)
_class = sa.Table(
    "stated_class",
    _meta,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("step", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Text, primary_key=True),
    sa.Column("output", sa.Text, primary_key=True),
    sa.Column("data_class", sa.Text, nullable=False),
)
"""Of outputs that have another class than their step, see `Commit.classes`; most have not."""
_store = sa.Table(
    "store",
    _meta,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, primary_key=True),
)
"""Where starts of a run wrote to, or were about to, whatever became of them."""
_story = sa.Table(
    "story",
    _meta,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("chapter", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
_intervention = sa.Table(
    "intervention",
    _meta,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("value", sa.Integer),
    sa.Column("away", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False, server_default=sa.false()),
)
"""What people said to runs, and what came of it."""


@dataclass(frozen=True, slots=True)
class Started:
    """A step was started under `fence` on a lease."""

    step: str
    fence: int
    domain: str
    cluster: str
    node: str
    capability: str
    data_class: str


@dataclass(frozen=True, slots=True)
class Commit:
    """An attempt's outcome: `outputs` maps output handles to object references, `events` are owed to Dagster. `classes` are
    the data classes of outputs that have another one than `Started.data_class`, by handle. `sizes`: of outputs that passed
    through the run's process, by name, how many values and bytes."""

    step: str
    fence: int
    attempt: str
    node: str
    started: float
    ended: float
    outputs: dict[str, str]
    events: bytes
    classes: dict[str, str] = field(default_factory=dict)
    cluster: str = ""
    domain: str = ""
    """Where it ran, if that is not where the start that the ledger knows of was sent."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step as the ledger knows it. `commits` counts how often it was committed: once per vend of Dagster."""

    run: str
    step: str
    fence: int
    state: str
    attempt: str | None
    domain: str | None
    cluster: str | None
    node: str | None
    capability: str | None
    data_class: str | None
    commits: int
    started: float | None
    ended: float | None


BUSY_S = 1.0


class FencedError(Exception):
    """A newer process of this run has taken over: this one must stop without writing anything more."""


class LedgerAwayError(RetryableError):
    """The ledger cannot be written now (locked by another process, a full disk, a lost folder). Nothing was written."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"the ledger {where} cannot be written: {why} — free the disk, or end what holds the file")


class Ledger:
    """See the module. One per process; `path` is a SQLite file. Raises `LedgerAwayError` where that cannot be opened, and
    `OSError` where its folder cannot be made."""

    def __init__(self, path: Path) -> None:
        try:
            self._engine = open_sqlite(path, _meta, synchronous="FULL")
        except OperationalError as error:
            raise LedgerAwayError(str(path), str(error.orig)) from error

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """One transaction, or none of it. Raises `LedgerAwayError`."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise LedgerAwayError(str(self._engine.url.database), str(error.orig)) from error

    def take_over(self, run: str, job: str, now: float, subject: str | None = None) -> int:
        """Become the run's process: a higher epoch fences every older one. `subject`: who has started the run, empty where nobody
        says. Returns the epoch."""
        with self._begin() as connection:
            statement = sqlite_insert(_run).values(run=run, epoch=1, job=job, started=now, subject=subject)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[_run.c.run], set_={"epoch": _run.c.epoch + 1, "ended": None}
                )
            )
            return int(connection.execute(sa.select(_run.c.epoch).where(_run.c.run == run)).scalar_one())

    def started_by(self, run: str) -> str | None:
        """Who has started it; None where that was not told here."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_run.c.subject).where(_run.c.run == run)).scalar_one_or_none()

    def end(self, run: str, epoch: int, now: float) -> None:
        """The run has ended at `now` (Unix seconds); nothing is written where another process has it by now."""
        with self._begin() as connection:
            connection.execute(sa.update(_run).where(_run.c.run == run, _run.c.epoch == epoch).values(ended=now))

    def fences(self, run: str) -> dict[str, int]:
        """The newest fence of every step that was started."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_step.c.step, _step.c.fence).where(_step.c.run == run))
            return {row.step: row.fence for row in rows}

    def write(
        self,
        run: str,
        epoch: int,
        started: Sequence[Started],
        commits: Sequence[Commit],
        story: Iterable[Entry],
        published: Sequence[tuple[str, str]] = (),
        dropped: Sequence[str] = (),
        stores: Sequence[str] = (),
    ) -> set[str]:
        """One transaction for a batch; returns the attempts that were committed. `published` names (step, attempt) whose
        events Dagster's log holds by now, `dropped` steps that nobody waits for any more, `stores` URLs of stores that starts of
        the run write to.

        Raises `FencedError` (and writes nothing) when another process has taken the run over, and `LedgerAwayError` (likewise)
        when the file cannot be written within `BUSY_S`; the same call may then be made again.
        """
        committed: set[str] = set()
        with self._begin() as connection:
            # Who waits here does not renew leases meanwhile, so it is the caller who waits longer.
            connection.exec_driver_sql(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
            # A write, so that the lock is taken before the epoch is read: a takeover comes before or after all of this.
            mine = sa.update(_run).where(_run.c.run == run, _run.c.epoch == epoch).values(epoch=epoch)
            if connection.execute(mine).rowcount != 1:
                current = connection.execute(sa.select(_run.c.epoch).where(_run.c.run == run)).scalar_one_or_none()
                raise FencedError(f"run {run} was taken over: its epoch is {current}, this process has {epoch}")
            if published:
                told = sa.update(_step).where(
                    _step.c.run == run, _step.c.step == sa.bindparam("its_step"), _step.c.attempt == sa.bindparam("its")
                )
                connection.execute(
                    told.values(published=True, events=None),
                    [{"its_step": step, "its": attempt} for step, attempt in published],
                )
            if started:
                insert = sqlite_insert(_step)
                values = {name: insert.excluded[name] for name in ("state", *Started.__dataclass_fields__)}
                newer = insert.on_conflict_do_update(
                    index_elements=[_step.c.run, _step.c.step],
                    set_={name: value for name, value in values.items() if name != "step"},
                    where=_step.c.fence < insert.excluded.fence,
                )
                connection.execute(newer, [{"run": run, "state": "RUN", **asdict(item)} for item in started])
            if dropped:
                nobodys = sa.update(_step).where(
                    _step.c.run == run, _step.c.step == sa.bindparam("its_step"), _step.c.state == "RUN"
                )
                connection.execute(nobodys.values(state="DROPPED"), [{"its_step": step} for step in dropped])
            if stores:
                once = sqlite_insert(_store).on_conflict_do_nothing()
                connection.execute(once, [{"run": run, "url": url} for url in stores])
            for commit in commits:
                result = connection.execute(
                    sa.update(_step)
                    .where(
                        _step.c.run == run,
                        _step.c.step == commit.step,
                        _step.c.fence == commit.fence,
                        _step.c.state == "RUN",
                    )
                    .values(
                        state="DONE",
                        attempt=commit.attempt,
                        node=commit.node,
                        started=commit.started,
                        ended=commit.ended,
                        outputs=json.dumps(commit.outputs),
                        sizes=json.dumps(commit.sizes) if commit.sizes else None,
                        events=commit.events,
                        published=False,
                        commits=_step.c.commits + 1,
                        **({"cluster": commit.cluster, "domain": commit.domain} if commit.cluster else {}),
                    )
                )
                if result.rowcount == 1:
                    _state_classes(connection, run, commit)
                if result.rowcount == 1 or _has(connection, run, commit):
                    committed.add(commit.attempt)
            rows = [
                {
                    "run": entry.run,
                    "step": entry.step,
                    "chapter": str(entry.chapter),
                    "text": entry.text,
                    "at": entry.at,
                    "facts": json.dumps(entry.facts),
                }
                for entry in story
            ]
            if rows:
                connection.execute(sa.insert(_story), rows)
        return committed

    def check(self, run: str, epoch: int) -> None:
        """Raises `FencedError` when another process has taken the run over, and `LedgerAwayError`."""
        with self._begin() as connection:
            current = connection.execute(sa.select(_run.c.epoch).where(_run.c.run == run)).scalar_one_or_none()
        if current != epoch:
            raise FencedError(f"run {run} was taken over: its epoch is {current}, this process has {epoch}")

    def pending(self, run: str) -> list[tuple[str, str, bytes]]:
        """(step, attempt, events) of commits whose events are not known to be in Dagster's log: the outbox."""
        query = (
            sa.select(_step.c.step, _step.c.attempt, _step.c.events)
            .where(_step.c.run == run, _step.c.state == "DONE", _step.c.published.is_(sa.false()))
            .order_by(_step.c.ended)
        )
        with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def tell(self, entries: Iterable[Entry]) -> None:
        """Add to a story outside a run process (gates 1 and 2)."""
        rows = [
            {
                "run": e.run,
                "step": e.step,
                "chapter": str(e.chapter),
                "text": e.text,
                "at": e.at,
                "facts": json.dumps(e.facts),
            }
            for e in entries
        ]
        if rows:
            with self._begin() as connection:
                connection.execute(sa.insert(_story), rows)

    def steps(self, run: str) -> list[StepRow]:
        """Every step that was started, each under its newest fence."""
        columns = [_step.c[name] for name in StepRow.__dataclass_fields__]
        with self._engine.connect() as connection:
            return [StepRow(*row) for row in connection.execute(sa.select(*columns).where(_step.c.run == run))]

    def took(self, job: str) -> dict[str, float]:
        """Seconds that steps of the job took in its last runs, on average; steps that an op was mapped to count as one."""
        query = sa.select(_step.c.step, _step.c.ended - _step.c.started).where(
            _step.c.run.in_(_last_runs(job)), _step.c.state == "DONE", _step.c.ended > _step.c.started
        )
        found: dict[str, list[float]] = {}
        with self._engine.connect() as connection:
            for step, seconds in connection.execute(query.limit(MOST_STEPS)):
                found.setdefault(step.partition("[")[0], []).append(seconds)
        return {kind: sum(its) / len(its) for kind, its in found.items()}

    def made(self, job: str) -> dict[tuple[str, str], Made]:
        """By op and output, what steps of the job made in its last runs, on average, where it passed through their processes."""
        query = sa.select(_step.c.step, _step.c.sizes).where(
            _step.c.run.in_(_last_runs(job)), _step.c.state == "DONE", _step.c.sizes.is_not(None)
        )
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        with self._engine.connect() as connection:
            for step, sizes in connection.execute(query.limit(MOST_STEPS)):
                for output, its in json.loads(sizes).items():
                    found.setdefault((step.partition("[")[0], output), []).append(its)
        return {
            key: Made(
                sum(size for _, size in its) / max(1, sum(count for count, _ in its)),
                sum(size for _, size in its) / len(its),
            )
            for key, its in found.items()
        }

    def outputs(self, run: str) -> dict[str, str]:
        """Object references of every committed output of a run, by output handle."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(_step.c.outputs).where(
                    _step.c.run == run, _step.c.state == "DONE", _step.c.outputs.is_not(None)
                )
            )
            return {handle: reference for (text,) in rows for handle, reference in json.loads(text).items()}

    def stores(self, run: str) -> set[str]:
        """URLs of the stores that starts of a run wrote to, see `write`."""
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(_store.c.url).where(_store.c.run == run)).scalars())

    def stated_classes(self, run: str) -> dict[str, str]:
        """Data classes of committed outputs that have another one than their step, by output handle."""
        its = (_step.c.run == _class.c.run, _step.c.step == _class.c.step, _step.c.attempt == _class.c.attempt)
        query = sa.select(_class.c.output, _class.c.data_class).where(
            _class.c.run == run, _step.c.state == "DONE", *its
        )
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def spent(self, run: str) -> float:
        """Credits that the run's awards cost, as its story tells."""
        chapters = (str(Chapter.AWARD), str(Chapter.REFUSED), str(Chapter.COPY))
        query = sa.select(_story.c.facts).where(
            _story.c.run == run, _story.c.chapter.in_(chapters), _story.c.facts.contains('"price"')
        )
        with self._engine.connect() as connection:
            return sum(json.loads(facts).get("price", 0.0) for (facts,) in connection.execute(query))

    def story(self, run: str, step: str | None = None) -> list[Entry]:
        """What was told of a run, in order; with `step`, of that and of the run as a whole."""
        query = sa.select(_story).where(_story.c.run == run).order_by(_story.c.seq)
        if step is not None:
            query = query.where(_story.c.step.in_(["", step]))
        with self._engine.connect() as connection:
            return [
                Entry(row.run, row.step, Chapter(row.chapter), row.text, row.at, json.loads(row.facts))
                for row in connection.execute(query)
            ]

    def runs(self, prefix: str = "", limit: int = 50) -> list[tuple[str, str, float, float | None]]:
        """(run, job, started, ended), newest first."""
        query = sa.select(_run.c.run, _run.c.job, _run.c.started, _run.c.ended).order_by(_run.c.started.desc())
        if prefix:
            query = query.where(_run.c.run.startswith(prefix, autoescape=True))
        with self._engine.connect() as connection:
            return [(r[0], r[1], r[2], r[3]) for r in connection.execute(query.limit(limit))]

    def not_begun(self, prefix: str = "", limit: int = 50) -> list[tuple[str, str, float, str]]:
        """(run, job, when, what was said of it last) of those whose story no run process has taken up, newest first: they were
        denied, are held or wait for their turn, or were ended before their first step was looked at."""
        last = sa.select(sa.func.max(_story.c.seq).label("seq")).where(_story.c.step == "")
        last = last.where(_story.c.run.not_in(sa.select(_run.c.run)))
        if prefix:
            last = last.where(_story.c.run.startswith(prefix, autoescape=True))
        newest = last.group_by(_story.c.run).subquery()
        query = sa.select(_story).join(newest, _story.c.seq == newest.c.seq).order_by(_story.c.seq.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [
                (row.run, json.loads(row.facts).get("job", ""), row.at, row.text) for row in connection.execute(query)
            ]

    def open_runs(self) -> list[tuple[str, str]]:
        """(run, job) of those that have not ended, oldest first."""
        query = sa.select(_run.c.run, _run.c.job).where(_run.c.ended.is_(None)).order_by(_run.c.started, _run.c.run)
        with self._engine.connect() as connection:
            return [(row.run, row.job) for row in connection.execute(query)]

    def endings(self, runs: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Of the runs that ended: what their last process told of it, see `Chapter.DONE`."""
        query = sa.select(_story.c.run, _story.c.facts).where(_story.c.run.in_(list(runs)), _story.c.step == "")
        query = query.where(_story.c.chapter == str(Chapter.DONE)).order_by(_story.c.seq)
        with self._engine.connect() as connection:
            return {row[0]: json.loads(row[1]) for row in connection.execute(query)}

    def touched(self) -> list[tuple[str, bool, float]]:
        """(run, whether its process said that it ends, last sign of life) of every run. Unix seconds."""
        told = sa.select(_story.c.run, sa.func.max(_story.c.at).label("at")).group_by(_story.c.run).subquery()
        query = sa.select(_run.c.run, _run.c.started, _run.c.ended, told.c.at).outerjoin(told, told.c.run == _run.c.run)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [(row[0], row[2] is not None, max(row[1] or 0.0, row[2] or 0.0, row[3] or 0.0)) for row in rows]

    def forget(self, runs: Iterable[str]) -> None:
        """Remove all rows of `runs`, of each at once or not at all. Raises `LedgerAwayError`."""
        for run in runs:
            with self._begin() as connection:
                for table in (_story, _store, _class, _intervention, _step, _run):
                    connection.execute(sa.delete(table).where(table.c.run == run))

    def intervene(self, said: Intervention) -> int:
        """Leave word for the process of a run, this one or one to come; its number. Raises `LedgerAwayError`."""
        values = {**asdict(said), "action": str(said.action)}
        del values["number"]
        with self._begin() as connection:
            return int(connection.execute(sa.insert(_intervention).values(**values)).lastrowid)

    def interventions(self, run: str, after: int = 0) -> list[Intervention]:
        """What was said to the run, in order, from the one after number `after` on. Raises `LedgerAwayError`."""
        its = _intervention.c
        query = sa.select(_intervention).where(its.run == run, its.number > after).order_by(its.number)
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Intervention(**{**row, "action": Action(row["action"])}) for row in rows]

    def answered(self, number: int, answer: str, refused: bool = False) -> None:
        """What came of it; `refused`: it names nobody. Raises `LedgerAwayError`."""
        with self._begin() as connection:
            its = sa.update(_intervention).where(_intervention.c.number == number)
            connection.execute(its.values(answer=answer, refused=refused))

    def counts(self, run: str) -> dict[str, int]:
        """How many steps of a run are in which state."""
        query = sa.select(_step.c.state, sa.func.count()).where(_step.c.run == run).group_by(_step.c.state)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def done_of(self, run: str, op: str) -> int:
        """How many steps that are mapped from `op` are done."""
        mapped = _step.c.step.startswith(f"{op}[", autoescape=True)
        query = sa.select(sa.func.count()).where(_step.c.run == run, _step.c.state == "DONE", mapped)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one()

    def outputs_of(self, run: str, step: str) -> int | None:
        """How many outputs a step has made; None where it is not done."""
        query = sa.select(_step.c.outputs).where(_step.c.run == run, _step.c.step == step, _step.c.state == "DONE")
        with self._engine.connect() as connection:
            text = connection.execute(query).scalar_one_or_none()
        return len(json.loads(text)) if text else None

    def last_progress(self, run: str) -> Entry | None:
        """What the run's newest process said last of how far it is: the facts name its `epoch`. None where only one before it has
        said anything."""
        query = (
            sa.select(_story, _run.c.epoch)
            .join(_run, _run.c.run == _story.c.run)
            .where(_story.c.run == run, _story.c.chapter == str(Chapter.PROGRESS))
            .order_by(_story.c.seq.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        facts = json.loads(row.facts) if row else {}
        if row is None or facts.get("epoch") != row.epoch:
            return None
        return Entry(row.run, row.step, Chapter.PROGRESS, row.text, row.at, facts)

    def losses(self, after: int, limit: int = 500) -> list[tuple[int, Entry]]:
        """Story entries about losses and refusals after a cursor, for sensors."""
        query = (
            sa.select(_story)
            .where(_story.c.seq > after, _story.c.chapter.in_([str(Chapter.LOSS), str(Chapter.REFUSED)]))
            .order_by(_story.c.seq)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [
                (row.seq, Entry(row.run, row.step, Chapter(row.chapter), row.text, row.at, json.loads(row.facts)))
                for row in connection.execute(query)
            ]


def _last_runs(job: str) -> sa.Select[tuple[str]]:
    return sa.select(_run.c.run).where(_run.c.job == job).order_by(_run.c.started.desc()).limit(LAST_RUNS)


def _state_classes(connection: sa.Connection, run: str, commit: Commit) -> None:
    rows = [
        {"run": run, "step": commit.step, "attempt": commit.attempt, "output": output, "data_class": data_class}
        for output, data_class in commit.classes.items()
    ]
    if rows:
        connection.execute(sa.insert(_class), rows)


def _has(connection: sa.Connection, run: str, commit: Commit) -> bool:
    """This very attempt is committed: the call is made again after an answer that did not come."""
    its = (_step.c.run == run, _step.c.step == commit.step, _step.c.fence == commit.fence)
    row = connection.execute(sa.select(_step.c.state, _step.c.attempt).where(*its)).one_or_none()
    return row is not None and tuple(row) == ("DONE", commit.attempt)
