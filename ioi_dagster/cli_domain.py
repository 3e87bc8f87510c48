"""`ioi domain`: one domain by its owner's hand, on a machine of its own."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ioi_dagster.domain import DomainHome

domain_app = typer.Typer(no_args_is_help=True, help="A domain of your own: make it, join others, change keys, leave.")
out = Console(width=None if sys.stdout.isatty() else 160)
"""A log or a pipe has no width of its own; tables need one."""

Home = Annotated[Path | None, typer.Option("--home", help="The domain's folder is below it; default $IOI_HOME or .ioi")]
Name = Annotated[str, typer.Option("--domain", help="Which one, where there are several in that folder")]
Give = Annotated[
    str, typer.Option(help="The highest data class that the other may be given: public, internal or restricted")
]
Patience = Annotated[float, typer.Option(min=0.0, help="Seconds to wait for others")]


class Introductions(StrEnum):
    ON = "on"
    OFF = "off"


@domain_app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="As lab.example")],
    home: Home = None,
    network: Annotated[str, typer.Option(help="The network's name, the same for all that join")] = "book",
    listen: Annotated[str, typer.Option(help="host:port of the gateway, as others reach it")] = "127.0.0.1:0",
    topology: Annotated[Path | None, typer.Option(help="Take the domain of that name from this file")] = None,
    authority: Annotated[str, typer.Option(help="Its certificate authority; default: one of the domain's own")] = "",
    nodes: Annotated[int, typer.Option(min=1, max=1_000, help="Without --topology: nodes of one slot")] = 1,
    blocks: Annotated[
        str, typer.Option(help="Where blocks are defined, module:name")
    ] = "definitions.documents.catalogue:BLOCKS",
) -> None:
    """Make a domain: its keys, a certificate authority, certificates, configuration."""
    from ioi_dagster.domain import DomainHome
    from ioi_dagster.local.home import POLICIES, find_home
    from ioi_dagster.local.joining import init, listening

    listening(listen)
    spec, links, data = _spec(name, topology, authority, nodes)
    known = _blocks(blocks)
    domain = DomainHome(find_home(home) / "domains" / name)
    record = init(domain, network, spec, listen, POLICIES, known, time.time(), topology, links, data)
    out.print(f"{name} is made in {domain.root}, gateway {record.gateway}", soft_wrap=True)
    out.print(f"authority {record.authority}: {_short(record.authorities[0].fingerprint)}", soft_wrap=True)
    out.print(
        "next: `ioi domain up`, then `ioi domain invite` here or `ioi domain join` with an invitation", soft_wrap=True
    )


def _blocks(where: str) -> list[Any]:
    """What stands at `module:name`. Raises `BadInputError` where that is no list of blocks: also for what the module itself
    raises, which is somebody else's code."""
    from importlib import import_module

    from ioi_dagster.errors import BadInputError
    from ioi_dagster.model.capability import BlockSpec

    todo = "name a module that can be imported here and what in it lists the blocks, as in `--blocks package.module:BLOCKS`"
    module, _, attribute = where.partition(":")
    if not module or not attribute:
        raise BadInputError(f"{where[:200]!r} does not name blocks", todo=todo)
    try:
        found = list(getattr(import_module(module), attribute))
    except Exception as error:
        why, *_ = str(error).splitlines() or [""]
        raise BadInputError(f"no blocks at {where[:200]!r}: {type(error).__name__}: {why}", todo=todo) from error
    if not all(isinstance(one, BlockSpec) for one in found):
        raise BadInputError(f"what stands at {where[:200]!r} is no list of blocks", todo=todo)
    return found


def _spec(name: str, topology: Path | None, authority: str, nodes: int) -> tuple[Any, Any, Any]:
    """The domain, what is told of its links, and where it keeps data."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.topology_file import load_topology
    from ioi_dagster.model.data_stores import DataSpec, StoreSpec
    from ioi_dagster.model.member import NAME
    from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec

    if not NAME.fullmatch(name) or ".." in name:
        raise BadInputError(f"{name[:80]!r} is no name", todo="letters, digits, '.', '_' and '-', 63 at most")
    if topology is not None:
        known = load_topology(topology)
        if name not in {domain.name for domain in known.domains}:
            raise BadInputError(f"it has no domain {name!r}", where=str(topology), todo="name one of its domains")
        its = known.domain(name)
        return replace(its, authority=authority or its.authority), known.links_of(name), known.data.get(name)
    scope = name.partition(".")[0]
    cluster = ClusterSpec(f"{scope}-main", tuple(NodeSpec(f"{scope}-{number}") for number in range(1, nodes + 1)))
    shelf = DataSpec((StoreSpec("shelf", "data"),))
    return DomainSpec(name, authority or f"{scope}-authority", (cluster,)), (), shelf


@domain_app.command("up")
def up(home: Home = None, domain: Name = "") -> None:
    """Start the domain's gateway, schedulers and workers; they run until Ctrl-C, or until it has left."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.joining import has_left, sign_again, take_data
    from ioi_dagster.local.one_domain import running

    one = _domain(find_home(home), domain)
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if has_left(one):
        raise BadInputError(f"{one.name} has left", todo="`ioi domain join` comes back, with a new invitation")
    take_data(one, lambda line: out.print(line, soft_wrap=True, highlight=False, markup=False))
    sign_again(one, time.time())
    out.print(f"{one.name} starts")
    with running(one, stopped=lambda: bool(told)) as processes:
        if processes.ready:
            out.print(f"{one.name} is up: {one.config().gateway}  (Ctrl-C stops it)", soft_wrap=True)
        while not told and not has_left(one):
            processes.check()
            time.sleep(0.2)
    out.print(f"{one.name} is stopped")


@domain_app.command("invite")
def invite(
    file: Annotated[
        Path, typer.Argument(help="Where the invitation is written; hand it over by a way that both trust")
    ],
    to: Annotated[str, typer.Option(help="Only for the domain of this name; default: for whoever has it")] = "",
    give: Give = "public",
    hours: Annotated[float, typer.Option(min=0.1, max=720.0, help="It may be used for so long, once")] = 24.0,
    home: Home = None,
    domain: Name = "",
) -> None:
    """Invite one domain. Whoever has the file may join in its name: treat it as a key."""
    import msgspec

    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.joining import invite
    from ioi_dagster.private_file import write_private

    one = _domain(find_home(home), domain)
    invitation = invite(one, to, _data_class(give), hours, time.time())
    write_private(file, msgspec.json.encode(invitation))
    who = to or "one domain"
    out.print(f"{file} invites {who} for {hours:g} h; it may be given what is {give}", soft_wrap=True)


@domain_app.command("join")
def join(
    file: Annotated[Path, typer.Argument(help="The invitation")],
    give: Give = "public",
    anew: Annotated[
        bool,
        typer.Option("--anew", help="A host that is known already counts by the invitation alone: it lost its keys"),
    ] = False,
    home: Home = None,
    domain: Name = "",
) -> None:
    """Join the domain that has invited this one, and by it the network."""
    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.joining import join, read_invitation

    one = _domain(find_home(home), domain)
    host = join(one, read_invitation(file), _data_class(give), time.time(), anew)
    out.print(f"{one.name} and {host.domain} are members of {host.network} together", soft_wrap=True)
    out.print(
        f"authority {host.authority}: {_short(host.authorities[0].fingerprint)}, gateway {host.gateway}", soft_wrap=True
    )


@domain_app.command("leave")
def leave(
    patience: Patience = 300.0,
    give_up: Annotated[
        bool, typer.Option("--give-up-runs", help="Its own runs are not waited for, and lose what they have elsewhere")
    ] = False,
    home: Home = None,
    domain: Name = "",
) -> None:
    """Take nothing new, wait for what runs here and for its own runs, tell the others. `ioi domain join` comes back."""
    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.joining import leave

    one = _domain(find_home(home), domain)
    record = leave(one, patience, time.time(), out.print, give_up)
    out.print(f"{one.name} has left {record.network}")


@domain_app.command("expel")
def expel(
    name: Annotated[str, typer.Argument(help="A member, or one that was")],
    why: Annotated[str, typer.Option(help="For those who ask later")] = "",
    introduced: Annotated[
        bool, typer.Option("--with-introduced", help="And those that are members by its word alone")
    ] = False,
    home: Home = None,
    domain: Name = "",
) -> None:
    """Put a domain out: nothing that it signs counts any more, what its runs do here is stopped, own runs go elsewhere. A new
    invitation made for it (`ioi domain invite --to`) brings it back."""
    from ioi_dagster.local.expelling import expel
    from ioi_dagster.local.gate import me
    from ioi_dagster.local.home import find_home

    one = _domain(find_home(home), domain)
    out.print(f"{name} {expel(one, name, why, me(), time.time(), introduced)}", soft_wrap=True, markup=False)


@domain_app.command("introductions")
def introductions(
    setting: Annotated[Introductions | None, typer.Argument(help="Left out: how it is")] = None,
    home: Home = None,
    domain: Name = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output")] = False,
) -> None:
    """Whether a domain of which a member tells becomes a member too, with what is public; else only who is invited or invites.
    Who is a member already stays one."""
    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.member_book import introduce

    one = _domain(find_home(home), domain)
    fresh = setting is not None and introduce(one, setting is Introductions.ON)
    on = one.config().introductions
    if as_json:
        print(json.dumps({"domain": one.name, "introductions": on}))
        return
    out.print(f"{_introductions(on)}{'' if setting is None or fresh else ', as before'}", soft_wrap=True)


def _introductions(on: bool) -> str:
    whom = (
        "a domain of which a member tells becomes one too" if on else "only who is invited or invites becomes a member"
    )
    return f"introductions are {'on' if on else 'off'}: {whom}"


@domain_app.command("rotate")
def rotate(
    revoke: Annotated[
        bool, typer.Option("--revoke", help="The old key and certificates count no more: they are known")
    ] = False,
    patience: Patience = 30.0,
    home: Home = None,
    domain: Name = "",
) -> None:
    """A new signing key and new certificates. Nothing stops: the old key counts for a day more, old certificates until they
    expire."""
    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.joining import rotate

    one = _domain(find_home(home), domain)
    record = rotate(one, revoke, time.time(), patience, out.print)
    lasting = "the old key counts until tomorrow, old certificates until they expire (or --revoke)"
    old = "the old ones are revoked" if revoke else lasting
    out.print(f"{one.name} signs by {one.signing_key().key_id} (record {record.serial}); {old}", soft_wrap=True)


@domain_app.command("show")
def show(
    home: Home = None,
    domain: Name = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output")] = False,
) -> None:
    """Who the members are, as this domain sees them, and how long its certificates last."""
    from ioi_dagster.adapters.http.client import own_gateway
    from ioi_dagster.certificates import days_left, read_certificate
    from ioi_dagster.errors import IoiError
    from ioi_dagster.local.home import find_home

    one = _domain(find_home(home), domain)
    client, config = own_gateway(one), one.config()
    try:
        seen, why = client.members(), ""
    except IoiError as error:
        seen, why = {}, str(error)
    finally:
        client.close()
    days = {
        path.stem: int(days_left(read_certificate(path), time.time()))
        for path in (one.gateway_certificate, one.client_certificate)
    }
    rows = {
        name: {
            "gateway": record.gateway,
            "state": seen.get(name, {}).get("state", "this domain" if name == one.name else "not asked"),
            "authority": record.authority,
            "fingerprint": record.authorities[0].fingerprint,
            "serial": record.serial,
            "may_be_given": str(config.limits.get(name, "public")),
            "why": seen.get(name, {}).get("why", ""),
            "told_by": seen.get(name, {}).get("vouched", ""),
        }
        for name, record in one.members().items()
    }
    if as_json:
        print(
            json.dumps(
                {
                    "domain": one.name,
                    "network": config.network,
                    "days_left": days,
                    "members": rows,
                    "expelled": config.expelled,
                    "introductions": config.introductions,
                    "error": why,
                }
            )
        )
        return
    table = Table("domain", "state", "gateway", "authority", "may be given", "record", "why", show_edge=False)
    for name, row in rows.items():
        authority = f"{row['authority']} {_short(row['fingerprint'])}"
        told = row["why"] or (f"told by {row['told_by']}" if row["told_by"] else "")
        table.add_row(
            name, row["state"], row["gateway"], authority, row["may_be_given"], str(row["serial"]), Text(told)
        )
    out.print(table)
    for name, reason in config.expelled.items():
        out.print(f"{name} is expelled" + (f": {reason}" if reason else ""), soft_wrap=True, markup=False)
    out.print(_introductions(config.introductions))
    out.print(f"certificates last {days['gateway']} days (gateway) and {days['client']} days (client)")
    if why:
        out.print(f"[red]its own gateway does not answer[/]: {escape(why)}")


def _short(fingerprint: str) -> str:
    return ":".join(fingerprint[at : at + 4] for at in range(0, 16, 4))


def _data_class(text: str) -> Any:
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.model.data_class import DataClass

    try:
        return DataClass(text)
    except ValueError:
        raise BadInputError(f"{text!r} is no data class", todo=f"one of {', '.join(DataClass)}") from None


def _domain(home: Path, name: str) -> DomainHome:
    """The one in `home`, or the one of that name."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import domains_in

    found = [one for one in domains_in(home) if name in ("", one.name)]
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"there is no domain {name}" if name else "there is no domain"
        raise BadInputError(what, where=str(home), todo="make it: `ioi domain init`")
    raise BadInputError("there are several domains", where=str(home), todo=f"--domain {found[0].name}, or another")
