"""What a turn of the flow driver changes in the ledger, gathered and written in one transaction: starts, commits, the story."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ioi_dagster.adapters.sql.ledger import Commit, FencedError, Ledger, LedgerAwayError, Started
from ioi_dagster.clock import Clock
from ioi_dagster.errors import FinalError
from ioi_dagster.host import run_outputs
from ioi_dagster.host.work import Outcome
from ioi_dagster.model.story import Chapter, Entry

Links = list[tuple[str, str]]


@dataclass(slots=True)
class _Turn:
    """What is not written yet."""

    started: list[Started] = field(default_factory=list)
    commits: list[tuple[Commit, Outcome, Links]] = field(default_factory=list)
    story: list[Entry] = field(default_factory=list)
    published: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)

    @property
    def waits_for_it(self) -> bool:
        """Is there something that others wait for?"""
        return bool(self.started or self.commits or self.story or self.stores)


class RunLedger:
    """One process's part in the ledger of one run, under its epoch."""

    def __init__(self, run: str, epoch: int, ledger: Ledger, clock: Clock) -> None:
        self._run, self._epoch, self._ledger, self._clock = run, epoch, ledger, clock
        self._turn = _Turn()
        self._stories: dict[str, list[Entry]] = {}
        self._unwritten_since: float | None = None
        self.away = ""
        """Why the ledger cannot be written now."""
        self.fenced = False
        """Another process has the run by now."""

    def started(self, started: Started) -> None:
        self._turn.started.append(started)

    def commit(self, commit: Commit, outcome: Outcome, links: Links) -> None:
        """`outcome` is told, and `links` are published, if it is the step's one commit."""
        self._turn.commits.append((commit, outcome, links))

    def tell(self, chapter: Chapter, text: str, facts: Mapping[str, Any] | None, step: str, keep: bool) -> None:
        """`keep`: until the step's story is taken."""
        entry = Entry(self._run, step, chapter, text, self._clock.wall(), dict(facts or {}))
        self._turn.story.append(entry)
        if keep:
            self._stories.setdefault(step, []).append(entry)

    def take_story(self, step: str) -> tuple[Entry, ...]:
        """What was kept of it."""
        return tuple(self._stories.pop(step, ()))

    def published(self, step: str, attempt: str) -> None:
        self._turn.published.append((step, attempt))

    def dropped(self, step: str) -> None:
        self._turn.dropped.append(step)

    def store(self, url: str) -> None:
        self._turn.stores.append(url)

    def write(self) -> list[tuple[Outcome, Links, bool]] | None:
        """Those of the turn's commits, and of each whether it was the first of its step. None when the ledger cannot be written
        now: all is kept for the next turn. Raises `FencedError` where another process has the run, `FinalError` when it could
        not be written for too long."""
        turn = self._turn
        if not turn.waits_for_it:
            return []
        now = self._clock.monotonic()
        commits = [commit for commit, _, _ in turn.commits]
        try:
            committed = self._ledger.write(
                self._run, self._epoch, turn.started, commits, turn.story, turn.published, turn.dropped, turn.stores
            )
        except FencedError:
            self.fenced = True
            raise
        except LedgerAwayError as error:
            self._unwritten_since = now if self._unwritten_since is None else self._unwritten_since
            self.away = str(error)
            if now - self._unwritten_since > run_outputs.PATIENCE_S:
                raise FinalError(f"for {run_outputs.PATIENCE_S:g} s {error}") from error
            return None
        self._unwritten_since, self.away, self._turn = None, "", _Turn()
        return [(outcome, links, commit.attempt in committed) for commit, outcome, links in turn.commits]

    def last_words(self) -> None:
        """What was told and not written. Commits that were not are owed still: their steps run again when the run is resumed.

        Raises `LedgerAwayError` and `FencedError`."""
        turn = self._turn
        self._ledger.write(self._run, self._epoch, [], [], turn.story, turn.published, turn.dropped, turn.stores)
        turn.story, turn.published, turn.dropped, turn.stores = [], [], [], []
