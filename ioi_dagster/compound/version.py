"""A block's version, made from what decides its results: nobody has to remember to raise it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec, resolve_name

from ioi_dagster.errors import BadInputError

DIGITS = 8


def version_of(base: str, module: str, distributions: Sequence[str] = ()) -> str:
    """`base` with a digest, e.g. `1.0.0+3f2a9c1d` (PEP 440): another result may be expected where it differs.

    It covers the source of `module` and of every module of the same package (not of one within or above it) that it
    imports, directly or through others, and of each of `distributions` the version and the digests of what it installed
    besides Python code: its models.
    Nothing is imported but the package itself. Other packages' code, settings and data are not covered: name the
    distribution, or raise `base`. Raises `BadInputError` for a module without source.
    """
    package = module.rpartition(".")[0]
    sources: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in sources:
            source = sources[name] = _source(name)
            todo += _imported(source, name, package)
    whole = hashlib.sha256()
    for part in (*(f"{name}\0{sources[name]}" for name in sorted(sources)), *map(_installed, sorted(distributions))):
        whole.update(hashlib.sha256(part.encode()).digest())
    return f"{base}+{whole.hexdigest()[:DIGITS]}"


def _source(name: str) -> str:
    spec = find_spec(name)
    source = getattr(spec.loader, "get_source", lambda _: None)(name) if spec is not None else None
    if source is None:
        raise BadInputError("a block's version cannot be told: there is no source", where=name, todo="name its module")
    return source


def _imported(source: str, name: str, package: str) -> Iterator[str]:
    """Modules of `package` that `source` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
            found = [start, *(f"{start}.{alias.name}" for alias in node.names)] if start == package else [start]
        else:
            continue
        # Of a package one level deep: what is asked for deeper is asked of a module, which would be imported for it.
        yield from (one for one in found if one.rpartition(".")[0] == package and find_spec(one) is not None)


def _installed(distribution: str) -> str:
    """Name, version and the digests of its other files as the installer noted them; what is not installed says so."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return f"{distribution} is not installed"
    files = [
        f"{path}={path.hash.value}"
        for path in found.files or ()
        if path.hash is not None and path.suffix not in (".py", ".pyc") and ".dist-info" not in path.parts[0]
    ]
    return "\n".join([f"{distribution} {found.version}", *sorted(files)])
