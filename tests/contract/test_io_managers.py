"""One suite over every IO manager of ours: what goes in comes out, whole or not at all, under the committed attempt only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetIn,
    AssetOut,
    BackfillPolicy,
    ConfigurableIOManager,
    DagsterInstance,
    DynamicOut,
    DynamicOutput,
    StaticPartitionsDefinition,
    asset,
    build_input_context,
    build_output_context,
    job,
    materialize,
    multi_asset,
    op,
)

from ioi_dagster import ExchangeIOManager, FsspecIOManager, LocalFilesIOManager, MemoryIOManager
from ioi_dagster.adapters.dask.held import Held
from ioi_dagster.adapters.files.store import FsspecStore, LocalStore, StoreSpec, open_store
from ioi_dagster.errors import FinalError
from ioi_dagster.host.exchange import Exchange, Staged, exchanging
from ioi_dagster.host.io_manager import ObjectStore
from ioi_dagster.host.staged import from_reference, publish, reference, tidy

Make = Callable[[Path], ConfigurableIOManager]
STAGING: dict[str, Make] = {
    "local files": lambda folder: LocalFilesIOManager(folder=str(folder)),
    "fsspec file": lambda folder: FsspecIOManager(url=f"file://{folder}/store"),
    "memory": lambda folder: MemoryIOManager(folder=str(folder)),
}
ALL: dict[str, Make] = {
    **STAGING,
    "fsspec memory": lambda folder: FsspecIOManager(url=f"memory://{uuid.uuid4().hex}"),
    "exchange": lambda folder: ExchangeIOManager(folder=str(folder)),
}


@pytest.fixture(params=ALL)
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> ConfigurableIOManager:
    return ALL[request.param](tmp_path)


@pytest.fixture(params=STAGING)
def staging(request: pytest.FixtureRequest, tmp_path: Path) -> ConfigurableIOManager:
    return STAGING[request.param](tmp_path)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as it:
        yield it


ODD = ["plain", "with/slashes/../and dots", "größe-数据-🙂", "x" * 400, "a.value", "%2F", " "]
THREE = StaticPartitionsDefinition(["a", "b/c", "größe"])


@asset(partitions_def=THREE, backfill_policy=BackfillPolicy.single_run())
def letters(context) -> Any:
    keys = context.partition_keys
    return f"letter {keys[0]}" if len(keys) == 1 else {key: f"letter {key}" for key in keys}


@asset(partitions_def=THREE, backfill_policy=BackfillPolicy.single_run())
def loud(context, letters: Any) -> Any:
    return letters.upper() if isinstance(letters, str) else {key: value.upper() for key, value in letters.items()}


@asset(ins={"loud": AssetIn()})
def all_loud(loud: Any) -> Any:
    return sorted(loud.values())


def test_values_come_back(manager, instance):
    values = [1, "größe", None, {"a": [1, 2.5]}, (1, {2}), b"\x00" * 10, Path("x")]

    @asset(io_manager_key="io_manager")
    def source() -> Any:
        return values

    @asset
    def taken(source: Any) -> Any:
        return source == values

    result = materialize([source, taken], resources={"io_manager": manager}, instance=instance)
    assert result.output_for_node("taken") is True
    again = materialize([source, taken], selection=[taken], resources={"io_manager": manager}, instance=instance)
    assert again.output_for_node("taken") is True


def test_partitions_one_by_one_and_together(manager, instance):
    resources = {"io_manager": manager}
    materialize([letters], partition_key="a", resources=resources, instance=instance)
    rest = {"dagster/asset_partition_range_start": "b/c", "dagster/asset_partition_range_end": "größe"}
    both = materialize([letters], tags=rest, resources=resources, instance=instance)
    assert both.output_for_node("letters") == {"b/c": "letter b/c", "größe": "letter größe"}
    every = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "größe"}
    materialize([letters, loud], selection=[loud], tags=every, resources=resources, instance=instance)
    one = materialize([letters, loud], partition_key="b/c", resources=resources, instance=instance)
    assert one.output_for_node("loud") == "LETTER B/C"
    result = materialize([letters, loud, all_loud], selection=[all_loud], resources=resources, instance=instance)
    assert result.output_for_node("all_loud") == ["LETTER A", "LETTER B/C", "LETTER GRÖSSE"]


def test_several_partitions_without_their_keys_are_refused(manager, instance):
    @asset(partitions_def=THREE, backfill_policy=BackfillPolicy.single_run())
    def wrong() -> Any:
        return {"a": 1}

    every = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "größe"}
    with pytest.raises(FinalError, match=r"3 partitions of asset 'wrong': return a dict with exactly their keys"):
        materialize([wrong], tags=every, resources={"io_manager": manager}, instance=instance)


def test_mapping_keys_multi_assets_and_a_manager_for_each(manager, instance, tmp_path):
    @op(out=DynamicOut(int))
    def numbers():
        for number in range(5):
            yield DynamicOutput(number, mapping_key=f"k{number}")

    @op
    def double(number: int) -> int:
        return 2 * number

    @op
    def total(doubled: list[int]) -> int:
        return sum(doubled)

    @job(resource_defs={"io_manager": manager})
    def fan():
        total(numbers().map(double).collect())

    assert fan.execute_in_process(instance=instance).output_for_node("total") == 20

    @multi_asset(outs={"left": AssetOut(io_manager_key="mine"), "right": AssetOut(io_manager_key="other")})
    def sides():
        return "l", "r"

    @asset
    def joined(left: str, right: str) -> str:
        return left + right

    resources = {
        "mine": manager,
        "other": LocalFilesIOManager(folder=str(tmp_path / "other")),
        "io_manager": manager,
    }
    assert materialize([sides, joined], resources=resources, instance=instance).output_for_node("joined") == "lr"


@pytest.mark.parametrize("odd", ODD)
def test_odd_names(manager, odd):
    run = str(uuid.uuid4())
    partitions = [odd, f"{odd} too"]
    for partition in partitions:
        out = build_output_context(
            step_key=f"make[{odd}]", name="result", mapping_key=odd, run_id=run,
            asset_key=["x", odd], partition_key=partition,
        )  # fmt: skip
        manager.handle_output(out, partition)
    for partition in partitions:
        into = build_input_context(asset_key=["x", odd], partition_key=partition)
        assert manager.load_input(into) == partition


def test_64_megabytes(manager):
    run, data = str(uuid.uuid4()), os.urandom(2**20) * 64
    out = build_output_context(step_key="big", name="result", run_id=run)
    manager.handle_output(out, data)
    into = build_input_context(upstream_output=out)
    assert manager.load_input(into) == data


def test_what_cannot_be_written_is_said(manager):
    out = build_output_context(step_key="lock", name="result", run_id=str(uuid.uuid4()))
    with pytest.raises(FinalError, match=r"a value of type lock can neither be written as JSON nor pickled"):
        manager.handle_output(out, threading.Lock())
    with pytest.raises(FinalError, match="is not stored"):
        manager.load_input(build_input_context(upstream_output=out))


def test_what_is_missing_is_named(manager):
    with pytest.raises(FinalError, match=r"asset 'never/made' has no stored value.* — materialise it first"):
        manager.load_input(build_input_context(asset_key=["never", "made"]))
    out = build_output_context(step_key="gone", name="result", run_id=str(uuid.uuid4()))
    with pytest.raises(FinalError, match=r"output 'result' of step 'gone' is not stored"):
        manager.load_input(build_input_context(upstream_output=out))


# What an attempt leaves --------------------------------------------------------------------------------------------


def _attempt(manager: ConfigurableIOManager, run: str, value: Any) -> Staged:
    out = build_output_context(step_key="s", name="result", run_id=run, asset_key=["x"])
    exchange = Exchange(inputs={}, one_cluster=True)
    with exchanging(exchange):
        manager.handle_output(out, value)
    for write in exchange.writes:
        write.result()
    (staged,) = exchange.staged
    return staged


def _newest(manager: ConfigurableIOManager) -> Any:
    return manager.load_input(build_input_context(asset_key=["x"]))


def test_only_the_committed_attempt_is_seen(staging):
    run = str(uuid.uuid4())
    loser, winner = _attempt(staging, run, "loser"), _attempt(staging, run, "winner")
    with pytest.raises(FinalError):
        _newest(staging)
    publish([winner])
    publish([winner])
    assert _newest(staging) == "winner"
    store = open_store(winner.store)
    assert store.get(loser.pieces[0].source) is not None
    assert tidy(run, [], [winner], {}) == 1
    assert store.get(loser.pieces[0].source) is None
    assert _newest(staging) == "winner"


def test_the_next_step_reads_the_attempt_that_was_committed(staging):
    run = str(uuid.uuid4())
    staged = _attempt(staging, run, "before it is published")
    out = build_output_context(step_key="s", name="result", run_id=run, asset_key=["x"])
    into = build_input_context(upstream_output=out, asset_key=["x"])
    exchange = Exchange(inputs={}, references={staged.handle: reference(staged)})
    with exchanging(exchange):
        assert staging.load_input(into) == "before it is published"


def test_a_reference_holds_no_credentials():
    spec = StoreSpec("s3://bucket/values", {"secret": "hidden"})
    staged = Staged(("s", "result", ""), spec, [])
    assert "hidden" not in reference(staged)
    assert from_reference(reference(staged)) == Staged(("s", "result", ""), StoreSpec("s3://bucket/values"), [])


def test_a_store_of_one_process_is_refused_where_nodes_are_others():
    manager = FsspecIOManager(url="memory://here")
    with pytest.raises(FinalError, match="memory://here is a store of one process"):
        _attempt(manager, str(uuid.uuid4()), 1)


def test_a_store_that_fsspec_does_not_know_is_named():
    with pytest.raises(FinalError, match="nosuch://x"):
        open_store(StoreSpec("nosuch://x"))


WRITER = """
import sys
from ioi_dagster.adapters.files.store import StoreSpec, open_store
store = open_store(StoreSpec(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    store.put(f"staged/r/{number}", bytes([number % 251]) * 3_000_000)
    store.publish(f"staged/r/{number}", "assets/x.value")
    print(number, flush=True)
"""


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_writer_that_is_killed_leaves_no_half_value(tmp_path, scheme):
    """While it writes, and after it was killed, a reader sees nothing or one whole value."""
    where = f"{scheme}{tmp_path / 'store'}"
    store = open_store(StoreSpec(where))
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, where], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        assert re.fullmatch(r"\d+\n", writer.stdout.readline())
        for _ in range(10):
            data = store.get("assets/x.value")
            assert data is not None
            assert (len(data), len(set(data))) == (3_000_000, 1)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = store.get("assets/x.value")
        assert data is not None
        assert (len(data), len(set(data))) == (3_000_000, 1)


def _no_links(*_: Any) -> None:
    raise PermissionError("no links here")


def test_publishing_works_without_hard_links(tmp_path, monkeypatch):
    store = LocalStore(tmp_path)
    store.put("staged/r/1", b"one")

    monkeypatch.setattr(os, "link", _no_links)
    store.publish("staged/r/1", "assets/x.value")
    assert store.get("assets/x.value") == b"one"
    with pytest.raises(FileNotFoundError):
        store.publish("staged/r/none", "assets/x.value")
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == ["x.value"]


def test_an_object_that_is_linked_again_leaves_nothing_beside_it(tmp_path, monkeypatch):
    objects = ObjectStore(tmp_path)
    objects.put("runs/r/attempt", b"one")
    for _ in range(3):
        objects.link("runs/r/attempt", "runs/r/name")
    monkeypatch.setattr(os, "link", _no_links)
    objects.link("runs/r/attempt", "runs/r/copied")
    assert sorted(path.name for path in (tmp_path / "runs" / "r").iterdir()) == ["attempt", "copied", "name"]
    assert [objects.get(f"runs/r/{name}") for name in ("name", "copied")] == [b"one", b"one"]


def test_what_is_held_in_memory_is_bounded_and_dropped_with_its_run():
    held = Held()
    for name in "abc":
        held.put("r", name, b"x" * 40, limit=100)
    assert (held.get("r", "a"), held.sizes()) == (None, {"r": 80})
    assert held.get("r", "b") is not None
    held.put("other", "d", b"x" * 30, limit=100)
    assert (held.get("r", "c"), held.sizes()) == (None, {"r": 40, "other": 30})
    held.put("r", "too large", b"x" * 101, limit=100)
    assert held.sizes() == {}
    held.put("r", "e", b"x", limit=100)
    held.put("other", "f", b"xx", limit=100)
    held.drop_run("r")
    assert held.sizes() == {"other": 2}


def test_values_in_memory_are_refused_in_a_federation(tmp_path):
    out = build_output_context(step_key="s", name="result", run_id=str(uuid.uuid4()))
    with (
        exchanging(Exchange(inputs={})),
        pytest.raises(FinalError, match="this run is on a federation — use ExchangeIOManager"),
    ):
        MemoryIOManager(folder=str(tmp_path)).handle_output(out, 1)


def test_a_pointer_to_nothing_is_not_made():
    store = FsspecStore(f"memory://{uuid.uuid4().hex}", {})
    with pytest.raises(FileNotFoundError):
        store.publish("staged/r/none", "assets/x.value")
    assert store.get("assets/x.value") is None
