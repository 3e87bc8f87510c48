"""Ports on this machine for processes that are about to start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from ioi_dagster.errors import RetryableError

FIRST = 10_000
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Whence the kernel takes ports of connections that go out (ip(7)): one of them may be in use by the time it is listened on."""
OUTGOING_FROM = 32_768
"""The first of them where the system does not say."""


def free_ports(count: int, rng: random.Random | None = None) -> list[int]:
    """Ports of the loopback that nobody listens on now and no outgoing connection takes, all different. Raises `RetryableError`
    where there are not so many."""
    candidates = list(range(FIRST, _first_outgoing()))
    (rng or random.SystemRandom()).shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise RetryableError(
            f"of {len(candidates)} ports from {FIRST} on {len(found)} are free, and {count} are needed"
        )
    return found


def _first_outgoing() -> int:
    try:
        first = int(OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = OUTGOING_FROM
    # Where outgoing connections may have nearly any, there is nothing to keep apart from them.
    return first if first >= 2 * FIRST else 2 * OUTGOING_FROM


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
