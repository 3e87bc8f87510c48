"""The index of words beside SQLite's full text search: the same entries, the same filters, each in a database of its own."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.ras_entries import KINDS, Drawn
from benchmarks.yardstick.matching.baselines import STOP
from ioi_dagster.adapters.sql.search import SqlTextIndex
from ioi_dagster.adapters.sql.search_tables import tables
from ioi_dagster.ras.matching.entry import Entry
from ioi_dagster.ras.matching.words import split_names

SLOW_REQUESTS = 30
"""Of the peer at a million records."""
GROUP = 2_000
"""Records of one transaction while the registry is filled."""

record = sa.Table(
    "record_filter",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data_class", sa.Text, nullable=False),
    sa.Index("record_filter_by", "kind", "data_class"),
)
if TYPE_CHECKING:
    from benchmarks.frame import Report

Filter = tuple[str, ...]


def compare(report: Report, folder: Path, count: int, requests: int, times: int) -> None:
    """`word_*`: of our index alone, without the registry around it."""
    drawn = Drawn()
    took = _filled(folder, count, drawn)
    report.figures[f"words_put_per_s@{count}"] = count / took["ours"]
    report.peers[f"fts5_put_per_s@{count}"] = count / took["fts5"]
    report.figures[f"words_disk_mb@{count}"] = (folder / "ours.db").stat().st_size / 1e6
    report.peers[f"fts5_disk_mb@{count}"] = (folder / "fts5.db").stat().st_size / 1e6
    kinds = list(KINDS)
    filters: list[Filter] = [((), (kinds[at % 3],), (kinds[at % 8], "restricted"))[at % 3] for at in range(requests)]
    asked = {"count": count, "times": times, "requests": list(zip(drawn.requests(requests), filters, strict=True))}
    command = [sys.executable, "-m", "benchmarks.ras_words", str(folder), json.dumps(asked)]
    served = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    for name, figure in served.items():
        if name.startswith("fts5"):
            report.peers[f"{name}@{count}"] = figure
        else:
            report.figures[f"words_{name}@{count}"] = figure
    for of in ("p50", "p99"):
        report.ratios[f"fts5_{of}_to_words@{count}"] = served[f"fts5_{of}_ms"] / served[f"{of}_ms"]


def _filled(folder: Path, count: int, drawn: Drawn) -> dict[str, float]:
    """Seconds that each took."""
    ours, fts5 = _engine(folder / "ours.db"), _engine(folder / "fts5.db")
    for engine in (ours, fts5):
        record.create(engine)
    tables.create_all(ours)
    index, took = SqlTextIndex(), {"ours": 0.0, "fts5": 0.0}
    with fts5.begin() as connection:
        # The peer's own place for texts is left out, as ours keeps none.
        connection.exec_driver_sql(
            "create virtual table said using fts5(body, content='', tokenize='porter unicode61')"
        )
    entries = drawn.entries(count)
    while group := [its for _, its in zip(range(GROUP), entries, strict=False)]:
        rows = [{"number": number, "kind": kind, "data_class": its_class} for number, kind, its_class, _ in group]
        texts = [(number, _document(its)) for number, _, _, its in group]
        started = time.perf_counter()
        with ours.begin() as connection:
            connection.execute(sa.insert(record), rows)
            index.put_all(connection, [(number, (its,)) for number, _, _, its in group])
        took["ours"] += time.perf_counter() - started
        started = time.perf_counter()
        with fts5.begin() as connection:
            connection.execute(sa.insert(record), rows)
            connection.exec_driver_sql("insert into said(rowid, body) values (?, ?)", texts)
        took["fts5"] += time.perf_counter() - started
    for engine in (ours, fts5):
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()
    return took


def _serve(folder: Path, asked: dict[str, Any]) -> int:
    """In a process of its own; prints the figures."""
    requests: list[tuple[str, Filter]] = [(text, tuple(its)) for text, its in asked["requests"]]
    started = time.perf_counter()
    ours = _engine(folder / "ours.db").connect()
    index = SqlTextIndex()
    index.rank(ours, requests[0][0], 10, _selected(requests[0][1]))
    figures = {"start_s": time.perf_counter() - started}

    def ask(text: str, its: Filter) -> None:
        index.rank(ours, text, 10, _selected(its))
        ours.rollback()

    figures |= timed("", ask, requests, asked["times"])
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    fts5 = _engine(folder / "fts5.db").connect()
    slow = asked["count"] >= 1_000_000
    some = requests[:SLOW_REQUESTS] if slow else requests
    figures |= timed("fts5_", lambda text, its: _full_text(fts5, text, its), some, 1 if slow else asked["times"])
    figures["fts5_requests"] = len(some)
    print(json.dumps(figures))
    return 0


def timed(
    name: str, ask: Callable[[str, Filter], None], requests: list[tuple[str, Filter]], times: int
) -> dict[str, float]:
    clocks = {"": time.perf_counter, "_cpu": time.thread_time}
    taken: dict[str, list[list[float]]] = {clock: [[] for _ in requests] for clock in clocks}
    for _ in range(times):
        for at, (text, its) in enumerate(requests):
            started = {clock: reads() for clock, reads in clocks.items()}
            ask(text, its)
            for clock, reads in clocks.items():
                taken[clock][at].append(1_000 * (reads() - started[clock]))
    figures = {}
    for clock, its_times in taken.items():
        ordered = sorted(map(median, its_times))
        figures[f"{name}p50{clock}_ms"] = median(ordered)
        figures[f"{name}p99{clock}_ms"] = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return figures


def _selected(its: Filter) -> sa.Select[Any] | None:
    columns = (record.c.kind, record.c.data_class)
    conditions = [column == value for column, value in zip(columns, its, strict=False)]
    return sa.select(record.c.number).where(*conditions) if conditions else None


def _full_text(connection: sa.Connection, text: str, its: Filter) -> None:
    words = dict.fromkeys(word for word in re.findall(r"\w+", text.lower()) if word not in STOP)
    match = " OR ".join(json.dumps(word, ensure_ascii=False) for word in words)
    among = "".join(f" and {column} = ?" for column, _ in zip(("kind", "data_class"), its, strict=False))
    joined = f"join record_filter on number = said.rowid {among}" if its else ""
    query = f"select said.rowid from said {joined} where said match ? order by rank limit 10"
    connection.exec_driver_sql(query, (*its, match)).all()


def _document(its: Entry) -> str:
    return " ".join([split_names(its.name), its.description, *its.tags, *map(split_names, its.inputs), *its.examples])


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return engine


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
