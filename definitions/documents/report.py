"""`report.html`: one file, no network, readable on a phone; and `run.json`, the same for machines."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from definitions.documents.results import PageResult

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#888;--good:#2a7d4f;--no:#b3541e;--bad:#b3261e}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0}
article{border-top:1px solid var(--line);padding:1rem 0;display:grid;grid-template-columns:10rem 1fr;gap:1rem}
article img{width:100%;border-radius:4px}article h2{font-size:1rem;margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:.5rem 0 0}
.facts{color:var(--soft);font-size:.85rem}.indexed{color:var(--good)}.refused{color:var(--no)}.failed{color:var(--bad)}
@media(max-width:40rem){article{grid-template-columns:1fr}article img{max-width:12rem}}
"""


def render_report(
    results: Sequence[PageResult],
    thumbnails: Mapping[str, bytes],
    placements: Mapping[str, Mapping[str, Any]],
    problems: Sequence[str],
) -> str:
    """Thumbnail beside text, with confidence, language, where it was read and why there."""
    counts = {status: sum(r.status == status for r in results) for status in ("indexed", "refused", "failed")}
    summary = ", ".join(f"<span class={status}>{count} {status}</span>" for status, count in counts.items())
    notes = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    pages = "".join(_article(r, thumbnails.get(r.page, b""), placements.get(r.page, {})) for r in results)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1"><title>The pile, read</title>'
        f"<style>{_STYLE}</style><h1>The pile, read</h1><p>{len(results)} pages: {summary}</p>"
        f"{f'<h2>Worth knowing</h2><ul>{notes}</ul>' if notes else ''}{pages}</html>"
    )


def run_summary(
    results: Sequence[PageResult],
    placements: Mapping[str, Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """`run.json`: `run`, `pages`, `placements` (one a step), `refusals`, `timings` (seconds by capability)."""
    pages = []
    for result in results:
        place = placements.get(result.page, {})
        pages.append(
            {
                "file": result.page,
                "class": result.data_class,
                "listed": result.listed,
                "domain": place.get("domain"),
                "cluster": place.get("cluster"),
                "node": place.get("node"),
                "chars": result.chars,
                "confidence": result.confidence,
                "languages": [code for code, _ in result.languages],
                "status": result.status,
                "reason": result.reason,
            }
        )
    timings: dict[str, dict[str, float]] = {}
    for step in steps:
        seconds = (step.get("ended") or 0.0) - (step.get("started") or 0.0)
        entry = timings.setdefault(str(step["capability"]), {"steps": 0, "seconds": 0.0})
        entry["steps"] += 1
        entry["seconds"] = round(entry["seconds"] + max(0.0, seconds), 3)
    refusals = [{"file": p["file"], "reason": p["reason"]} for p in pages if p["status"] == "refused"]
    return {"run": dict(run), "pages": pages, "placements": list(steps), "refusals": refusals, "timings": timings}


def _article(result: PageResult, picture: bytes, place: Mapping[str, Any]) -> str:
    image = (
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
        if picture
        else "<span></span>"
    )
    languages = ", ".join(f"{code} {share:.0%}" for code, share in result.languages) or "no language"
    where = f"read on {place['node']} of {place['cluster']} ({place['domain']})" if place.get("node") else "not read"
    facts = [
        f"<b class={result.status}>{result.status}</b>",
        _text(result.data_class + ("" if result.listed else " (unlisted)")),
        f"confidence {result.confidence:.2f}",
        _text(languages),
        _text(where),
        _text(str(place.get("why", ""))),
        f"turned {result.turn}°" if result.turn else "",
        f"{result.trimmed} lines of a facing page left out" if result.trimmed else "",
        _text("; ".join(result.phrases)),
    ]
    reason = f"<p class={result.status}>{_text(result.reason)}</p>" if result.reason else ""
    return (
        f"<article>{image}<div><h2>{_text(result.page)}</h2>"
        f"<p class=facts>{' · '.join(fact for fact in facts if fact)}</p>{reason}"
        f"<pre>{_text(chr(10).join(result.lines))}</pre></div></article>"
    )


def _text(text: str) -> str:
    """Safe in HTML, whatever bytes a file name was made of."""
    return escape(text.encode("utf-8", "replace").decode())
