"""Policies in force, container images on disk, and templates."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.adapters.files.oci_layout import read_layout
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.images import Platform, Reference, image_record, read_reference
from ioi_dagster.ras.policies import BundleSpec, policy_view
from ioi_dagster.ras.record import Record, make_record
from ioi_dagster.ras.templates import instantiate, instantiate_record, template_of
from ioi_dagster.ras.urn import Kind
from ioi_dagster.signing import SigningKey

LAB, CLOUD = SigningKey.generate("lab.example"), SigningKey.generate("cloud.example")
MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
CONFIG, LAYER = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"


def test_which_rules_are_in_force_where():
    view = policy_view(
        [
            make_record(LAB, Kind.POLICY, "bundle", "1", BundleSpec("sha256:a", ("book", "book/lab"))),
            make_record(CLOUD, Kind.POLICY, "bundle", "1", BundleSpec("sha256:b", ("book",))),
            make_record(CLOUD, Kind.POLICY, "odd", "1", {"revision": 1}),
            make_record(CLOUD, Kind.MODEL, "m", "1", {}),
        ]
    )
    assert view.scopes() == {
        "book": {"sha256:a": ("lab.example",), "sha256:b": ("cloud.example",)},
        "book/lab": {"sha256:a": ("lab.example",)},
    }
    assert view.differing() == ("book",)
    assert view.unreadable == ("urn:ioi:cloud.example:policy:odd 1",)


def blob(layout: Path, document: object, media_type: str, **more: object) -> dict:
    data = json.dumps(document).encode()
    hexed = sha256(data).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / hexed).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{hexed}", "size": len(data), **more}


def layout(folder: Path, tags: tuple[str, ...] = ("1.0", "latest")) -> dict:
    """An image for two platforms, with an attestation beside it."""
    manifests = []
    for architecture, variant in (("amd64", ""), ("arm64", "v8")):
        runs = {"Entrypoint": ["/bin/ocr"], "Cmd": ["--serve"], "Labels": {"title": "ocr"}, "Env": ["A=b"]}
        config = blob(folder, {"os": "linux", "architecture": architecture, "variant": variant, "config": runs}, CONFIG)
        layer = {"mediaType": LAYER, "digest": "sha256:" + "0" * 64, "size": 70}
        document = {"schemaVersion": 2, "config": config, "layers": [layer, layer]}
        manifests.append(blob(folder, document, MANIFEST, platform={"os": "linux", "architecture": architecture}))
    manifests.append({**manifests[0], "platform": {"os": "unknown", "architecture": "unknown"}})
    index = blob(folder, {"schemaVersion": 2, "manifests": manifests, "annotations": {"made": "here"}}, INDEX)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = [{**index, "annotations": {"org.opencontainers.image.ref.name": tag}} for tag in tags]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))
    return index


def test_an_image_is_read_from_a_folder(tmp_path):
    index = layout(tmp_path)
    (image,) = read_layout(tmp_path)
    assert (image.digest, image.tags, image.annotations) == (index["digest"], ("1.0", "latest"), {"made": "here"})
    assert [one.name for one in image.platforms] == ["linux/amd64", "linux/arm64/v8"]
    arm = image.on("linux", "arm64")
    assert arm == Platform(
        "linux", "arm64", image.platforms[1].digest, 140, "v8", {"title": "ocr"}, ("/bin/ocr",), ("--serve",)
    )
    assert image.on("windows", "amd64") is None
    record = image_record(LAB, Reference("lab.example:5000/ocr", "1.0"), image)
    assert record.spec["reference"] == f"lab.example:5000/ocr:1.0@{image.digest}"
    with pytest.raises(BadInputError, match="has the digest"):
        image_record(LAB, Reference("ocr", digest="sha256:" + "0" * 64), image)


@pytest.mark.parametrize("what", ["changed", "gone", "not json", "index in itself", "version", "odd digest"])
def test_a_layout_that_is_not_whole_is_none(tmp_path, what):
    index = layout(tmp_path)
    path = tmp_path / "blobs/sha256" / index["digest"].removeprefix("sha256:")
    named = json.loads((tmp_path / "index.json").read_text())
    if what == "changed":
        path.write_bytes(path.read_bytes().replace(b"here", b"hers"))
    elif what == "gone":
        path.unlink()
    elif what == "not json":
        (tmp_path / "index.json").write_text("{")
    elif what == "index in itself":
        inner = index
        for _ in range(6):
            inner = blob(tmp_path, {"manifests": [inner]}, INDEX)
        named["manifests"] = [inner]
        (tmp_path / "index.json").write_text(json.dumps(named))
    elif what == "version":
        (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "9"}')
    else:
        named["manifests"][0]["digest"] = "sha256:../../../etc/passwd"
        (tmp_path / "index.json").write_text(json.dumps(named))
    with pytest.raises(BadInputError):
        read_layout(tmp_path)


def test_a_reference_says_which_image_is_meant():
    digest = "sha256:" + "ab" * 32
    assert read_reference(f"registry.example:5000/a/b:1@{digest}") == Reference(
        "registry.example:5000/a/b", "1", digest
    )
    assert read_reference("ubuntu:24.04") == Reference("ubuntu", "24.04")
    for odd in ("", "a b", "A/B@sha256:1", f"a@{digest.upper()}", "a/../b", "x" * 600, f"@{digest}"):
        with pytest.raises(BadInputError):
            read_reference(odd)


PARAMETERS = {
    "properties": {
        "nodes": {"type": "integer", "minimum": 1, "maximum": 9},
        "name": {"type": "string", "maxLength": 20},
        "handles": {"enum": ["public", "internal"], "default": "internal"},
    }
}
BODY = {
    "name": {"$parameter": "name"},
    "all": [{"nodes": {"$parameter": "nodes"}}, {"$literal": {"$parameter": "name"}}],
    "handles": {"$parameter": "handles"},
}


def template(**odd: object) -> Record:
    return make_record(
        LAB,
        Kind.TEMPLATE,
        "cluster",
        "1.0.0",
        {"makes": "record", "kind": "cluster", "parameters": PARAMETERS, "body": BODY, **odd},
    )


@settings(max_examples=30, deadline=None)
@given(st.text('a{}$"\\é', max_size=20), st.integers(1, 9))
def test_a_hole_is_filled_with_a_whole_value_and_nothing_in_it_is_looked_at(name, nodes):
    made = instantiate(template_of(template()), {"name": name, "nodes": nodes})
    assert made == {"name": name, "all": [{"nodes": nodes}, {"$parameter": "name"}], "handles": "internal"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": "a"}, "not given: nodes"),
        ({"name": "a", "nodes": 1, "more": 1}, "no parameter more"),
        ({"name": "a", "nodes": 10}, "nodes"),
        ({"name": "a", "nodes": "1"}, "nodes"),
        ({"name": {"$parameter": "nodes"}, "nodes": 1}, "name"),
        ({"name": "a", "nodes": 1, "handles": "restricted"}, "handles"),
        ({"name": "x" * 70_000, "nodes": 1}, "bytes"),
    ],
)
def test_values_that_do_not_fit_are_named(values, told):
    with pytest.raises(BadInputError, match=told):
        instantiate(template_of(template()), values)


@pytest.mark.parametrize(
    "odd",
    [
        {"makes": "magic"},
        {"kind": "thing"},
        {"parameters": []},
        {"parameters": {"properties": {"name": {"type": "strong"}}}, "body": {"$parameter": "name"}},
        {"body": {"$parameter": "name"}},
        {"body": {**BODY, "more": {"$parameter": "other"}}},
        {"body": {**BODY, "more": {"$parameter": "name", "x": 1}}},
        {"body": {**BODY, "more": {"$literal": 1, "x": 1}}},
    ],
)
def test_a_template_that_makes_no_sense_is_none(odd):
    with pytest.raises(BadInputError):
        template_of(template(**odd))


def test_a_record_of_a_template_says_so():
    made = instantiate_record(template(), {"name": "c", "nodes": 3}, CLOUD, "c", "1.0.0")
    assert (made.urn, made.spec["name"]) == ("urn:ioi:cloud.example:cluster:c", "c")
    assert made.provenance[0]["digest"] == template().digest
    assert made.provenance[0]["values"] == {"name": "c", "nodes": 3}
    with pytest.raises(BadInputError, match="makes a topology"):
        instantiate_record(template(makes="topology"), {}, CLOUD, "c", "1")
