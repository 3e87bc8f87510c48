"""Who asks at a door that tokens open: one of the domain's own processes, a known domain, or who shows a token; and how often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from ioi_dagster.adapters.http.buckets import Buckets
from ioi_dagster.adapters.http.context import GatewayContext
from ioi_dagster.adapters.http.doors import Door, For
from ioi_dagster.adapters.http.protocol import PROOF_HEADER
from ioi_dagster.adapters.http.refusals import ProblemError
from ioi_dagster.adapters.http.who_asks import WhoAsks
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.token import Token
from ioi_dagster.policy.proof import Caller
from ioi_dagster.policy.tokens import PREFIX, check_token
from ioi_dagster.ras.record import LOCAL, PARTNER

_BEARER = "Bearer "


@dataclass(frozen=True, slots=True)
class Asker:
    """`name` tells askers apart: no domain has a blank in its name. `sees`: the domain whose view of the registry it has; empty:
    everybody's. `signs`: whose records it may hand in; `domain`: in whose name it calls blocks, with data of `highest` at
    most."""

    name: str
    sees: str
    signs: str
    domain: str
    highest: DataClass
    caller: Caller | None = None
    subject: str = ""
    token: str = ""


class Askers:
    def __init__(self, context: GatewayContext, who: WhoAsks) -> None:
        self._c, self._who, self._own = context, who, context.config.spec.name
        self._buckets = Buckets()

    def asker(self, request: Request, door: Door) -> Asker:
        """Raises `ProblemError` for who proves nothing, or asks too often."""
        asker = self._proved(request, door)
        if not self._who.is_own(request):
            self.check_rate(asker.name, door)
        return asker

    def check_rate(self, name: str, door: Door) -> None:
        if door.rate is None:
            return
        wait_s = self._buckets.take(name, door.path, door.rate, self._c.clock.monotonic())
        if wait_s:
            text = f"more than {door.rate.per_s:g} a second, after {door.rate.burst} at once, are not answered here"
            headers = {"retry-after": str(math.ceil(wait_s))}
            raise ProblemError(429, "gateway.too_often", text, f"wait {wait_s:.3g} s", headers=headers)

    def check_still(self, request: Request, asker: Asker) -> None:
        """Raises `ProblemError` where what was shown counts no more."""
        self._who.check_connection(request)
        if asker.token:
            token = self._c.tokens().get(asker.token)
            if token is None or token.revoked or self._c.clock.wall() >= token.expires:
                text = f"the token of {asker.subject} has ended meanwhile"
                raise ProblemError(401, "token.revoked", text, "ask its owner for a new one: `ioi ras token new`")

    def _proved(self, request: Request, door: Door) -> Asker:
        if self._who.is_own(request):
            return Asker("own processes", self._own, self._own, self._own, DataClass.RESTRICTED)
        shown = request.headers.get("authorization", "")
        if shown[: len(_BEARER)].lower() == _BEARER.lower():
            return self._of_token(self._token(shown[len(_BEARER) :].strip(), door))
        if door.who is For.SCOPED and (PROOF_HEADER in request.headers or not shown):
            if PROOF_HEADER not in request.headers:
                todo = f"sign it ({PROOF_HEADER}), or send `Authorization: Bearer {PREFIX}…`"
                raise ProblemError(401, "gateway.nobody", "it is not said who asks", todo, headers=_CHALLENGE)
            caller = self._who.caller(request)
            return Asker(caller.domain, caller.domain, caller.domain, caller.domain, DataClass.RESTRICTED, caller)
        raise ProblemError(401, "token.missing", "no token is shown", f"send `Authorization: Bearer {PREFIX}…`",
                           headers=_CHALLENGE)  # fmt: skip

    def _token(self, text: str, door: Door) -> Token:
        try:
            known = self._c.tokens()
        except BadInputError as error:
            raise ProblemError(503, "token.unreadable", error.what[:300], error.todo or "") from error
        token = check_token(text, known, door.scope, self._own, self._c.clock.wall())
        if isinstance(token, Refusal):
            status = 403 if token.code == "token.scope" else 401
            raise ProblemError(status, token.code, token.text, token.remedy, headers=_challenge(token.code))
        return token

    def _of_token(self, token: Token) -> Asker:
        sees = self._own if token.audience == LOCAL else token.audience.removeprefix(PARTNER)
        sees = sees if token.audience != "public" else ""
        return Asker(f"token {token.id}", sees, self._own, self._own, token.highest, None, token.name, token.id)


_CHALLENGE: Mapping[str, str] = {"www-authenticate": 'Bearer realm="ioi"'}
"""RFC 6750, section 3."""


def _challenge(code: str) -> Mapping[str, str]:
    error = "insufficient_scope" if code == "token.scope" else "invalid_token"
    return {"www-authenticate": f'Bearer realm="ioi", error="{error}"'}
