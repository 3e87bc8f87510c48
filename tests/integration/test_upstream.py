"""Where nodes may not look into the log of the run's owner, what a step makes is told to be made from the same as elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    AssetSelection,
    DagsterEventType,
    DagsterInstance,
    DataVersion,
    Definitions,
    ObserveResult,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
    execute_job,
    in_process_executor,
    multi_observable_source_asset,
)
from dagster import AssetSpec as Spec
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ioi_dagster import governed_executor
from ioi_dagster.host.network import AloneNetwork
from ioi_dagster.host.runs import job_of
from ioi_dagster.local.home import PROJECT
from tests.conftest import dagster_home

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CITIES = StaticPartitionsDefinition(["aden", "bern"])


@multi_observable_source_asset(specs=[Spec("outside")])
def look_outside() -> Iterator[ObserveResult]:
    yield ObserveResult("outside", data_version=DataVersion("seen"))


@asset(code_version="1")
def root() -> int:
    return 1


@asset(code_version="1", deps=["outside"])
def child(root: int) -> int:
    return root + 1


@asset(code_version="1")
def grandchild(child: int, root: int) -> int:
    return child + root


@asset(code_version="1", partitions_def=CITIES)
def by_city() -> int:
    return 1


@asset(code_version="1", partitions_def=CITIES)
def after_city(by_city: int) -> int:
    return by_city + 1


KEYS = AssetSelection.assets(root, child, grandchild)
PARTED = AssetSelection.assets(by_city, after_city)
defs = Definitions(
    assets=[look_outside, root, child, grandchild, by_city, after_city],
    jobs=[
        define_asset_job("observing", AssetSelection.assets("outside"), executor_def=in_process_executor),
        *(
            define_asset_job(f"{name}_{kind}", selection, executor_def=made)
            for kind, made in (("governed", governed_executor), ("stock", in_process_executor))
            for name, selection in (("plain", KEYS), ("parted", PARTED))
        ),
    ],
)


@pytest.fixture
def instance(tmp_path: Path, clean_environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}\n"
    )
    dagster_home(tmp_path, monkeypatch)
    with DagsterInstance.get() as instance:
        yield instance


def execute(instance: DagsterInstance, name: str, **more: object) -> str:
    settings = {"execution": {"config": {"workers": 2}}} if name.endswith("governed") else {}
    with execute_job(job_of(__name__, name, PROJECT), instance, run_config=settings, **more) as result:  # pyright: ignore
        assert result.success
        return result.run_id


def made_from(instance: DagsterInstance, run: str) -> dict[tuple[str, str | None], dict[str, str]]:
    """(asset, partition) → its version tags; a place in the log is told as the run and asset that are there."""
    told = {}
    for record in instance.get_records_for_run(run, of_type=DagsterEventType.ASSET_MATERIALIZATION).records:
        event = record.event_log_entry.asset_materialization
        assert event is not None
        tags = {key: value for key, value in (event.tags or {}).items() if key.startswith("dagster/")}
        for key in tags:
            if key.startswith("dagster/input_event_pointer/"):
                tags[key] = points_to(instance, key.removeprefix("dagster/input_event_pointer/"), int(tags[key]), run)
        told[event.asset_key.to_user_string(), event.partition] = tags
    return told


def points_to(instance: DagsterInstance, name: str, place: int, run: str) -> str:
    key = AssetKey(name)
    events = [*instance.fetch_materializations(key, 100).records, *instance.fetch_observations(key, 100).records]
    (run_id,) = [record.run_id for record in events if record.storage_id == place]
    newest = max(events, key=lambda record: record.storage_id)
    return f"{'newest' if newest.storage_id == place else 'older'}, {'this run' if run_id == run else 'another run'}"


def test_it_is_told_to_be_made_from_the_same_as_under_the_stock_executor(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AloneNetwork, "shares_storage", False)
    execute(instance, "observing")
    execute(instance, "plain_governed")
    governed = made_from(instance, execute(instance, "plain_governed"))
    resolver = CachingStaleStatusResolver(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))
    status = {name: resolver.get_status(AssetKey(name)) for name in ("root", "child", "grandchild")}
    assert status == dict.fromkeys(status, StaleStatus.FRESH)
    assert governed == made_from(instance, execute(instance, "plain_stock"))
    assert governed["child", None]["dagster/input_event_pointer/outside"] == "newest, another run"
    assert governed["child", None]["dagster/input_data_version/outside"] == "seen"
    assert governed["child", None]["dagster/input_event_pointer/root"] == "newest, this run"


def test_so_it_is_with_partitions(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AloneNetwork, "shares_storage", False)
    execute(instance, "parted_governed", tags={"dagster/partition": "aden"})
    governed = made_from(instance, execute(instance, "parted_governed", tags={"dagster/partition": "bern"}))
    stock = made_from(instance, execute(instance, "parted_stock", tags={"dagster/partition": "bern"}))
    assert governed == stock
    assert governed["after_city", "bern"]["dagster/input_event_pointer/by_city"] == "newest, this run"
