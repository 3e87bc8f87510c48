"""Other machines on this one: network namespaces whose links can be cut. Needs root and ip(8)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self


def possible() -> bool:
    """May this process make network namespaces?"""
    return os.geteuid() == 0 and shutil.which("ip") is not None


class FarMachine:
    """`here` and `there` are the addresses of this machine and of the other one. As a context manager it is made and removed.

    `here` is an address of the loopback interface, so that it stays reachable from this machine when the link is cut.
    """

    def __init__(self, number: int = 0) -> None:
        tag = f"{os.getpid() % 100_000}{number}"
        self.name, self._near, self._far = f"ioi-{tag}", f"ioih{tag}", f"ioin{tag}"
        net = f"10.{100 + number % 100}.{os.getpid() % 250}"
        self.here, self.there = f"{net}.1", f"{net}.2"

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far)
            _ip("link", "set", self._far, "netns", self.name)
            _ip("addr", "add", f"{self.here}/32", "dev", "lo")
            self._inside("link", "set", "lo", "up")
            self._inside("addr", "add", f"{self.there}/32", "dev", self._far)
            self.heal()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def command(self, command: Sequence[str]) -> list[str]:
        """As `command`, on the other machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """From now on nothing goes through, either way, and nobody is told."""
        _ip("link", "set", self._near, "down")

    def heal(self) -> None:
        """Everything goes through again."""
        _ip("link", "set", self._near, "up")
        self._inside("link", "set", self._far, "up")
        _ip("route", "replace", f"{self.there}/32", "dev", self._near, "src", self.here)
        self._inside("route", "replace", f"{self.here}/32", "dev", self._far)
        for neighbour in (self._neighbour_here(), self._neighbour_there()):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*neighbour, "del", *self._entry(neighbour))

    def cut_one_way(self, inward: bool) -> None:
        """What the other machine sends (`inward`), or what it is sent, goes to a hardware address that nobody has."""
        neighbour = self._neighbour_there() if inward else self._neighbour_here()
        _ip(*neighbour, "replace", *self._entry(neighbour), "lladdr", "02:00:00:00:00:01", "nud", "permanent")

    def _neighbour_here(self) -> tuple[str, ...]:
        return ("neigh",)

    def _neighbour_there(self) -> tuple[str, ...]:
        return ("-n", self.name, "neigh")

    def _entry(self, neighbour: tuple[str, ...]) -> tuple[str, ...]:
        return (self.there, "dev", self._near) if len(neighbour) == 1 else (self.here, "dev", self._far)

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def _remove(self) -> None:
        for arguments in (
            ("link", "del", self._near),
            ("addr", "del", f"{self.here}/32", "dev", "lo"),
            ("netns", "del", self.name),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*arguments)


class TwoSites:
    """Two sites, each a bridge (a switch) with machines of its own, and one line between them that can be cut. As a context
    manager they are made and removed. Nothing of them can be reached from this machine's own network."""

    def __init__(self, machines: int = 2) -> None:
        tag = f"{os.getpid() % 100_000}"
        self._switches = (f"ioia{tag}", f"ioib{tag}")
        self._line = (f"ioil{tag}", f"ioim{tag}")
        net = f"10.99.{os.getpid() % 250}"
        self.machines = tuple(
            _Machine(f"ioi-{tag}s{number}", f"ioiv{tag}{number}", f"{net}.{number + 1}", switch)
            for number, switch in enumerate(switch for switch in self._switches for _ in range(machines))
        )

    def __enter__(self) -> Self:
        try:
            for switch in self._switches:
                _ip("link", "add", switch, "type", "bridge")
                _ip("link", "set", switch, "up")
            near, far = self._line
            _ip("link", "add", near, "type", "veth", "peer", "name", far)
            for end, switch in zip(self._line, self._switches, strict=True):
                _ip("link", "set", end, "master", switch)
                _ip("link", "set", end, "up")
            for machine in self.machines:
                machine.make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def split(self) -> None:
        """From now on nothing goes from one site to the other, and nobody is told."""
        _ip("link", "set", self._line[0], "down")

    def heal(self) -> None:
        _ip("link", "set", self._line[0], "up")

    def _remove(self) -> None:
        for machine in self.machines:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", machine.name)
        for name in (self._line[0], *self._switches):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "del", name)


@dataclass(frozen=True, slots=True)
class _Machine:
    """`address` is the one that others at its site, and across the line, reach it by."""

    name: str
    _end: str
    address: str
    _switch: str

    def make(self) -> None:
        inside = f"{self._end}i"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._end, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.name)
        _ip("link", "set", self._end, "master", self._switch)
        _ip("link", "set", self._end, "up")
        for arguments in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self.address}/24", "dev", inside),
            ("link", "set", inside, "up"),
        ):
            _ip("-n", self.name, *arguments)

    def command(self, command: Sequence[str]) -> list[str]:
        """As `command`, on that machine."""
        return ["ip", "netns", "exec", self.name, *command]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)
