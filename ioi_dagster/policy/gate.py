"""The gate: one decision out of every scope's policy. It never raises; what cannot be decided is held."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ioi_dagster.clock import Clock
from ioi_dagster.errors import IoiError, NotAllowedError
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.compose import KNOWN_OBLIGATIONS, LET_IN, POLICY, compose
from ioi_dagster.policy.documents import missing_field
from ioi_dagster.policy.engine import Engine
from ioi_dagster.signing import digest

_VOLATILE = ("now", "request_id")
_CACHE = 4_096


class Gate:
    """`scopes` run from the network down (`("book", "book/library")`). The network must have a policy for a decision;
    a lower scope that has none adds nothing. `log` gets every decision. `newest` is asked before each one for the engine that
    counts from then on, and raises where there is none. `where` says where the rule of a policy stands that gives a code: denials
    then name it."""

    def __init__(
        self,
        engine: Engine | None,
        scopes: tuple[str, ...],
        clock: Clock,
        log: Callable[[str, dict[str, Any], Decision], None] | None = None,
        newest: Callable[[], Engine] | None = None,
        where: Callable[[str, str], str] | None = None,
    ) -> None:
        self._engine, self._scopes, self._clock, self._log = engine, scopes, clock, log
        self._newest, self._where = newest, where
        self._cache: dict[tuple[str, str, str], tuple[float, Decision]] = {}
        self._lock = threading.Lock()

    def decide(self, kind: str, document: dict[str, Any]) -> Decision:
        """Decide `launch`, `step`, `placement` or `data_move`. HOLD when the engine cannot say."""
        started = self._clock.monotonic()
        try:
            input_digest = digest({key: value for key, value in document.items() if key not in _VOLATILE})
        except Exception as error:  # a document that JSON cannot say is undecidable, whatever is wrong with it
            return self._held(None, kind, document, "", f"the input is not JSON: {error}")
        engine = None
        try:
            engine = self._engine if self._newest is None else self._newest()
            if engine is None:
                raise IoiError("no policy engine is configured")
            its = (engine.revision, kind, input_digest)
            with self._lock:
                known = self._cache.get(its)
            if known is not None and known[0] > started:
                return known[1]
            missing = missing_field(kind, document)
            if missing is not None:
                raise IoiError(f"the document lacks {missing}")
            entrypoints = self._entrypoints(engine, kind)
            composed = compose(
                [(name, engine.evaluate(name, document)) for name in entrypoints],
                KNOWN_OBLIGATIONS | ({LET_IN} if kind == "intervene" else frozenset()),
            )
        except Exception as error:  # whatever breaks in an engine, the answer is not yes and not a traceback
            return self._held(engine, kind, document, input_digest, str(error) or type(error).__name__)
        decision = Decision(
            id=str(uuid.uuid4()),
            verdict=composed.verdict,
            refusals=tuple(map(self._placed, composed.refusals)),
            warnings=composed.warnings,
            obligations=composed.obligations,
            engine=engine.name,
            revision=engine.revision,
            input_digest=input_digest,
            evaluated=tuple(entrypoints),
            latency_s=self._clock.monotonic() - started,
            ttl_s=composed.ttl_s,
        )
        decision = self._logged(kind, document, decision)
        if decision.verdict is not Verdict.HOLD and decision.ttl_s > 0:
            with self._lock:
                if len(self._cache) >= _CACHE:
                    self._cache.clear()
                self._cache[its] = (started + decision.ttl_s, decision)
        return decision

    def _entrypoints(self, engine: Engine, kind: str) -> list[str]:
        names = [f"ioi/{scope}/{kind}/verdict" for scope in self._scopes]
        if not names or names[0] not in engine.entrypoints:
            raise IoiError(f"the network has no policy for {kind!r} decisions")
        return [name for name in names if name in engine.entrypoints]

    def _placed(self, refusal: Refusal) -> Refusal:
        rule = self._where(refusal.by.removeprefix(POLICY), refusal.code) if self._where is not None else ""
        if not rule:
            return refusal
        told = (refusal.remedy, f"the rule is {rule}", "`ioi policy build` makes a change count")
        return replace(refusal, remedy="; ".join(filter(None, told)))

    def _held(
        self, engine: Engine | None, kind: str, document: dict[str, Any], input_digest: str, why: str
    ) -> Decision:
        refusal = Refusal("policy.undecidable", f"policy could not decide: {why}", "policy", "see `ioi doctor`")
        decision = Decision(
            id=str(uuid.uuid4()),
            verdict=Verdict.HOLD,
            refusals=(refusal,),
            engine=engine.name if engine else "none",
            revision=engine.revision if engine else "",
            input_digest=input_digest,
        )
        return self._logged(kind, document, decision)

    def _logged(self, kind: str, document: dict[str, Any], decision: Decision) -> Decision:
        if self._log is None:
            return decision
        try:
            self._log(kind, document, decision)
        except Exception as error:  # what cannot be recorded (a full disk) is not allowed either
            refusal = Refusal("policy.unlogged", f"the decision could not be recorded: {error}", "policy", "make room")
            return replace(decision, verdict=Verdict.HOLD, refusals=(refusal,))
        return decision


def allowed(decision: Decision) -> str:
    """The decision's id. Raises `NotAllowedError` where it is no allowance."""
    if decision.refusals or decision.verdict != "allow":
        raise NotAllowedError("; ".join(map(str, decision.refusals)) or f"policy says {decision.verdict}")
    return decision.id


def allowed_from(decision: Decision, of: str, domain: str) -> str:
    """The same for what the people of domain `of` order in `domain`. Others are let in only where policy names them (`let_in`):
    that nothing in it forbids them is not enough, since it may be older than that there are such orders."""
    found = allowed(decision)
    named = [obligation.params.get("domains", ()) for obligation in decision.obligations if obligation.kind == LET_IN]
    if of != domain and not (named and all(isinstance(those, list) and of in those for those in named)):
        raise NotAllowedError(f"intervene.foreign: the policy of {domain} does not let {of} order anything there")
    return found
