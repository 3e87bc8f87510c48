"""The steps of one run as its flow governor knows them: their states, their fences, and which of them wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ioi_dagster.governors.flow_held import HeldSlots
from ioi_dagster.governors.flow_messages import Place
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.intervention import PART
from ioi_dagster.model.negotiation import Ask, AskGroup, Lease, Resources

WINDOW = 512
"""Waiting steps of one kind that are negotiated for at a time; the others come after them anyway, and a round's cost must
not grow with a run's size. A gang, which is asked for as a whole, has no more of it than its size."""


class StepState(StrEnum):
    WAITING = "waiting"
    AWARDING = "awarding"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    DROPPED = "dropped"


OVER = frozenset({StepState.DONE, StepState.FAILED, StepState.REFUSED, StepState.DROPPED})


class Group(NamedTuple):
    """What makes asks the same to a bidder. `gang`: how many of them start together, 0: each by itself; `idle`: they are
    copies; `part`: parts of maps inside steps."""

    capability: str
    data_class: DataClass
    tenant: str
    priority: int
    resources: Resources = ()
    gang: int = 0
    idle: bool = False
    part: bool = False

    def asked(self, count: int, seconds: float = 0.0) -> AskGroup:
        return AskGroup(
            self.capability,
            self.data_class,
            count,
            self.tenant,
            self.priority,
            self.resources,
            self.gang,
            self.idle,
            seconds,
            self.part,
        )


class Kind(NamedTuple):
    """Steps of one kind have the same places; each gang is a kind of its own."""

    capability: str
    data_class: DataClass
    tenant: str
    priority: int
    domains: tuple[str, ...]
    cluster: str
    resources: Resources = ()
    gang: str = ""
    part: bool = False


def group_of(ask: Ask, together: int = 0) -> Group:
    part = PART in ask.step
    return Group(ask.capability, ask.data_class, ask.tenant, ask.priority, ask.resources, together, part=part)


def kind_of(ask: Ask) -> Kind:
    return Kind(
        ask.capability,
        ask.data_class,
        ask.tenant,
        ask.priority,
        ask.domains,
        ask.cluster,
        ask.resources,
        ask.gang,
        PART in ask.step,
    )


@dataclass(slots=True)
class Step:
    ask: Ask
    order: int
    kind: Kind
    group: Group
    """As what it is asked for; with how many of its gang that are like it, where it starts with those."""
    state: StepState = StepState.WAITING
    fence: int = 0
    places: tuple[Place, ...] = ()
    unheard: str = ""
    """Who may be a place of it besides, and cannot be told now, being away or starting."""
    looked_at: float = float("-inf")
    looking: bool = False
    lease: Lease | None = None
    lost_on: tuple[str, ...] = ()
    losses: int = 0
    returned: int = 0
    refused_on: tuple[str, ...] = ()
    rejections: int = 0
    passing: int = 0
    not_now: tuple[str, int, float] = ("", 0, float("-inf"))
    """The node that took nothing for the time being when it was to start there last, how often that was so, and until when it
    is avoided."""
    not_before: float = float("-inf")
    waiting_for: str = ""
    turned_down_by: str = ""
    """The cluster that did not keep its bid when this step was awarded to it last."""
    price: float = 0.0
    since: float = 0.0
    """When its wait for a place began."""
    where: tuple[str, str] = ("", "")
    """(cluster, node) where it was awarded last, or ran ahead of that."""
    cold: bool = False
    """Its block had to be loaded where it was awarded last, as far as the bid told, of the node or of the cluster."""
    started: float = 0.0
    copy: Lease | None = None
    """Of another start of it, since this one is late: whichever ends first counts."""
    copying: str = ""
    """The cluster that was awarded such a one and has not answered."""
    copies: int = 0
    """Such starts under its fence so far."""
    copy_number: int = 0
    """Of the last that was asked for under its fence, granted or not."""
    no_copy_before: float = float("-inf")
    copy_price: float = 0.0
    away: frozenset[str] = frozenset()
    """Nodes and clusters from which it was told to stay away."""

    def runs(self) -> tuple[Lease, ...]:
        """The leases under which it runs."""
        return tuple(lease for lease in (self.lease, self.copy) if lease is not None)

    def avoids(self, now: float) -> tuple[str, ...]:
        """Nodes that it is given only where there is no other."""
        node, _, until = self.not_now
        return (*self.lost_on, *self.refused_on, *((node,) if now < until else ()), *sorted(self.away))


class Steps:
    """By their keys. Those that wait are in the window of their kind, or behind it."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}
        self._waiting: dict[str, Step] = {}
        self._in_window: dict[Kind, int] = {}
        self._backlog: dict[Kind, dict[str, Step]] = {}
        self._held: dict[str, Step] = {}
        """Those that wait and must not start now."""
        self.held_by: Callable[[str], str] = lambda _: ""
        """Why a step must not start now; empty where it may."""
        self._fences: dict[str, int] = {}
        self._order = 0
        self.held_slots = HeldSlots()

    def get(self, key: str) -> Step | None:
        return self._steps.get(key)

    def __getitem__(self, key: str) -> Step:
        return self._steps[key]

    def all(self) -> Collection[Step]:
        return self._steps.values()

    def waiting(self) -> Collection[Step]:
        """Those for which places are negotiated now."""
        return self._waiting.values()

    def waits(self, key: str) -> Step | None:
        """The step, if it is among those."""
        return self._waiting.get(key)

    def behind(self) -> Iterable[str]:
        """Keys of those that wait until others of their kind have a place."""
        return (key for behind in self._backlog.values() for key in behind)

    def running_under(self, key: str, fence: int, copy: int) -> tuple[Step, Lease] | None:
        """The step and its lease, if it runs as that copy under that fence; else what is said of it is of an older start."""
        step = self._steps.get(key)
        if step is None or step.state is not StepState.RUNNING or step.fence != fence:
            return None
        lease = next((lease for lease in step.runs() if lease.copy == copy), None)
        return (step, lease) if lease is not None else None

    def add(self, ask: Ask, now: float = 0.0) -> Step:
        """It waits from `now` on."""
        self._order += 1
        step = self._steps[ask.step] = Step(
            ask, self._order, kind_of(ask), group_of(ask), fence=self.fence(ask.step), since=now
        )
        if step.group.part:
            parent = self._steps.get(ask.step.rpartition(PART)[0])
            self.held_slots.maps(ask.step, parent.runs() if parent is not None else ())
        self._line_up(step)
        return step

    def _line_up(self, step: Step) -> None:
        """It waits: held, in the window, or behind it."""
        if self.held_by(step.ask.step):
            self._held[step.ask.step] = step
        elif step.ask.gang or self._in_window.get(step.kind, 0) < WINDOW:
            self._enter(step)
        else:
            self._backlog.setdefault(step.kind, {})[step.ask.step] = step

    def hold(self, keys: Iterable[str] | None = None) -> None:
        """What is held may have changed, of these or of any. Those of which it has line up anew, in their order; all others stay
        where they are, with what is known of their places."""
        meant = self._steps.values() if keys is None else [self._steps[key] for key in keys if key in self._steps]
        changed = [
            step
            for step in meant
            if step.state is StepState.WAITING
            and (step.ask.step in self._held) is not bool(self.held_by(step.ask.step))
        ]
        changed.sort(key=lambda step: step.order)
        for step in changed:
            self._forget(step)
        for step in changed:
            # An answer that is under way is taken from those that are negotiated for alone.
            step.looking, step.looked_at = False, float("-inf")
            self._line_up(step)

    def may_start(self, key: str) -> bool:
        return key not in self._held

    def held(self) -> Iterable[str]:
        """Keys of those that wait and must not start now."""
        return self._held

    def reask(self, step: Step, ask: Ask) -> None:
        """From now on it is asked for so; if it runs, once it waits again."""
        waits = step.state is StepState.WAITING
        if waits:
            self._forget(step)
        step.ask, step.kind, step.group = ask, kind_of(ask), group_of(ask, step.group.gang)
        if waits:
            step.looking, step.looked_at = False, float("-inf")
            self._line_up(step)

    def add_known(self, ask: Ask, state: StepState, fence: int, now: float, lease: Lease | None = None) -> Step:
        """One that never waited here."""
        self._order += 1
        step = self._steps[ask.step] = Step(
            ask, self._order, kind_of(ask), group_of(ask), state, fence, lease=lease, started=now
        )
        if lease is not None:
            step.where = (lease.cluster, lease.node)
        return step

    def wait(self, step: Step, why: str, now: float) -> None:
        """It waits again."""
        if step.state is StepState.RUNNING:
            step.since = now
        self._leaves(step)
        step.state, step.lease, step.waiting_for = StepState.WAITING, None, why
        step.copy, step.copying, step.copies, step.copy_number = None, "", 0, 0
        # An answer that is still under way is taken when it comes; it is not waited for.
        step.looked_at, step.looking = float("-inf"), False
        if self.held_by(step.ask.step):
            self._held[step.ask.step] = step
        else:
            self._enter(step)

    def _leaves(self, step: Step) -> None:
        """It runs nowhere."""
        for lease in step.runs():
            self.held_slots.left(lease)

    def award(self, step: Step) -> None:
        """It is about to be awarded, under a new fence."""
        step.fence, step.state = self.raise_fence(step.ask.step), StepState.AWARDING
        self._leave(step)

    def close(self, step: Step, state: StepState) -> None:
        """It is over, so far."""
        self._forget(step)
        self._leaves(step)
        step.state, step.lease, step.copy, step.copying = state, None, None, ""

    def _forget(self, step: Step) -> None:
        """It waits nowhere any more."""
        self._held.pop(step.ask.step, None)
        behind = self._backlog.get(step.kind, {})
        if behind.pop(step.ask.step, None) is not None and not behind:
            del self._backlog[step.kind]
        self._leave(step)

    # Fences -----------------------------------------------------------------------------------------------------

    def fence(self, key: str) -> int:
        return self._fences.get(key, 0)

    def raise_fence(self, key: str) -> int:
        fence = self._fences[key] = self.fence(key) + 1
        return fence

    def resume(self, fences: dict[str, int]) -> None:
        self._fences.update(fences)

    # ------------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        for key, step in self._steps.items():
            lines = [key in self._waiting, key in self._backlog.get(step.kind, {}), key in self._held]
            assert sum(lines) == (step.state is StepState.WAITING), key
            assert (key in self._held) == (step.state is StepState.WAITING and bool(self.held_by(key))), key
            assert (step.lease is not None) == (step.state is StepState.RUNNING), key
            assert step.fence <= self.fence(key), key
            for lease in step.runs():
                assert lease.fence == step.fence == self.fence(key), key
            assert not (step.copy or step.copying) or step.state is StepState.RUNNING, key
            assert step.lease is None or step.copy is None or step.lease.copy != step.copy.copy, key
        self.held_slots.validate(lease for step in self._steps.values() for lease in step.runs())
        assert self._in_window == Counter(step.kind for step in self._waiting.values())
        for kind, behind in self._backlog.items():
            assert behind and self._in_window[kind] >= WINDOW, kind

    def _enter(self, step: Step) -> None:
        kind = step.kind
        if step.ask.step not in self._waiting:
            self._waiting[step.ask.step] = step
            self._in_window[kind] = self._in_window.get(kind, 0) + 1

    def _leave(self, step: Step) -> None:
        """Out of the window, and the next of its kind into it."""
        if self._waiting.pop(step.ask.step, None) is None:
            return
        kind = step.kind
        self._in_window[kind] -= 1
        behind = self._backlog.get(kind, {})
        if behind and self._in_window[kind] < WINDOW:
            self._enter(behind.pop(next(iter(behind))))
            if not behind:
                del self._backlog[kind]
        if self._in_window[kind] == 0:
            del self._in_window[kind]
