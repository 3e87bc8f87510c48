"""Seconds from the click that launches a job of one step to the run being told as finished.

Everything is as users have it: `dagster dev`, the launch by the request that the launchpad sends, the run's status as the web
server reads it. Peer: Dagster's own launcher and event log, with its `multiprocess` executor (the default of every job) and with
`in_process`. Ours: the launcher and event log of docs/guides/launcher.md, `governed_executor` on a Dask cluster that is up and
has run the step before. Both start runs at once (`DefaultRunCoordinator`): the queue that Dagster ships looks every 5 s only,
which would flatter ours. The full run also clicks in a federation of three domains, with its gates and its queue, as `ioi up`
makes it.

Rounds are interleaved, in servers that stay up; the first click of each is not counted. What runs beside it is the same for all:
each server's web server, code server and daemon.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.frame import Report, quick
from ioi_dagster.local.home import DAGSTER_YAML, PROJECT, TOPOLOGY, open_federation

MODULE = "benchmarks.click_defs"
REVIEWED = "definitions.documents.defs"
"""A federation starts no code that its policy does not know. Clicked is one small asset of it, the list of the pile's files."""
AT_ONCE = """telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
OURS = """run_launcher: {module: ioi_dagster.host.launcher, class: GovernedRunLauncher}
run_monitoring: {enabled: true}
event_log_storage: {module: ioi_dagster.host.storage, class: GroupCommitEventLogStorage}
"""
FULL = {"rounds": 9, "federation": True}
QUICK = {"rounds": 3, "federation": False}
FLOORS = {"click_to_result_s": (2.0, "max"), "federation_s": (2.0, "max")}
AIMS = {"click_to_result_s": (1.0, "max"), "federation_s": (1.0, "max")}
LOOK_S = 0.01
LIMIT_S = 120.0

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


@dataclass(frozen=True, slots=True)
class Server:
    """A `dagster dev` with the code location `module`, and the instance that it writes to."""

    url: str
    module: str
    instance: Any

    def click(self, job: str, config: Mapping[str, Any], assets: Sequence[str]) -> float:
        """Seconds until a run of `job` (of `assets` alone, where any are named) has succeeded."""
        selector: dict[str, Any] = {
            "repositoryLocationName": self.module,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        if assets:
            selector["assetSelection"] = [{"path": [name]} for name in assets]
        params = {"selector": selector, "runConfigData": config}
        started = time.perf_counter()
        answer = self.ask(_LAUNCH, params=params)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise SystemExit(f"{job} was not launched: {answer}")
        run_id = answer["run"]["runId"]
        while True:
            run = self.instance.get_run_by_id(run_id)
            seconds = time.perf_counter() - started
            if run.is_finished:
                break
            if seconds > LIMIT_S:
                raise SystemExit(f"{job}: no end within {LIMIT_S:g} s")
            time.sleep(LOOK_S)
        steps = [
            entry.dagster_event.event_type_value for entry in self.instance.all_logs(run_id) if entry.is_dagster_event
        ]
        if run.status.value != "SUCCESS" or steps.count("STEP_SUCCESS") != 1:
            raise SystemExit(f"{job} ended {run.status.value}: {[e.message for e in self.instance.all_logs(run_id)]}")
        return seconds

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]


@contextmanager
def dev(home: Path, module: str, settings: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """`dagster dev` with `home` as its `DAGSTER_HOME`, once it knows the jobs."""
    from dagster import DagsterInstance

    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(settings)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IOI_", "DAGSTER_"))}
    its = {
        **kept,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONPATH": str(PROJECT),
        **environment,
    }
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "dev", "-m", module, "-h", "127.0.0.1", "-p", str(port)]
    log = home / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=its, stdout=output, stderr=subprocess.STDOUT)
    try:
        os.environ["DAGSTER_HOME"] = str(home)
        with DagsterInstance.get() as instance:
            server = Server(f"http://127.0.0.1:{port}", module, instance)
            _until_it_knows_its_jobs(server, process, log)
            yield server
    finally:
        process.terminate()
        process.wait()


def _until_it_knows_its_jobs(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < until:
        try:
            if server.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")[
                "repositoriesOrError"
            ].get("nodes"):
                return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"`dagster dev` did not come up: {log.read_text()[-2_000:]}")


def main() -> int:
    from distributed import LocalCluster

    warnings.simplefilter("ignore")
    sizes = QUICK if quick() else FULL
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ioi-click-")))
        cluster = stack.enter_context(
            LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)  # pyright: ignore[reportArgumentType]
        )
        stock = stack.enter_context(dev(home / "stock", MODULE, AT_ONCE, {}))
        ours = stack.enter_context(dev(home / "ours", MODULE, AT_ONCE + OURS, {}))
        address = str(cluster.scheduler_address)  # pyright: ignore[reportAttributeAccessIssue]
        clicks: dict[str, tuple[Server, str, dict[str, Any], tuple[str, ...]]] = {
            "multiprocess": (stock, "multiprocess", {}, ()),
            "in_process": (stock, "in_process", {}, ()),
            "ours": (ours, "governed", {"execution": {"config": {"address": address}}}, ()),
        }
        if sizes["federation"]:
            from definitions.documents.catalogue import BLOCKS

            federation = stack.enter_context(open_federation(home / "ioi", TOPOLOGY, BLOCKS))
            federation.wait_ready(LIMIT_S)
            settings, environment = DAGSTER_YAML.read_text(), federation.environment()
            theirs = stack.enter_context(dev(home / "ioi" / "dagster", REVIEWED, settings, environment))
            clicks["federation"] = (theirs, "__ASSET_JOB", {}, ("inventory",))
        taken: dict[str, list[float]] = {name: [] for name in clicks}
        for round_ in range(sizes["rounds"] + 1):
            for name, (server, job, config, assets) in clicks.items():
                seconds = server.click(job, config, assets)
                if round_:
                    taken[name].append(seconds)
    print({name: [round(one, 2) for one in some] for name, some in taken.items()}, file=sys.stderr)
    middle = {name: median(seconds) for name, seconds in taken.items()}
    report = Report("click_to_result", floors=dict(FLOORS), aims=dict(AIMS))
    report.figures = {"click_to_result_s": middle["ours"]}
    if "federation" in middle:
        report.figures["federation_s"] = middle["federation"]
    report.peers = {f"stock_{name}_s": middle[name] for name in ("multiprocess", "in_process")}
    report.ratios = {f"x_{name}": middle[name] / middle["ours"] for name in ("multiprocess", "in_process")}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
