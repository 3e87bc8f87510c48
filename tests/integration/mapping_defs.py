"""A job whose steps map inside themselves, one at each of two owners' clusters."""

import os
import signal
from pathlib import Path

from dagster import Config, Definitions, job, op

from ioi_dagster import ExchangeIOManager, flow, governed_executor
from ioi_dagster.host import tags


class Where(Config):
    folder: str


def tree(depth: int) -> int:
    """Each level waits for two of the next, so that soon more steps wait than there are nodes."""
    return 1 if depth == 0 else sum(flow.map(tree, [depth - 1] * 2, chunk=1))


@op(tags={tags.PLACE_IN: "lab.example"})
def at_the_partner() -> int:
    return tree(3)


@op(tags={tags.PLACE_IN: "home", tags.DATA_CLASS: "restricted"})
def at_home(config: Where) -> list[int]:
    marker = Path(config.folder) / "died"

    def dies_once(number: int) -> int:
        if number == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    return flow.map(dies_once, range(5), chunk=1)


@op
def told(config: Where, leaves: int, squares: list[int]) -> None:
    (Path(config.folder) / "result").write_text(f"{leaves} {squares}")


@job(executor_def=governed_executor, resource_defs={"io_manager": ExchangeIOManager()})
def mapping() -> None:
    told(at_the_partner(), at_home())


defs = Definitions(jobs=[mapping])
