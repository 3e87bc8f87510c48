"""`ioi ras`, to which the modules beside this one add their commands."""

from __future__ import annotations

import typer

ras_app = typer.Typer(no_args_is_help=True, help="The domain's registry: what it knows of, and takes from elsewhere.")
