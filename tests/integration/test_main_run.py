"""The main job over a real federation: processes, policies, models. Slow parts share one run."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, ImageDraw, ImageFont

from definitions.documents.command import run
from definitions.documents.index import find, read_pile
from ioi_dagster.adapters.sql.ledger import Ledger
from ioi_dagster.cli_explain import collect
from ioi_dagster.errors import BadInputError
from ioi_dagster.local.federation import Federation
from ioi_dagster.model.story import Chapter
from tests.conftest import eventually

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(400)]

CANARY = "ZEBRAFINCH"


def write_page(path: Path, *lines: str) -> None:
    picture = Image.new("RGB", (1000, 60 + 60 * len(lines)), "white")
    font = ImageFont.load_default(34)
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text((40, 30 + 60 * number), line, fill="black", font=font)
    picture.save(path)


class Wire(threading.Thread):
    """Every byte on the loopback interface to or from the given ports, kept if it holds the canary."""

    def __init__(self, ports: set[int], needle: bytes) -> None:
        super().__init__(daemon=True)
        self._ports, self._needle = ports, needle
        self.seen, self.packets = 0, 0
        self.stop = threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
        self._socket.bind(("lo", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 2**20)
        self._socket.settimeout(0.2)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                packet = self._socket.recv(70_000)
            except TimeoutError:
                continue
            header = 14 + (packet[14] & 0x0F) * 4
            ports = {
                int.from_bytes(packet[header : header + 2], "big"),
                int.from_bytes(packet[header + 2 : header + 4], "big"),
            }
            if packet[23:24] == b"\x06" and ports & self._ports:
                self.packets += 1
                self.seen += self._needle in packet
        self._socket.close()


def story_of(federation: Federation, run_id: str) -> Any:
    ledger = Ledger(federation.home_domain.ledger)
    try:
        return ledger.story(run_id), ledger.steps(run_id)
    finally:
        ledger.close()


def ports_of(federation: Federation, domain: str) -> set[int]:
    """Every port that a process of the domain listens on or is connected by."""
    found: set[int] = set()
    for process in federation.processes():
        if process.domain == domain and process.pid:
            for connection in psutil.Process(process.pid).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.port)
    return found


def test_the_whole_story(small_pile: Path, tmp_path: Path) -> None:
    """Restricted data stays at home on disk and wire, what cannot be read is refused, every step commits once."""
    write_page(
        small_pile / "canary.png",
        f"The {CANARY} was seen with the",
        "others and it is not for all",
        "of them to know about this",
    )
    with (small_pile / "manifest.yaml").open("a") as manifest:
        manifest.write("  canary.png: restricted\n")
    home, out = tmp_path / "home", tmp_path / "out"
    seen: dict[str, Any] = {}

    def disturb(federation: Federation) -> None:
        seen["federation"] = federation
        ports = ports_of(federation, "lab.example") | ports_of(federation, "cloud.example")
        seen["wire"] = Wire(ports, CANARY.encode())
        seen["home wire"] = Wire(ports_of(federation, "library.example"), CANARY.encode())
        seen["wire"].start()
        seen["home wire"].start()

    summary = run(small_pile, out, (), home, lambda *_: None, started=disturb)
    for wire in (seen["wire"], seen["home wire"]):
        wire.stop.set()
        wire.join()
    pages = {page["file"]: page for page in summary["pages"]}
    assert {name: page["status"] for name, page in pages.items()} == {
        "canary.png": "indexed",
        "devatest.png": "refused",
        "eurotext.tif": "indexed",
        "phototest-rotated-180.png": "indexed",
        "phototest.tif": "indexed",
    }
    assert "letters without words" in pages["devatest.png"]["reason"]

    _, steps = story_of(seen["federation"], summary["run"]["id"])
    restricted = [step for step in steps if step.data_class == "restricted"]
    assert {step.domain for step in restricted} == {"library.example"}
    assert {step.domain for step in steps if step.data_class == "internal"} <= {"library.example", "lab.example"}
    assert [step for step in steps if step.commits != 1 or step.state != "DONE"] == []

    check_explanation(seen["federation"], summary["run"]["id"])

    assert [hit.page for hit in find(out, CANARY)] == ["canary.png"]
    leaked = [
        path
        for domain in ("lab.example", "cloud.example")
        for path in (home / "domains" / domain).rglob("*")
        if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert leaked == []
    assert seen["wire"].packets > 0, "nothing was heard, so nothing was shown"
    assert seen["home wire"].seen > 0, "the canary is to be heard at home, or the ear is deaf"
    assert seen["wire"].seen == 0
    for folder in ("work", "logs"):
        assert list((home / "domains" / "cloud.example" / folder).iterdir()) == []

    # One page again: it is merged into the existing index.
    write_page(
        small_pile / "eurotext.tif",
        "This is another text and it is",
        "not the one that was there",
        "before but it will do for now",
    )
    before = {result.page: result for result in read_pile(out).results}
    run(small_pile, out, ("eurotext.tif",), home, lambda *_: None)
    after = {result.page: result for result in read_pile(out).results}
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} - {"eurotext.tif"} == set()
    assert "another text" in " ".join(after["eurotext.tif"].lines)


def check_explanation(federation: Federation, run_id: str) -> None:
    """A step that the cloud might have had more cheaply: the same facts in order on the command line and in Dagster."""
    from dagster import DagsterInstance

    step = "pages.read_lines[p00000]"
    ledger = Ledger(federation.home_domain.ledger)
    told = collect(ledger, run_id, step, time.time())
    ledger.close()
    chapters = [entry.chapter for entry in told if entry.chapter is not Chapter.WAIT]
    assert list(dict.fromkeys(chapters)) == [
        *(
            Chapter.TRIGGER,
            Chapter.POLICY,
            Chapter.CANDIDATES,
            Chapter.BID,
            Chapter.AWARD,
            Chapter.START,
            Chapter.COMMIT,
        )
    ]
    texts = {entry.chapter: entry.text for entry in told}
    assert texts[Chapter.TRIGGER].startswith("started by ioi run documents, subject ")
    assert "cloud.example: the domain handles public at most" in texts[Chapter.CANDIDATES]
    with DagsterInstance.get() as instance:
        events = [record.event_log_entry.dagster_event for record in instance.get_records_for_run(run_id).records]
    ran = next(e for e in events if e and e.step_key == step and (e.message or "").startswith("Ran on "))
    metadata = {key: value.value for key, value in ran.engine_event_data.metadata.items()}
    assert metadata["ioi/candidates"] == texts[Chapter.CANDIDATES]
    assert metadata["ioi/bids"] == texts[Chapter.BID]
    assert str(metadata["ioi/attempt"]) in texts[Chapter.COMMIT]


def kill_when(federation: Federation, domain: str, role: str, killed: list[str]) -> None:
    """SIGKILL a process of the domain as soon as it runs a step."""
    ledger = Ledger(federation.home_domain.ledger)
    known = {row[0] for row in ledger.runs()}

    def running() -> Any:
        current = [row[0] for row in ledger.runs(limit=1) if row[3] is None]
        rows = ledger.steps(current[0]) if current else []
        busy = {row.node for row in rows if row.state == "RUN" and row.domain == domain and "set_upright" in row.step}
        for process in federation.processes():
            if process.domain == domain and process.role == role and process.pid and busy:
                if role != "worker" or process.name in busy:
                    return process
        return None

    def strike() -> None:
        process = eventually(running, 120, f"a step in {domain}")
        os.kill(process.pid, signal.SIGKILL)
        killed.append(process.name)
        ledger.close()

    assert known is not None
    threading.Thread(target=strike, daemon=True).start()


def test_kills_in_the_middle_cost_nothing(small_pile: Path, tmp_path: Path) -> None:
    """Of a scheduler at home and of a worker in another domain, in one run."""
    (small_pile / "manifest.yaml").write_text(
        "pages: {phototest.tif: restricted, phototest-rotated-180.png: restricted, "
        "eurotext.tif: internal, devatest.png: internal}"
    )
    killed: list[str] = []
    federations: list[Federation] = []

    def disturb(federation: Federation) -> None:
        federations.append(federation)
        kill_when(federation, "library.example", "scheduler", killed)
        kill_when(federation, "lab.example", "worker", killed)

    begun = time.time()
    summary = run(small_pile, tmp_path / "out", (), tmp_path / "home", lambda *_: None, started=disturb)
    assert len(killed) == 2, "a fault did not bite"
    assert summary["run"]["status"] == "success"
    story, steps = story_of(federations[0], summary["run"]["id"])
    assert [(step.step, step.commits, step.state) for step in steps if step.commits != 1 or step.state != "DONE"] == []
    losses = [entry for entry in story if entry.chapter is Chapter.LOSS]
    assert {entry.facts.get("cluster") for entry in losses} == {"library-main", "lab-main"}
    assert all(entry.at >= begun for entry in losses)
    assert {step.domain for step in steps if step.data_class == "restricted"} == {"library.example"}
    waits = [entry.text for entry in story if entry.chapter in (Chapter.WAIT, Chapter.CANDIDATES, Chapter.LOSS)]
    assert any("scheduler" in text for text in waits)
    statuses = {page["file"]: page["status"] for page in summary["pages"]}
    assert statuses["devatest.png"] == "refused"
    assert statuses["phototest.tif"] == "indexed"


def test_two_federations_on_one_home_are_refused(small_pile: Path, tmp_path: Path) -> None:
    from definitions.documents.catalogue import BLOCKS
    from ioi_dagster.local.home import TOPOLOGY, open_federation

    first = open_federation(tmp_path / "home", TOPOLOGY, BLOCKS)
    first.prepare()
    try:
        with pytest.raises(BadInputError, match="another federation runs"):
            run(small_pile, tmp_path / "out", (), tmp_path / "home", lambda *_: None)
    finally:
        first.stop()


def test_a_run_without_a_permit_starts_no_step(
    small_pile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around gate 1: the job is executed directly, as `dagster job execute` would."""
    from dagster import DagsterInstance

    from definitions.documents.catalogue import BLOCKS
    from ioi_dagster.host import tags
    from ioi_dagster.host.private import execute_run
    from ioi_dagster.host.runs import create_governed_run, job_of
    from ioi_dagster.local.home import PROJECT, TOPOLOGY, open_federation, prepare_dagster

    home = tmp_path / "home"
    federation = open_federation(home, TOPOLOGY, BLOCKS)
    federation.prepare()
    for name, value in federation.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(prepare_dagster(home)))
    job = job_of("definitions.documents.defs", "documents", PROJECT)
    config = {"resources": {"folders": {"config": {"source": str(small_pile), "out": str(tmp_path / "out")}}}}
    with DagsterInstance.get() as instance:
        bare = instance.create_run_for_job(
            job.get_definition(), run_config=config, job_code_origin=job.get_python_origin()
        )
        run_id, decision = create_governed_run(instance, job, config, {})
        assert decision is not None
        assert decision.allowed
        permit = instance.get_run_by_id(run_id).tags[tags.PERMIT]  # pyright: ignore[reportOptionalMemberAccess]
        other = {"resources": {"folders": {"config": {"source": "/etc", "out": str(tmp_path / "out")}}}}
        edited = instance.create_run_for_job(
            job.get_definition(), run_config=other, tags={tags.PERMIT: permit}, job_code_origin=job.get_python_origin()
        )
        for started, code in ((bare, "permit.missing"), (edited, "permit.run_mismatch")):
            assert not execute_run(job, started, instance, raise_on_error=False).success
            messages = [
                record.event_log_entry.user_message for record in instance.get_records_for_run(started.run_id).records
            ]
            assert any(code in message for message in messages)
            kinds = {
                record.event_log_entry.dagster_event_type
                for record in instance.get_records_for_run(started.run_id).records
            }
            assert "STEP_START" not in {str(kind).rpartition(".")[2] for kind in kinds}
    federation.stop()
    assert not (tmp_path / "out").exists()


def test_a_denied_launch_says_why_and_starts_nothing(small_pile: Path, tmp_path: Path) -> None:
    """The same gate from the command line: here the network's policy knows no such data class."""
    from dagster import DagsterInstance

    from definitions.documents.catalogue import BLOCKS
    from ioi_dagster.host.runs import create_governed_run, execute_governed_run, job_of
    from ioi_dagster.local.home import PROJECT, TOPOLOGY, open_federation, prepare_dagster

    home = tmp_path / "home"
    federation = open_federation(home, TOPOLOGY, BLOCKS)
    federation.prepare()
    os.environ.update(federation.environment(), DAGSTER_HOME=str(prepare_dagster(home)))
    job = job_of("definitions.documents.defs", "documents", PROJECT)
    with DagsterInstance.get() as instance:
        run_id, decision = create_governed_run(instance, job, {}, {"ioi/highest": "secret"})
        assert decision is not None
        assert [refusal.code for refusal in decision.refusals] == ["launch.unknown_class"]
        assert execute_governed_run(instance, job, run_id) is False
    federation.stop()
    assert json.loads(json.dumps([refusal.text for refusal in decision.refusals]))
