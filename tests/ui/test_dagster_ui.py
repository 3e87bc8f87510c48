"""What a person sees: the whole of `ioi up` in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from definitions.documents.command import SHIPPED

    folder = tmp_path_factory.mktemp("pile")
    for name in ("phototest.tif", "eurotext.tif"):
        shutil.copy(SHIPPED / "pages" / name, folder / name)
    (folder / "manifest.yaml").write_text("pages:\n  phototest.tif: restricted\n  eurotext.tif: public\n")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / ".ioi"


@pytest.fixture(scope="module")
def dagster_url(home: Path) -> Iterator[str]:
    """`ioi up` in a process of its own; when it ends, nothing that it started is left."""
    log = home.parent / "up.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("IOI_", "DAGSTER_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ioi_dagster.cli", "up", "--port", "0", "--home", str(home)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, "COLUMNS": "200"},
        )
    try:
        found = eventually(
            lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()) or process.poll() is not None,
            120,
            "`ioi up` being ready",
        )
        assert not isinstance(found, bool), log.read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        yield found.group()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert [child for child in children if child.is_running() and child.status() != "zombie"] == []
    finally:
        if process.poll() is None:
            process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "the browser test needs Chromium: apt-get install -y chromium"
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 1400}, locale="en-GB", timezone_id="UTC")
    context.route(re.compile("^https://"), lambda route: route.abort())
    page = context.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    yield page
    context.close()


def graphql(url: str, query: str, **variables: object) -> dict:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]


def runs_of(url: str) -> set[str]:
    results = graphql(url, "{ runsOrError { ... on Runs { results { runId } } } }")["runsOrError"]["results"]
    return {run["runId"] for run in results}


def launch(url: str, config: dict, tags: dict[str, str], job: str = "documents") -> str:
    """Launch a job over the API, as the launchpad does."""
    query = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
        __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
    params = {
        "selector": {
            "repositoryLocationName": "definitions.documents.defs",
            "repositoryName": "__repository__",
            "jobName": job,
        },
        "runConfigData": config,
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    answer = graphql(url, query, params=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return answer["run"]["runId"]


def status_of(url: str, run: str) -> str:
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
    return graphql(url, query, id=run)["runOrError"]["status"]


def folders(pile: Path, out: Path) -> dict:
    return {"resources": {"folders": {"config": {"source": str(pile), "out": str(out)}}}}


def test_an_asset_is_materialised_by_click(dagster_url: str, page: Page) -> None:
    before = runs_of(dagster_url)
    page.goto(f"{dagster_url}/assets/inventory")
    page.get_by_role("button", name=re.compile(r"\bMaterialize$")).click()
    (run,) = eventually(lambda: runs_of(dagster_url) - before, 60, "a run")
    eventually(lambda: status_of(dagster_url, run) in ("SUCCESS", "FAILURE"), 120, "the run's end")
    assert status_of(dagster_url, run) == "SUCCESS"
    page.goto(f"{dagster_url}/runs/{run}")
    expect(page.get_by_role("img", name="run_success").first).to_be_visible(timeout=60_000)
    page.get_by_placeholder("Filter…").fill("Ran on library")
    expect(page.get_by_role("row", name="ioi/node").first).to_contain_text("library-")
    expect(page.get_by_role("row", name="ioi/permit").first).to_contain_text("library.example#")
    expect(page.get_by_role("row", name="ioi/candidates").first).to_contain_text("rejected: cloud.example: ")
    expect(page.get_by_role("row", name="ioi/bids").first).to_contain_text("offers: library")


def test_a_whole_run_shows_checks_results_and_who_stepped_in(
    dagster_url: str, home: Path, pile: Path, tmp_path: Path, page: Page
) -> None:
    run = launch(dagster_url, folders(pile, tmp_path / "out"), {})

    def said(verb: str) -> bool:
        command = [sys.executable, "-m", "ioi_dagster.cli", verb, run, "--why", "a torn page", "--home", str(home)]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    eventually(lambda: said("pause"), 60, "the run being paused")
    assert said("resume")
    eventually(lambda: status_of(dagster_url, run) in ("SUCCESS", "FAILURE"), 240, "the run's end")
    assert status_of(dagster_url, run) == "SUCCESS"
    results = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert results == ["book.md", "index.sqlite", "report.html", "run.json"]
    pages = {item["file"]: item for item in json.loads((tmp_path / "out" / "run.json").read_text())["pages"]}
    assert pages["phototest.tif"]["domain"] == "library.example"
    page.goto(f"{dagster_url}/assets/judged_pages?view=checks")
    expect(page.get_by_text("accepted_set").first).to_be_visible()
    page.goto(f"{dagster_url}/runs/{run}")
    page.get_by_placeholder("Filter…").fill("said: ")
    expect(page.get_by_text(re.compile(r"said: pause \(a torn page\) — paused")).first).to_be_visible(timeout=60_000)
    expect(page.get_by_text(re.compile(r"said: resume \(a torn page\) — goes on")).first).to_be_visible()


def test_assets_schedule_and_sensor_say_what_they_are(dagster_url: str, page: Page) -> None:
    page.goto(f"{dagster_url}/assets/pages")
    for words in ("Dask", "library", "Every page read: set upright, read, facing page left out"):
        expect(page.get_by_text(words).first).to_be_visible()
    page.goto(f"{dagster_url}/automation")
    for name in ("read_again", "take_in_new_pages", "ioi_tidy_schedule"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.goto(f"{dagster_url}/locations/definitions.documents.defs/sensors/read_again")
    expect(page.get_by_text("Reads again exactly the pages whose node was lost").first).to_be_visible()
    expect(page.get_by_role("link", name="documents").first).to_be_visible()
    page.goto(f"{dagster_url}/locations/definitions.documents.defs/schedules/take_in_new_pages")
    expect(page.get_by_text("Takes in pages that are new in the folder").first).to_be_visible()
    expect(page.get_by_text("Every 15 minutes").first).to_be_visible()


def test_tidying_runs_where_the_federation_is_governed(dagster_url: str) -> None:
    run = launch(dagster_url, {}, {}, "ioi_tidy")
    eventually(lambda: status_of(dagster_url, run) in ("SUCCESS", "FAILURE"), 60, "the run's end")
    assert status_of(dagster_url, run) == "SUCCESS"


def test_a_denied_launch_ends_with_its_reasons_in_the_log(
    dagster_url: str, pile: Path, tmp_path: Path, page: Page
) -> None:
    run = launch(dagster_url, folders(pile, tmp_path / "out"), {"ioi/highest": "secret"})
    eventually(lambda: status_of(dagster_url, run) == "FAILURE", 60, "the denial")
    page.goto(f"{dagster_url}/runs/{run}")
    expect(page.get_by_text(re.compile("launch.unknown_class")).first).to_be_visible()
    assert not (tmp_path / "out").exists()


def test_a_held_launch_stays_queued_and_says_why(dagster_url: str, pile: Path, tmp_path: Path, page: Page) -> None:
    run = launch(dagster_url, folders(pile, tmp_path / "out"), {"ioi/approval": "required"})
    eventually(lambda: status_of(dagster_url, run) == "QUEUED", 30, "the run being queued")
    page.goto(f"{dagster_url}/runs?q%5B%5D=status%3AQUEUED")
    expect(page.get_by_text(re.compile("waits for the approval")).first).to_be_visible()
    assert status_of(dagster_url, run) == "QUEUED"
    # A later run overtakes it: the held one is not merely next in line.
    later = launch(dagster_url, folders(pile, tmp_path / "out"), {"ioi/highest": "secret"})
    eventually(lambda: status_of(dagster_url, later) == "FAILURE", 60, "the later run's end")
    assert status_of(dagster_url, run) == "QUEUED"
