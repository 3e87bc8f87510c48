"""What `ioi status` makes of what gateways answer."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ioi_dagster.cli_status import render


def domain(name: str, handles: str, of: str = "1.0.0+c0de", blocks: tuple[str, ...] = ("page-ocr",)) -> dict[str, Any]:
    running = {"block": "page-ocr", "version": of, "state": "current", "replicas": {"idle": 1, "busy": 1}}
    node = {"slots": 2, "free": 1, "memory": 0.5, "warm": ["page.ocr"]}
    return {
        "spec": {"handles": handles},
        "processes": [],
        "clusters": {
            f"{name}-c": {
                "leases": [],
                "abandoned": [],
                "tenants": {"library": TENANT},
                "nodes": {
                    f"{name}-n": {
                        **node,
                        "blocks": [{**running, "running": 1, "queue": 3, "breaker": "closed", "failures": 0}],
                    }
                },
            }
        },
        "blocks": [
            {"urn": f"urn:aigr:{name}:block:{b}", "version": f"{of}.{name}", "of": of, "handles": handles}
            for b in blocks
        ],
    }


TENANT = {
    "cohort": "partners",
    "weight": 2.0,
    "share": 0.5,
    "entitled": 0.25,
    "used": {"gpu": 0.0, "slots": 1.0},
    "guarantee": {"slots": 3.0},
    "borrowed": {"gpu": 0.0, "slots": 0.0},
    "lent": {"gpu": 0.0, "slots": 2.0},
    "limit": {"gpu": 1.0, "slots": 5.0},
    "running": 1,
    "waiting": 3,
    "oldest_wait_s": 1.5,
    "stopping": 1,
    "over": {},
}


def blocks_table(status: dict[str, Any]) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render(status))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    start = lines.index("blocks")
    end = next(n for n, line in enumerate(lines) if n > start and line.startswith("replicas"))
    return [" ".join(line.replace("│", " ").split()) for line in lines[start + 3 : end]]


def test_nodes_that_come_and_go_are_shown_with_what_they_cost_and_why():
    group = {
        "wanted": 2,
        "there": 1,
        "idle": 0,
        "min": 0,
        "max": 4,
        "cost_hour": 5.0,
        "per_hour": 8.0,
        "cost_day": 0.5,
        "per_day": None,
        "changed_s_ago": 14.2,
        "why": "2 more: more waits than has room",
        "held": "too dear",
    }
    status = domain("lab", "internal")
    status["clusters"]["lab-c"]["scaling"] = {"gpu": group}
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render({"lab": status}))
    lines = [" ".join(line.replace("│", " ").split()) for line in captured.get().splitlines()]
    at = lines.index("nodes that come and go")
    assert lines[at + 3] == (
        "lab-c gpu 2 1 0 0–4 5 of 8 0.5 14 s ago 2 more: more waits than has room; no more: too dear"
    )


def test_what_was_refused_is_shown_by_door_and_code():
    refused = [{"door": "/v1/award", "code": "proof.stale", "count": 12}, {"door": "", "code": "", "count": 1}]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(
            render({"lab": {**domain("lab", "internal"), "refused": refused}, "quiet": domain("quiet", "public")})
        )
    lines = [line.rstrip() for line in captured.get().splitlines()]
    told = [" ".join(line.replace("│", " ").split()) for line in lines[lines.index("refused") + 3 :]]
    assert told == ["lab /v1/award proof.stale 12", "lab elsewhere of many kinds 1"]


def test_a_member_whose_clock_differs_is_shown_though_it_is_there():
    seen = {"state": "alive", "why": "", "seen_s_ago": 0.4}
    peers = {
        "cloud": seen | {"clock_ahead_s": 720.0},
        "edge": seen | {"clock_ahead_s": -90_000.0},
        "office": seen | {"clock_ahead_s": 2.0},
        "other": seen | {"clock_ahead_s": None},
        "gone": seen | {"clock_ahead_s": 720.0, "state": "gone", "why": "no answer"},
    }
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render({"lab": {**domain("lab", "internal"), "peers": peers}}))
    lines = [" ".join(line.replace("│", " ").split()) for line in captured.get().splitlines()]
    begin = lines.index("members that do not see each other, or whose clocks differ")
    assert lines[begin + 3 : begin + 6] == [
        "lab cloud alive 0 s ago its clock is 12 min ahead",
        "lab edge alive 0 s ago its clock is 25 h behind: nothing can be asked of it",
        "lab gone gone 0 s ago no answer",
    ]


def test_how_clusters_stand_is_shown_with_why_and_whom_it_trusts_least_first():
    good = {"cluster": "lab-c", "trust": 1.0, "kept": 8.0, "broken": 0.0, "late": 0.0, "lost": 0.0}
    bad = {"cluster": "cloud-c", "trust": 0.5, "kept": 1.0, "broken": 1.0, "late": 1.0, "lost": 1.04}
    rows = [good | {"why": "", "told_s_ago": 3.2}, bad | {"why": "no answer", "told_s_ago": 61.0}]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render({"library": {**domain("library", "restricted"), "standing": rows}}))
    lines = [" ".join(line.replace("│", " ").split()) for line in captured.get().splitlines()]
    begin = lines.index("trust, by what the domain's runs have seen")
    assert lines[begin + 3 : begin + 5] == [
        "library cloud-c 50% 1.0 1.0 1.0 1.0 61 s ago no answer",
        "library lab-c 100% 8.0 0.0 0.0 0.0 3 s ago",
    ]


def test_a_block_has_one_row_whoever_offers_it():
    status = {
        "lab": domain("lab", "internal", blocks=("page-ocr", "page-trim")),
        "cloud": domain("cloud", "public"),
        "away": {"error": "it does not answer", "processes": []},
    }
    assert blocks_table(status) == [
        "page-ocr 1.0.0+c0de lab (up to internal), cloud (up to public) 4 2 6",
        "page-trim 1.0.0+c0de lab (up to internal) – – –",
    ]


def test_who_offers_another_version_is_told():
    status = {"lab": domain("lab", "internal"), "cloud": domain("cloud", "public", of="2.0.0+fa11")}
    assert blocks_table(status) == [
        "page-ocr 1.0.0+c0de lab (1.0.0+c0de, up to internal), cloud (2.0.0+fa11, up to public) 4 2 6",
        "2.0.0+fa11",
    ]


def test_members_that_do_not_see_each_other_have_a_row_on_each_side():
    seen = {"state": "alive", "why": "", "seen_s_ago": 0.4}
    cut = {"state": "suspect", "why": "our certificate has expired", "seen_s_ago": 12.3}
    never = {"state": "unknown", "why": "", "seen_s_ago": None}
    status = {
        "library": {**domain("library", "restricted"), "peers": {"lab": cut, "cloud": seen}},
        "lab": {**domain("lab", "internal"), "peers": {"library": never}},
    }
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render(status))
    lines = [[cell.strip() for cell in line.split("│")] for line in captured.get().splitlines()]
    assert ["library", "lab", "suspect", "12 s ago", "our certificate has expired"] in lines
    assert ["lab", "library", "unknown", "never", ""] in lines
    assert not [line for line in lines if line[:2] == ["library", "cloud"]]


def test_a_step_that_is_being_stopped_since_its_lease_has_run_out_is_among_the_leases() -> None:
    its = domain("library", "internal")
    its["clusters"]["library-c"]["abandoned"] = [{"node": "library-n", "run": "0123456789", "step": "ocr", "fence": 3}]
    console = Console(width=200)
    with console.capture() as printed:
        console.print(render({"library": its}))
    (line,) = [line for line in printed.get().splitlines() if "run out" in line]
    assert (
        " ".join(line.split()) == "library-c │ library-n │ 01234567 │ ocr (is being stopped: its lease has run out) │ 3"
    )
