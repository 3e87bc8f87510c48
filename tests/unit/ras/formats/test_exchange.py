"""Documents of other registries become records and come out again as they were."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.model.capability import Contract
from ioi_dagster.ras.formats.document import checked, read_documents
from ioi_dagster.ras.formats.draft import numbered, plain_name, plain_version
from ioi_dagster.ras.formats.exchange import FORMATS, Ambiguity, detect, export, import_document, source_format
from ioi_dagster.ras.record import Kind, make_record, read_record
from ioi_dagster.ras.urn import Scheme, checked_name, checked_version
from ioi_dagster.signing import TrustedKeys, canonical
from tests.unit.ras.formats.foreign import FILES, JSON, LAB, broken, documents, drafted, drafts, grown, record_of

TRUSTED = TrustedKeys({LAB.key_id: LAB.public_bytes})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_upstream_publishes_comes_out_byte_for_byte(path: Path):
    found = [
        (document, draft)
        for document in read_documents(path.read_bytes(), path.name)
        for draft in import_document(document, LAB.domain)
    ]
    assert found
    for _, draft in found:
        record = read_record(record_of(draft).signed, TRUSTED)
        exported = export(record)
        assert exported.lost == ()
        assert canonical(exported.document) == canonical(draft.spec["source"]["document"])
        assert source_format(record) == draft.format
    whole = [draft.spec["source"]["document"] for document, draft in found]
    assert found[0][0].value in whole or found[0][0].value["data"] == whole


def test_all_formats_have_a_document_that_shows_them():
    shown = {draft.format for path in FILES for draft in drafts(path.name)}
    assert shown == FORMATS.keys() - {"aigrid-node"}
    assert import_document({"id": "n-1", "vcpus": {"count": 8}, "clusterId": "c"}, "lab.example")[0].spec["offers"] == {
        "cpus": 8
    }


@given(grown())
@settings(max_examples=40)
def test_fields_that_nobody_knows_are_kept(value):
    before = canonical(value)
    for draft in import_document(value, LAB.domain):
        kept = canonical(export(record_of(draft)).document)
        # A container's parts are records of their own.
        assert kept == before or draft.format in ("ai-catalog", "aigrid-block", "mcp-server")
    assert canonical(value) == before


@given(broken())
@settings(max_examples=60)
def test_a_document_that_is_not_as_it_should_be_is_taken_or_refused_and_nothing_else(value):
    try:
        found = import_document(value, LAB.domain)
    except BadInputError:
        return
    for draft in found:
        record = record_of(draft)
        assert canonical(export(record).document) == canonical(draft.spec["source"]["document"])
        for name in FORMATS:
            canonical(export(record, name).document)


@given(JSON, st.sampled_from(sorted(FORMATS)))
def test_no_json_is_more_than_a_bad_input(value, name):
    for its in ("", name):
        with pytest.raises(BadInputError):
            import_document(value, LAB.domain, its)


@given(
    st.dictionaries(
        st.sampled_from(["title", "tags", "links", "endpoints", "contracts", "graph", "policies", "offers", "nodes"]),
        JSON,
    )
)
@settings(max_examples=25)
def test_a_record_of_anybody_is_written_in_any_format(spec):
    for kind in (Kind.BLOCK, Kind.CLUSTER, Kind.GRAPH):
        record = make_record(LAB, kind, "some/name", "1.0", spec)
        for name in FORMATS:
            canonical(export(record, name).document)


@pytest.mark.parametrize("target", sorted(FORMATS))
@pytest.mark.parametrize("path", FILES[::5], ids=lambda path: path.stem)
def test_what_another_format_cannot_say_is_told(path: Path, target: str):
    for draft in drafts(path.name):
        record = record_of(draft)
        exported = export(record, target)
        if target == draft.format:
            continue
        assert exported.lost
        for lost in exported.lost:
            assert lost.split("[")[0].split(".")[0] in {*draft.spec, "kind", "version"}


def test_what_was_changed_is_changed_in_the_document_and_the_rest_stays():
    draft = drafted("applications__examples__yolov5-block__component")
    contracts = [draft.spec["contracts"][0] | {"description": "finds boats", "tags": []}]
    exported = export(record_of(draft, description="finds boats", tags=None, contracts=contracts))
    expected = copy.deepcopy(draft.spec["source"]["document"])
    expected["body"]["spec"]["values"]["containerRegistryInfo"]["containerImageMetadata"]["description"] = "finds boats"
    del expected["body"]["spec"]["values"]["tags"]
    assert exported.document == expected
    assert exported.lost == ("contracts[0].tags",)


def test_what_was_changed_and_cannot_be_said_is_told():
    draft = drafted("a2a__weather")
    exported = export(record_of(draft, description="Weather, honestly", review={"by": "lab.example"}))
    assert exported.document == draft.spec["source"]["document"] | {"description": "Weather, honestly"}
    assert exported.lost == ("review",)


def test_a_block_of_our_own_is_written_as_an_agent_card():
    contract = {
        "id": "ocr",
        "name": "Read",
        "description": "Reads a page",
        "examples": ["read this"],
        "takes": ["image/png"],
    }
    record = make_record(
        LAB, Kind.BLOCK, "page-ocr", "1.0.0", {"title": "Page OCR", "contracts": [contract], "handles": "internal"}
    )
    exported = export(record, "a2a-agent-card")
    assert exported.document["skills"] == [
        {
            "id": "ocr",
            "name": "Read",
            "description": "Reads a page",
            "tags": [],
            "examples": ["read this"],
            "inputModes": ["image/png"],
        }
    ]
    assert exported.lost == ("kind", "handles")
    with pytest.raises(BadInputError, match="was not imported — say which format"):
        export(record)


# What becomes of it ---------------------------------------------------------------------------------------------------


def test_skills_and_tools_become_contracts():
    card, server = drafted("a2a__weather"), drafted("mcp__registry")
    assert card.contracts[0] == Contract(
        "current-weather",
        "Current Weather",
        "Get current weather conditions for any location",
        ("weather", "current", "conditions"),
        ("What's the weather in Tokyo?", "Current temperature in New York"),
        effect="at_most_once",
        takes=("text/plain", "application/json"),
        gives=("text/plain", "application/json"),
    )
    find, lend = server.contracts
    assert (find.name, find.effect, find.inputs["required"]) == ("Find a book", "pure", ["words"])
    assert (lend.effect, lend.external, lend.irreversible) == ("at_most_once", True, True)
    assert (server.kind, server.name, server.version, server.scheme) == (
        Kind.TOOL,
        "example.library/catalogue",
        "1.4.0",
        Scheme.SEMVER,
    )
    assert server.spec["endpoints"] == [{"url": "https://library.example/mcp", "protocol": "streamable-http"}]


def test_a_component_becomes_a_model_with_schemas_and_what_it_needs():
    draft = drafted("applications__examples__yolov5-block__component")
    (contract,) = draft.contracts
    assert (draft.kind, draft.name, draft.version) == (Kind.MODEL, "model.object-detector", "2.0.0-stable")
    assert contract.inputs["properties"]["roi"]["required"] == ["x1", "y1", "x2", "y2"]
    assert contract.outputs["properties"]["detections"]["items"]["properties"]["confidence"] == {
        "type": "number",
        "minimum": 0.0,
        "maximum": 1.0,
    }
    assert draft.spec["requires"] == {
        "image": draft.spec["source"]["document"]["body"]["spec"]["values"]["containerRegistryInfo"]["containerImage"],
        "framework": "PyTorch",
        "accelerator": {"count": 1},
        "memory_mb": 4096,
    }


def test_a_cluster_offers_and_a_block_needs_in_the_same_words():
    cluster, block = (
        drafted("management-parser__samples__create_cluster"),
        drafted("applications__examples__mistral7b__block"),
    )
    assert cluster.spec["offers"] == {
        "cpus": 16,
        "memory_mb": 65536,
        "swap_mb": 16384,
        "disks": 2,
        "disk_mb": 1536000,
        "accelerator": {"count": 4, "memory_mb": 16384},
        "network": {"interfaces": 2, "out_mbit": 1000, "in_mbit": 1000},
    }
    assert block.spec["requires"] == {"cpus": 2, "memory_mb": 2048}
    assert block.spec["uses"] == ["model.vllm-chat:1.0.0-stable"]
    assert [rule["name"] for rule in block.spec["policies"]] == [
        *("clusterAllocator", "resourceAllocator", "loadBalancer", "stabilityChecker", "autoscaler")
    ]


def test_a_vdag_becomes_a_graph():
    draft = drafted("parser__llm_samples__llm_vdag")
    assert (draft.kind, draft.name, draft.version) == (Kind.GRAPH, "sample_vdag", "v0.0.1-stable")
    assert [node["label"] for node in draft.spec["graph"]["nodes"]] == ["qwen-rank-0", "qwen-rank-1"]
    assert draft.spec["graph"]["edges"] == [{"source": "qwen-rank-0", "target": "qwen-rank-1", "outputs": ["output_0"]}]


def test_a_signature_becomes_schemas():
    (contract,) = drafted("mlflow").contracts
    assert contract.inputs == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["text"],
    }
    assert contract.outputs == {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}, "minItems": 75, "maxItems": 75},
    }


def test_each_entry_of_a_catalogue_is_a_record():
    catalogue, server, agent, data = drafts("ai_catalog")
    assert [draft.kind for draft in (catalogue, server, agent, data)] == [
        Kind.NETWORK,
        Kind.TOOL,
        Kind.AGENT,
        Kind.ASSET,
    ]
    assert agent.contracts[0].id == "read-aloud" and agent.contracts[0].streams and agent.version == "2.0.0"
    assert data.spec["licence"] == "CC0-1.0"
    entry = export(record_of(server)).document
    assert [item["identifier"] for item in entry["entries"]] == ["urn:air:library.example:mcp:catalogue"]


# Which format, which name ---------------------------------------------------------------------------------------------


def test_a_document_of_two_formats_is_not_guessed_at():
    value = {"name": "x", "skills": [], "capabilities": {}, "componentId": {"name": "x"}}
    found = detect(value)
    assert isinstance(found, Ambiguity) and [name for name, _ in found.reasons] == [
        "a2a-agent-card",
        "aigrid-component",
    ]
    with pytest.raises(BadInputError, match=r"it has skills and capabilities.*say which: --format"):
        import_document(value, "lab.example")
    assert import_document(value, "lab.example", "aigrid-component")[0].format == "aigrid-component"
    with pytest.raises(BadInputError, match="it has nothing of MLflow model version"):
        import_document(value, "lab.example", "mlflow-model-version")


def test_what_is_wrong_is_named_with_file_line_and_path():
    text = b'{"name": "x",\n "capabilities": {},\n "skills": [\n  {"id": "a"},\n  {"id": 5}]}'
    (document,) = read_documents(text, "card.json")
    with pytest.raises(BadInputError, match=r"^card\.json:5: skills\[1\]\.id: a text is needed, it is a number$"):
        import_document(document, "lab.example")


@given(st.text(), st.text())
def test_names_and_versions_that_may_not_be_are_mapped_each_to_its_own(one, other):
    assert checked_name(plain_name(one)) == plain_name(one)
    version, _ = plain_version(one)
    assert not version or checked_version(version)
    assert (plain_name(one) == plain_name(other)) == (one == other)


def test_names_that_only_look_alike_stay_two_and_the_original_is_kept():
    latin, cyrillic = "paper", "p\u0430per"
    assert plain_name(latin) == latin
    assert plain_name(cyrillic).startswith("p-per~")
    assert plain_name(plain_name(cyrillic)) != plain_name(cyrillic)
    card = {"name": cyrillic, "version": "1 beta", "skills": [], "capabilities": {}}
    (draft,) = import_document(card, "lab.example")
    assert draft.spec["original"] == {"name": cyrillic, "version": "1 beta"}
    assert draft.scheme == Scheme.OPAQUE


def test_content_without_a_version_is_numbered():
    old, new = "0+aaaaaaaaaaaa", "0+bbbbbbbbbbbb"
    assert numbered(old, []) == old
    assert numbered(old, [old]) == old
    assert numbered(new, [old]) == "1+bbbbbbbbbbbb"
    assert numbered(old, [old, "1+bbbbbbbbbbbb"]) == "2+aaaaaaaaaaaa"
    assert numbered("1.0", [old]) == "1.0"


def test_a_document_too_large_for_a_record_is_refused():
    card = {"name": "x", "skills": [], "capabilities": {}, "note": "y" * 300_000}
    with pytest.raises(BadInputError, match="a record has 258048 at most"):
        import_document(checked(card), "lab.example")


def test_one_name_twice_in_a_catalogue_is_refused():
    value = copy.deepcopy(documents("ai_catalog")[0].value)
    value["entries"].append(value["entries"][0])
    with pytest.raises(BadInputError, match=r"catalogue 1\.2\.0 stands in it twice"):
        import_document(value, "lab.example")
