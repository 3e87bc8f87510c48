"""What lies in the folder, and how sensitive it is."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from definitions.documents.values import Inventory, SourceFile
from ioi_dagster.errors import BadInputError
from ioi_dagster.model.data_class import DataClass

MANIFEST = "manifest.yaml"
_NOT_PAGES = frozenset({MANIFEST, "SOURCES.md"})
MAX_FILE = 512 * 2**20


def take_inventory(folder: Path, only: tuple[str, ...] = ()) -> Inventory:
    """List `folder` recursively in name order. `only` limits it to some pages (`name` or `name#page=N`).

    Raises `BadInputError` for a folder that is missing, unreadable or empty, and for a manifest that cannot be meant.
    A single file that is odd is a `SourceFile` with a problem.
    """
    if not folder.is_dir():
        raise BadInputError(
            "the input folder does not exist or is not a folder", where=str(folder), todo="name another"
        )
    try:
        paths = sorted(_walk(folder), key=lambda path: _natural(path.relative_to(folder).as_posix()))
    except OSError as error:
        raise BadInputError(f"the input folder cannot be read: {error.strerror}", where=str(folder)) from error
    if not paths:
        raise BadInputError("the input folder holds no pages", where=str(folder), todo="put images or PDFs into it")
    classes, has_manifest = read_manifest(folder / MANIFEST)
    wanted_files = {name.partition("#page=")[0] for name in only}
    names = [_shown(path.relative_to(folder).as_posix()) for path in paths]
    problems = [] if has_manifest else ["there is no manifest.yaml: every page is taken as internal"]
    problems += [f"the manifest names {name!r}, which does not exist" for name in classes if name not in set(names)]
    problems += [f"asked for {name!r}, which does not exist" for name in sorted(wanted_files - set(names))]
    looked = [
        _look(path, name, classes.get(name, DataClass.INTERNAL), name in classes)
        for path, name in zip(paths, names, strict=True)
    ]
    # A file is as sensitive as the most sensitive one with its content, asked for or not.
    highest: dict[str, DataClass] = {}
    for file in looked:
        if not file.problem:
            highest[file.digest] = DataClass.highest((file.data_class, highest.get(file.digest, DataClass.PUBLIC)))
    files: list[SourceFile] = []
    first_with: dict[str, str] = {}
    for file, name in zip(looked, names, strict=True):
        if only and name not in wanted_files:
            continue
        if not file.listed and has_manifest:
            problems.append(f"{name!r} is not in the manifest: taken as internal")
        if not file.problem:
            if highest[file.digest] is not file.data_class:
                problems.append(f"{name!r} is taken as {highest[file.digest]}: another file has the same content")
                file = replace(file, data_class=highest[file.digest])
            twin = first_with.setdefault(file.digest, name)
            if twin != name:
                file = replace(file, duplicate_of=twin)
        files.append(file)
    return Inventory(str(folder), tuple(files), tuple(problems), only)


def read_manifest(path: Path) -> tuple[dict[str, DataClass], bool]:
    """(page → class, whether there is a manifest). Raises `BadInputError` with file and line."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}, False
    except (OSError, UnicodeError) as error:
        raise BadInputError(f"the manifest cannot be read: {error}", where=str(path)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise BadInputError("the manifest is nested too deeply", where=str(path), todo="pages: {name: class}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise BadInputError(f"the manifest is not YAML: {getattr(error, 'problem', error)}", where=where) from error
    classes: dict[str, DataClass] = {}
    if root is None:
        return classes, True
    seen = False
    for key, value in _pairs(root, path):
        if seen:
            raise BadInputError("'pages' is given twice", where=_at(path, key), todo="write one list")
        seen = key.value == "pages"
        if not seen:
            raise BadInputError(f"unknown key {key.value!r}; known is pages", where=_at(path, key))
        for page, data_class in _pairs(value, path):
            for node in (page, data_class):
                if not isinstance(node, yaml.ScalarNode):
                    raise BadInputError(
                        "a name and a class are expected here", where=_at(path, node), todo="name: class"
                    )
            if data_class.value not in set(DataClass):
                known = ", ".join(DataClass)
                raise BadInputError(
                    f"unknown data class {data_class.value!r}; known are {known}", where=_at(path, data_class)
                )
            if page.value in classes:
                raise BadInputError(f"page {page.value!r} is listed twice", where=_at(path, page))
            classes[page.value] = DataClass(data_class.value)
    return classes, True


def _pairs(node: Any, path: Path) -> list[tuple[Any, Any]]:
    if not isinstance(node, yaml.MappingNode):
        raise BadInputError("a mapping is expected here", where=_at(path, node), todo="pages: {name: class}")
    return list(node.value)


def _at(path: Path, node: Any) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _walk(folder: Path) -> list[Path]:
    found = []

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        found.append(Path(error.filename))

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".") and name not in _NOT_PAGES]
    return found


def _shown(name: str) -> str:
    """The name as text; bytes that are not UTF-8 are written as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _look(path: Path, name: str, data_class: DataClass, listed: bool) -> SourceFile:
    if not path.as_posix().endswith(name):
        return SourceFile(name, "", 0, data_class, listed, problem="its name is not UTF-8: rename it")
    try:
        if path.is_dir():
            return SourceFile(name, "", 0, data_class, listed, problem="the folder cannot be read")
        if not path.is_file():
            return SourceFile(name, "", 0, data_class, listed, problem="it is not a regular file")
        size = path.stat().st_size
        if size == 0:
            return SourceFile(name, "", 0, data_class, listed, problem="the file is empty")
        if size > MAX_FILE:
            return SourceFile(
                name, "", size, data_class, listed, problem=f"the file is larger than {MAX_FILE >> 20} MiB"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return SourceFile(name, "", 0, data_class, listed, problem=f"the file cannot be read: {error.strerror}")
    return SourceFile(name, digest, size, data_class, listed)


def _natural(name: str) -> list[tuple[int, int | str]]:
    """`page2` before `page10`."""
    parts: list[tuple[int, int | str]] = []
    digits = ""
    for character in name:
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits)))
            digits = ""
        parts.append((1, character.lower()))
    return [*parts, (0, int(digits))] if digits else parts


natural_order = _natural
