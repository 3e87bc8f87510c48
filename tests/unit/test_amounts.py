"""How amounts are told to people."""

from __future__ import annotations

import pytest

from ioi_dagster.model.amounts import counted, shown, told


@pytest.mark.parametrize(
    ("resource", "value", "text"),
    [
        ("slots", 1, "1 slot"),
        ("slots", 2.0, "2 slots"),
        ("slots", 0, "0 slots"),
        ("gpu", 1, "1 gpu"),
        ("memory", 1e11, "93.13 GiB memory"),
        ("memory", 2**32, "4 GiB memory"),
    ],
)
def test_an_amount_with_what_it_is_of(resource, value, text):
    assert told(resource, value) == text
    assert told(resource, value).startswith(shown(resource, value))


def test_one_is_not_many():
    assert [counted(number, "node") for number in range(3)] == ["0 nodes", "1 node", "2 nodes"]
