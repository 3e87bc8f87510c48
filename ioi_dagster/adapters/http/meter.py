"""What a gateway has answered and how long that took, in Prometheus' text format (version 0.0.4).

Requests are measured under the name and with the labels and bounds that OpenTelemetry's semantic conventions give to
`http.server.request.duration`; its count by status is the number of requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds."""
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its `samples` are labels and values. `kind`: `counter` or `gauge`."""

    name: str
    kind: str
    text: str
    samples: Iterable[tuple[Labels, float]]


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total_s: float = 0.0


class Meter:
    """Of one gateway; `route` is a door, or the same word for all that is none, so that what is kept is bounded."""

    def __init__(self) -> None:
        self._took: dict[tuple[str, str, int], _Histogram] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        its = self._took.setdefault((method, route, status), _Histogram())
        its.counts[bisect_left(BOUNDS, seconds)] += 1
        its.total_s += seconds

    def text(self, families: Iterable[Family]) -> str:
        """All of it, with `families` after it."""
        name = "http_server_request_duration_seconds"
        lines = [f"# HELP {name} Duration of HTTP server requests.", f"# TYPE {name} histogram"]
        for (method, route, status), its in sorted(self._took.items()):
            labels = {
                "http_request_method": method,
                "http_route": route,
                "http_response_status_code": str(status),
            }
            upto = 0
            for bound, count in zip((*map(_number, BOUNDS), "+Inf"), its.counts, strict=True):
                upto += count
                lines.append(f"{name}_bucket{_labelled({**labels, 'le': bound})} {upto}")
            lines.append(f"{name}_sum{_labelled(labels)} {_number(its.total_s)}")
            lines.append(f"{name}_count{_labelled(labels)} {upto}")
        for one in families:
            lines += [f"# HELP {one.name} {one.text}", f"# TYPE {one.name} {one.kind}"]
            lines += [f"{one.name}{_labelled(labels)} {_number(value)}" for labels, value in one.samples]
        return "\n".join(lines) + "\n"


def _labelled(labels: Labels) -> str:
    written = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
    return f"{{{written}}}" if written else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))
