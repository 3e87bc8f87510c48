"""The `ioi` command. Heavy parts are imported by the command that needs them."""

from __future__ import annotations

import errno
import json
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from ioi_dagster import cli_ras, cli_ras_feeds, cli_ras_history, cli_ras_owner, cli_ras_planes, cli_ras_token
from ioi_dagster.cli_data_keep import data_app
from ioi_dagster.cli_domain import domain_app
from ioi_dagster.cli_import import import_files
from ioi_dagster.cli_intervene import COMMANDS, NUMBERED
from ioi_dagster.cli_orders import Numbered, block_app, node_app, tenant_app
from ioi_dagster.cli_ras_app import ras_app
from ioi_dagster.errors import IoiError
from ioi_dagster.model.amounts import counted
from ioi_dagster.model.order import Order, Verb
from ioi_dagster.model.order import Target as OrderTarget

if TYPE_CHECKING:
    from ioi_dagster.host.fates import Fate
    from ioi_dagster.model.progress import Progress

HELP = """Run one AI workload over the machines of many owners, and see why each step ran where it did. Begin with
`ioi run documents`, then `ioi explain run last` and `ioi up`.

Exit codes: 0 done; 1 no (a failed run, nothing found, something to mend); 2 impossible; 130 interrupted."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=HELP)
run_app = typer.Typer(no_args_is_help=True, help="Run a graph over the federation.")
policy_app = typer.Typer(no_args_is_help=True, help="Build and check policies.")
explain_app = typer.Typer(no_args_is_help=True, help="The story of a run: what was decided, by whom, and why.")
protocol_app = typer.Typer(no_args_is_help=True, help="What domains say to each other.")
app.add_typer(run_app, name="run")
app.add_typer(policy_app, name="policy")
app.add_typer(explain_app, name="explain")
app.add_typer(protocol_app, name="protocol")
app.add_typer(domain_app, name="domain")
app.add_typer(block_app, name="block")
app.add_typer(tenant_app, name="tenant")
app.add_typer(node_app, name="node")
OF_RAS = (cli_ras, cli_ras_history, cli_ras_owner, cli_ras_feeds, cli_ras_token, cli_ras_planes)
"""Each has added its commands."""
app.add_typer(ras_app, name="ras")
app.add_typer(data_app, name="data")
app.command("import")(import_files)

_WIDE = None if sys.stdout.isatty() else 160
"""A log or a pipe has no width of its own; tables need one."""

out = Console(width=_WIDE)
err = Console(stderr=True)


def _folder(text: str) -> Path:
    """An empty name would be the current folder; it is what a shell makes of a variable that is not set."""
    if not text:
        raise typer.BadParameter("the name of the folder is empty")
    return Path(text)


_FOLDER: Any = {"parser": _folder, "metavar": "PATH"}
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", **_FOLDER, help="The federation's folder; default $IOI_HOME or .ioi"),
]
PoliciesArgument = Annotated[
    Path | None, typer.Argument(**_FOLDER, help="Default: those that a federation here goes by")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output")]


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ioi_dagster {version('ioi_dagster')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and stop")
    ] = False,
) -> None:
    """Options of every command; `_say_version` has acted on its own."""


_SENT_AGAIN: dict[type[BaseException], signal.Signals] = {
    KeyboardInterrupt: signal.SIGINT,
    SystemExit: signal.SIGTERM,
}


def hear_lost_interruptions() -> None:
    """From now on a signal is sent again whose exception was lost, as in a destructor or a callback of the garbage collector (see
    `sys.unraisablehook`)."""
    otherwise = sys.unraisablehook

    def lost(unraisable: Any) -> None:
        number = _SENT_AGAIN.get(type(unraisable.exc_value))
        if number is None:
            return otherwise(unraisable)
        # Not from here, or it would be lost once more.
        again = threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()

    sys.unraisablehook = lost


def main() -> None:
    """Entry point: errors are one line and exit code 2, never a traceback; 130 and 143 when told to stop."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    hear_lost_interruptions()
    try:
        app()
    except IoiError as error:
        _say_error(str(error))
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        todo = _TODO.get(error.errno or 0, "")
        _say_error(where + (error.strerror or str(error)) + (f" — {todo}" if todo else ""))
        sys.exit(2)
    except Exception as error:
        # Only a command that uses databases has imported this.
        databases = sys.modules.get("sqlalchemy.exc")
        if databases is None or not isinstance(error, databases.DatabaseError):
            raise
        orig = getattr(error, "orig", error)
        broken = "malformed" in str(orig) or "not a database" in str(orig)
        todo = _BROKEN_DATABASE if broken else "make room on the disk of the home folder, or give another --home"
        _say_error(f"a database of the home folder cannot be used: {orig} — {todo}")
        sys.exit(2)
    except SystemExit as end:  # Typer makes one of Ctrl-C
        if end.code in (130, 143):
            err.print("stopped")
        raise


_BROKEN_DATABASE = (
    "it is damaged: a registry is made of a backup by `ioi ras restore`; one of runs is moved away, with their stories"
)
_NO_RIGHT = "give another folder, or yourself the right to write to this one"
_TODO = {
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.EEXIST: "that is a file: give a folder",
    errno.ENOTDIR: "that is a file: give a folder",
    errno.ENOSPC: "make room there, or give another folder",
}


def _say_error(text: str) -> None:
    """On one line, so that a log's readers find all of it."""
    err.print(f"[bold red]error[/] {escape(text)}", soft_wrap=True)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Leave by way of every `with`, so that what was started is ended."""
    sys.exit(128 + number)


@run_app.command("documents")
def run_documents(
    source: Annotated[
        Path | None,
        typer.Option("--input", **_FOLDER, help="Folder with pages; default: the shipped pile"),
    ] = None,
    results: Annotated[Path, typer.Option("--out", **_FOLDER, help="Folder for the results")] = Path("out"),
    page: Annotated[list[str] | None, typer.Option("--page", help="Only this page (repeatable)")] = None,
    home: HomeOption = None,
    topology: Annotated[Path | None, typer.Option(help="Another topology than the shipped one")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a pile of photographs, scans and PDFs into a searchable book."""
    from importlib import import_module

    from ioi_dagster.cli_progress import ProgressDisplay
    from ioi_dagster.local.home import TOPOLOGY, find_home

    command = import_module("definitions.documents.command")
    with ProgressDisplay(err, quiet=as_json) as progress:
        summary = command.run(
            source or command.SHIPPED,
            results,
            tuple(page or ()),
            find_home(home),
            progress,
            topology or TOPOLOGY,
        )
    if as_json:
        print(json.dumps(summary))
    else:
        from ioi_dagster.cli_documents import show

        show(summary, results, home, source is None, out)
    code = {"success": 0, "interrupted": 130}.get(summary["run"]["status"], 1)
    if code:
        raise typer.Exit(code)


@app.command()
def find(
    words: Annotated[list[str], typer.Argument(help="Words that the line must hold")],
    results: Annotated[Path, typer.Option("--out", **_FOLDER, help="Folder with the results of a run")] = Path("out"),
    as_json: JsonOption = False,
) -> None:
    """Search the book: page, line and the words in their place."""
    from dataclasses import asdict
    from importlib import import_module

    hits = import_module("definitions.documents.index").find(results, " ".join(words))
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits]))
    else:
        for hit in hits:
            out.print(Text.assemble((hit.page, "cyan"), f":{hit.line}  ", *_marked(hit.snippet)))
        if not hits:
            out.print("nothing found")
    if not hits:
        raise typer.Exit(1)


def _marked(snippet: str) -> list[Any]:
    """The pieces of a snippet, those between the index's marks in yellow. Text that holds such marks itself only looks odd."""
    pieces: list[Any] = []
    for number, part in enumerate(snippet.split("»")):
        inside, closed, after = part.partition("«")
        pieces += [(inside, "bold yellow"), after] if number and closed else [part]
    return pieces


@explain_app.command("run")
def explain_run(
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning; `last` for the newest")],
    step: Annotated[
        str | None,
        typer.Argument(help="One step; without its \\[key] all of that name"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why each step ran where it did: trigger, policy, candidates, wait, bids, award, attempts and commit, in this order."""
    from dataclasses import asdict

    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.cli_explain import collect, table
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.local.home import ledger_of

    ledger = Ledger(ledger_of(home))
    try:
        prefix = "" if run == "last" else run
        known = ledger.runs(prefix, limit=1) or ledger.not_begun(prefix, limit=1)
        story = collect(ledger, known[0][0] if known else run, step, time.time())
    finally:
        ledger.close()
    if not story:
        if step and known:
            raise BadInputError(
                f"run {known[0][0][:8]} has no step {step!r}", todo=f"see all with `ioi explain run {known[0][0][:8]}`"
            )
        raise BadInputError(f"nothing is known of run {run}", todo="see `ioi runs`")
    if as_json:
        print(json.dumps([{**asdict(entry), "chapter": str(entry.chapter)} for entry in story]))
        return
    out.print(table(story, step))


@app.command()
def runs(
    watch: Annotated[bool, typer.Option("--watch", help="Those in progress: how far, and why they wait")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The runs that this home's ledger knows, newest first."""
    from ioi_dagster.adapters.sql.ledger import Ledger
    from ioi_dagster.cli_runs import looking, progress_in
    from ioi_dagster.cli_runs import watch as watch_runs
    from ioi_dagster.local.home import ledger_of

    ledger, look = Ledger(ledger_of(home)), looking(home)
    try:
        if watch and not as_json:
            watch_runs(ledger, out, look)
            return
        rows, others = ledger.runs(), ledger.not_begun()
        endings = ledger.endings(row[0] for row in rows)
        under_way = {row[0]: progress_in(ledger, row[0], time.time())[0] for row in rows if row[3] is None}
    finally:
        ledger.close()
    fates = look(list(under_way))
    if as_json:
        far = {run: {"progress": its.facts(), "state": str(fates[run].state)} for run, its in under_way.items()}
        unknown = {"progress": None, "state": None}
        more = {row[0]: {"ending": endings.get(row[0]), **far.get(row[0], unknown)} for row in rows}
        told = [{"run": r[0], "job": r[1], "started": r[2], "ended": r[3], **more[r[0]]} for r in rows]
        told += [{"run": r[0], "job": r[1], "started": None, "ended": None, "not_begun": r[3]} for r in others]
        print(json.dumps(told))
        return
    table = Table("run", "job", "started", "seconds", "ended", show_edge=False)
    for run, job, started, ended in rows:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
        ending = _ending(endings.get(run, {})) if ended else _under_way(fates[run], under_way[run])
        table.add_row(run[:8], job, begun, f"{ended - started:.1f}" if ended else "–", ending)
    out.print(table)
    if others:
        table = Table(
            "run", "job", "at", "what was said of it last", title="not begun", title_justify="left", show_edge=False
        )
        for run, job, at, text in others:
            table.add_row(run[:8], job, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)), escape(text))
        out.print(table)


def _under_way(fate: Fate, progress: Progress) -> str:
    far = progress.brief() if progress.done or progress.running or progress.waiting else ""
    if fate.gone or fate.ended:
        return f"[yellow]{escape(fate.text)}[/]" + (f" (last heard: {escape(far)})" if far else "")
    return escape(": ".join(filter(None, (fate.text, far))))


def _ending(facts: dict[str, Any]) -> str:
    failed = facts.get("failed", 0)
    if facts.get("interrupted"):
        return "[yellow]interrupted[/]"
    return f"[red]{counted(failed, 'step')} failed[/]" if failed else "well"


@app.command()
def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every second; with --json one line each time")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Domains, clusters, nodes, tenants, blocks, leases and load."""
    from ioi_dagster.cli_status import collect, render
    from ioi_dagster.cli_status import watch as watch_status
    from ioi_dagster.local.home import find_home

    folder = find_home(home)
    if watch:
        watch_status(folder, out, as_json)
        return
    found = collect(folder)
    if as_json:
        print(json.dumps(found))
    else:
        out.print(render(found))
    if all("error" in facts for facts in found.values()):
        raise typer.Exit(1)


@app.command()
def quota(
    topology: Annotated[
        Path | None, typer.Option(help="Default: the file with which the federation was started, or the domain made")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the tenants of running clusters the quotas that stand in the topology file."""
    from dataclasses import asdict

    from ioi_dagster.local.home import find_home
    from ioi_dagster.local.quota import apply_quotas, quota_files
    from ioi_dagster.local.topology_file import load_topology

    files = quota_files(find_home(home), topology)
    changes = [one for file, its in files.items() for one in apply_quotas(load_topology(file), its, str(file))]
    for file, its in files.items():
        for domain in its:
            if domain.by_hand.exists() and domain.topology != file.resolve():
                domain.made_by_hand(file)
    if as_json:
        print(json.dumps([asdict(change) for change in changes]))
        return
    table = Table("cluster", "cohort", "tenant", "class", "before", "after", show_edge=False)
    for change in changes:
        holder = (Text(name or "–") for name in (change.cohort, change.tenant, change.block_class))
        table.add_row(change.cluster, *holder, _share(change.before), _share(change.after))
    told = f"quotas of {', '.join(map(str, files))}" + ("" if changes else ": they are as they were")
    out.print(told, highlight=False, soft_wrap=True)
    if changes:
        out.print(table)


def _share(share: Any) -> str:
    from ioi_dagster.model.amounts import told as told_amount

    if share is None:
        return "not named"
    told = [f"weight {share.weight:g}", *([f"in {share.parent}"] if share.parent else [])]
    for key in ("guarantee", "lends", "borrows"):
        amounts = getattr(share.quota, key)
        if amounts:
            told.append(f"{key} " + " + ".join(told_amount(name, value) for name, value in amounts.items()))
    return ", ".join(told)


@app.command()
def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """What is missing or misconfigured, and the command that mends it."""
    from ioi_dagster.cli_doctor import examine
    from ioi_dagster.local.home import find_home

    findings = examine(find_home(home))
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        table = Table(
            "", "what", Column("found", overflow="fold"), Column("what to do", overflow="fold"), show_edge=False
        )
        for finding in findings:
            mark = {"ok": "[green]ok[/]", "note": "[yellow]note[/]"}.get(finding.state, "[red]mend[/]")
            table.add_row(mark, finding.what, escape(finding.found), escape(finding.remedy))
        out.print(table)
    if any(finding.state == "mend" for finding in findings):
        raise typer.Exit(1)


@app.command()
def drain(
    name: Annotated[str, typer.Argument(help="A node, or a cluster, of this home's domains")],
    why: Annotated[str, typer.Option(help="For those who wait for it")] = "",
    within: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which what still runs there is placed elsewhere")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing runs there any more")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start nothing new on a node, so that it may go. What runs there goes on to its end, or for so many seconds."""
    from ioi_dagster import cli_drain, cli_orders
    from ioi_dagster.local.home import find_home

    target = cli_drain.home_target(find_home(home), name)
    order = Order(OrderTarget.NODE, name, Verb.DRAIN, within_s=within, why=why)
    cli_orders.give(target.domain, order, as_json, target.name)
    if wait:
        told = (
            (lambda _: None) if as_json else (lambda steps: out.print(f"still there: {', '.join(steps)}", markup=False))
        )
        cli_drain.wait(find_home(home), target, told)
        if not as_json:
            out.print(f"nothing runs on {target.name} any more", highlight=False)


@app.command()
def rejoin(
    name: Annotated[str, typer.Argument(help="A node, or a cluster, that was drained")],
    why: Annotated[str, typer.Option(help="For those who ask later")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a drained node take steps again."""
    from ioi_dagster import cli_drain, cli_orders
    from ioi_dagster.local.home import find_home

    target = cli_drain.home_target(find_home(home), name)
    cli_orders.give(target.domain, Order(OrderTarget.NODE, name, Verb.RESUME, why=why), as_json, target.name)


@app.command()
def gc(
    older_than: Annotated[str, typer.Option(help="Only what was not touched for so long: 30d, 12h, 90m")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what runs left that are over: values that no commit names, rows of the ledger, output of run processes. Committed
    outputs stay, and so does all of a run that may still go on."""
    from dataclasses import asdict

    from dagster import DagsterInstance

    from ioi_dagster.governors.tidying import seconds_of
    from ioi_dagster.host.tidying import describe, sweep
    from ioi_dagster.local.home import use_home

    seconds = seconds_of(older_than)
    use_home(home)
    with DagsterInstance.get() as instance:
        swept = sweep(instance, seconds, dry_run)
    if as_json:
        print(json.dumps({**asdict(swept), "dry_run": dry_run}))
    else:
        for line in describe(swept, dry_run):
            out.print(line, highlight=False)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the web UI; 0 takes a free one")] = 3000,
    home: HomeOption = None,
    topology: Annotated[Path | None, typer.Option(help="Another topology than the shipped one")] = None,
    workspace: Annotated[
        list[Path] | None,
        typer.Option("--workspace", "-w", help="Dagster's workspace file, instead of the shipped one"),
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option("--module-name", "-m", help="Or a module with definitions, found from this folder"),
    ] = None,
) -> None:
    """The Dagster web UI, its daemon and the federation together, until Ctrl-C."""
    from importlib import import_module

    from ioi_dagster.cli_up import code_locations, serve
    from ioi_dagster.local.home import TOPOLOGY, find_home, open_federation

    code = code_locations(workspace or [], module or [], Path.cwd())
    blocks = import_module("definitions.documents.catalogue").BLOCKS
    federation = open_federation(find_home(home), topology or TOPOLOGY, blocks)
    serve(federation, find_home(home), port, out.print, code)


@policy_app.command("build")
def policy_build(policies: PoliciesArgument = None) -> None:
    """Compile policies/ into its bundle with the official opa. What runs goes by it from its next decision on."""
    from ioi_dagster.adapters.opa.build import build, revision
    from ioi_dagster.local.home import find_home, policies_in

    folder = policies or policies_in(find_home(None))
    bundle = build(folder, folder / "bundle" / "bundle.tar.gz")
    out.print(f"built {bundle} ({revision(bundle)[:19]})")


@policy_app.command("check")
def policy_check(policies: PoliciesArgument = None) -> None:
    """Is the built bundle that of the sources beside it?"""
    from ioi_dagster.adapters.opa.build import is_current
    from ioi_dagster.local.home import find_home, policies_in

    folder = policies or policies_in(find_home(None))
    if not is_current(folder, folder / "bundle" / "bundle.tar.gz"):
        err.print("[red]the bundle is stale[/] — run `ioi policy build`")
        raise typer.Exit(1)
    out.print("the bundle is current")


@protocol_app.command("show")
def protocol_show(
    as_json: JsonOption = False,
    openapi: Annotated[bool, typer.Option("--openapi", help="All doors as an OpenAPI document")] = False,
) -> None:
    """The doors of a gateway; with --json the whole schema."""
    import msgspec

    from ioi_dagster.adapters.http.openapi import document
    from ioi_dagster.adapters.http.protocol import schema

    told = document() if openapi else schema()
    if as_json or openapi:
        print(msgspec.json.format(msgspec.json.encode(told)).decode())
        return
    table = Table("door", "for", "what", show_edge=False)
    for door in told["doors"]:
        table.add_row(f"{door['method']} {door['path']}", door["for"], door["text"])
    out.print(table)


@protocol_app.command("check")
def protocol_check(
    domain: Annotated[str, typer.Argument(help="A domain of this federation, of whatever implementation")],
    home: HomeOption = None,
    call: Annotated[
        Path | None,
        typer.Option(help="A file with the JSON that its block may be called with, a few times; else none is called"),
    ] = None,
    invitation: Annotated[
        Path | None,
        typer.Option(help="One of the domain's, for anybody: whom it lets join is found out too; it is not used up"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a domain's gateway whether it keeps to the protocol. Takes what is free in one of its clusters for a moment, and
    says that it is in no hurry, so that no node comes for it."""
    from ioi_dagster.adapters.http.conformance import check
    from ioi_dagster.cli_protocol import subject
    from ioi_dagster.local.home import find_home

    with subject(find_home(home), domain, call=call, invitation=invitation) as its:
        outcomes = list(check(its))
    broken = [outcome for outcome in outcomes if not outcome.holds]
    if as_json:
        print(json.dumps([{"rule": o.rule, "holds": o.holds, "found": o.found} for o in outcomes]))
    else:
        table = Table("", "rule", "found instead", show_edge=False)
        for outcome in outcomes:
            table.add_row("[green]holds[/]" if outcome.holds else "[red]broken[/]", outcome.rule, escape(outcome.found))
        out.print(table)
        out.print(
            f"{len(outcomes) - len(broken)} of {len(outcomes)} rules hold for {domain}, asked for {its.capability}"
        )
    if broken:
        raise typer.Exit(1)


@app.command()
def states(
    page: Annotated[Path | None, typer.Option(help="Draw them anew in this page, between its markers")] = None,
) -> None:
    """The states of the governors, and what leads from one to another."""
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.governors.states import MACHINES, page_with

    if page is not None:
        try:
            page.write_text(page_with(page.read_text()))
        except (OSError, ValueError) as error:
            raise BadInputError(str(error), where=str(page), todo="name a page that has all markers") from error
        return
    table = Table("of", "from", "to", "on", "when", show_edge=False)
    for machine in MACHINES:
        for change in machine.changes:
            when = ": ".join(filter(None, (change.told, change.when)))
            table.add_row(machine.name, change.was or "–", change.becomes or "–", change.on, Text(when))
    out.print(table)


@app.command("simulate")
def simulate_command(
    context: typer.Context,
    topology: Annotated[str, typer.Argument(help="A topology file, or 100x20: clusters and nodes in each")] = "",
    graphs: Annotated[
        str, typer.Argument(help="A file or folder of workflows, or SHAPE:20x500: so many of so many steps")
    ] = "",
    traces: Annotated[Path | None, typer.Option(help="A folder of traces in the WfFormat of WfCommons")] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            help="What if a cluster had others? c0=+4, c0=+4@2 (twice as fast), c0=-1, all=6; may be given again"
        ),
    ] = None,
    against: Annotated[str, typer.Option(help="Another topology, to be compared with the first")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is drawn")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=5.0, help="How far durations are from what is expected")] = 0.2,
    faults: Annotated[
        float, typer.Option(min=0.0, max=10_000.0, help="Faults a minute: deaths, cuts, liars and more")
    ] = 0.0,
    every: Annotated[float, typer.Option(min=0.0, max=1e6, help="Seconds from one workflow to the next")] = 1.0,
    bandwidth: Annotated[
        str, typer.Option(help="Bytes a second between domains, as 50MB; 0: moving takes no time")
    ] = "0",
    inside: Annotated[str, typer.Option(help="Bytes a second between machines of one domain")] = "0",
    store: Annotated[
        str, typer.Option(help="The domain of a store that all nodes reach; else values pass the run")
    ] = "",
    known: Annotated[
        str, typer.Option(help="How long steps take is known as `declared`, or as `learnt` from earlier runs")
    ] = "declared",
    save: Annotated[Path | None, typer.Option(help="Write the scenario here, to be played again")] = None,
    replay: Annotated[Path | None, typer.Option(help="Play a saved scenario again")] = None,
    checked: Annotated[bool, typer.Option(help="Check every governor's invariants after each event")] = True,
    as_json: JsonOption = False,
) -> None:
    """Run workflows on machines that are not there: the same governors on virtual time. With --nodes or --against twice, side by
    side. Exit code 1 where an invariant broke."""
    from ioi_dagster import cli_simulate
    from ioi_dagster.errors import BadInputError
    from ioi_dagster.model.amounts import amount

    if graphs and traces:
        raise BadInputError("workflows are given twice, by GRAPHS and by --traces", todo="leave one of them out")
    if bool(replay) == bool(topology and (graphs or traces)):
        raise BadInputError("give a topology and workflows, or --replay", todo="try `ioi simulate 10x4 layers:20x50`")
    if (nodes or against) and (save or replay):
        raise BadInputError("a comparison is neither saved nor replayed", todo="save each of the two by itself")
    cli_simulate.refuse_with_replay(context, replay)
    said = ["--replay", str(replay)]
    if replay:
        scenarios = {"": cli_simulate.read_scenario(replay)}
    else:
        topologies = cli_simulate.topologies_of(topology, nodes or [], against)
        load = cli_simulate.Load(
            graphs, traces, every, amount(bandwidth), amount(inside), store, cli_simulate.known_of(known)
        )
        scenarios = {name: cli_simulate.scenario_of(its, load, seed, noise, faults) for name, its in topologies.items()}
        said = cli_simulate.arguments_of(topology, load, nodes or [], against, seed, noise, faults)
    reports = cli_simulate.play(scenarios, checked, err, quiet=as_json)
    (name, scenario), report = next(iter(scenarios.items())), next(iter(reports.values()))
    if save:
        cli_simulate.save(scenario, report, save)
    if as_json:
        print(cli_simulate.as_json(reports))
    elif name:
        out.print(cli_simulate.compare(reports, scenarios))
    else:
        out.print(cli_simulate.render(report))
    if scenario.digest and scenario.digest != report.digest:
        err.print("[bold red]not the same[/] as when it was saved: the code decides otherwise now")
        raise typer.Exit(1)
    if any(its.violations for its in reports.values()):
        print(cli_simulate.KEEP + shlex.join(["simulate", *said]), file=sys.stderr)
        raise typer.Exit(1)


for command in COMMANDS:
    app.command()(command)
for command in NUMBERED:
    app.command(cls=Numbered)(command)


if __name__ == "__main__":
    main()
