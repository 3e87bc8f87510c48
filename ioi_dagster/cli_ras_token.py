"""`ioi ras token`: who uses the domain's registry without being a domain: people, and tools."""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ioi_dagster.cli_of_domain import AsJson, DomainFolder, Home, Name, err, out, owner_of
from ioi_dagster.cli_ras import bad, clock, one_of
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.cli_tables import Column, Fitted

if TYPE_CHECKING:
    from ioi_dagster.model.token import Token

token_app = typer.Typer(no_args_is_help=True, help="Tokens for people and tools that are no member's.")
ras_app.add_typer(token_app, name="token")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@token_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Who is to use it: ann, search-bot")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="What for, as often as wanted: ras:read, ras:register, ras:invoke, ras:metrics"),
    ],
    ttl: Annotated[str, typer.Option(help="For how long: 45m, 12h, 30d")] = "30d",
    audience: Annotated[
        str,
        typer.Option(
            help="Which records it is shown: public, partner:<domain>, or local, which is all that the domain sees"
        ),
    ] = "public",
    highest: Annotated[str, typer.Option(help="The highest data class that may be given with it")] = "public",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Make a token. It is shown now and never again: only a digest of it is kept."""
    from ioi_dagster.adapters.files.tokens import TokenFile
    from ioi_dagster.model.data_class import DataClass
    from ioi_dagster.model.token import TokenScope
    from ioi_dagster.policy.tokens import make_token

    owner = owner_of(home, domain_home, domain)
    scopes = [one_of(TokenScope, one, "scope") for one in scope]
    its_class, now = one_of(DataClass, highest, "data class"), time.time()
    text, token = make_token(name, scopes, seconds_of(ttl), now, secrets.token_bytes(38), audience, its_class)
    tokens = TokenFile(owner)
    tokens.add(token, now)
    listens = tokens.listen()
    if as_json:
        print(json.dumps({"token": text, "listens": listens, **_row(token, now)}))
        return
    print(text)
    where = f"https://{listens}" if listens else "nowhere without a certificate yet: `ioi ras token listen HOST:PORT`"
    told = f"for {', '.join(scopes)} until {clock(token.expires)}; id {token.id}; it is taken at {where}"
    # What is piped on is the token alone.
    err.print(f"[dim]{escape(told)}[/]", soft_wrap=True, highlight=False)


@token_app.command("list")
def list_tokens(
    home: Home = None, domain_home: DomainFolder = None, domain: Name = "", as_json: AsJson = False
) -> None:
    """Who has one, for what and until when; also those that ended in the last 30 days."""
    from ioi_dagster.adapters.files.tokens import TokenFile

    tokens, now = TokenFile(owner_of(home, domain_home, domain)), time.time()
    rows = [_row(token, now) for token in tokens.known().values()]
    if as_json:
        print(json.dumps({"listens": tokens.listen(), "tokens": rows}))
        return
    if rows:
        table = Fitted(
            Column("id"),
            Column("name", wraps=20),
            Column("scopes", wraps=20),
            Column("sees"),
            Column("state"),
            Column("until"),
        )
        for row in rows:
            its = (
                row["id"],
                row["name"],
                ", ".join(row["scopes"]),
                row["audience"],
                row["state"],
                clock(row["expires"]),
            )
            table.add_row(*its)
        out.print(table)
    else:
        out.print("there are no tokens")
    out.print(f"[dim]taken at {tokens.listen() or 'no address without a certificate'}[/]", highlight=False)


@token_app.command("revoke")
def revoke(
    its_id: Annotated[str, typer.Argument(metavar="ID", help="As `ioi ras token list` shows it")],
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """It counts no more, at a gateway that runs too."""
    from ioi_dagster.adapters.files.tokens import TokenFile

    now = time.time()
    token = TokenFile(owner_of(home, domain_home, domain)).revoke(its_id, now)
    print(json.dumps(_row(token, now))) if as_json else out.print(escape(f"the token of {token.name} counts no more"))


@token_app.command("listen")
def listen(
    address: Annotated[str, typer.Argument(help="HOST:PORT, as 127.0.0.1:8443; none: nowhere any more")] = "",
    home: Home = None,
    domain_home: DomainFolder = None,
    domain: Name = "",
    as_json: AsJson = False,
) -> None:
    """Where the gateway takes tokens from who has no certificate, from its next start on. It shows its own, of the domain's
    authority, and answers at the registry's doors alone."""
    from ioi_dagster.adapters.files.tokens import TokenFile

    owner = owner_of(home, domain_home, domain)
    if address:
        _check_address(address)
    TokenFile(owner).set_listen(address)
    if as_json:
        print(json.dumps({"domain": owner.name, "listens": address, "authority": str(owner.authority_certificate)}))
        return
    told = f"from its next start on the gateway of {owner.name} takes tokens at {address or 'no address'}"
    out.print(escape(told), soft_wrap=True, highlight=False)
    if address:
        port = address.rpartition(":")[2]
        how = f"curl --cacert {owner.authority_certificate} --connect-to {owner.name}:{port}:{address}"
        out.print(f"[dim]{escape(how)} https://{owner.name}:{port}/v1/openapi.json[/]", soft_wrap=True, highlight=False)


def seconds_of(text: str) -> float:
    """Of `45m`, `12h`, `30d`. Raises `BadInputError`."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise bad(f"{text[:40]!r} is no time", todo="as 45m, 12h or 30d")
    return int(found[1]) * _UNITS[found[2]]


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or "/" in address:
        raise bad(f"{address[:80]!r} is no address", todo="as 127.0.0.1:8443")


def _row(token: Token, now: float) -> dict[str, Any]:
    state = "revoked" if token.revoked else "expired" if now >= token.expires else "active"
    return {
        "id": token.id,
        "name": token.name,
        "scopes": [str(scope) for scope in token.scopes],
        "audience": token.audience,
        "highest": str(token.highest),
        "state": state,
        "created": token.created,
        "expires": token.expires,
    }
