"""Policies of an owner who has reviewed a code location more than the shipped ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ioi_dagster.adapters.opa.build import build
from ioi_dagster.local.home import POLICIES


def policies_that_know(module: str, folder: Path) -> Path:
    shutil.copytree(POLICIES, folder)
    data = json.loads((folder / "data.json").read_text())
    data["ioi"]["library"]["code_locations"].append(module)
    (folder / "data.json").write_text(json.dumps(data))
    build(folder, folder / "bundle" / "bundle.tar.gz")
    return folder
