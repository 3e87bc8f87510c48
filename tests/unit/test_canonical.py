"""The bytes that are signed are those of RFC 8785, whichever way they are written."""

from __future__ import annotations

import math
from enum import StrEnum

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from ioi_dagster.signing import canonical


class Word(StrEnum):
    ONE = "one"


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(1e-7, 1e17)
    | st.text()
    | st.sampled_from(Word)
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
@example('\x00\x1f\x7f\x80\u2028/\\"\b\f\n\r\t')
@example({"\ufb33": 1, "\U0001f600": 2, "a": 3})
@example([-0.0, 1.0, 0.5, 1e15 + 0.5, 123456789.123, 1e-4, 1e21, 5e-324])
def test_it_is_written_as_the_library_writes_it(document):
    assert canonical(document) == rfc8785.dumps(document)


@pytest.mark.parametrize("document", [math.nan, math.inf, 2**53, {1: 2}, object(), "\ud800", b"x"])
def test_what_json_cannot_say_is_refused(document):
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical([document])
