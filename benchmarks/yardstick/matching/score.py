"""What a ranking of capabilities is worth: of each request it is known which answer it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def load(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def measures(ranked: list[str], relevant: set[str]) -> dict[str, float]:
    """Binary relevance.  ndcg@5 uses the usual log2 discount and the ideal for min(5, |relevant|)."""
    hits = [item in relevant for item in ranked]
    gain = sum(1 / math.log2(i + 2) for i, hit in enumerate(hits[:5]) if hit)
    ideal = sum(1 / math.log2(i + 2) for i in range(min(5, len(relevant))))
    first = next((i for i, hit in enumerate(hits) if hit), None)
    return {
        "recall@1": sum(hits[:1]) / len(relevant),
        "hit@1": float(any(hits[:1])),
        "recall@5": sum(hits[:5]) / len(relevant),
        "complete@5": float(sum(hits[:5]) == len(relevant)),
        "ndcg@5": gain / ideal,
        "mrr@10": 0.0 if first is None else 1 / (first + 1),
    }
