"""What ends a run before it is taken up is told in its story too: whoever asks why has nothing else to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ioi_dagster.clock import Clock
from ioi_dagster.errors import BadInputError, IoiError
from ioi_dagster.host.io_manager import ledger_path
from ioi_dagster.host.private import DagsterRun
from ioi_dagster.model.story import Chapter, Entry


@contextmanager
def told_in_story(run: DagsterRun, clock: Clock) -> Iterator[None]:
    """Bad input that is found within it."""
    try:
        yield
    except BadInputError as error:
        # A ledger that cannot be written is no reason to hide what is wrong.
        with suppress(IoiError, OSError):
            _tell(Entry(run.run_id, "", Chapter.REFUSED, str(error), clock.wall(), {"job": run.job_name}))
        raise


def _tell(entry: Entry) -> None:
    from ioi_dagster.adapters.sql.ledger import Ledger

    ledger = Ledger(ledger_path())
    try:
        ledger.tell([entry])
    finally:
        ledger.close()
