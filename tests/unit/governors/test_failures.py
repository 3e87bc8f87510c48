"""Why starts end without a result, as nodes say it."""

from __future__ import annotations

import pytest

from ioi_dagster.governors.failures import RULES, Cause


@pytest.mark.parametrize(
    ("word", "cause"), [*((str(cause), cause) for cause in Cause), ("", Cause.NODE_ERROR), ("melted", Cause.NODE_ERROR)]
)
def test_a_word_that_is_not_known_says_no_more_than_that_the_node_failed(word, cause):
    assert Cause.said(word) is cause


def test_each_cause_has_its_rule():
    assert set(RULES) == set(Cause)
