"""`ioi gc`: which Dagster instance and which ledger it is about."""

from __future__ import annotations

import os
from pathlib import Path

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import find_home, home_domain_of, prepare_dagster


def use_home(home: Path | None) -> None:
    """From now on this process works for the federation in `home` (or `$IOI_HOME`, or `.ioi` here), else for runs alone in
    `$DAGSTER_HOME`. Raises `BadInputError` where there is neither."""
    found = find_home(home)
    if home is not None or (found / "domains").is_dir():
        domain = home_domain_of(found)
        os.environ |= {"IOI_HOME": str(found), "IOI_DOMAIN": domain.name, "DAGSTER_HOME": str(prepare_dagster(found))}
    elif "DAGSTER_HOME" not in os.environ:
        raise BadInputError("there is nothing to tidy here", todo="give --home, or set DAGSTER_HOME")
