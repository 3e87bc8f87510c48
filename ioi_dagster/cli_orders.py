"""`ioi block`, `ioi tenant` and `ioi node`: what the owner of a domain orders for them; `ioi drain` and `ioi rejoin` give theirs
here too."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from ioi_dagster.model.names import near
from ioi_dagster.model.order import SENSELESS, Order, Target, Verb

if TYPE_CHECKING:
    from ioi_dagster.domain import DomainHome

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Name = Annotated[str, typer.Argument(help="What is meant, see `--help` of the command above")]
Number = Annotated[str, typer.Argument(help="A number, or `none` to take that back")]
Unseen = Annotated[bool, typer.Option("--unseen", help="It is a tenant of whom nobody has heard yet")]
Why = Annotated[str, typer.Option(help="For those who ask later; policy may want it")]
In = Annotated[str, typer.Option("--domain", help="Which domain; default: the home's own, for a node whose it is")]
Home = Annotated[Path | None, typer.Option("--home", help="The federation's folder; default $IOI_HOME or .ioi")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]
Within = Annotated[float | None, typer.Option(min=0, help="Seconds after which what still runs is placed elsewhere")]

NEGATIVE = re.compile(r"-\d+")
MOST_DIGITS = 20
"""The bounds of each number are its order's; Python reads none of more than 4300 digits."""


class Numbered(TyperCommand):
    """A command that takes a number: `-5` is one, and no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = any(NEGATIVE.fullmatch(one) for one in args)
        return super().parse_args(ctx, args)


WHAT = {
    Target.BLOCK: "a block, by its capability, as page.ocr (`dagster.step`: steps of own code)",
    Target.TENANT: "a tenant, as runs name it by the tag ioi/tenant",
    Target.NODE: "a node, or a cluster for all of its nodes",
}
NO_SENSE = "Makes no sense for {}: says what does."
VERBS = {
    Verb.PAUSE: "Start nothing more of {}, for any run. What runs goes on to its end.",
    Verb.DRAIN: "Start nothing more of {}, and have what runs end by itself or after so many seconds.",
    Verb.RESUME: "Let what was paused or drained go on: {}.",
    Verb.CANCEL: "End for good what runs now of {}. What waits may start.",
    Verb.REROUTE: "Take {} away from a cluster of the domain: what runs there is placed elsewhere. Or take that back.",
}
NUMBERS = {
    (Target.BLOCK, Verb.CAP): "Let no more than so many calls run at once in each cluster of the domain: {}.",
    (Target.TENANT, Verb.CAP): "Let no more than so many steps run at once in each cluster of the domain: {}.",
    (Target.NODE, Verb.CAP): "Offer no more than so many slots: {}.",
    (Target.BLOCK, Verb.PRIORITISE): "Have calls come before others of their tenant by so much: {}.",
    (Target.TENANT, Verb.PRIORITISE): "Give so many times as much as to one of weight 1, whatever the quota says: {}.",
    (Target.NODE, Verb.PRIORITISE): NO_SENSE,
}


def _app(target: Target) -> typer.Typer:
    """Each verb for it, also those that make no sense, which say why."""
    text = f"Pause, drain, resume, cap, prioritise, reroute or cancel {WHAT[target]}."
    app = typer.Typer(no_args_is_help=True, help=text)
    for verb, words in VERBS.items():
        made = OTHERS[verb](target) if verb in OTHERS else _plain(target, verb)
        told = NO_SENSE if (target, verb) in SENSELESS else words
        app.command(str(verb), help=told.format(WHAT[target]))(made)
    for verb in (Verb.CAP, Verb.PRIORITISE):
        told = NUMBERS[target, verb].format(WHAT[target])
        app.command(str(verb), help=told, cls=Numbered)(_numbered(target, verb))
    return app


def _plain(target: Target, verb: Verb) -> Callable[..., None]:
    def command(
        name: Name, unseen: Unseen = False, why: Why = "", domain: In = "", home: Home = None, as_json: Json = False
    ) -> None:
        _order(home, domain, as_json, Order(target, name, verb, why=why), unseen)

    return command


def _draining(target: Target) -> Callable[..., None]:
    def command(
        name: Name,
        within: Within = None,
        unseen: Unseen = False,
        why: Why = "",
        domain: In = "",
        home: Home = None,
        as_json: Json = False,
    ) -> None:
        _order(home, domain, as_json, Order(target, name, Verb.DRAIN, within_s=within, why=why), unseen)

    return command


def _rerouting(target: Target) -> Callable[..., None]:
    def command(
        name: Name,
        away_from: Annotated[str, typer.Option(help="A cluster of the domain")] = "",
        back_to: Annotated[str, typer.Option(help="One that it was taken away from: it may go there again")] = "",
        unseen: Unseen = False,
        why: Why = "",
        domain: In = "",
        home: Home = None,
        as_json: Json = False,
    ) -> None:
        if away_from and back_to:
            raise typer.BadParameter("say one of --away-from and --back-to")
        verb = Verb.RETURN if back_to else Verb.REROUTE
        _order(home, domain, as_json, Order(target, name, verb, away=away_from or back_to, why=why), unseen)

    return command


OTHERS = {Verb.DRAIN: _draining, Verb.REROUTE: _rerouting}


def _numbered(target: Target, verb: Verb) -> Callable[..., None]:
    def command(
        name: Name,
        number: Number,
        unseen: Unseen = False,
        why: Why = "",
        domain: In = "",
        home: Home = None,
        as_json: Json = False,
    ) -> None:
        _order(home, domain, as_json, Order(target, name, verb, number_or_none(number), why=why), unseen)

    return command


block_app, tenant_app, node_app = map(_app, (Target.BLOCK, Target.TENANT, Target.NODE))


def number_or_none(text: str) -> int | None:
    """None for `none`. Raises `typer.BadParameter` for what is no number either, or one that nobody would write."""
    if text == "none":
        return None
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise typer.BadParameter(f"{text[:MOST_DIGITS]!r} is neither a number nor `none`")
    return int(text)


def _order(home: Path | None, domain: str, as_json: bool, order: Order, unseen: bool = False) -> None:
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import domains_in, find_home, home_domain_of
    from ioi_dagster.local.targets import find

    order.check()
    folder = find_home(home)
    known = {one.name: one for one in domains_in(folder)}
    if domain and domain not in known:
        raise BadInputError(f"there is no domain {domain!r} here", todo=near(domain, known))
    if not known:
        raise BadInputError("no federation was ever started here", where=str(folder), todo="run `ioi up`")
    if order.target is Target.NODE:
        found = find([known[domain]] if domain else list(known.values()), order.name)
        give(found.domain, order, as_json, found.name)
        return
    give(known[domain] if domain else home_domain_of(folder), order, as_json, unseen=unseen)


def give(domain: DomainHome, order: Order, as_json: bool, name: str = "", unseen: bool = False) -> None:
    """Have it in force, and print what came of it. `name`: what its target is called there. Exit code 1: policy says no."""
    from ioi_dagster.errors import NotAllowedError
    from ioi_dagster.local.gate import me, open_gate
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
        f"{name or f'{order.target} {order.name} of {domain.name}'} {given.answer}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
