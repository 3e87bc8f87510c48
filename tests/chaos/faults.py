"""The rows of the failure matrix: how each fault is made, how it is known that it bit, and what must hold then.

A row's function has a run of its own, strikes while steps of it run, ends the fault and returns what it found. It raises
`DidNotBite` where the fault met nothing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ioi_dagster.governors.cluster import LEASE_TTL_S
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.progress import in_short
from ioi_dagster.simulate.matrix import ROUND_S
from tests.chaos import judge
from tests.chaos.lab import FAR_NODE, LIAR, NEAR_NODES, STEPS, DidNotBite, Found, Lab, send, until
from tests.chaos.lies import LIES
from tests.chaos.sites import Sites, others_gateway_killed, split
from tests.chaos.struck import LONG_S, NEAR, Struck, bitten, cluster_of, commits, suspected

HOUR = 3_600
AWAY = "a cluster is away"
ON_ITS_WAY_S = 0.2
STOPPED_S = 1.0
"""A process that has stood still for so long has been replaced: its supervisor ends it after half as long."""


@dataclass(frozen=True, slots=True)
class Row:
    """`strike` is given a `place`. `needs`: what the machine must allow for it, see there. `within_s`: so long half of the
    recoveries may take, which is for benchmarks to judge; None where the matrix promises no time."""

    number: int
    fault: str
    expected: str
    strike: Callable[[Any, random.Random], Found]
    needs: str = ""
    place: type[Lab] | type[Sites] = Lab
    within_s: float | None = None


# 1 to 6: nodes --------------------------------------------------------------------------------------------------------


def worker_killed(lab: Lab, rng: random.Random) -> Found:
    struck = Struck.at_work(lab, NEAR)
    send(struck.victim.pid, signal.SIGKILL)
    return struck.end()


def worker_stopped(lab: Lab, rng: random.Random) -> Found:
    struck = Struck.at_work(lab, NEAR, LONG_S)
    send(struck.victim.pid, signal.SIGSTOP)
    time.sleep(rng.uniform(0.8, 3.0))  # how long the fault lasts
    send(struck.victim.pid, signal.SIGCONT)
    return struck.end()


def interpreter_held(lab: Lab, rng: random.Random, seconds: float = 10.0) -> Found:
    before = {name: suspected(lab, name) for name in (*NEAR, FAR_NODE)}
    run = lab.run(seconds=LONG_S)
    run.working()
    (run.folder / ".hold").write_text(str(seconds))
    (run.folder / ".hold").rename(run.folder / "hold")
    run.end()
    holds, held = next(run.folder.glob("holds *"), None), next(run.folder.glob("held [0-9]*"), None)
    if holds is None:
        raise DidNotBite("no step was left to hold it")
    let_go = held.stat().st_mtime if held else time.time()
    pid = int(holds.name.split(" ")[1])
    node = next(one.node for one in run.began() if one.pid == pid)
    evicted = [f"evicted: {node}, whose step held the interpreter"] if run.lost_at(node) or held is None else []
    there = [one for one in run.began() if one.pid == pid and one.at < let_go]
    told = [at for one in there for at in [run.told_at(one.step)] if at > let_go]
    happened = (
        f"held for {seconds:g} s on {node}, which was {'given up' if evicted else 'suspected and kept'}; {commits(run)}"
    )
    found = Found(evicted + judge.whole(run, STEPS), max(told, default=let_go) - let_go, happened)
    return bitten(found, suspected(lab, node) > before.get(node, 0), "nobody noticed")


@contextlib.contextmanager
def link(lab: Lab) -> Iterator[Struck]:
    """The link to the far node is whole again after that."""
    assert lab.far is not None
    struck = Struck.at_work(lab, (FAR_NODE,))
    try:
        yield struck
    finally:
        lab.far.heal()


def link_down(lab: Lab, rng: random.Random) -> Found:
    with link(lab) as struck:
        assert lab.far is not None
        lab.far.cut()
        until(lambda: struck.run.lost_at(FAR_NODE) or struck.run.over, "a loss")
        time.sleep(rng.uniform(0.0, 2.0))  # the orphan goes on meanwhile
    return struck.end()


def link_one_way(lab: Lab, rng: random.Random) -> Found:
    before = suspected(lab, FAR_NODE)
    with link(lab) as struck:
        assert lab.far is not None
        lab.far.cut_one_way(inward=rng.random() < 0.5)
        time.sleep(rng.uniform(0.5, 3.0))  # how long the fault lasts
    struck.run.end()
    lost = struck.run.lost_at(FAR_NODE)
    return bitten(struck.end(recovers=lost), lost or suspected(lab, FAR_NODE) > before, "nobody noticed")


def governor_out_of_reach(lab: Lab, rng: random.Random) -> Found:
    """For less than it takes to be sure of a loss: nothing begins there, and what ended meanwhile is delivered, and is what
    counts. What began there just after the cut was on its way before it."""
    before = suspected(lab, FAR_NODE)
    with link(lab) as struck:
        assert lab.far is not None
        lab.far.cut()
        cut = time.time()
        time.sleep(rng.uniform(0.6, 0.9))  # how long the fault lasts
        healed = time.time()
    struck.whole()
    recovered_s = time.time() - healed
    found, began = struck.end(recovers=False, recovered_s=recovered_s), struck.run.began()
    bitten(found, suspected(lab, FAR_NODE) > before, "nobody noticed")
    bitten(found, not struck.run.lost_at(FAR_NODE), "it was given up: that is row 4")
    committed = {row.step: row.attempt for row in lab.ledger.steps(struck.run.id)}
    wrong = [
        f"double: {one.step} was under way on {FAR_NODE}, and is committed as of another attempt"
        for one in struck.there
        if committed.get(one.step) != one.attempt
    ]
    wrong += [
        f"begun: {one.step} on {FAR_NODE}, {one.at - cut:.2f} s after it could not reach its governor any more"
        for one in began
        if one.node == FAR_NODE and cut + ON_ITS_WAY_S < one.at < healed
    ]
    return replace(found, wrong=found.wrong + wrong)


# 7 to 9: schedulers, with their governors -----------------------------------------------------------------------------


def scheduler_killed(lab: Lab, rng: random.Random) -> Found:
    struck = Struck.at_work(lab, NEAR)
    send(lab.pid(f"scheduler-{cluster_of(struck.victim.node)}"), signal.SIGKILL)
    return struck.end()


def scheduler_stopped(lab: Lab, rng: random.Random) -> Found:
    """What was granted before another took its place is not held any more, and nothing starts under it."""
    struck = Struck.at_work(lab, NEAR)
    cluster = cluster_of(struck.victim.node)
    pid, old = lab.pid(f"scheduler-{cluster}"), lab.status(cluster)
    if old is None or not old["leases"]:
        raise DidNotBite("nothing was leased there any more")
    send(pid, signal.SIGSTOP)
    lasts_s = rng.uniform(0.4, 2.5)
    time.sleep(lasts_s)  # how long the fault lasts
    send(pid, signal.SIGCONT)
    found = struck.end()
    new = until(lambda: lab.status(cluster), f"the governor of {cluster}")
    wrong = []
    if lasts_s > STOPPED_S and new["epoch"] == old["epoch"]:
        wrong.append(
            f"unnoticed: {cluster} stood still for {lasts_s:.1f} s, and its governor is of epoch {new['epoch']} still"
        )
    if new["epoch"] > old["epoch"]:
        for lease in old["leases"]:
            if lab.holds(cluster, lease["run"], lease["id"]):
                wrong.append(
                    f"leaked: {lease['id']} is of epoch {old['epoch']}, and that of epoch {new['epoch']} renews it"
                )
    stood = f"stood still for {lasts_s:.1f} s, its governor is of epoch {new['epoch']} after {old['epoch']}"
    return replace(found, wrong=found.wrong + wrong, happened=f"{stood}; {found.happened}")


def governor_restarted(lab: Lab, rng: random.Random) -> Found:
    """As soon as it has granted something; there is more to grant."""
    run = lab.run()
    until(lambda: run.over or any("[" in entry.step for entry in run.story("award")), "the first awards")
    send(lab.pid("scheduler-near"), signal.SIGKILL)
    killed = time.time()
    run.end()
    lost = [entry.step for entry in run.story("loss") if entry.facts.get("cluster") == "near" and entry.at > killed]
    again = [one.at for one in run.began() if one.step in lost and one.at > killed]
    story = lab.ledger.story(run.id)
    noticed = any("went away" in entry.text or "scheduler was lost" in entry.text for entry in story)
    happened = f"{counted(len(lost), 'step')} lost at near, {counted(len(again), 'step')} begun again; {commits(run)}"
    found = Found(judge.whole(run, STEPS), max(again) - killed if again else None, happened)
    return bitten(found, noticed, "nobody asked it meanwhile")


def scheduler_killed_alone(lab: Lab, rng: random.Random) -> Found:
    """Its steps may run nowhere else: they wait until it is there again, and their story says for which cluster."""
    struck, old = Struck.at_work(lab, NEAR_NODES, job="pressing"), lab.status("near")
    if old is None:
        raise DidNotBite("its governor did not answer before")
    send(lab.pid("scheduler-near"), signal.SIGKILL)
    struck.at = time.time()
    until(lambda: (lab.status("near") or old)["epoch"] > old["epoch"], "a scheduler that was started again")
    restarted_s = time.time() - struck.at
    found = struck.end(recovered_s=restarted_s)
    waits = [entry for entry in struck.run.story("wait") if entry.at > struck.at and "near" in entry.text]
    told = [
        entry for entry in waits if any("near: " in part and in_short(part) == AWAY for part in entry.text.split("; "))
    ]
    again_s, wrong = struck.recovered(), found.wrong.copy()
    if not told:
        wrong.append(f"unexplained: no step says that near is away: {[entry.text for entry in waits]}")
    if again_s is None:
        wrong.append("lost: nothing that ran there ran again")
    elsewhere = {one.node for one in struck.run.began() if "[" in one.step} - set(NEAR_NODES)
    wrong += [f"misplaced: a step ran on {node}, which has not what it takes" for node in sorted(elsewhere)]
    waited = f"it was there again after {restarted_s:.1f} s, and its steps ran {again_s or 0:.1f} s after the fault"
    said = f"they said: {told[0].text}; " if told else ""
    return replace(found, wrong=wrong, happened=f"{waited}; {said}{found.happened}")


# 14: a cluster that does not keep its word ------------------------------------------------------------------------------


def cluster_lies(lab: Lab, rng: random.Random) -> Found:
    """It bids whatever is asked for nearly nothing, and answers awards by a lie."""
    how = rng.choice(list(LIES))
    lab.lie(how)
    try:
        run = lab.run()
        run.end()
    finally:
        lab.lie("")
    wrong, lies = judge.whole(run, STEPS), lab.lies_told(run.id)
    if lies and not any(f"{LIAR} at" in entry.text and "% of its bids" in entry.text for entry in run.story("bid")):
        wrong.append(f"unnoticed: {LIAR} {how}, and is trusted as before")
    found_out = [entry.at for entry in run.story("bid") if f"{LIAR} at" in entry.text and "% of its bids" in entry.text]
    asked = [entry.at for entry in run.story("bid") if f"{LIAR} at" in entry.text]
    happened = f"it {how}, and {lies} awards met that; {commits(run)}"
    found = Found(wrong, min(found_out) - min(asked) if found_out else None, happened)
    return bitten(found, bool(lies), "nobody believed it")


# 10, 11, 13: the run's own side ---------------------------------------------------------------------------------------


def run_process_killed(lab: Lab, rng: random.Random) -> Found:
    lab.stand_by(2)
    struck = Struck.at_work(lab, (*NEAR, FAR_NODE))
    struck.run.process.kill()
    struck.run.process.wait()
    if struck.run.over:
        raise DidNotBite("the run was over before")
    lab.process({"resume": struck.run.id})
    return struck.end(recovered_s=struck.whole())


def two_run_processes(lab: Lab, rng: random.Random) -> Found:
    lab.stand_by(2)
    struck = Struck.at_work(lab, (*NEAR, FAR_NODE), LONG_S)
    lab.process({"resume": struck.run.id})
    found = struck.end(recovered_s=struck.whole())
    with contextlib.closing(sqlite3.connect(lab.domain.ledger)) as ledger:
        (epoch,) = ledger.execute("SELECT epoch FROM run WHERE run = ?", (struck.run.id,)).fetchone()
    return bitten(found, epoch > 1, "the second came too late")


def ledger_away(lab: Lab, rng: random.Random) -> Found:
    struck = Struck.at_work(lab, (*NEAR, FAR_NODE))
    with contextlib.closing(sqlite3.connect(lab.domain.ledger, timeout=10, isolation_level=None)) as ledger:
        ledger.execute("BEGIN EXCLUSIVE")
        waiting = {one.attempt for one in struck.run.began() if not one.ended}
        time.sleep(rng.uniform(2.0, 10.0))  # how long the fault lasts
        ended = {one.attempt for one in struck.run.began() if one.ended}
        over = struck.run.over
        ledger.execute("ROLLBACK")
        back = time.time()
    struck.whole()
    found = struck.end(recovered_s=time.time() - back)
    return bitten(found, not over and bool(waiting & ended), "nothing was to be committed meanwhile")


# 15 to 17: the machine, and the step itself ---------------------------------------------------------------------------


def clock_jumps(lab: Lab, rng: random.Random) -> Found:
    struck = Struck.at_work(lab, (*NEAR, FAR_NODE))
    jump = rng.choice((-HOUR, HOUR))
    lab.move_clock(jump)
    try:
        recovered_s = struck.whole()
        found = struck.end(recovered_s=recovered_s)
        after = any(abs(one.at - struck.at - jump) < HOUR / 2 for one in struck.run.began())
        return bitten(found, after, "nothing began after the jump")
    finally:
        lab.move_clock(0)


def gateway_killed(lab: Lab, rng: random.Random) -> Found:
    """That of the run's own domain, through which it asks for nodes and renews leases. What runs goes on."""
    struck = Struck.at_work(lab, NEAR)
    begun = {one.step for one in struck.run.began()}
    send(lab.pid("gateway"), signal.SIGKILL)
    found, began = struck.end(recovered_s=struck.whole()), struck.run.began()
    twice = {one.step for one in began if one.fence > 1 and one.step in begun}
    wrong = [f"double: {step} began again, though only the gateway had gone" for step in sorted(twice)]
    found = replace(found, wrong=found.wrong + wrong)
    return bitten(found, not {one.step for one in began} <= begun | {"total"}, "everything had begun")


def poison(lab: Lab, rng: random.Random) -> Found:
    run = lab.run("poisoned", steps=4)
    run.end()
    wrong = judge.counted(run, {"some", "kills[n1]", "kills[n2]", "kills[n3]"})
    nodes = {one.node for one in run.began() if one.step == "kills[n0]"}
    failed = run.failures()
    if failed.keys() != {"kills[n0]"} or "poison" not in failed["kills[n0]"]:
        wrong.append(f"not named: it failed as {failed}")
    if len(nodes) != 3:
        wrong.append(f"it ran on {len(nodes)} nodes: {nodes}")
    first = min(one.at for one in run.began() if one.step == "kills[n0]")
    named = [entry.at for entry in run.story("refused") if entry.step == "kills[n0]"]
    happened = f"it took {' and '.join(sorted(nodes))} down and then failed; {commits(run)}"
    return Found(wrong, max(named) - first if named else None, happened)


def disk_full(lab: Lab, rng: random.Random) -> Found:
    struck, before = Struck.at_work(lab, (*NEAR, FAR_NODE)), _unwritten(lab)
    filling = lab.home / "filling"
    try:
        with filling.open("wb", buffering=0) as file:
            _fill(file, lab)
            waiting = {one.attempt for one in struck.run.began() if not one.ended}
            ends = time.monotonic() + rng.uniform(2.0, 6.0)  # how long the fault lasts
            while time.monotonic() < ends:
                _fill(file, lab)  # what others give back meanwhile
                time.sleep(0.02)
    finally:
        filling.unlink()
    back = time.time()
    over = struck.run.over
    struck.whole()
    found = bitten(
        struck.end(recovered_s=time.time() - back), not over and bool(waiting), "nothing was to be written meanwhile"
    )
    told = [entry for entry in lab.instance.all_logs(struck.run.id) if any(text in entry.message for text in WAITED)]
    journal = _unwritten(lab) - before
    halves = [
        f"half-written: {path.name} is left" for path in lab.home.rglob("*") if path.name.endswith((".new", ".part"))
    ]
    happened = f"commits waited {len(told)} times, {journal} grants were not written down; {found.happened}"
    found = replace(found, wrong=found.wrong + halves, happened=happened)
    waited = bool(told or journal) or UNWRITTEN in struck.run.log.read_text()
    return bitten(found, waited, "all could be written all the same")


def _fill(file: io.FileIO, lab: Lab) -> None:
    """Nothing is left of the disk."""
    try:
        while True:
            file.write(bytes(1 << 16) if os.statvfs(lab.home).f_bavail > 32 else bytes(4_096))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


UNWRITTEN = "cannot be written"
WAITED = ("The ledger can be written again", "could be stored: ")
"""What a run tells afterwards of a disk that had no room."""


def _unwritten(lab: Lab) -> int:
    """How often governors said so of their lease journals."""
    return sum(lab.log(f"scheduler-{cluster}").count(UNWRITTEN) for cluster in ("near", "other", "far"))


ROWS = (
    Row(1, "worker SIGKILL", "elsewhere, one commit", worker_killed, within_s=1.0),
    Row(2, "worker SIGSTOP, CONT", "takeover, the zombie fenced", worker_stopped, within_s=1.5),
    Row(3, "a step holds the interpreter", "not evicted", interpreter_held),
    Row(4, "node's link down", "takeover, the orphan fenced", link_down, "far", within_s=2.0),
    Row(5, "one-way link", "one commit, whoever wins", link_one_way, "far"),
    Row(
        6, "governor out of reach", "the outcome comes later", governor_out_of_reach, "far", within_s=0.8 * LEASE_TTL_S
    ),
    Row(7, "scheduler SIGKILL", "its steps run on peers", scheduler_killed, within_s=1.0),
    Row(8, "scheduler SIGSTOP, CONT", "takeover", scheduler_stopped, within_s=1.5),
    Row(9, "governor restarted while it awards", "no lease lost or double", governor_restarted, within_s=LEASE_TTL_S),
    Row(10, "run process SIGKILL", "resumed, nothing done twice", run_process_killed),
    Row(11, "two run processes", "the older is fenced", two_run_processes),
    Row(12, "network split 2+2", "each side goes on, heal merges", split, "split", Sites),
    Row(13, "ledger away", "commits wait", ledger_away),
    Row(14, "a cluster that lies", "found out, asked for elsewhere", cluster_lies, within_s=2 * ROUND_S),
    Row(15, "clock jumps an hour", "no effect", clock_jumps, "moves_clocks"),
    Row(16, "poison step", "stopped after 3 nodes, named", poison),
    Row(17, "disk full", "waits, nothing half-written", disk_full, "mounted"),
    Row(18, "own gateway SIGKILL", "what runs goes on", gateway_killed),
    Row(19, "others' gateway SIGKILL", "calls are made again", others_gateway_killed, "split", Sites),
    Row(
        20, "scheduler SIGKILL, no peer may", "waits, explained, for its restart", scheduler_killed_alone, within_s=10.0
    ),
)
