"""`ioi block` and `ioi tenant`: what the owner of a domain orders for them; `ioi drain` and `ioi rejoin` give theirs here too."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ioi_dagster.model.names import near
from ioi_dagster.model.order import Order, Target, Verb

if TYPE_CHECKING:
    from ioi_dagster.domain import DomainHome

block_app = typer.Typer(no_args_is_help=True, help="Pause, drain, cap or resume a block in a domain of this home.")
tenant_app = typer.Typer(no_args_is_help=True, help="Pause, cap, weigh or resume a tenant in a domain of this home.")
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Block = Annotated[str, typer.Argument(help="Its capability, as page.ocr; `dagster.step` for steps of own code")]
Tenant = Annotated[str, typer.Argument(help="As runs name it by the tag ioi/tenant")]
Number = Annotated[str, typer.Argument(help="A number, or `none` to take that back")]
Unseen = Annotated[bool, typer.Option("--unseen", help="It is a tenant of whom nobody has heard yet")]
Why = Annotated[str, typer.Option(help="For those who ask later; policy may want it")]
In = Annotated[str, typer.Option("--domain", help="Which domain; default: the home's own")]
Home = Annotated[Path | None, typer.Option("--home", help="The federation's folder; default $IOI_HOME or .ioi")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]
Within = Annotated[float | None, typer.Option(min=0, help="Seconds after which what still runs is placed elsewhere")]


@block_app.command("pause")
def pause_block(name: Block, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False) -> None:
    """Start nothing more of a block, for any run. What runs goes on to its end."""
    _order(home, domain, as_json, Order(Target.BLOCK, name, Verb.PAUSE, why=why))


@block_app.command("drain")
def drain_block(
    name: Block, within: Within = None, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False
) -> None:
    """Start nothing more of a block, and have what runs end by itself or after so many seconds."""
    _order(home, domain, as_json, Order(Target.BLOCK, name, Verb.DRAIN, within_s=within, why=why))


@block_app.command("resume")
def resume_block(name: Block, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False) -> None:
    """Let a block that was paused or drained be called again."""
    _order(home, domain, as_json, Order(Target.BLOCK, name, Verb.RESUME, why=why))


@block_app.command("cap")
def cap_block(
    name: Block, number: Number, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False
) -> None:
    """Let no more than so many calls of a block run at once in each cluster of the domain."""
    _order(home, domain, as_json, Order(Target.BLOCK, name, Verb.CAP, _number(number), why=why))


@tenant_app.command("pause")
def pause_tenant(
    name: Tenant, unseen: Unseen = False, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False
) -> None:
    """Start nothing more of a tenant. What runs goes on to its end."""
    _order(home, domain, as_json, Order(Target.TENANT, name, Verb.PAUSE, why=why), unseen)


@tenant_app.command("resume")
def resume_tenant(name: Tenant, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False) -> None:
    """Let a tenant that was paused go on."""
    _order(home, domain, as_json, Order(Target.TENANT, name, Verb.RESUME, why=why))


@tenant_app.command("cap")
def cap_tenant(
    name: Tenant,
    number: Number,
    unseen: Unseen = False,
    why: Why = "",
    domain: In = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Let no more than so many steps of a tenant run at once in each cluster of the domain."""
    _order(home, domain, as_json, Order(Target.TENANT, name, Verb.CAP, _number(number), why=why), unseen)


@tenant_app.command("prioritise")
def prioritise_tenant(
    name: Tenant,
    weight: Number,
    unseen: Unseen = False,
    why: Why = "",
    domain: In = "",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have a tenant get so many times as much as one of weight 1, whatever its quota says."""
    _order(home, domain, as_json, Order(Target.TENANT, name, Verb.PRIORITISE, _number(weight), why=why), unseen)


def _number(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is neither a number nor `none`")
    return int(text)


def _order(home: Path | None, domain: str, as_json: bool, order: Order, unseen: bool = False) -> None:
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import domains_in, find_home, home_domain_of

    folder = find_home(home)
    known = {one.name: one for one in domains_in(folder)}
    if domain and domain not in known:
        raise BadInputError(f"there is no domain {domain!r} here", todo=near(domain, known))
    if not known:
        raise BadInputError("no federation was ever started here", where=str(folder), todo="run `ioi up`")
    give(known[domain] if domain else home_domain_of(folder), order, as_json, unseen=unseen)


def give(domain: DomainHome, order: Order, as_json: bool, name: str = "", unseen: bool = False) -> None:
    """Have it in force, and print what came of it. `name`: what its target is called there. Exit code 1: policy says no."""
    from ioi_dagster.errors import NotAllowedError
    from ioi_dagster.host.governance import me, open_gate
    from ioi_dagster.local.ordering import Ordering

    try:
        given = Ordering(domain, open_gate(domain)).give(order, me(), domain.name, unseen)
    except NotAllowedError as error:
        err.print(f"[bold red]not allowed[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        told = {"domain": domain.name, **asdict(given.order), "answer": given.answer, "decision": given.decision}
        print(json.dumps(told))
        return
    out.print(
        f"{name or f'{order.target} {order.name} of {domain.name}'} {given.answer}", highlight=False, soft_wrap=True
    )
