"""`opa build -t wasm` of a policies folder, and whether a built bundle is still that folder's."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from ioi_dagster.errors import BadInputError, FinalError
from ioi_dagster.signing import digest_bytes

OPA = "github.com/open-policy-agent/opa@v1.22.2"
_DECISIONS = ("launch", "intervene", "step", "placement", "register", "data_move")


def find_opa() -> str:
    """Path of the `opa` binary; raises `FinalError` with the command that gets it."""
    found = shutil.which("opa")
    if found:
        return found
    go = shutil.which("go")
    if go:
        root = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
        candidate = Path(root) / "bin" / "opa"
        if candidate.is_file():
            return str(candidate)
    raise FinalError(f"building policies needs the opa binary, which is not on PATH — run `go install {OPA}`")


def entrypoints(policies: Path) -> list[str]:
    """One per decision file under `domains/`: `ioi/<scope…>/<decision>/verdict`."""
    found = []
    for path in sorted((policies / "domains").rglob("*.rego")):
        if path.stem in _DECISIONS:
            scope = path.parent.relative_to(policies / "domains").parts
            found.append("/".join(("ioi", *scope, path.stem, "verdict")))
    if not found:
        raise BadInputError("no decision files (launch.rego, placement.rego, …) under domains/", where=str(policies))
    return found


def build(policies: Path, out: Path) -> Path:
    """Compile `policies` into the bundle `out` (a `.tar.gz`), which is there whole at any moment. Raises `FinalError` with the
    compiler's own message."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        _compile(policies, made := Path(folder) / out.name)
        made.replace(out)
    return out


def _compile(policies: Path, out: Path) -> None:
    command = [find_opa(), "build", "-t", "wasm", "-O", "1", "-o", str(out), "--ignore", "*_test.rego"]
    for entrypoint in entrypoints(policies):
        command += ["-e", entrypoint]
    # Sources are named one by one, so that the built bundle in the same folder is never an input of its own build.
    command += ["lib", "domains", "data.json"]
    result = subprocess.run(command, cwd=policies, capture_output=True, text=True)
    if result.returncode != 0:
        raise FinalError(f"opa build failed: {result.stderr.strip() or result.stdout.strip()}")


def read_bundle(path: Path) -> tuple[bytes, dict]:
    """(WebAssembly, data) of a bundle."""
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive:
            members = {member.name.lstrip("/"): member for member in archive.getmembers()}
            wasm = archive.extractfile(members["policy.wasm"])
            data = archive.extractfile(members["data.json"]) if "data.json" in members else None
            assert wasm is not None
            return wasm.read(), json.loads(data.read()) if data is not None else {}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise BadInputError(f"not a policy bundle: {error}", where=str(path), todo="run `ioi policy build`") from error


def revision(path: Path) -> str:
    """Digest of what the bundle means: its code and its data."""
    wasm, data = read_bundle(path)
    return digest_bytes(wasm + json.dumps(data, sort_keys=True).encode())


def is_current(policies: Path, bundle: Path) -> bool:
    """True when building `policies` again gives the policy that `bundle` holds."""
    with tempfile.TemporaryDirectory() as folder:
        return revision(build(policies, Path(folder) / "bundle.tar.gz")) == revision(bundle)


def main(arguments: list[str]) -> int:
    """`python -m ioi_dagster.adapters.opa.build [--check] [POLICIES]`"""
    check = "--check" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")]
    policies = Path(names[0] if names else "policies")
    bundle = policies / "bundle" / "bundle.tar.gz"
    if check:
        same = is_current(policies, bundle)
        print("the bundle is current" if same else "the bundle is stale — run `ioi policy build`")
        return 0 if same else 1
    print(f"built {build(policies, bundle)} ({revision(bundle)[:19]})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
