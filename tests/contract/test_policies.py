"""The policies by their own tool, and the embedded engine against the official one."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ioi_dagster.adapters.opa.build import entrypoints, find_opa
from ioi_dagster.adapters.opa.wasm import WasmEngine
from ioi_dagster.local.home import POLICIES
from ioi_dagster.policy.reasons import render

SOURCES = ("lib", "domains", "data.json")
COVERAGE = 90.0


def opa(*arguments: str, stdin: str = "") -> str:
    command = [find_opa(), *arguments]
    result = subprocess.run(command, cwd=POLICIES, capture_output=True, text=True, input=stdin)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_sources_are_formatted_and_strict():
    assert opa("fmt", "--list", "lib", "domains") == ""
    opa("check", "--strict", *SOURCES)


def test_the_policies_own_tests_cover_them():
    report = json.loads(opa("test", "--coverage", *SOURCES))
    assert report["coverage"] >= COVERAGE


CLASSES, DOMAINS = ("public", "internal", "restricted", "secret"), ("library.example", "lab.example", "cloud.example")


def documents() -> list[dict[str, Any]]:
    """Every class to every domain by every kind of caller: what gates 1, 3 and the receivers ask, and beyond."""
    found = []
    for data_class, domain, capability, authority, origin in itertools.product(
        CLASSES, DOMAINS, ("page.ocr", "dagster.step"), ("partners", "cloud"), ("library.example", "stranger.example")
    ):
        found.append(
            {
                "origin": {"domain": origin, "authority": "partners"},
                "step": {"data_class": data_class, "capability": capability},
                "candidate": {"domain": domain, "authority": authority, "handles": "internal"},
                "asset": {"owner": origin, "data_class": data_class, "regions": ["eu"] if capability[0] == "p" else []},
                "source": {"domain": origin, "authority": "partners", "handles": "restricted", "region": "eu"},
                "target": {"domain": domain, "authority": authority, "handles": "internal", "region": ""},
                "permit": {"highest": "internal", "domains": ["lab.example"]},
                "subject": {"id": "" if domain == "cloud.example" else "ann"},
                "run": {"code": capability, "tags": {"ioi/approval": "required"} if origin[0] == "s" else {}},
                "plan": {"steps": 200_000 if authority == "cloud" else 3},
                "data": {"highest": data_class},
                "approvals": ["bob"] if capability == "page.ocr" else [],
            }
        )
    return found


@pytest.mark.parametrize("entrypoint", entrypoints(POLICIES))
def test_the_embedded_engine_says_what_opa_says(entrypoint: str, tmp_path: Path) -> None:
    asked = documents()
    (tmp_path / "inputs.json").write_text(json.dumps({"inputs": asked}))
    query = f"[verdict | some document in data.inputs; verdict := data.{entrypoint.replace('/', '.')} with input as document]"
    arguments = [argument for source in SOURCES for argument in ("-d", source)]
    said = json.loads(opa("eval", "-f", "json", *arguments, "-d", str(tmp_path / "inputs.json"), query))
    official = said["result"][0]["expressions"][0]["value"]
    engine = WasmEngine.load(POLICIES / "bundle" / "bundle.tar.gz")
    assert len(official) == len(asked)

    def plain(verdict: Any) -> Any:
        return {**verdict, "deny": sorted(verdict["deny"], key=lambda deny: json.dumps(deny, sort_keys=True))}

    assert [plain(engine.evaluate(entrypoint, document)) for document in asked] == [plain(v) for v in official]
    codes = {deny["code"]: deny["params"] for verdict in official for deny in verdict["deny"]}
    assert [code for code, params in codes.items() if code in render(code, params)] == [], (
        "each code has words for people"
    )
