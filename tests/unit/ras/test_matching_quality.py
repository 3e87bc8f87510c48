"""On the shipped sample of public data the index finds more than SQLite's full text search does."""

from __future__ import annotations

from statistics import fmean

import pytest

from benchmarks.adapters.matching import rank
from benchmarks.matching import SAMPLE, SETS
from benchmarks.yardstick.matching.baselines import fts5
from benchmarks.yardstick.matching.score import load, measures

AHEAD = {"metatool": 0.08, "gorilla": 0.02, "sealtools": 0.005}
"""By how much, in nDCG at 5, at least."""


@pytest.mark.parametrize("name", SETS)
def test_it_is_ahead_of_full_text_search(name: str) -> None:
    folder = SAMPLE / SETS[name]
    capabilities, requests = load(folder / "capabilities.jsonl"), load(folder / "queries.jsonl")
    ours, theirs = (
        fmean(measures(ranks(capabilities, row["text"], 10), set(row["relevant"]))["ndcg@5"] for row in requests)
        for ranks in (rank, fts5)
    )
    assert ours >= theirs + AHEAD[name]
