from __future__ import annotations

from pathlib import Path

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import TOPOLOGY
from ioi_dagster.local.topology_file import load_topology
from ioi_dagster.model.autoscale import Autoscale
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_stores import DataSpec, DoorSpec, StoreSpec, doors_between
from ioi_dagster.model.placement import Link
from ioi_dagster.model.topology import NodeSpec

GOOD = """\
network: n
home: a
domains:
  - name: a
    authority: x
    clusters: [{name: c1, nodes: [{name: n1}]}]
  - name: b
    authority: x
    clusters: [{name: c2, nodes: [{name: n2}]}]
"""


def errors_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "topology.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError) as caught:
        load_topology(path)
    return str(caught.value).replace(str(path), "FILE")


def test_the_shipped_topology_is_three_domains():
    topology = load_topology(TOPOLOGY)
    assert [(d.name, d.handles, d.retains) for d in topology.domains] == [
        ("library.example", DataClass.RESTRICTED, True),
        ("lab.example", DataClass.INTERNAL, True),
        ("cloud.example", DataClass.PUBLIC, False),
    ]
    assert topology.home == "library.example"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("home: a", "home: a\ncolour: red"), "FILE:3: unknown key 'colour'"),
        (("name: b", "name: a"), "FILE:7: domain 'a' was named before, on line 4"),
        (("name: c2", "name: c1"), "FILE:9: cluster 'c1' was named before, on line 6"),
        (("name: n2", "name: n1"), "FILE:9: node 'n1' was named before, on line 6"),
        (("home: a", "home: z"), "FILE:2: home 'z' is not one of the domains"),
        (("home: a\n", ""), "FILE:1: the topology lacks 'home'"),
        (("nodes: [{name: n1}]", "nodes: []"), "FILE:6: nodes may not be empty"),
        (("{name: n1}", "{name: n1, slots: many}"), "FILE:6: slots must be of type int"),
        (("{name: n1}", "{name: n1, slots: 0}"), "FILE:6: slots must be from 1 to 1024"),
        (("{name: n1}", "{name: n1, speed: 0}"), "FILE:6: speed must be from 0.001 to 1000"),
        (("{name: n1}", "{name: n1, speed: .inf}"), "FILE:6: speed must be from 0.001 to 1000"),
        (("{name: n1}", "{name: n1, memory: -5}"), "FILE:6: memory must be from"),
        (("{name: n1}", "{name: n1, slots: !!int abc}"), "FILE:6: slots must be of type int"),
        (("{name: n1}", "{name: n1, slots: 2001-99-99}"), "FILE:6: slots must be of type int"),
        (("{name: c1,", "{name: c1, price: .nan,"), "FILE:6: price must be from"),
        (("{name: c1,", "{name: c1, tenants: [{name: t, weight: 0}],"), "FILE:6: weight must be from 0.01 to 1000"),
        (("{name: c1,", "{name: c1, tenants: [{weight: 2}],"), "FILE:6: a tenant lacks 'name'"),
        (("{name: n1}", "{name: n1, memory: 4 pounds}"), "FILE:6: memory says '4 pounds' is no amount"),
        (("{name: n1}", "{name: n1, resources: [gpu]}"), "FILE:6: resources must give amounts by resource"),
        (("{name: n1}", "{name: n1, resources: {gpu: -1}}"), "FILE:6: resources of gpu must be from 0 to 1e+18"),
        (("{name: n1}", "{name: n1, resources: {gpu: .nan}}"), "FILE:6: resources of gpu must be from 0"),
        (("{name: n1}", "{name: n1, resources: {gpu: [1]}}"), "FILE:6: resources of gpu must be of type float"),
        (("{name: n1}", "{name: n1, resources: {gpu: 1, gpu: 2}}"), "FILE:6: resource 'gpu' is given twice"),
        (("{name: n1}", "{name: n1, resources: {a/b: 1}}"), "FILE:6: resource 'a/b' must be letters"),
        (("{name: n1}", "{name: n1, resources: {slots: 1}}"), "FILE:6: slots of a node stand beside its resources"),
        (("name: a\n    auth", "name: ../../etc\n    auth"), "FILE:4: name '../../etc' must be letters"),
        (("{name: n1}", "{name: n/1}"), "FILE:6: name 'n/1' must be letters"),
        (("name: b\n", "name: a.example\n"), "FILE:7: 'a.example' and 'a' would share the policies of 'a'"),
        (("authority: x\n    clusters: [{name: c1", "authority: x\n    handles: secret\n    clusters: [{name: c1"),
         "FILE:6: unknown data class 'secret'"),
        (("{name: n1}", "{name: g, autoscale: {min: 1}}"), "FILE:6: autoscale lacks 'max'"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, size: 1}}"), "FILE:6: unknown key 'size' in autoscale"),
        (("{name: n1}", "{name: g, autoscale: {min: 3, max: 2}}"), "FILE:6: min is 3 and max is 2"),
        (("{name: n1}", "{name: g, autoscale: {max: 0}}"), "FILE:6: max must be from 1 to 1000"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, idle_s: -1}}"), "FILE:6: idle_s must be from 0 to 86400"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, busy_below: 2}}"), "FILE:6: busy_below must be from 0 to 1"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, per_day: 5}}"), "FILE:6: per_day bounds what nodes cost"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, node_hour: 3, per_hour: 2}}"), "FILE:6: per_hour pays for 0 nodes"),
        (("{name: n1}", "{name: g, autoscale: {min: 2, max: 2, node_hour: 3, per_hour: 5}}"), "FILE:6: per_hour pays for 1"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, node_hour: 3, per_day: 0.02}}"),
         "FILE:6: per_day (0.02) never pays for a node: one costs 0.05 at least, 3 an hour for 60 s"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, boot_s: 60, give_up_s: 9}}"), "FILE:6: give_up_s (9) is before"),
        (("{name: n1}", "{name: g, autoscale: {max: 2, launcher: cloud}}"), "FILE:6: launcher 'cloud' must name a function"),
        (("{name: n1}", "{name: n, autoscale: {max: 2}}, {name: n-2}"), "FILE:6: node 'n-2' of group 'n' would be called"),
        (("{name: n1}", f"{{name: {'g' * 63}, autoscale: {{max: 2}}}}"), "a name has 63 letters at most"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_line(tmp_path, change, expected):
    assert expected in errors_of(tmp_path, GOOD.replace(*change))


def test_all_mistakes_are_named_at_once(tmp_path):
    text = errors_of(tmp_path, GOOD.replace("home: a", "home: z").replace("name: b", "name: a"))
    assert "FILE:2:" in text
    assert "FILE:7:" in text


def test_parents_that_form_a_cycle_are_an_error(tmp_path):
    text = GOOD.replace("  - name: a\n", "  - name: a\n    parent: b\n").replace(
        "  - name: b\n", "  - name: b\n    parent: a\n"
    )
    assert "the domains' parents form a cycle: a → b → a" in errors_of(tmp_path, text)


def test_what_is_told_of_links_is_known_to_the_domains_at_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(
        GOOD
        + """\
  - name: c
    authority: x
    clusters: [{name: c3, nodes: [{name: n3}]}]
links:
  - {between: [a, b], bandwidth: 20MB, latency: 0.05}
  - {between: [a, a], bandwidth: 2GB}
  - {source: c, target: b, bandwidth: 1000000}
"""
    )
    there, back = Link("a", "b", 0.05, 20e6), Link("b", "a", 0.05, 20e6)
    inside, one_way = Link("a", "a", 0.0005, 2e9), Link("c", "b", 0.02, 1e6)
    topology = load_topology(path)
    assert topology.links == (there, back, inside, one_way)
    assert {name: topology.links_of(name) for name in "abc"} == {
        "a": (there, back, inside),
        "b": (there, back, one_way),
        "c": (one_way,),
    }


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("{between: [a, b]}", "FILE:11: a link lacks 'bandwidth'"),
        ("{between: [a, bb], bandwidth: 1MB}", "FILE:11: a link names 'bb', which is no domain; did you mean b?"),
        ("{between: [a, z], bandwidth: 1MB}", "FILE:11: a link names 'z', which is no domain; known: a, b"),
        ("{between: [a, c2], bandwidth: 1MB}", "FILE:11: a link is between domains, and 'c2' is a cluster of 'b'"),
        ("{between: [a], bandwidth: 1MB}", "FILE:11: between must name two domains, or one twice"),
        ("{between: a, bandwidth: 1MB}", "FILE:11: between must be a list"),
        ("{source: a, bandwidth: 1MB}", "FILE:11: a link is between two domains (between: [one, other]), or has"),
        ("{between: [a, b], source: a, bandwidth: 1MB}", "FILE:11: a link is between two domains"),
        ("{source: a, target: [b], bandwidth: 1MB}", "FILE:11: an end of a link must be of type str"),
        ("{between: [a, b], bandwidth: 0}", "FILE:11: bandwidth must be from 1000 to 1e+15"),
        ("{between: [a, b], bandwidth: fast}", "FILE:11: bandwidth says 'fast' is no amount"),
        ("{between: [a, b], bandwidth: 1MB, latency: -1}", "FILE:11: latency must be from 0 to 3600"),
        ("{between: [a, b], bandwidth: 1MB, latency: soon}", "FILE:11: latency must be of type float"),
        ("{between: [a, b], bandwidth: 1MB, colour: red}", "FILE:11: unknown key 'colour' in a link"),
        ("[a, b]", "FILE:11: a link must be a mapping"),
        (
            "{source: b, target: a, bandwidth: 1MB}\n  - {between: [a, b], bandwidth: 1MB}",
            "FILE:12: a link from 'b' to 'a' was named before",
        ),
    ],
)
def test_what_is_wrong_with_a_link_is_told_with_its_line(tmp_path: Path, link: str, expected: str) -> None:
    assert expected in errors_of(tmp_path, f"{GOOD}links:\n  - {link}\n")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: *b", "a: [", "- - -", "\t"])
def test_what_is_no_topology_is_refused_in_words(tmp_path, text):
    assert "FILE" in errors_of(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInputError, match="cannot be read"):
        load_topology(tmp_path / "none.yaml")


def test_a_parents_policies_bind_its_child(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("name: b\n", "name: b.example\n    parent: a\n"))
    topology = load_topology(path)
    assert topology.scopes("a") == ("n", "n/a")
    assert topology.scopes("b.example") == ("n", "n/a", "n/a/b")


def test_a_bottomless_file_is_refused(tmp_path):
    assert "nested too deeply" in errors_of(tmp_path, "[" * 20_000)


def test_sizes_of_memory_may_have_units(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("{name: n1}", "{name: n1, memory: 4GiB}"))
    (cluster,) = load_topology(path).domain("a").clusters
    assert cluster.nodes == (NodeSpec("n1", memory=4 * 2**30, limited=True),)


def test_a_node_of_which_no_memory_is_stated_limits_no_step(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("{name: n1}", "{name: n1, memory: 2GiB}, {name: n3}"))
    one, other = load_topology(path).domain("a").clusters[0].nodes
    assert (one.memory, one.limited, other.memory, other.limited) == (2 * 2**30, True, 2 * 2**30, False)


@pytest.mark.parametrize(("text", "wanted"), [("", False), ("dask_tls: true", True), ("dask_tls: false", False)])
def test_an_owner_may_want_tls_between_his_own_processes(tmp_path, text, wanted):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("name: b\n", f"name: b\n    {text}\n"))
    topology = load_topology(path)
    assert (topology.domain("a").dask_tls, topology.domain("b").dask_tls) == (False, wanted)
    path.write_text(GOOD.replace("name: b\n", "name: b\n    dask_tls: 1\n"))
    with pytest.raises(BadInputError, match="dask_tls must be of type bool"):
        load_topology(path)


def test_nodes_may_be_faster_than_others(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("{name: n1}", "{name: n1, speed: 1.5}, {name: n3}"))
    assert [node.speed for node in load_topology(path).domain("a").clusters[0].nodes] == [1.5, 1.0]


def test_nodes_have_resources_of_any_name(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("{name: n1}", "{name: n1, slots: 2, resources: {licence: 0.5, gpu: 2}}, {name: n3}"))
    (cluster,) = load_topology(path).domain("a").clusters
    assert cluster.nodes[0].resources == (("gpu", 2.0), ("licence", 0.5))
    assert cluster.capacity == {"slots": 3.0, "memory": 4.0 * 2**30, "gpu": 2.0, "licence": 0.5}


def test_nodes_of_a_group_come_and_go(tmp_path):
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("{name: n1}", "{name: n1}, {name: g, slots: 2, autoscale: {max: 3, idle_s: 60}}"))
    (cluster,) = load_topology(path).domain("a").clusters
    assert [node.name for node in cluster.always] == ["n1"]
    assert [(node.name, node.autoscale) for node in cluster.groups] == [("g", Autoscale(max=3, idle_s=60.0))]
    assert list(cluster.members()) == ["n1", "g-1", "g-2", "g-3"]
    assert cluster.capacity["slots"] == 7.0  # when all are there


DATA = """    data:
      survey_s: 60
      stores:
        - {name: shelf, url: data, most: 10GiB}
        - {name: attic, url: "s3://attic/ours", credentials: attic}
      doors:
        - {domain: far.example, url: "https://far.example/data/"}
"""


def test_where_a_domain_keeps_data_is_not_in_what_its_members_read(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(GOOD.replace("  - name: b\n", f"{DATA}  - name: b\n"))
    topology = load_topology(path)
    assert topology.data == {
        "a": DataSpec(
            (StoreSpec("shelf", "data", most=10 * 2**30), StoreSpec("attic", "s3://attic/ours", "attic")),
            (DoorSpec("far.example", "https://far.example/data"),),
            60.0,
        )
    }
    assert "attic" not in repr(topology.domains)


def test_a_store_without_a_scheme_is_below_the_domains_own_folder_and_a_door_of_all_others() -> None:
    stated = {"a": DataSpec((StoreSpec("shelf", "data"), StoreSpec("disk", "/srv/x"), StoreSpec("attic", "s3://b/c")))}
    stated = {name: its.at(f"/home/{name}") for name, its in stated.items()}
    assert [store.url for store in stated["a"].stores] == ["file:///home/a/data", "file:///srv/x", "s3://b/c"]
    assert doors_between(stated, "a") == ()
    assert doors_between(stated, "b") == tuple(DoorSpec("a", store.url) for store in stated["a"].stores)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{stores: [{name: s, url: data, size: 1}]}", "FILE:7: unknown key 'size' in a store"),
        ("{stores: [{name: s}]}", "FILE:7: a store lacks 'url'"),
        ("{stores: []}", "FILE:7: stores may not be empty"),
        ("{stores: [{name: s, url: data, most: lots}]}", "FILE:7: most says 'lots' is no amount"),
        ("{stores: [{name: s, url: data, most: 0}]}", "FILE:7: most must be from 1 to"),
        ("{stores: [{name: s, url: 's3://ann:secret@host/x'}]}", "FILE:7: url may not hold credentials"),
        ("{stores: [{name: s, url: 's3://x', credentials: [k]}]}", "FILE:7: credentials must be of type str"),
        ("{stores: [{name: s, url: 'zip://a::file:///b'}]}", "FILE:7: url 'zip://a::file:///b' holds one of"),
        ("{stores: [{name: s, url: '../x'}]}", "FILE:7: url '../x' may not hold the folders . and .."),
        (
            "{stores: [{name: s, url: 'gopher9://x'}]}",
            "FILE:7: url has the scheme 'gopher9', which fsspec does not know",
        ),
        ("{stores: [{name: s, url: 'file://srv/x'}]}", "FILE:7: url 'file://srv/x' lacks a /"),
        ("{stores: [{name: s, url: 'https://x/y'}]}", "FILE:7: nothing is written by http"),
        ("{stores: [{name: s, url: x}, {name: s, url: y}]}", "FILE:7: two stores have the name 's'"),
        ("{stores: [{name: s, url: x}, {name: t, url: x/y}]}", "FILE:7: store 't' lies in store 's'"),
        ("{doors: [{domain: z, url: data}]}", "FILE:7: a door is a whole URL, as file:///srv/data, not 'data'"),
        ("{survey_s: 0}", "FILE:7: survey_s must be from 1 to 28800"),
        ("[1]", "FILE:7: data must be a mapping"),
    ],
)
def test_what_is_wrong_with_stores_is_told_with_its_line(tmp_path: Path, data: str, expected: str) -> None:
    text = GOOD.replace("  - name: b\n", f"    data: {data}\n  - name: b\n")
    line = text[: text.index("data:")].count("\n") + 1
    assert expected.replace("FILE:7", f"FILE:{line}") in errors_of(tmp_path, text)


def test_a_domain_that_retains_nothing_keeps_no_data(tmp_path: Path) -> None:
    text = GOOD.replace("  - name: b\n", "    retains: false\n    data: {stores: [{name: s, url: x}]}\n  - name: b\n")
    assert "a domain that retains nothing keeps no data" in errors_of(tmp_path, text)
