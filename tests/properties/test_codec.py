"""Step values come back as they were, whatever they are; what cannot be written says so."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ioi_dagster.compound.codec import decode_value, encode_value
from ioi_dagster.errors import FinalError
from ioi_dagster.framing import decode_payload

text = some.text(some.characters(exclude_categories=()), max_size=8)
leaves = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | text | some.binary(max_size=8)
values = some.recursive(
    leaves,
    lambda inner: (
        some.lists(inner, max_size=4) | some.dictionaries(text, inner, max_size=4) | some.tuples(inner, inner)
    ),
    max_leaves=12,
)


def exactly(value: Any) -> Any:
    """What tells one value from every other, the order of keys and the types of numbers included."""
    return repr(value)


@given(values)
def test_a_value_comes_back_as_it_was(value):
    assert exactly(decode_value(encode_value(value))) == exactly(value)


def test_the_order_of_keys_is_kept_and_plain_data_stays_readable():
    data = encode_value({"b": 1, "a": {"d": 1, "c": [2.0, -0.0]}})
    assert exactly(decode_value(data)) == "{'b': 1, 'a': {'d': 1, 'c': [2.0, -0.0]}}"
    assert decode_payload(data).parts == {"json": b'{"b":1,"a":{"d":1,"c":[2.0,-0.0]}}'}


def test_odd_numbers_and_text_come_back():
    nan, huge, lone = decode_value(encode_value([math.nan, 10**4000, "\ud800"]))
    assert math.isnan(nan)
    assert (huge, lone) == (10**4000, "\ud800")


def test_what_holds_itself_or_one_thing_twice_comes_back_so():
    circle: list[Any] = []
    circle.append(circle)
    back = decode_value(encode_value(circle))
    assert back[0] is back
    one: list[Any] = []
    for _ in range(60):
        one = [one, one]  # written out, it would have 2**60 ends
    back = decode_value(encode_value(one))
    assert back[0] is back[1]


def test_a_large_plain_value_needs_no_small_header():
    value = ["x" * 2**20] * 20
    assert decode_value(encode_value(value)) == value
    assert decode_value(encode_value("x" * 2**25)) == "x" * 2**25


def test_a_value_over_the_limit_names_its_size_and_what_to_use():
    for value in ("x" * 3 * 2**20, b"x" * 3 * 2**20):
        with pytest.raises(FinalError, match=r"has 3\.0 MiB.* 1\.0 MiB at most.*FilesystemIOManager"):
            encode_value(value, limit=2**20)
        assert decode_value(encode_value(value, limit=4 * 2**20)) == value


def test_what_nothing_can_write_says_so():
    with pytest.raises(FinalError, match=r"type lock can neither be written as JSON nor pickled.*return plain data"):
        encode_value(threading.Lock())
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FinalError, match="nested too deeply"):
        encode_value(deep)
