"""One graph, planned by who has no node of its own: over what bids tell of nodes, only as far as it can be seen, and again
in each round. The plan is the placer's own (`replan`); what a step is given of it is whether to begin now, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, exp, inf, log
from random import Random

from ioi_dagster.governors.placement.board import OVER, RUNNING, WAITING, Board
from ioi_dagster.governors.placement.fleet import Fleet, Need, compile_graph, topological
from ioi_dagster.governors.placement.listing import Loading
from ioi_dagster.governors.placement.replan import copies, replan
from ioi_dagster.governors.placement.search import Search
from ioi_dagster.governors.placement.timeline import Timeline
from ioi_dagster.governors.placement.work_left import UNKNOWN_S, WorkLeft
from ioi_dagster.model.negotiation import Bid, NodeOutlook
from ioi_dagster.model.placement import Edge, Link, Offer, Step, untold

FRONT = 400
"""Steps that are planned at once: the front of what is not over. A plan's cost must not grow with the graph."""
ALIKE = 1.2
"""Nodes whose speeds differ by less than this are taken to be alike."""
BEYOND = 0.9
"""The front moves on when less than this part of what could begin is in it."""
LOOK_S, SHARE, BURST_S = 2e-6, 0.15, 0.5
"""Looking at one node for one step takes about so long; planning may take so much of the time, and so long at a stretch."""
SEARCHED, WORTH_LENGTH = 0.5, 0.02
"""The part of what may be had at a stretch that the first plan takes, and the part of the longest way through the graph."""
MATTERS = 0.05
"""Where clusters differ by more than this part of a usual step for other reasons than time, plans by time alone are of no use."""
HELD_S = 1.0
"""What could begin and is not asked for within this time is held back by something that the plan does not know (it failed, or
what it is made from did; a pool is full): it gets no room until it is asked for."""
AWAY_S = 300.0
"""So long a node that is away still counts."""
KEPT_NODES = 256
"""Of more nodes those that do not count any more are forgotten."""
WORTH_MOVING = 5e6
"""Bytes below which it does not matter where they lie: they are elsewhere in a tenth of a second."""
ENDLESS = 2**60
NOWHERE = ""
LEARNT, SPEED_LEARNT = 0.3, 0.1
"""The part of a new observation in what is known of a kind's work, and of a node's speed."""
MOVED = 0.25
"""What is known of a kind's work, or of what a step reads, counts anew in the plan once it has changed by this part."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The step is to run on `node` of `cluster` from `start` to `finish` (s, monotonic); `now`: its slot is taken at once."""

    cluster: str
    node: str
    start: float
    finish: float
    now: bool


@dataclass(slots=True)
class _Node:
    cluster: str
    name: str
    offer: Offer
    busy: tuple[tuple[float, Need], ...] = ()
    up: bool = True
    seen: float = 0.0
    """When it was there last."""
    faster: float = 1.0
    """How much faster steps ran there than its cluster tells."""
    warm: frozenset[str] | None = None
    """Capabilities that begin there at once; None where nobody has told."""


class GraphPlan:
    """Of one run. Steps whose `work` is 0 are those of which nobody knows how long they take: it is learnt by their `kind`."""

    def __init__(self, loads_s: Callable[[str, str], float] = lambda capability, cluster: 0.0) -> None:
        """`loads_s`: seconds that a block of the capability loads in the cluster; 0 where it does not, or nobody knows."""
        self._loads_s = loads_s
        self._steps: dict[str, Step] = {}
        self._edges: list[Edge] = []
        self._before: dict[str, list[str]] = {}
        self._after: dict[str, list[str]] = {}
        self._order: list[str] = []
        self._links: dict[tuple[str, str], Link] = {}
        self._nodes: dict[str, _Node] = {}
        self._domain_of: dict[str, str] = {}
        """By cluster that has told of nodes."""
        self._over: dict[str, str] = {}
        """Step → the node where its output lies; `NOWHERE`: not known, as of what an earlier process of the run did."""
        self._running: dict[str, dict[str, float]] = {}
        """Step → its nodes, and since when it has its inputs and its block at each."""
        self._kinds: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        """What the board counts for the kinds of `_kinds`."""
        self._board: Board | None = None
        self._stale = True
        self._began = inf
        self._credit, self._credit_at = BURST_S, -inf
        self._planned: dict[str, tuple[int, float, float]] = {}
        self._unasked: dict[str, float] = {}
        """What could begin and is not asked for, and since when that is so."""
        self._held: frozenset[str] = frozenset()
        self._taken: dict[str, list[Need]] = {}
        self._rank: dict[str, float] = {}
        self.late: dict[str, tuple[str, str]] = {}
        """Steps that run and of which a copy is worth its room now: the cluster and the node for it."""
        self._moves = False
        """Something is told of what steps read."""
        self._left = WorkLeft()
        """Of all that is not over, of what is beside the graph too."""

    # What is known ----------------------------------------------------------------------------------------------

    def know(self, steps: Collection[Step], edges: Iterable[Edge], links: Iterable[Link], now: float) -> None:
        """The graph, or more of it. Raises `BadInputError` for what is no graph."""
        made = self._steps | {step.id: _worth_moving(step) for step in steps}
        whole = [*self._edges, *edges]
        order = topological(list(made.values()), whole)
        names = list(made)
        self._steps, self._edges, self._order = made, whole, [names[i] for i in order]
        self._before = {name: [] for name in names}
        self._after = {name: [] for name in names}
        for edge in whole:
            self._before[edge.consumer].append(edge.producer)
            self._after[edge.producer].append(edge.consumer)
        self._links |= {(link.source, link.target): link for link in links}
        for step in steps:
            if step.id not in self._over:
                self._left.open(step.id, step.kind, step.work)
        self._moves = any(edge.size for edge in whole)
        self._moves = self._moves or any(step.inputs or step.through for step in made.values())
        self._began = min(self._began, now)
        self._stale = True
        self._weigh()

    def reads(self, step: str, domain: str, size: float) -> None:
        """It is ready, and reads so many bytes that come to it from `domain`. What is about as expected changes nothing."""
        its = self._steps.get(step)
        size = size if size >= WORTH_MOVING else 0.0
        if its is None or abs(size - its.brings) <= MOVED * its.brings:
            return
        self._steps[step] = its = replace(its, through=domain, brings=size)
        self._moves = True
        board = self._board
        if board is None or step not in board.graph.index or domain not in board.fleet.domain_index:
            self._stale = True
        elif not self._stale:
            i = board.graph.index[step]
            board.carries(i, replace(board.graph.steps[i], through=its.through, brings=its.brings))

    def _weigh(self) -> None:
        """Ranks, by what is known of the steps' work now."""
        self._counted = {step.kind: self._work(step) for step in self._steps.values() if not step.work}
        self._rank = {}
        for name in reversed(self._order):
            after = max((self._rank[one] for one in self._after[name]), default=0.0)
            self._rank[name] = after + self._work(self._steps[name])

    @property
    def remaining_s(self) -> float:
        """Seconds of work of all that is not over, beside the graph too; 0 where nobody knows."""
        return self._left.seconds

    def rank(self, step: str) -> float:
        """Seconds of work from its start to the end of the graph, by the longest way; 0 where the graph does not know it."""
        return self._rank.get(step, 0.0)

    def more_than(self, most: int, now: float) -> bool:
        """Are there more nodes, or were there a while ago? A cluster that is silent for a moment has not become small."""
        if len(self._nodes) <= most:
            return False
        counted = (True for node in self._nodes.values() if node.up or node.seen > now - AWAY_S)
        return next(islice(counted, most, None), False)

    def knows_nodes_of(self, cluster: str) -> bool:
        return any(node.up and node.cluster == cluster for node in self._nodes.values())

    def uniform(self) -> bool:
        """Nothing is known that would make one node better than another."""
        up = [node for node in self._nodes.values() if node.up]
        kinds = {(node.offer.domain if self._moves else "", node.offer.offers) for node in up}
        speeds = [node.offer.speed * node.faster for node in up]
        return len(kinds) <= 1 and max(speeds, default=1.0) <= ALIKE * min(speeds, default=1.0)

    def knows(self, step: str) -> bool:
        return step in self._steps

    def see(self, bid: Bid, about: Sequence[str], now: float) -> None:
        """What a bid tells of a cluster's nodes; those that it does not tell of are not to be had."""
        self._domain_of[bid.cluster] = bid.domain
        told = {f"{bid.cluster}/{node.node}": node for node in bid.nodes}
        for key, node in self._nodes.items():
            if node.cluster == bid.cluster:
                node.up = key in told
        for key, node in told.items():
            offer = _offer(key, bid.domain, node, about)
            known = self._nodes.get(key)
            if known is None:
                known = self._nodes[key] = _Node(bid.cluster, node.node, offer)
                self._stale = True
            elif known.offer != offer:
                self._stale = self._stale or replace(known.offer, speed=offer.speed) != offer
                self._change_speed(key, offer.speed * known.faster, now)
                known.offer = offer
            known.up, known.seen = True, now
            known.warm = frozenset(about[number] for number in node.warm if number < len(about))
            known.busy = tuple((now + its.seconds, _need(dict(its.resources))) for its in node.busy)

    def away(self, cluster: str) -> None:
        for node in self._nodes.values():
            node.up = node.up and node.cluster != cluster

    def began(self, step: str, cluster: str, node: str, now: float) -> None:
        """It has a slot there and nowhere else; its inputs are on their way."""
        if step in self._steps:
            self.again(step)
            self.copied(step, cluster, node, now)

    def copied(self, step: str, cluster: str, node: str, now: float) -> None:
        """It has a slot there, beside those that it has already."""
        if step not in self._steps:
            return
        key = f"{cluster}/{node}"
        if key not in self._nodes:
            # Of a large cluster that told of others.
            self._nodes[key] = _Node(cluster, node, Offer(key, self._domain_of.get(cluster, cluster), 1))
            self._stale = True
        self._open(step)
        board, there = self._board, now
        if board is not None and not self._stale and step in board.graph.index:
            i = board.graph.index[step]
            n = board.fleet.index[key]
            there = board.arrival(i, n, now) + board.moves_s(i, n)
            there += board.loading.rest(i, n, there)
            board.start(i, n, there)
        self._running.setdefault(step, {})[key] = there

    def stopped(self, step: str, cluster: str, node: str) -> None:
        """It does not run there any more, but elsewhere."""
        key, board = f"{cluster}/{node}", self._board
        self._running.get(step, {}).pop(key, None)
        if board is not None and not self._stale and step in board.graph.index:
            board.runs.get(board.graph.index[step], {}).pop(board.fleet.index[key], None)

    def ended(self, step: str, cluster: str, node: str, seconds: float, now: float) -> None:
        """It is over, after so many seconds of work there."""
        key = f"{cluster}/{node}"
        if key not in self._running.pop(step, {}):
            return
        self._over[step] = key
        self._left.close(step)
        its, there = self._steps[step], self._nodes[key]
        self._learn(its, there, seconds)
        if there.warm is not None:
            there.warm |= {its.capability}
        board = self._board
        if board is not None and not self._stale and step in board.graph.index:
            board.finish(board.graph.index[step], board.fleet.index[key], now)

    def again(self, step: str) -> None:
        """It does not run any more, and its output, if there was one, is gone."""
        self._running.pop(step, None)
        self._open(step)
        board = self._board
        if board is not None and not self._stale and step in board.graph.index:
            board.again(board.graph.index[step])

    def gone(self, step: str) -> None:
        """The same, and it is not kept room for until it is asked for."""
        self.again(step)
        self._left.close(step)
        if step in self._steps:
            self._held |= {step}
            self._stale = True

    def _open(self, step: str) -> None:
        self._over.pop(step, None)
        if step in self._steps:
            self._left.open(step, self._steps[step].kind, self._steps[step].work)

    # Beside the graph -------------------------------------------------------------------------------------------

    def beside(self, step: str, kind: str) -> None:
        """It is to run, or runs, and the graph does not know it: it came up while the run was under way."""
        if step not in self._steps:
            self._left.open(step, kind)

    def beside_ended(self, step: str, kind: str, cluster: str, node: str, seconds: float) -> None:
        """It is over, after so many seconds of work there."""
        self._left.close(step)
        its = self._nodes.get(f"{cluster}/{node}")
        if seconds > 0:
            self._learn_kind(kind, seconds * (its.offer.speed * its.faster if its is not None else 1.0))

    # What is learnt ---------------------------------------------------------------------------------------------

    def learnt(self, kinds: Mapping[str, float]) -> None:
        """What was learnt earlier: seconds of work, by kind."""
        for kind, seconds in kinds.items():
            if seconds > 0:
                self._kinds[kind] = seconds
                self._left.takes(kind, seconds)
        self._stale = True
        self._weigh()

    def _learn(self, step: Step, node: _Node, seconds: float) -> None:
        if step.work or seconds <= 0:
            return
        # Of an error the larger part is laid to the kind, the rest to the node.
        error = self._learn_kind(step.kind, seconds * node.offer.speed * node.faster)
        node.faster *= exp(-SPEED_LEARNT * error)
        counted = self._counted.get(step.kind, UNKNOWN_S)
        self._stale = self._stale or abs(self._kinds[step.kind] / counted - 1.0) > MOVED

    def _learn_kind(self, kind: str, work: float) -> float:
        """One of it took so much work. By how much that was more than was known, as a logarithm; 0 where nothing was."""
        known = self._kinds.get(kind, work)
        error = max(-1.0, min(1.0, log(work / known)))
        self._kinds[kind] = known * exp(LEARNT * error)
        self._left.takes(kind, self._kinds[kind])
        return error

    def _work(self, step: Step) -> float:
        return step.work or self._kinds.get(step.kind) or self._left.usual

    def _change_speed(self, key: str, speed: float, now: float) -> None:
        if self._board is not None and not self._stale and key in self._board.fleet.index:
            self._board.change_speed(self._board.fleet.index[key], speed, now)

    # Plans ------------------------------------------------------------------------------------------------------

    def plan(self, ready: Collection[str] | None, bias: Mapping[str, float], now: float) -> bool:
        """Plan anew; False where there is nothing to plan with, or planning has taken too much of the time of late. `ready`: what
        is asked for now; None where that is not looked at. `bias`: by cluster, seconds that it is worse for other reasons than
        time."""
        self._taken.clear()
        self._credit = min(BURST_S, self._credit + SHARE * max(0.0, min(now - self._credit_at, 1e6)))
        self._credit_at = now
        if not self._steps or not any(node.up for node in self._nodes.values()) or self._credit <= 0:
            self._planned, self.late = {}, {}
            return False
        if ready is not None:
            self._hold_back(frozenset(ready), now)
        ready = ready or ()
        for name in ready:
            # It could not begin if they were not over.
            missing = [one for one in self._before.get(name, ()) if one not in self._over]
            self._over |= dict.fromkeys(missing, NOWHERE)
            for one in missing:
                self._left.close(one)
            self._stale = self._stale or bool(missing)
        board = self._board
        fresh = self._stale or board is None or self._front_is_over(board, ready)
        if fresh or board is None:
            board = self._board = self._put_together(ready, now)
        fleet = board.fleet
        for n, offer in enumerate(fleet.offers):
            node = self._nodes[offer.node]
            if board.up[n] and not node.up:
                board.unbind(n)
            board.up[n], board.others[n] = node.up, node.busy
        weights = [bias.get(self._nodes[offer.node].cluster, 0.0) for offer in fleet.offers]
        board.loading = self._loading(board)
        if (
            fresh
            and not board.loading.of
            and self._idle()
            and max(weights) - min(weights) <= MATTERS * self.usual(ready)
        ):
            self._search(board, now)
        made, changes = replan(board, now, sent=False, bias=weights)
        for i, (n, order) in changes.items():
            board.bind(i, n, order, now)
        self.late = {}
        for i, n in copies(board, made, now, {}):
            step, node = self._steps[board.graph.steps[i].id], self._nodes[fleet.offers[n].node]
            if step.work or step.kind in self._kinds:
                self.late[step.id] = node.cluster, node.name
        self._credit -= LOOK_S * (4 * made.schedule.tried + 20 * len(board.graph))
        schedule, names = made.schedule, board.graph.steps
        self._planned = {
            names[i].id: (schedule.node[i], schedule.start[i], schedule.finish[i])
            for i in range(len(board.graph))
            if board.status[i] == WAITING and schedule.node[i] >= 0
        }
        return True

    def _loading(self, board: Board) -> Loading:
        """What of the board's steps has to be loaded somewhere, as far as is known."""
        nodes = [self._nodes[offer.node] for offer in board.fleet.offers]
        numbers: dict[str, int] = {}
        seconds: list[list[float]] = []
        of: dict[int, int] = {}
        for i, step in enumerate(board.graph.steps):
            capability = self._steps[step.id].capability
            if board.status[i] not in (WAITING, RUNNING) or not capability:
                continue
            if capability not in numbers:
                each = {cluster: self._loads_s(capability, cluster) for cluster in {node.cluster for node in nodes}}
                numbers[capability] = len(seconds) if any(each.values()) else -1
                if any(each.values()):
                    seconds.append([each[node.cluster] for node in nodes])
            if numbers[capability] >= 0:
                of[i] = numbers[capability]
        there = [[0.0] * len(nodes) for _ in seconds]
        for capability, number in numbers.items():
            for n, node in enumerate(nodes) if number >= 0 else ():
                there[number][n] = -inf if node.warm is None or capability in node.warm else inf
        for i, runs in board.runs.items():
            for n, run in runs.items() if i in of else ():
                there[of[i]][n] = min(there[of[i]][n], run.began)
        return Loading(of, seconds, there)

    def is_warm(self, capability: str, cluster: str, node: str, since: float) -> bool | None:
        """Would a step of it begin there at once? None where nobody has told since then."""
        known = self._nodes.get(f"{cluster}/{node}")
        if known is None or known.warm is None or known.seen < since or capability not in known.offer.offers:
            return None
        return capability in known.warm

    def _idle(self) -> bool:
        """Nothing has begun, nor runs anything else."""
        return not self._running and not self._over and all(node.up and not node.busy for node in self._nodes.values())

    def _search(self, board: Board, now: float) -> None:
        """A plan that is kept until one is better (`Search`). It knows of times alone."""
        left = min(SEARCHED * self._credit, WORTH_LENGTH * max(self._rank.values(), default=0.0)) / LOOK_S
        lines = [Timeline(capacity) for capacity in board.fleet.capacity]
        made = Search(board.fleet, board.graph, lines, Random(0), int(left)).run()
        self._credit -= left * LOOK_S
        placed = (i for i in range(len(board.graph)) if i not in board.graph.doomed)
        for order, i in enumerate(sorted(placed, key=lambda i: (made.start[i], made.finish[i], i))):
            board.bind(i, made.node[i], order, now)

    def _hold_back(self, ready: frozenset[str], now: float) -> None:
        """See `HELD_S`."""
        board = self._board
        if not self._held.isdisjoint(ready):
            self._held -= ready
            self._stale = True
        if board is None or self._stale:
            return
        before, self._unasked = self._unasked, {}
        for i, step in enumerate(board.graph.steps):
            if board.status[i] != WAITING or step.id in ready or step.id in self._over:
                continue
            if all(one in self._over for one in self._before[step.id]):
                self._unasked[step.id] = before.get(step.id, now)
        held = {name for name, since in self._unasked.items() if now >= since + HELD_S} - self._held
        if held:
            self._held |= held
            self._stale = True

    def planned(self, step: str, now: float) -> Planned | None:
        """What the plan says of it; None where it says nothing."""
        found, board = self._planned.get(step), self._board
        if found is None or board is None:
            return None
        n, start, finish = found
        node, i = self._nodes[board.fleet.offers[n].node], board.graph.index[step]
        at = board.arrival(i, n, now)
        return Planned(node.cluster, node.name, start, finish, start <= at + 1e-6 + 0.01 * (finish - start))

    def could_be_planned(self, step: str) -> bool:
        """It is part of what is planned now; where it is not planned all the same, no node that is known could take it."""
        return self._board is not None and step in self._board.graph.index

    def take(self, step: str, planned: Planned) -> bool:
        """The step's slot of that node, if one is free beside those that were taken since the plan was made."""
        key = f"{planned.cluster}/{planned.node}"
        node = self._nodes[key]
        held = [_step_need(self._steps[one]) for one, there in self._running.items() if key in there]
        held += [need for _, need in node.busy] + self._taken.get(key, [])
        its = _step_need(self._steps[step])
        room = (node.offer.cores, node.offer.memory, node.offer.gpus)
        if any(sum(one[k] for one in held) + its[k] > room[k] for k in range(3)):
            return False
        self._taken.setdefault(key, []).append(its)
        return True

    def usual(self, ready: Collection[str]) -> float:
        """Seconds that steps take on average: those that could begin, or that run."""
        some = [self._work(self._steps[name]) for name in ready or self._running if name in self._steps]
        return sum(some) / len(some) if some else 0.0

    def seconds(self, step: str) -> float:
        """How long it is expected to run at speed 1; 0 where the graph does not know it."""
        known = self._steps.get(step)
        return self._work(known) if known is not None else 0.0

    def _front_is_over(self, board: Board, ready: Collection[str]) -> bool:
        """A good part of what could begin lies beyond it."""
        known = [step in board.graph.index for step in ready if step in self._steps]
        return sum(known) < BEYOND * len(known)

    def _put_together(self, ready: Collection[str], now: float) -> Board:
        """A board with the front of the graph, all that is known of it, and of the nodes."""
        self._stale = False
        self._weigh()
        self._forget_nodes(now)
        front = self._front(ready)
        fleet = self._fleet()
        offered = frozenset().union(*(offer.offers for offer in fleet.offers))
        steps = [self._fit(self._steps[name], offered) for name in front]
        board = Board(fleet)
        edges = [
            edge
            for edge in self._edges
            if edge.consumer in front and edge.producer in front and self._over.get(edge.producer) != NOWHERE
        ]
        board.add(compile_graph(fleet, steps, edges), "", min(self._began, now))
        for name, key in self._over.items():
            if name in front and key != NOWHERE:
                i = board.graph.index[name]
                board.status[i], board.node[i] = OVER, fleet.index[key]
        for job in board.jobs:
            # The graph does not end with its front, and what is over may have to run again.
            job.unfinished = ENDLESS
        for name, there in self._running.items():
            for key, since in there.items():
                board.start(board.graph.index[name], fleet.index[key], since)
        if len(front) < len(self._steps):
            self._tails(board, front)
        return board

    def _forget_nodes(self, now: float) -> None:
        if len(self._nodes) <= KEPT_NODES:
            return
        kept = {key for there in self._running.values() for key in there}
        kept |= {key for key, node in self._nodes.items() if node.up or node.seen > now - AWAY_S}
        self._nodes = {key: node for key, node in self._nodes.items() if key in kept}
        self._over = {step: key if key in self._nodes else NOWHERE for step, key in self._over.items()}

    def _front(self, ready: Collection[str]) -> dict[str, None]:
        """What runs, what could begin, what comes next, and what all of that is made from."""
        open_ = [name for name in self._order if name not in self._over]
        front = dict.fromkeys([*self._running, *(name for name in ready if name in self._steps)])
        for name in open_:
            if len(front) >= FRONT:
                break
            if name not in self._held and all(one in self._over or one in front for one in self._before[name]):
                front[name] = None
        made = dict.fromkeys(
            one for name in front for one in self._before[name] if self._over.get(one, NOWHERE) != NOWHERE
        )
        return made | front

    def _tails(self, board: Board, front: Collection[str]) -> None:
        for name in front:
            i = board.graph.index[name]
            beyond = max((self._rank[one] for one in self._after[name] if one not in front), default=0.0)
            if beyond:
                board.tail[i] = beyond
            board.rank[i] = max(board.rank[i], self._rank[name])

    def _fit(self, step: Step, offered: frozenset[str]) -> Step:
        """Where nobody has told of a capability yet, any node may have it."""
        capability = step.capability if step.capability in offered else ""
        return replace(step, work=self._work(step), capability=capability)

    def _fleet(self) -> Fleet:
        offers = [replace(node.offer, speed=node.offer.speed * node.faster) for node in self._nodes.values()]
        homes = {offer.domain for offer in offers} | {name for step in self._steps.values() for name in step.inputs}
        homes |= {step.through for step in self._steps.values() if step.through}
        homes |= {name for pair in self._links for name in pair}
        links = {(a, b): untold(a, b) for a in sorted(homes) for b in sorted(homes)}
        return Fleet(offers, (links | self._links).values())


def _offer(key: str, domain: str, node: NodeOutlook, about: Sequence[str]) -> Offer:
    its = dict(node.resources)
    offers = frozenset(about[number] for number in node.able if number < len(about))
    # A node that names anything that it has names all of it.
    memory, gpus = its.get("memory", 0.0 if its else inf), its.get("gpu", 0.0 if its else 10**6)
    return Offer(key, domain, max(1, node.slots), memory, gpus, 10**6, node.speed, offers)


def _worth_moving(step: Step) -> Step:
    """Without what it brings and makes, where that is so little that it does not matter where it runs."""
    matters = step.brings + step.makes >= WORTH_MOVING
    return step if matters or not step.through else replace(step, through="", brings=0.0, makes=0.0)


def _step_need(step: Step) -> Need:
    return step.cores, step.memory, step.gpus


def _need(its: Mapping[str, float]) -> Need:
    return max(1, ceil(its.get("cpu", 1.0))), its.get("memory", 0.0), its.get("gpu", 0.0)
