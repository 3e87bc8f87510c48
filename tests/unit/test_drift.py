"""What runs and what its file says by now: every difference is told, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest

from ioi_dagster.cli_doctor import Finding, examine
from ioi_dagster.local.drift import BY_QUOTA, BY_START, differences
from ioi_dagster.local.home import domains_in, open_federation
from ioi_dagster.local.identity import locked
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.placement import Link
from ioi_dagster.model.quota import Quota, QuotaTree, TenantQuota
from ioi_dagster.model.topology import ClusterSpec, DomainSpec, NodeSpec

NODE, POOL = NodeSpec("n1", resources=(("gpu", 1.0),)), NodeSpec("pool", autoscale=Autoscale(max=2))
CLUSTER = ClusterSpec("main", (NODE, POOL), 0.8)
DOMAIN = DomainSpec("a", "ours", (CLUSTER,), blocks=("ocr",))


def told(new: DomainSpec, *more: DomainSpec) -> list[str]:
    running, stated = {DOMAIN.name: DOMAIN}, {one.name: one for one in (new, *more)}
    return [one.what for one in differences(running, stated)]


def with_cluster(**changes: object) -> DomainSpec:
    return replace(DOMAIN, clusters=(replace(CLUSTER, **changes),))


def with_node(**changes: object) -> DomainSpec:
    return with_cluster(nodes=(replace(NODE, **changes), POOL))


ANN = QuotaTree.flat((TenantQuota("ann", 2.0, Quota(guarantee={"slots": 1.0})),))


@pytest.mark.parametrize(
    ("new", "what"),
    [
        (DOMAIN, []),
        (
            replace(DOMAIN, name="b"),
            ["domain b is in the file and does not run", "domain a runs and is not in the file"],
        ),
        (replace(DOMAIN, handles=DataClass.PUBLIC), ["domain a runs with handles internal, the file says public"]),
        (replace(DOMAIN, retains=False), ["domain a runs with retains true, the file says false"]),
        (replace(DOMAIN, blocks=("ocr", "trim")), ["domain a runs with blocks ocr, the file says ocr, trim"]),
        (replace(DOMAIN, parent="b"), ["domain a runs with parent none, the file says b"]),
        (with_cluster(price=0.9), ["cluster main runs with price 0.8, the file says 0.9"]),
        (
            with_cluster(name="other"),
            ["cluster other of a is in the file and does not run", "cluster main of a runs and is not in the file"],
        ),
        (with_cluster(nodes=(NODE,)), ["node pool of main runs and is not in the file"]),
        (with_cluster(nodes=(NODE, POOL, NodeSpec("n2"))), ["node n2 of main is in the file and does not run"]),
        (with_cluster(nodes=(POOL, NODE)), []),
        (with_node(slots=2), ["node n1 runs with slots 1, the file says 2"]),
        (with_node(limited=True), ["node n1 runs with memory 2 GiB (no limit), the file says 2 GiB"]),
        (with_node(resources=()), ["node n1 runs with resources gpu=1, the file says none"]),
        (with_node(autoscale=Autoscale()), ["node n1 runs with autoscale false, the file says true"]),
        (
            with_cluster(nodes=(NODE, replace(POOL, autoscale=Autoscale(max=4)))),
            ["group pool runs with max 2, the file says 4"],
        ),
        (with_cluster(quotas=ANN), ["quotas of main for cohort all, tenant ann stand in the file only"]),
    ],
)
def test_what_differs_is_said(new, what):
    assert told(new) == what


@pytest.mark.parametrize("spec", [DOMAIN, CLUSTER, NODE], ids=["domain", "cluster", "node"])
def test_no_field_of_the_file_is_left_out(spec):
    """A field that is new here has to be compared, too."""
    others = {
        str: "other", int: 7, float: 7.5, bool: True, DataClass: DataClass.PUBLIC, Autoscale: None,
        tuple: (), QuotaTree: ANN, type(None): Autoscale(),
    }  # fmt: skip
    for one in fields(spec):
        value = getattr(spec, one.name)
        other = others[type(value)]
        other = not value if isinstance(value, bool) else other
        changed = replace(spec, **{one.name: other})
        wrap = {"DomainSpec": lambda its: its, "ClusterSpec": lambda its: replace(DOMAIN, clusters=(its,))}
        as_node = lambda its: with_cluster(nodes=(its, POOL))
        assert told(wrap.get(type(spec).__name__, as_node)(changed)), one.name


def test_domains_that_are_more_or_less_do_not_hide_what_else_differs():
    assert told(with_cluster(price=0.9), replace(DOMAIN, name="b")) == [
        "domain b is in the file and does not run",
        "cluster main runs with price 0.8, the file says 0.9",
    ]


# With files ------------------------------------------------------------------------------------------------------------


def write(file: Path, price: float = 0.8, tenants: str = "[]", nodes: int = 1, links: str = "") -> None:
    its = ", ".join(f"{{name: lab-{number}}}" for number in range(1, nodes + 1))
    cluster = f"{{name: lab-main, price: {price}, nodes: [{its}], tenants: {tenants}}}"
    file.write_text(
        f"network: book\nhome: lab.example\n{links and f'links: {links}'}\n"
        f"domains:\n  - {{name: lab.example, authority: ours, clusters: [{cluster}]}}\n"
    )


@contextmanager
def running(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A home whose domain runs, as its supervisor's lock says, and the file that it was started with."""
    file, home = folder / "ours.yaml", folder / "home"
    write(file)
    federation = open_federation(home, file, ())
    federation.prepare()
    federation.stop()
    (domain,) = domains_in(home)
    with locked(domain.root / "supervisor.lock"):
        yield home, file


def found(home: Path) -> Finding:
    return next(one for one in examine(home) if one.what == "what runs")


def test_the_doctor_says_what_was_edited_while_it_runs_and_what_to_do(tmp_path):
    with running(tmp_path) as (home, file):
        assert (found(home).state, found(home).found) == ("ok", f"what {file} says")
        write(file, price=0.9, tenants="[{name: ann, guarantee: 1}]", nodes=2)
        assert (found(home).state, found(home).remedy) == ("mend", BY_START)
        assert found(home).found == (
            f"not what {file} says: cluster lab-main runs with price 0.8, the file says 0.9; "
            "quotas of lab-main for cohort all, tenant ann stand in the file only; "
            "node lab-2 of lab-main is in the file and does not run"
        )
        write(file, tenants="[{name: ann, guarantee: 1}]")
        assert (found(home).state, found(home).remedy) == ("mend", BY_QUOTA)
        write(file, links="[{between: [lab.example, lab.example], bandwidth: 1MB}]")
        link = "link from lab.example to lab.example"
        assert found(home).found == f"not what {file} says: {link} is in the file and counts for no run yet"
        (domain,) = domains_in(home)
        domain.save_config(replace(domain.config(), links=(Link("lab.example", "lab.example", 0.5, 1e6),)))
        write(file, links="[{source: lab.example, target: lab.example, latency: 0.5, bandwidth: 2MB}]")
        said = f"{link} runs with bandwidth 1000000.0, the file says 2000000.0"
        assert (found(home).found, found(home).remedy) == (f"not what {file} says: {said}", BY_START)
        write(file)
        assert found(home).found == f"not what {file} says: {link} counts for runs and is not in the file"
        file.write_text("network: ours")
        assert found(home).state == "note"
    write(file, price=0.9)
    assert found(home).state == "ok", "what does not run begins by the file"
