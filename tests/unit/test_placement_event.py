"""What of a step's story stands on the run page."""

from __future__ import annotations

from typing import Any

import pytest

from ioi_dagster.host import tags
from ioi_dagster.host.placement_event import asked, told
from ioi_dagster.model.story import Chapter, Entry

C = Chapter


def entry(chapter: Chapter, text: str, **facts: Any) -> Entry:
    return Entry("run", "s", chapter, text, 1.0, facts)


CANDIDATES = entry(C.CANDIDATES, "may go to a; rejected: cloud", places=["a"], rejected=[{"who": "cloud"}])
ALONE = entry(C.CANDIDATES, "may go to dask", places=["dask"], rejected=[])


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ([], {}),
        ([ALONE, entry(C.BID, "offers: dask", silent=[]), entry(C.AWARD, "awarded to n")], {}),
        ([ALONE, entry(C.WAIT, "waited 2 s"), entry(C.BID, "offers: dask", silent=[])], {"ioi/waited": "waited 2 s"}),
        (
            [
                entry(C.CANDIDATES, "may go to nobody", places=[], rejected=[{"who": "cloud"}]),
                CANDIDATES,
                entry(C.WAIT, "waits: nobody"),
                entry(C.WAIT, "no place by round 2", why="busy", waited=1.0, round=2),
                entry(C.WAIT, "waited 3 s"),
                entry(C.BID, "offers: a"),
                entry(C.AWARD, "awarded to n1"),
                entry(C.LOSS, "lost on n1"),
                entry(C.BID, "offers: a again"),
                entry(C.AWARD, "awarded to n2"),
            ],
            {
                "ioi/candidates": "may go to a; rejected: cloud",
                "ioi/waited": "waits: nobody; waited 3 s",
                "ioi/bids": "offers: a again",
                "ioi/award": "awarded to n1; awarded to n2",
                "ioi/losses": "lost on n1",
            },
        ),
        (
            [CANDIDATES, entry(C.REFUSED, "no place may take it")],
            {"ioi/candidates": "may go to a; rejected: cloud", "ioi/refused": "no place may take it"},
        ),
    ],
)
def test_the_run_page_tells_the_story_of_a_step_and_nothing_where_nothing_was_to_choose(story, expected):
    found = told(story)
    assert {key: value.value for key, value in found.items()} == expected
    assert list(found) == list(expected)


def test_how_long_a_step_has_waited_in_all_is_a_number_beside_the_words():
    story = [
        entry(C.WAIT, "waited 2.0 s", seconds=2.0),
        entry(C.LOSS, "lost"),
        entry(C.WAIT, "waited 1.5 s", seconds=1.5),
    ]
    assert told(story)["ioi/waited_s"].value == 3.5


def test_who_a_step_counts_for_and_what_it_asks_for():
    step = {tags.RESOURCES: "memory=4GiB, gpu=1", tags.GANG: "world", "dagster/priority": "2"}
    found = asked(step, {tags.TENANT: "scans", tags.PRIORITY: "1"}, True)
    assert {key: value.value for key, value in found.items()} == {
        "ioi/tenant": "scans",
        "ioi/resources": "gpu 1, memory 4 GiB",
        "ioi/gang": "world",
        "ioi/priority": "3",
    }
    assert asked({}, {}, True)["ioi/tenant"].value == "default"
    assert asked({}, {}, False) == {}
