"""The registry in Dagster: records as assets of a pinned snapshot, their checks, a sensor for what changes, and the resource."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultSensorStatus,
    Definitions,
    asset,
    build_sensor_context,
    materialize,
)

from ioi_dagster import RASResource, RegistryComponent, registry_sensor
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.host.registry_assets import CHECK, USES, asset_key
from ioi_dagster.ras.pointers import Status, set_status
from ioi_dagster.ras.record import Kind, Record, make_record
from ioi_dagster.ras.snapshot import Snapshot, read_snapshot
from tests.realms import Realm, owned

LAB = "urn:ioi:lab.example"
OCR = f"{LAB}:block:page-ocr"


class Lab:
    """A domain and what its owner says."""

    def __init__(self, root: Path) -> None:
        self.realm: Realm = owned(root, "lab.example")
        self.home = self.realm.home
        self.store = SqlRecordStore(self.home.registry, self.home.trusted())

    def put(self, kind: Kind, name: str, version: str, spec: dict, **more) -> Record:
        return self.store.put(make_record(self.home.signing_key(), kind, name, version, spec, **more).signed)

    def ocr(self, version: str, name: str = "page-ocr", cost: float = 1.0) -> Record:
        contract = {
            "id": "page.ocr",
            "name": "Reader",
            "description": "Reads the text of a scanned page.",
            "tags": ["page"],
            "charges": [{"unit": "call", "amount": cost}],
        }
        return self.put(Kind.BLOCK, name, version, {"contracts": [contract], "model": "letters", "memory": 5})

    def say(self, urn: str, status: Status, version: str, **more) -> None:
        sequence = len(self.store.history(urn)) + 1
        key = self.home.signing_key()
        self.store.point(set_status(key, urn, sequence, self.store.wall(), status, version, **more).signed)


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    its = Lab(tmp_path / "home")
    monkeypatch.setenv("IOI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IOI_DOMAIN", "lab.example")
    monkeypatch.delenv("IOI_DOMAIN_HOME", raising=False)
    return its


def component(lab: Lab) -> RegistryComponent:
    return RegistryComponent(domain_home=str(lab.home.root))


def shown(lab: Lab, folder: Path) -> tuple[Definitions, Snapshot]:
    its, state = component(lab), folder / "state"
    its.write_state_to_path(state)
    return its.build_defs_from_state(None, state), read_snapshot(state.read_bytes())  # pyright: ignore[reportArgumentType]


def test_records_are_assets_with_lineage_and_load_without_the_registry(lab, tmp_path):
    letters = lab.put(Kind.ASSET, "letters/1900", "1", {"description": "Letters.", "home": "https://lab.example/x"})
    made_of = {"provenance": [{"digest": letters.digest}]}
    lab.put(Kind.MODEL, "letters", "1", {"trained": True}, **made_of)
    lab.ocr("1")
    lab.put(Kind.GRAPH, "reading", "1", {"nodes": [{"block": "page-ocr"}, {"block": f"{LAB}:graph:reading"}]})
    lab.put(Kind.POLICY, "bundle", "1", {})
    its = component(lab)
    its.write_state_to_path(tmp_path / "state")
    for file in lab.home.root.glob("registry.sqlite*"):
        file.unlink()
    definitions = its.build_defs_from_state(None, tmp_path / "state")  # pyright: ignore[reportArgumentType]
    assert not lab.home.registry.exists()
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    keys = {name: asset_key(f"{LAB}:{name}") for name in ("asset:letters/1900", "model:letters", "graph:reading")}
    keys["block"] = asset_key(OCR)
    assert set(specs) == set(keys.values())
    edges = {key: {dep.asset_key for dep in spec.deps} for key, spec in specs.items() if spec.deps}
    assert edges == {
        keys["model:letters"]: {keys["asset:letters/1900"]},
        keys["block"]: {keys["model:letters"]},
        keys["graph:reading"]: {keys["block"]},
    }
    block = specs[keys["block"]]
    assert (list(block.owners), block.kinds, block.description) == (
        ["team:lab.example"],
        {"block"},
        "Reads the text of a scanned page.",
    )
    assert block.tags["ioi/status"] == "active" and "page" in block.tags
    assert {"urn", "digest", "capabilities", "what it says"} <= block.metadata.keys()
    assert specs[keys["asset:letters/1900"]].metadata["link 1"].value == "https://lab.example/x"
    assert its.build_defs_from_state(None, None).resolve_all_asset_specs() == []  # pyright: ignore[reportArgumentType]


def test_a_circle_of_records_has_one_edge_less(lab, tmp_path):
    lab.put(Kind.GRAPH, "a", "1", {"calls": f"{LAB}:graph:b"})
    lab.put(Kind.GRAPH, "b", "1", {"calls": f"{LAB}:graph:a"})
    _, pinned = shown(lab, tmp_path)
    assert [(entry.name, entry.uses) for entry in pinned.entries] == [("a", (f"{LAB}:graph:b",)), ("b", ())]


def test_checks_tell_what_stands_and_lives(lab, tmp_path):
    lab.ocr("1")
    lab.ocr("1", "old-ocr")
    lab.ocr("1", "bad-ocr")
    lab.put(Kind.MODEL, "letters", "1", {})
    definitions, _ = shown(lab, tmp_path)
    lab.say(f"{LAB}:block:old-ocr", Status.DEPRECATED, "1", successor=OCR)
    lab.say(f"{LAB}:block:bad-ocr", Status.YANKED, "1", reason="wrong letters")
    with DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("registry_checks")
        done = job.execute_in_process(instance=instance, raise_on_error=False)
    told = {
        one.asset_key.path[-1]: (one.check_name, one.passed, one.severity.value, one.description)
        for one in done.get_asset_check_evaluations()
    }
    assert told == {
        "page-ocr": (CHECK, True, "WARN", "1 is active; unknown"),
        "old-ocr": (CHECK, False, "WARN", f"1 is deprecated for {OCR}; unknown"),
        "bad-ocr": (CHECK, False, "ERROR", "1 is yanked: wrong letters; unknown"),
        "letters": (CHECK, True, "WARN", "1 is active"),
    }


def test_a_sensor_asks_for_what_a_new_better_or_withdrawn_version_affects_and_says_why(lab):
    @asset(metadata={USES: [OCR]})
    def text() -> None: ...

    @asset(metadata={USES: "capability:page.ocr"})
    def pages() -> None: ...

    @asset
    def other() -> None: ...

    watching = registry_sensor(default_status=DefaultSensorStatus.RUNNING)
    repository = Definitions(assets=[text, pages, other], sensors=[watching]).get_repository_def()
    cursor: str | None = None

    def look() -> tuple[list[str], str]:
        nonlocal cursor
        with DagsterInstance.ephemeral() as instance:
            context = build_sensor_context(instance, cursor=cursor, repository_def=repository)
            result = watching.evaluate_tick(context)
        cursor = result.cursor
        if not result.run_requests:
            return [], result.skip_message or ""
        (run,) = result.run_requests
        return [key.to_user_string() for key in run.asset_selection or ()], run.tags["ioi/registry-change"]

    lab.ocr("1")
    unchanged = ([], "nothing that assets are made by has changed")
    assert [look(), look()] == [unchanged, unchanged]
    lab.ocr("2")
    new = f"{OCR} 2 is new, after 1"
    assert look() == (["pages", "text"], new)
    cheap = lab.ocr("1", "cheap-ocr", cost=0.1)
    assert look() == (["pages"], f"{cheap.urn} 1 is better for capability:page.ocr than {OCR} 2")
    lab.say(OCR, Status.YANKED, "2", reason="wrong letters")
    assert look() == (["text"], f"{OCR} 2 is yanked (wrong letters): {OCR} 1 is in its place")
    lab.say(OCR, Status.YANKED, "1")
    assert look() == ([], f"nothing can be made anew: {OCR} is offered by nobody any more: {OCR} 1 is yanked")
    assert look() == unchanged


def test_a_step_pins_what_it_selects_in_its_metadata(lab):
    lab.ocr("1")

    @asset
    def text(context, ras: RASResource) -> None:
        assert [one.summary.urn for one in ras.find("read the text of a scanned page").options] == [OCR]
        assert ras.find("book a flight to the moon").chosen is None
        pinned = ras.select("read the text of a scanned page", context)
        assert ras.resolve(pinned.chosen.urn, pinned.chosen.version).digest == pinned.chosen.digest

    with DagsterInstance.ephemeral() as instance:
        done = materialize([text], instance=instance, resources={"ras": RASResource()})
        event = instance.get_latest_materialization_event(AssetKey("text"))
    assert done.success and event is not None and event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["ioi/selected"].value == f"{OCR} 1"
    assert metadata["ioi/selection"].value.startswith("sha256:")  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert json.loads(json.dumps(metadata["ioi/selection-lock"].value))["schema"] == "ioi.selection/1"
