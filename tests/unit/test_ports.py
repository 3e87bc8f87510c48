"""Ports for processes that are about to start."""

from __future__ import annotations

import random
import socket

import pytest

from ioi_dagster import ports
from ioi_dagster.errors import RetryableError
from ioi_dagster.ports import free_ports


def test_they_differ_and_no_outgoing_connection_takes_them() -> None:
    found = free_ports(200)
    assert len(set(found)) == 200
    first = int(ports.OUTGOING.read_text().split()[0]) if ports.OUTGOING.exists() else ports.OUTGOING_FROM
    assert all(ports.FIRST <= port < first for port in found)


def test_one_that_is_listened_on_is_passed_over() -> None:
    first, second = free_ports(2, random.Random(7))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert free_ports(1, random.Random(7)) == [second]


def test_too_few_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: port == 12_345)
    with pytest.raises(RetryableError, match="1 are free, and 2 are needed"):
        free_ports(2)
