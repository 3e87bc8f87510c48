"""Random federations of machines that differ in all that they may: each decided by its seed.

What few clusters have is asked for all the same, so steps may find nobody: then they have to fail, with that as the reason."""

from __future__ import annotations

import random
from dataclasses import replace

from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import SLOTS, Effect
from ioi_dagster.model.placement import Link
from ioi_dagster.model.quota import ANY, ClassQuota, CohortQuota, Quota, QuotaTree, TenantQuota
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec, Topology
from ioi_dagster.simulate import families, shapes
from ioi_dagster.simulate.faults import draw_faults
from ioi_dagster.simulate.knowledge import Known
from ioi_dagster.simulate.recovery import SETTLED_S
from ioi_dagster.simulate.scenario import WORK, QuotasChange, Scenario, Workflow, WorkflowStep
from ioi_dagster.simulate.world import World
from tests.quotas import share
from tests.scenario.swarm import replicas_of, with_gangs

BLOCKS = ("scan", "tell")
GIB = 2.0**30


def mixed(seed: int) -> Scenario:
    rng = random.Random(f"mixed/{seed}")
    topology = topology_of(rng)
    domains = [domain.name for domain in topology.domains]
    clusters = [cluster for domain in topology.domains for cluster in domain.clusters]
    offered = {name for domain in topology.domains for name in domain.blocks}
    gang = min(sum(node.slots for node in cluster.always) for cluster in clusters)
    gang = 1 if any(cluster.quotas != QuotaTree.flat() for cluster in clusters) else gang
    bare = Scenario(
        topology,
        tuple(
            workflow_of(rng, seed * 100 + number, number, domains, sorted(offered), gang)
            for number in range(rng.randint(1, 5))
        ),
        seed=seed,
        noise=rng.choice([0.0, 0.5]),
        bandwidth=rng.choice([0.0, 2e7]),
        inside=rng.choice([0.0, 1e9]),
        links=links_of(rng, domains, 0.1),
        store=rng.choice(["", "", *domains[:2]]),
        known=rng.choice(list(Known)),
        changes=tuple(change for cluster in clusters for change in changes_of(rng, cluster)),
        blocks={name: replicas_of(rng) for name in sorted(offered) if rng.random() < 0.6},
    )
    rate = rng.choice([0.0, 2.0, 10.0, 40.0])
    if not rate:
        return bare
    # In every third what a fault costs is held against its bound: there is one at a time.
    return replace(bare, faults=draw_faults(bare, rate, 90.0, SETTLED_S if seed % 3 == 0 else None))


# Machines -----------------------------------------------------------------------------------------------------------


def topology_of(rng: random.Random) -> Topology:
    count = rng.choices([1, 2, 3, 5, 8, 14, 60], [20, 30, 25, 15, 6, 3, 1])[0]
    limited, offering = rng.random() < 0.4, rng.random() < 0.6
    domains, made = [], 0
    while made < count:
        some = min(rng.randint(1, 3), count - made)
        clusters = tuple(
            cluster_of(rng, f"c{made + number}", 1 if count > 20 else 4, limited) for number in range(some)
        )
        domains.append(
            DomainSpec(
                f"d{len(domains)}",
                "one",
                clusters,
                rng.choice(list(DataClass)),
                blocks=tuple(name for name in BLOCKS if offering and rng.random() < 0.5),
            )
        )
        made += some
    return Topology("mixed", "d0", tuple(domains), links_of(rng, [domain.name for domain in domains], 0.4))


def cluster_of(rng: random.Random, name: str, most: int, limited: bool) -> ClusterSpec:
    nodes = tuple(node_of(rng, f"n{name[1:]}.{number}") for number in range(rng.randint(1, most)))
    cluster = ClusterSpec(name, nodes, rng.choice([0.0, 0.5, 1.0, 3.0]))
    return replace(cluster, quotas=quotas_of(rng, cluster)) if limited else cluster


def node_of(rng: random.Random, name: str) -> NodeSpec:
    """One, or a group of such that come and go."""
    has = {"gpu": float(rng.randint(0, 2)), "tpu": float(rng.random() < 0.3)}
    resources = tuple((kind, amount) for kind, amount in has.items() if amount and rng.random() < 0.6)
    return NodeSpec(
        name,
        rng.randint(1, 4),
        int(rng.choice([1, 2, 8]) * GIB),
        resources,
        rng.choice([0.5, 1.0, 1.0, 2.0, 4.0]),
        autoscale_of(rng) if rng.random() < 0.2 else None,
    )


def autoscale_of(rng: random.Random) -> Autoscale:
    dear = rng.choice([0.0, 2.0])
    return Autoscale(
        min=rng.choice([0, 0, 1]),
        max=rng.randint(1, 3),
        boot_s=rng.choice([1.0, 8.0]),
        give_up_s=20.0,
        after_s=rng.choice([0.0, 1.0]),
        within_s=rng.choice([0.0, 30.0]),
        idle_s=rng.choice([2.0, 60.0]),
        min_age_s=rng.choice([0.0, 5.0]),
        busy_below=rng.choice([0.5, 1.0]),
        up_pause_s=rng.choice([0.0, 2.0]),
        down_pause_s=rng.choice([0.0, 5.0]),
        node_hour=dear,
        per_hour=rng.choice([None, dear, 2 * dear]),
    )


def quotas_of(rng: random.Random, cluster: ClusterSpec) -> QuotaTree:
    """Cohorts, one of them in another, whose tenants have parts by class; a slot at least is left for everybody."""
    left = sum(node.slots * len(node.members) for node in cluster.always) - 1
    shares: list[TenantQuota] = []
    for number in range(3):
        guarantee = rng.randint(0, max(0, left))
        left -= guarantee
        its = share(f"t{number}", rng.choice([0.5, 1.0, 4.0]), guarantee, borrows=rng.choice([None, 2]))
        part = Quota({SLOTS: float(rng.randint(0, guarantee))} if guarantee else {})
        classes = (ClassQuota("scan", rng.choice([1.0, 3.0]), part), ClassQuota("work"))
        shares.append(replace(its, classes=classes[: rng.randint(0, 2)]))
    inner = CohortQuota("team", tuple(shares[1:2]), rng.choice([1.0, 2.0]), parent="house")
    others = CohortQuota("others", (*shares[2:], TenantQuota(ANY)))
    return QuotaTree((CohortQuota("house", tuple(shares[:1]), rng.choice([0.5, 1.0, 4.0])), inner, others))


def changes_of(rng: random.Random, cluster: ClusterSpec) -> list[QuotasChange]:
    """Other trees while steps run, where there is one."""
    if cluster.quotas == QuotaTree.flat():
        return []
    return [
        QuotasChange(round(rng.uniform(0.0, 60.0), 3), cluster.name, quotas_of(rng, cluster))
        for _ in range(rng.randint(0, 2))
    ]


def links_of(rng: random.Random, domains: list[str], part: float) -> tuple[Link, ...]:
    return tuple(
        Link(source, target, rng.choice([0.001, 0.2]), rng.choice([1e6, 2e7, 1e9]))
        for source in domains[:8]
        for target in domains[:8]
        if rng.random() < part
    )


# Workflows ----------------------------------------------------------------------------------------------------------


def workflow_of(
    rng: random.Random, seed: int, number: int, domains: list[str], offered: list[str], gang: int
) -> Workflow:
    """`offered`: blocks that some domain has; `gang`: so many steps at most start together."""
    size, drawn = rng.randint(1, 25), rng.choice(sorted({**shapes.SHAPES, **families.FAMILIES}))
    draw = shapes.draw if drawn in shapes.SHAPES else families.draw
    its = draw(drawn, size, seed, name=f"w{number}")
    worth = sum(step.seconds for step in its.steps.values()) / len(its.steps)
    scale = rng.choice([0.05, 1.0, 5.0, 20.0]) / worth
    highest = rng.choice(list(DataClass))
    keys = list(its.steps)
    demands = rng.choice([0.0, 0.2, 0.6])

    def changed(step: WorkflowStep) -> WorkflowStep:
        asks = rng.random() < demands
        wants = {"gpu": rng.choice([0.5, 1.0, 2.0])} if rng.random() < 0.6 else {"tpu": 1.0}
        wants |= {"memory": rng.choice([0.5, 1.5, 6.0]) * GIB} if rng.random() < 0.5 else {}
        return replace(
            step,
            seconds=round(step.seconds * scale, 3),
            capability=rng.choice([WORK, *offered]),
            data_class=rng.choice([one for one in DataClass if one.within(highest)]),
            effect=rng.choices(list(Effect), [8, 1, 1])[0],
            priority=rng.choice([0, 0, 0, 5, -3]),
            resources=wants if asks else {},
            checkpointable=rng.random() < 0.3,
            near=tuple(rng.sample(keys, min(len(keys), 2))) if rng.random() < 0.1 else (),
            apart=tuple(rng.sample(keys, min(len(keys), 2))) if rng.random() < 0.1 else (),
            copies=rng.choice([0, 0, 1]),
            inputs={need: rng.choice([0.0, 1e6, 5e7]) for need in step.needs},
            reads=rng.choice([0.0, 0.0, 1e8]),
            writes=rng.choice([None, 1e7]),
        )

    steps = {key: changed(step) for key, step in its.steps.items()}
    return replace(
        its,
        steps=with_gangs(steps, gang, rng),
        arrives=round(rng.uniform(0, 20), 3),
        tenant=f"t{rng.randint(0, 3)}",
        domain=rng.choice(domains),
        objective=rng.choice(["balanced", "fastest", "cheapest"]),
        job=rng.choice(["", "nightly"]),
        budget=rng.choice([None, None, 10.0, 100.0]),
        deadline=rng.choice([None, 10.0, 100.0]),
    )


# What may fail ------------------------------------------------------------------------------------------------------


def could_run(its: Scenario, step: WorkflowStep) -> bool:
    """Is there a node, or could there be one, that has what it asks for, in a domain that may see its data and offers it?"""
    return any(node_fits(node, step) for domain in takers(its, step) for c in domain.clusters for node in c.nodes)


def takers(its: Scenario, step: WorkflowStep) -> list[DomainSpec]:
    return [
        domain
        for domain in its.topology.domains
        if step.data_class.within(domain.handles) and step.capability in (WORK, *domain.blocks)
    ]


def node_fits(node: NodeSpec, step: WorkflowStep) -> bool:
    there = node.autoscale is None or node.autoscale.most > 0
    return there and all(node.amounts.get(name, 0.0) >= amount for name, amount in step.resources.items())


def wrong_with(its: Scenario) -> list[str]:
    """What broke there; of steps that failed, those that failed for another reason than there is."""
    world = World(its, True, lambda *_: None)
    report = world.run()
    wrong = list(report.violations)
    if report.done + report.failed != sum(len(workflow.steps) for workflow in its.workflows):
        wrong.append(f"{report.done} steps are done and {report.failed} failed, which is not all")
    for run in world.runs:
        for key, refusal in run.ledger.failed.items():
            step = run.workflow.steps[key]
            if not any(need in run.ledger.failed for need in step.needs) and not _may(its, run.workflow, step, refusal):
                wrong.append(f"{run.name}/{key}: {refusal}")
    return wrong


def _may(its: Scenario, workflow: Workflow, step: WorkflowStep, refusal: Refusal) -> bool:
    """May the step fail for that?"""
    return {
        "flow.no_place": not takers(its, step),
        "flow.never": not could_run(its, step),
        "flow.budget": workflow.budget is not None,
        "flow.poison_step": bool(its.faults),
        "flow.at_most_once": step.effect is Effect.AT_MOST_ONCE,
        "flow.gang_broken": bool(step.gang),
        "flow.gang_lost": bool(step.gang),
    }.get(refusal.code, False)
