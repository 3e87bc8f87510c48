"""Random scenarios: topologies, workflows and faults, each decided by its seed."""

from __future__ import annotations

import random
import shlex
from dataclasses import replace

from ioi_dagster.model.capability import Isolate
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Effect
from ioi_dagster.model.quota import ANY, CohortQuota, QuotaTree, TenantQuota
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from ioi_dagster.simulate.faults import draw_faults
from ioi_dagster.simulate.recovery import SETTLED_S
from ioi_dagster.simulate.replicas import Replicas
from ioi_dagster.simulate.scenario import WORK, QuotasChange, Scenario, Workflow, WorkflowStep
from ioi_dagster.simulate.shapes import SHAPES, draw
from ioi_dagster.simulate.world import Report, simulate
from tests.quotas import share

WITH_BLOCKS = 10_000
"""From this seed on steps call blocks that have replicas."""
MAY_FAIL = {"flow.poison_step", "flow.at_most_once", "flow.no_place", "flow.gang_broken", "flow.gang_lost"}
"""Where many faults hit one step, it looks like a cause of them. What may run once only is not tried again after a loss.
Data that no domain may see goes nowhere. A gang does not go on without one of its steps."""


def wrong_with(seed: int) -> str:
    """What broke in the federation of that seed, and how to keep it as a test; empty where nothing did."""
    return tried(seed)[1]


def tried(seed: int) -> tuple[Report, str]:
    """What came of that federation, and what broke there."""
    its, keep = scenario(seed), f"keep it as a test: python -m tests.scenario.seeds 'swarm {seed}' "
    try:
        report = simulate(its)
    except Exception as error:
        error.add_note(keep + shlex.quote(repr(error)))
        raise
    wrong = [*report.violations, *(f"steps failed: {code}" for code in sorted(report.failures.keys() - MAY_FAIL))]
    steps = sum(len(workflow.steps) for workflow in its.workflows)
    if report.done + report.failed != steps:
        wrong.append(f"of {steps} steps {report.done} are done and {report.failed} failed")
    if not wrong:
        return report, ""
    return report, "\n".join([f"swarm {seed}:", *wrong[:5], keep + shlex.quote(wrong[0])])


def scenario(seed: int) -> Scenario:
    rng = random.Random(f"swarm/{seed}")
    topology = topology_of(rng)
    domains = [domain.name for domain in topology.domains]
    clusters = [cluster for domain in topology.domains for cluster in domain.clusters]
    # No quota and no cluster is too small for a whole gang.
    limited = any(cluster.quotas != QuotaTree.flat() for cluster in clusters)
    gang = 1 if limited else min(sum(node.slots for node in cluster.nodes) for cluster in clusters)
    gpus = all(cluster.nodes[0].resources for cluster in clusters)
    workflows = tuple(
        workflow_of(rng, seed * 100 + number, number, domains, gang, gpus) for number in range(rng.randint(1, 5))
    )
    bare = Scenario(topology, workflows, seed=seed, noise=rng.choice([0.0, 0.5]))
    rate = rng.choice([2.0, 10.0, 40.0])
    # In every third what a fault costs is held against its bound: there is one at a time.
    faults = draw_faults(bare, rate, 90.0, SETTLED_S if seed % 3 == 0 else None)
    its = replace(bare, faults=faults, changes=changes_of(clusters, seed) if limited else ())
    return its if seed < WITH_BLOCKS else with_blocks(its)


def with_blocks(its: Scenario) -> Scenario:
    """Many of its steps call one of two blocks, which have few replicas, load for seconds and refuse what is too much."""
    rng = random.Random(f"blocks/{its.seed}")
    blocks = {name: replicas_of(rng) for name in ("scan", "tell")}
    part = rng.choice([0.3, 0.9])

    def calls(step: WorkflowStep) -> WorkflowStep:
        # All steps of a gang ask for the same.
        if step.gang or rng.random() > part:
            return step
        return replace(step, capability=rng.choice(sorted(blocks)))

    workflows = tuple(
        replace(one, steps={key: calls(step) for key, step in one.steps.items()}) for one in its.workflows
    )
    return replace(its, workflows=workflows, blocks=blocks, capabilities=(WORK, *blocks))


def replicas_of(rng: random.Random) -> Replicas:
    isolate = rng.choice(list(Isolate))
    return Replicas(
        loads_s=rng.choice([0.0, 1.0, 10.0]),
        replicas=rng.randint(1, 3),
        concurrency=rng.randint(1, 2) if isolate is Isolate.THREAD else 1,
        max_queue=rng.choice([1, 64]),
        idle_s=rng.choice([0.0, 2.0, 900.0]),
        isolate=isolate,
        max_failures=rng.randint(1, 5),
        rest_s=rng.choice([0.5, 5.0]),
    )


def topology_of(rng: random.Random) -> Topology:
    """Up to five clusters, all alike in one half of the cases, in as many domains or fewer."""
    count, alike = rng.randint(1, 5), rng.random() < 0.5
    nodes, slots, shared = rng.randint(1, 4), rng.randint(1, 3), rng.random() < 0.5
    gpus, clusters = rng.random() < 0.4, []
    for number in range(count):
        its = nodes if alike else rng.randint(1, 4)
        specs = tuple(
            NodeSpec(
                f"n{number}.{node}",
                slots if alike else rng.randint(1, 4),
                resources=(("gpu", 2.0),) if gpus and node in (0, 3) else (),
            )
            for node in range(its)
        )
        shares = shares_of(sum(spec.slots for spec in specs), rng) if shared else ()
        clusters.append(
            ClusterSpec(f"c{number}", specs, 1.0 if alike else rng.choice([0.0, 0.5, 3.0]), QuotaTree.flat(shares))
        )
    domains, number = [], 0
    while clusters:
        some = 1 if alike else rng.randint(1, 2)
        handles = DataClass.INTERNAL if alike else rng.choice(list(DataClass))
        domains.append(DomainSpec(f"d{number}", "one", tuple(clusters[:some]), handles))
        clusters, number = clusters[some:], number + 1
    return Topology("swarm", "d0", tuple(domains))


def workflow_of(rng: random.Random, seed: int, number: int, domains: list[str], gang: int, gpus: bool) -> Workflow:
    """`gang`: so many steps at most start together; `gpus`: there are some."""
    its = draw(
        rng.choice(sorted(SHAPES)),
        rng.randint(1, 25),
        seed,
        name=f"w{number}",
        seconds=rng.choice([0.05, 1.0, 5.0, 20.0]),
        arrives=rng.uniform(0, 20),
        tenant=f"t{number % 3}",
        domain=rng.choice(domains),
        objective=rng.choice(["balanced", "fastest", "cheapest"]),
    )
    if rng.random() < 0.5:
        return its
    # Every kind of step in one workflow: of any class, urgent and not, and such that may run once only.
    keys = list(its.steps)
    steps = {
        key: replace(
            step,
            data_class=rng.choices(list(DataClass), [6, 3, 1])[0],
            effect=rng.choices(list(Effect), [8, 1, 1])[0],
            priority=rng.choice([0, 0, 0, 5, -3]),
            resources={"gpu": rng.choice([0.5, 1.0, 2.0])} if gpus and rng.random() < 0.3 else {},
            checkpointable=rng.random() < 0.3,
            near=tuple(rng.sample(keys, min(len(keys), 2))) if rng.random() < 0.2 else (),
            apart=tuple(rng.sample(keys, min(len(keys), 2))) if rng.random() < 0.2 else (),
            copies=rng.choice([0, 0, 1]),
        )
        for key, step in its.steps.items()
    }
    return replace(its, steps=with_gangs(steps, gang, rng))


def with_gangs(steps: dict[str, WorkflowStep], most: int, rng: random.Random) -> dict[str, WorkflowStep]:
    """Some of those that are ready at the same time and are of one class start together."""
    alike: dict[tuple[tuple[str, ...], DataClass], list[str]] = {}
    for key, step in steps.items():
        alike.setdefault((step.needs, step.data_class), []).append(key)
    changed = dict(steps)
    for number, keys in enumerate(alike.values()):
        if most > 1 and len(keys) > 1 and rng.random() < 0.3:
            first = changed[keys[0]]
            for key in keys[:most]:
                changed[key] = replace(
                    changed[key], gang=f"gang-{number}", capability=WORK, priority=first.priority, resources={}
                )
    return changed


def changes_of(clusters: list[ClusterSpec], seed: int) -> tuple[QuotasChange, ...]:
    """Other trees for some clusters while steps run, of one cohort or two, often with less than there was."""
    rng, changes = random.Random(f"quotas/{seed}"), []
    for cluster in clusters:
        for _ in range(rng.randint(0, 3)):
            shares = shares_of(sum(node.slots for node in cluster.nodes), rng)
            cut = rng.randint(0, len(shares))
            cohorts = (CohortQuota("one", shares[:cut]), CohortQuota("two", (*shares[cut:], TenantQuota(ANY))))
            weighed = tuple(replace(cohort, weight=rng.choice([0.5, 1.0, 4.0])) for cohort in cohorts)
            changes.append(QuotasChange(round(rng.uniform(0.0, 60.0), 3), cluster.name, QuotaTree(weighed)))
    return tuple(changes)


def shares_of(slots: int, rng: random.Random) -> tuple[TenantQuota, ...]:
    """Guarantees and limits that leave a slot for everybody."""
    shares, left = [], slots - 1
    for number in range(rng.randint(0, 3)):
        guarantee = rng.randint(0, left)
        left -= guarantee
        lends = rng.choice([None, rng.randint(0, guarantee)])
        borrows = rng.choice([None, rng.randint(0, 3) + (guarantee == 0)])
        shares.append(share(f"t{number}", rng.choice([0.5, 1.0, 4.0]), guarantee, lends, borrows))
    return tuple(shares)
