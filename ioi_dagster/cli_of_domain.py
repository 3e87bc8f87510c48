"""Which domain a command is given for: its options, and where it prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ioi_dagster.domain import DomainHome

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Home = Annotated[Path | None, typer.Option("--home", help="The domain's folder is below it; default $IOI_HOME or .ioi")]
DomainFolder = Annotated[
    Path | None, typer.Option("--domain-home", help="The domain's own folder; default: below --home")
]
Name = Annotated[str, typer.Option("--domain", help="Which one, where there are several in --home")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output")]


def owner_of(home: Path | None, domain_home: Path | None, name: str) -> DomainHome:
    """The domain that a command is given for: of the folder `domain_home`, of that name in `home`, or who owns the runs there.
    Raises `BadInputError` where there is none."""
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import domains_in, find_home, home_domain_of

    if domain_home is None and home is None and not name and os.environ.get("IOI_DOMAIN_HOME"):
        domain_home = Path(os.environ["IOI_DOMAIN_HOME"])
    if domain_home is not None:
        owner = DomainHome(domain_home.resolve())
        owner.config()
        return owner
    if not name:
        return home_domain_of(find_home(home))
    for one in domains_in(find_home(home)):
        if one.name == name:
            return one
    raise BadInputError(f"there is no domain {name}", where=str(find_home(home)), todo="make it: `ioi domain init`")
