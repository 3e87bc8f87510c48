"""Texts of documents, JSON or YAML, as plain JSON values that RFC 8785 can keep; each value knows its line.

JSON is read by the standard library, which tells of keys that stand twice. YAML is read event by event with the types of the
core schema of YAML 1.2: `no` and `2026-01-01` are texts, as they are to those who write entities of catalogues.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from ioi_dagster.errors import BadInputError

MAX_FILE = 4 * 2**20
"""Bytes of one file."""
MAX_DEPTH = 56
"""How deep a document may be nested: a record that holds it is nested a little deeper."""
MAX_DOCUMENTS = 1_000
"""In one file."""
MAX_INTEGER = 2**53 - 1
"""RFC 8785 keeps numbers as doubles: from there on integers would change."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A `value` of plain JSON in `file`; `line_of` tells on which line a value stands, or 0."""

    value: Any
    file: str = ""
    line_of: Callable[[Path], int] = lambda path: 0
    start: Path = ()
    """Where in its file's value it stands."""

    def refuse(self, path: Path, what: str, todo: str | None = None) -> BadInputError:
        """An error that names file, line and path of a value in this document."""
        line = self.line_of(self.start + path)
        where = ":".join(filter(None, (self.file, str(line or ""))))
        return BadInputError(f"{shown_path(path)}{': ' if path else ''}{what}", where=where or None, todo=todo)


def shown_path(path: Path) -> str:
    """As `skills[0].id`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f"{'.' if text else ''}{_short(step)}"
    return text


def read_documents(data: bytes, file: str) -> list[Document]:
    """All documents in a file: one of JSON, each of a list of such, or each of a YAML stream. Raises `BadInputError`, which names
    the line, for what cannot be read or kept: text that is not UTF-8, keys that stand twice, aliases, values nested too deeply,
    and numbers that would change."""
    if len(data) > MAX_FILE:
        raise BadInputError(f"{len(data)} bytes; a file has {MAX_FILE} at most", where=file, todo="split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError("not UTF-8", where=f"{file}:{line}", todo="save it as UTF-8") from None
    as_json = text.lstrip()[:1] in ("{", "[") and not file.endswith((".yaml", ".yml"))
    found = _read_json(text, file) if as_json or file.endswith(".json") else _read_yaml(text, file)
    documents = [
        Document(item, one.file, one.line_of, (number,))
        for one in found
        for number, item in enumerate(one.value if isinstance(one.value, list) else ())
    ] or found
    if len(documents) > MAX_DOCUMENTS:
        raise BadInputError(f"{len(documents)} documents; a file has {MAX_DOCUMENTS} at most", where=file)
    return documents


def checked(value: Any, file: str = "") -> Document:
    """A value that was read elsewhere. Raises `BadInputError` where it is no JSON that can be kept."""
    document = Document(value, file)
    waiting: list[tuple[Any, Path]] = [(value, ())]
    while waiting:
        item, path = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise document.refuse(path[:3], f"nested deeper than {MAX_DEPTH}", _FLATTEN)
        if isinstance(item, dict):
            for key in item:
                what = _unfit(key) if isinstance(key, str) else "a key that is no text"
                if what:
                    raise document.refuse(path, what)
            waiting += [(inner, (*path, key)) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [(inner, (*path, number)) for number, inner in enumerate(item)]
        elif what := _unfit(item):
            raise document.refuse(path, what, _AS_TEXT if isinstance(item, int | float) else None)
    return document


def _unfit(item: Any) -> str:
    """Why a value that holds no others cannot be kept."""
    if item is None or isinstance(item, bool):
        return ""
    if isinstance(item, int):
        return "" if abs(item) <= MAX_INTEGER else f"{_digits(item)} {_CHANGES}"
    if isinstance(item, float):
        return "" if math.isfinite(item) else "not a number that JSON has"
    if not isinstance(item, str):
        return f"a {type(item).__name__} is no JSON"
    return "half a character (a surrogate that stands alone)" if _SURROGATE.search(item) else ""


def _digits(number: int) -> str:
    return str(number) if abs(number) < 10**40 else "an integer of more than 40 digits"


_SURROGATE = re.compile("[\ud800-\udfff]")
_CHANGES = f"would change: integers are kept up to ±{MAX_INTEGER}"
_AS_TEXT = "write it in quotes"
_FLATTEN = "flatten it"


def _short(text: str) -> str:
    return ascii(text[:60])[1:-1] + ("…" if len(text) > 60 else "")


# JSON -----------------------------------------------------------------------------------------------------------------


class _TwiceError(ValueError):
    """A key that stands twice in one object."""


def _read_json(text: str, file: str) -> list[Document]:
    _refuse_deep(text, file)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=_integer, parse_float=_number, parse_constant=_none)
    except json.JSONDecodeError as error:
        raise BadInputError(f"not JSON: {error.msg}", where=f"{file}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:
        line, path = _first_wrong(text)
        what = f"{shown_path(path)}: {error}" if path else str(error)
        todo = "keep one of them" if isinstance(error, _TwiceError) else _AS_TEXT
        raise BadInputError(what, where=f"{file}:{line}", todo=todo) from None
    document = Document(value, file, lambda path: _json_line(text, path))
    _refuse_unfit(document)
    return [document]


def _refuse_unfit(document: Document) -> None:
    try:
        checked(document.value)
    except BadInputError:
        # Again, with its line.
        for item, path in _leaves(document.value, ()):
            if what := _unfit(item):
                raise document.refuse(path, what, _AS_TEXT) from None
        raise


def _leaves(value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, path
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield value, path


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def _refuse_deep(text: str, file: str) -> None:
    """Before it is read: what is nested by the ten thousand is no error to a recursive reader, but the end of its stack."""
    depth = 0
    for token in _TOKENS.finditer(text):
        letter = token.group()[0]
        depth += (letter in "[{") - (letter in "]}")
        if depth > MAX_DEPTH:
            line = text.count("\n", 0, token.start()) + 1
            raise BadInputError(f"nested deeper than {MAX_DEPTH}", where=f"{file}:{line}", todo=_FLATTEN)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _TwiceError(f"key {_short(twice)!r} stands twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"{text[:40]} {_CHANGES}")
    return int(text)


def _number(text: str) -> float:
    """As a double. Large ones are refused as integers are, but for those that are written as a double is."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is more than a number can be")
    if abs(value) > MAX_INTEGER and Decimal(text) not in (Decimal(value), Decimal(repr(value))):
        raise ValueError(f"{text[:40]} {_CHANGES}")
    return value


def _none(text: str) -> float:
    raise ValueError(f"{text} is not a number that JSON has")


_BLANKS = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


def _steps(text: str) -> Iterator[tuple[Path, int, bool]]:
    """(path, where it begins, is it a value rather than a key) of everything in a JSON text, in order. Of text that is no JSON
    those up to there."""
    path: list[str | int] = []
    opened: list[str] = []
    at, key_next = 0, False
    while (at := _BLANKS.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        letter = text[at]
        if letter in "]}":
            opened.pop()
            path.pop()
            at += 1
        elif letter == ",":
            key_next = opened[-1] == "{"
            if not key_next:
                path[-1] += 1  # type: ignore[operator]
            at += 1
        elif letter == ":":
            at += 1
        elif key_next:
            path[-1], end = json.decoder.scanstring(text, at + 1)  # type: ignore[attr-defined]
            yield tuple(path), at, False
            at, key_next = end, False
        else:
            yield tuple(path), at, True
            if letter in "[{":
                opened.append(letter)
                path.append("" if letter == "{" else 0)
                key_next = letter == "{"
                at += 1
            elif letter == '"':
                at = json.decoder.scanstring(text, at + 1)[1]  # type: ignore[attr-defined]
            else:
                at = _SCALAR.match(text, at).end()  # type: ignore[union-attr]


def _json_line(text: str, path: Path) -> int:
    """Where a value of sound JSON begins; that of what holds it where it is not there."""
    nearest, length = 0, -1
    for its, at, value in _steps(text):
        if value and len(its) > length and its == path[: len(its)]:
            nearest, length = at, len(its)
            if length == len(path):
                break
    return text.count("\n", 0, nearest) + 1


def _first_wrong(text: str) -> tuple[int, Path]:
    """(line, path) of the first key that stands twice or number that cannot be kept."""
    seen: set[Path] = set()
    for path, at, value in _steps(text):
        if not value:
            if path in seen:
                return text.count("\n", 0, at) + 1, path
            seen.add(path)
        elif text[at] not in '"[{' and _wrong_scalar(_SCALAR.match(text, at).group()):  # type: ignore[union-attr]
            return text.count("\n", 0, at) + 1, path
    return 1, ()


def _wrong_scalar(text: str) -> bool:
    try:
        json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_none)
    except ValueError:
        return True
    return False


# YAML -----------------------------------------------------------------------------------------------------------------

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAGS = {None: None, "!": str, "tag:yaml.org,2002:str": str}
"""Tags of scalars that may be written out; the others make something of a text that JSON does not have."""
_COLLECTIONS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def _read_yaml(text: str, file: str) -> list[Document]:
    try:
        return list(_yaml_documents(text, file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInputError(f"neither JSON nor YAML: {what}", where=where) from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"no YAML that can be kept: {error}", where=file) from None


def _yaml_documents(text: str, file: str) -> Iterator[Document]:
    """Anchors that nobody refers to are harmless; an alias may make a page of ten lines a billion entries."""
    builder = _Builder(file)
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            builder = _Builder(file)
        elif isinstance(event, yaml.DocumentEndEvent):
            if builder.value is not None:
                lines = builder.lines
                yield Document(builder.value, file, lambda path, lines=lines: _nearest(lines, path))
        else:
            builder.take(event)


def _nearest(lines: dict[Path, int], path: Path) -> int:
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 0)


class _Builder:
    """One document from its events."""

    def __init__(self, file: str) -> None:
        self.value: Any = None
        self.lines: dict[Path, int] = {}
        self._file = file
        self._open: list[Any] = []
        self._path: list[str | int] = []
        self._key_next = False

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise self._wrong(line, "aliases (`*name`) are not allowed", "write it out")
        if isinstance(event, yaml.ScalarEvent):
            if self._key_next:
                self._key(event, line)
            else:
                self._put(self._scalar(event, line), line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if self._key_next:
                raise self._wrong(line, "a key that is no text")
            if event.tag not in _COLLECTIONS:
                raise self._wrong(line, f"tag {_short(event.tag)} is not allowed", "leave it out")
            if len(self._open) >= MAX_DEPTH:
                raise self._wrong(line, f"nested deeper than {MAX_DEPTH}", _FLATTEN)
            holder: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._put(holder, line)
            self._open.append(holder)
            self._path.append("" if isinstance(holder, dict) else 0)
            self._key_next = isinstance(holder, dict)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._path.pop()
            self._after()

    def _key(self, event: Any, line: int) -> None:
        if event.value in self._open[-1]:
            raise self._wrong(line, f"key {_short(event.value)!r} stands twice", "keep one of them")
        self._path[-1] = event.value
        self._key_next = False

    def _put(self, value: Any, line: int) -> None:
        self.lines[tuple(self._path)] = line
        if not self._open:
            self.value = value
        elif isinstance(self._open[-1], dict):
            self._open[-1][self._path[-1]] = value
        else:
            self._open[-1].append(value)
        if not isinstance(value, dict | list):
            self._after()

    def _after(self) -> None:
        """A value is complete."""
        self._key_next = bool(self._open) and isinstance(self._open[-1], dict)
        if self._open and not self._key_next:
            self._path[-1] += 1  # type: ignore[operator]

    def _scalar(self, event: Any, line: int) -> Any:
        if event.tag not in _TAGS:
            raise self._wrong(line, f"tag {_short(event.tag)} is not allowed", "leave it out")
        text = event.value
        if event.style or _TAGS[event.tag] is str:
            value: Any = text
        else:
            try:
                value = _plain(text)
            except ValueError as error:
                raise self._wrong(line, str(error), _AS_TEXT) from None
        if what := _unfit(value):
            raise self._wrong(line, what, _AS_TEXT)
        return value

    def _wrong(self, line: int, what: str, todo: str | None = None) -> BadInputError:
        shown = shown_path(tuple(self._path))
        return BadInputError(f"{shown}: {what}" if shown else what, where=f"{self._file}:{line}", todo=todo)


def _plain(text: str) -> Any:
    """A scalar without quotes, by the core schema."""
    if _NULL.fullmatch(text):
        return None
    if found := _BOOL.fullmatch(text):
        return bool(found[1])
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _OCTAL_HEX.fullmatch(text):
        return int(text[:40], 0)
    if _FLOAT.fullmatch(text):
        return _number(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that JSON has")
    return text
