"""Files of JSON and YAML: what can be kept is read, all else is refused with its line."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.formats.document import MAX_DEPTH, MAX_FILE, read_documents
from tests.unit.ras.formats.foreign import JSON

REFUSED = {
    "key twice": (
        "a.json",
        b'{"a": [1,\n {"b": 2, "b": 3}]}',
        "a.json:2: a[1].b: key 'b' stands twice — keep one of them",
    ),
    "large integer": ("a.json", b'{"a":\n 9007199254740993}', "a.json:2: a: 9007199254740993 would change"),
    "whole double": ("a.json", b'{"a": 9007199254740993.0}', "a.json:1: a: 9007199254740993.0 would change"),
    "very long integer": ("a.json", b'{"a": ' + b"9" * 5000 + b"}", "a.json:1: a: 9999"),
    "over all numbers": ("a.json", b'{"a": 1e999}', "a.json:1: a: 1e999 is more than a number can be"),
    "no number": ("a.json", b'{"a": [NaN]}', "a.json:1: a[0]: NaN is not a number that JSON has"),
    "half a character": ("a.json", b'{"a": "\\ud800"}', "a.json:1: a: half a character"),
    "half a key": ("a.json", b'{"a": {"\\ud800": 1}}', "a.json:1: a: half a character"),
    "bomb of lists": ("a.json", b"[" * 100_000, f"a.json:1: nested deeper than {MAX_DEPTH}"),
    "not UTF-8": ("a.json", b'{"a":\n "\xff"}', "a.json:2: not UTF-8"),
    "no JSON": ("a.json", b'{"a": 1\n,,}', "a.json:2: not JSON: "),
    "too much": ("a.json", b" " * (MAX_FILE + 1), f"a file has {MAX_FILE} at most"),
    "too many": ("a.json", b"[" + b"{}," * 1000 + b"{}]", "1001 documents; a file has 1000 at most"),
    "alias": ("a.yaml", b"a: &x [1]\nb: [*x, *x]\n", "a.yaml:2: b[0]: aliases (`*name`) are not allowed"),
    "YAML key twice": ("a.yaml", b"m:\n  a: 1\n  a: 2\n", "a.yaml:3: m.a: key 'a' stands twice"),
    "YAML large integer": ("a.yaml", b"a: 9007199254740993\n", "a.yaml:1: a: 9007199254740993 would change"),
    "YAML object": ("a.yaml", b"a: !!python/object:os.system {}\n", "a.yaml:1: a: tag tag:yaml.org,2002:python/object"),
    "YAML binary": ("a.yaml", b"a: !!binary aGk=\n", "a.yaml:1: a: tag tag:yaml.org,2002:binary is not allowed"),
    "YAML infinity": ("a.yaml", b"a: .inf\n", "a.yaml:1: a: .inf is not a number that JSON has"),
    "YAML bomb of lists": ("a.yaml", b"[" * 10_000, f"nested deeper than {MAX_DEPTH}"),
    "key that is a list": ("a.yaml", b"? [1]\n: 2\n", "a.yaml:1: a key that is no text"),
    "no YAML": ("a.yaml", b"a: [1\nb: 2\n", "a.yaml:2: neither JSON nor YAML: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_line(case: str):
    name, data, text = REFUSED[case]
    with pytest.raises(BadInputError) as refused:
        read_documents(data, name)
    assert text in str(refused.value)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
@settings(max_examples=40)
def test_json_is_read_as_it_was_written_and_each_value_knows_its_line(value):
    (document,) = read_documents(json.dumps(value, indent=1).encode(), "a.json")
    assert document.value == value
    for number, key in enumerate(value):
        before = json.dumps(dict(list(value.items())[:number]), indent=1).count("\n")
        assert document.line_of((key,)) == (before if number else 1) + 1


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=6), JSON, min_size=1, max_size=4
    )
)
@settings(max_examples=40)
def test_yaml_says_the_same_as_json(value):
    # In quotes: YAML 1.1, which the writer goes by, and 1.2 differ in what they take for a number.
    text = yaml.safe_dump(json.loads(json.dumps(value)), default_style='"', allow_unicode=True)
    plain = (
        text.replace("!!null", "!!str").replace("!!bool", "!!str").replace("!!int", "!!str").replace("!!float", "!!str")
    )
    (document,) = read_documents(plain.encode(), "a.yaml")
    assert document.value == yaml.load(plain, Loader=yaml.BaseLoader)


def test_yaml_has_the_types_of_its_core_schema():
    text = b"a: no\nb: 2026-01-01\nc: [1, 2.5, 0x1f, ~, true, '1', 1_0, 1:30]\n---\nx: {}\n---\n"
    assert [document.value for document in read_documents(text, "a.yml")] == [
        {"a": "no", "b": "2026-01-01", "c": [1, 2.5, 31, None, True, "1", "1_0", "1:30"]},
        {"x": {}},
    ]


def test_a_list_is_as_many_documents():
    one, two = read_documents(b'\n[{"a": 1},\n {"b":\n 2}]', "-")
    assert (one.value, two.value) == ({"a": 1}, {"b": 2})
    assert str(two.refuse(("b",), "odd")) == "-:4: b: odd"


@given(st.binary(max_size=60), st.sampled_from(["a.json", "a.yaml", "-"]))
def test_no_bytes_are_more_than_a_bad_input(data, name):
    try:
        found = read_documents(data, name)
    except BadInputError as error:
        found = [error]
    assert all(name in (one.where or "") if isinstance(one, BadInputError) else one.file == name for one in found)
