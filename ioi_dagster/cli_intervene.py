"""`ioi pause`, `resume`, `cancel`, `reroute`, `prioritise` and `cap`: commands about a run that is under way."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ioi_dagster.cli_orders import number_or_none
from ioi_dagster.model.intervention import Action, Intervention

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Run = Annotated[str, typer.Argument(help="The run's id, or its beginning; `last` for the newest")]
Step = Annotated[str, typer.Argument(help="One step; without its \\[key] all of that name; left out: the whole run")]
Why = Annotated[str, typer.Option(help="For those who ask later; policy may want it")]
Home = Annotated[Path | None, typer.Option("--home", help="The federation's folder; default $IOI_HOME or .ioi")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]


def pause(
    run: Run,
    step: Step = "",
    drain: Annotated[bool, typer.Option("--drain", help="Stop what runs, too; it begins again when resumed")] = False,
    why: Why = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Start nothing more of a run, or of one of its steps. What runs goes on to its end."""
    _say(home, as_json, Intervention(run, Action.DRAIN if drain else Action.PAUSE, step, why=why))


def resume(run: Run, step: Step = "", why: Why = "", home: Home = None, as_json: Json = False) -> None:
    """Let a run that was paused, or a step of it, go on."""
    _say(home, as_json, Intervention(run, Action.RESUME, step, why=why))


def cancel(run: Run, step: Step = "", why: Why = "", home: Home = None, as_json: Json = False) -> None:
    """End a run, or steps of it: what runs is stopped, what waits never starts."""
    _say(home, as_json, Intervention(run, Action.CANCEL, step, why=why))


def reroute(
    run: Run,
    step: Step = "",
    away_from: Annotated[str, typer.Option(help="A node, or a cluster")] = "",
    back_to: Annotated[str, typer.Option(help="One that they were taken away from: they may go there again")] = "",
    why: Why = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a run, or steps of it, away from a node or a cluster: what runs there is stopped, and runs elsewhere. Or take that
    back."""
    if bool(away_from) == bool(back_to):
        raise typer.BadParameter("say one of --away-from and --back-to")
    action = Action.REROUTE if away_from else Action.RETURN
    _say(home, as_json, Intervention(run, action, step, away=away_from or back_to, why=why))


def prioritise(
    run: Run,
    priority: Annotated[int, typer.Argument(help="0 is usual; more comes first")],
    step: Step = "",
    why: Why = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have the steps of a run, or some of them, come before others of their tenant, or after them."""
    _say(home, as_json, Intervention(run, Action.PRIORITISE, step, priority, why=why))


def cap(
    run: Run,
    steps: Annotated[str, typer.Argument(help="So many at once, or `none` for any number")],
    step: Annotated[str, typer.Argument(help="Only of the mapped steps of that name; left out: of the whole run")] = "",
    why: Why = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let no more than so many steps of a run, or of one name, run at once. What runs goes on to its end."""
    _say(home, as_json, Intervention(run, Action.CAP, step, number_or_none(steps), why=why))


COMMANDS = (pause, resume, cancel, reroute)
NUMBERED = (prioritise, cap)


def _say(home: Path | None, as_json: bool, what: Intervention) -> None:
    from ioi_dagster.errors import NotAllowedError
    from ioi_dagster.host.intervening import intervene
    from ioi_dagster.local.home import find_home, home_domain_of, ledger_of, use_home

    use_home(home)
    folder = find_home(home)
    domain = home_domain_of(folder) if (folder / "domains").is_dir() else None

    try:
        with err.status("waiting for the run to answer") if sys.stderr.isatty() else nullcontext():
            said = intervene(ledger_of(home), domain, what)
    except NotAllowedError as error:
        err.print(f"[bold red]not allowed[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    its = said.intervention
    if as_json:
        print(json.dumps({**asdict(its), "action": str(its.action), "decision": said.decision}))
        return
    name = f"{its.step} of run {its.run[:8]}" if its.step else f"run {its.run[:8]}"
    answer = its.answer or "no process of the run has seen it yet; it is in its ledger, and counts when one does"
    out.print(f"{name}: {answer}", highlight=False, markup=False, soft_wrap=True)
