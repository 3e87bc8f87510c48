"""What something needs to run, and what a place to run it has: one vocabulary for both.

Memory and disk are in MiB, CPUs in cores. In an offer, what is not said is not known, and meets no requirement; in a requirement,
what is not said is not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ioi_dagster.decoding import converted
from ioi_dagster.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`count` of one model, each with `memory_mb`. In a requirement, an empty `vendor` or `model` may be any."""

    vendor: str = ""
    model: str = ""
    count: int = 1
    memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """`python` and the values of `frameworks` are specifiers of PEP 440; `os` and `arch` list those that will do (`linux`,
    `arm64`), `image` is the digest of a container image, `reaches` are hosts that have to be reached over the network."""

    python: str = ""
    os: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    cpus: float = 0.0
    memory_mb: int = 0
    disk_mb: int = 0
    image: str = ""
    frameworks: dict[str, str] = field(default_factory=dict)
    reaches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """`python` and the values of `frameworks` are versions; `images`: digests that can be run there (`*`: any that it can fetch);
    `reaches`: hosts, `*.example.org` for all of a domain, `*` for the open network. None: not known."""

    python: str = ""
    os: str = ""
    arch: str = ""
    accelerators: tuple[Accelerator, ...] | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    disk_mb: int | None = None
    images: tuple[str, ...] | None = None
    frameworks: dict[str, str] | None = None
    reaches: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """`what` is wanting: as it is `wanted`, and as it is `there` (`not known` where the offer does not say)."""

    what: str
    wanted: str
    there: str

    def __str__(self) -> str:
        return f"{self.what}: {self.wanted} is needed, {self.there} is there"


NOT_KNOWN = "not known"


def shortfalls(requirement: Requirement, offer: Offer) -> tuple[Shortfall, ...]:
    """What the offer lacks of the requirement; empty where it meets all of it."""
    found = [*_versions(requirement, offer), *_places(requirement, offer), *_amounts(requirement, offer)]
    return (*found, *_accelerators(requirement, offer))


def _versions(requirement: Requirement, offer: Offer) -> list[Shortfall]:
    rows = [("python", requirement.python, offer.python)]
    rows += [
        (name, wanted, (offer.frameworks or {}).get(name, ""))
        for name, wanted in sorted(requirement.frameworks.items())
    ]
    found = []
    for what, wanted, there in rows:
        if wanted and not _meets(wanted, there):
            missing = "none" if offer.frameworks is not None and what != "python" else NOT_KNOWN
            found.append(Shortfall(what, wanted, there or missing))
    return found


def _meets(wanted: str, version: str) -> bool:
    try:
        return bool(version) and SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def _places(requirement: Requirement, offer: Offer) -> list[Shortfall]:
    found = []
    for what, wanted, there in (("os", requirement.os, offer.os), ("arch", requirement.arch, offer.arch)):
        if wanted and _ARCH.get(there.lower(), there.lower()) not in {
            _ARCH.get(one.lower(), one.lower()) for one in wanted
        }:
            found.append(Shortfall(what, " or ".join(wanted), there or NOT_KNOWN))
    images, reaches = offer.images, offer.reaches
    if requirement.image and not (images and (requirement.image in images or "*" in images)):
        found.append(Shortfall("image", requirement.image, NOT_KNOWN if images is None else f"{len(images)} others"))
    cut_off = [host for host in requirement.reaches if not any(_reaches(one, host) for one in reaches or ())]
    if cut_off:
        found.append(
            Shortfall("network", ", ".join(cut_off), NOT_KNOWN if reaches is None else ", ".join(reaches) or "none")
        )
    return found


_ARCH = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}
"""One machine, many names."""


def _reaches(allowed: str, host: str) -> bool:
    if allowed == "*" or allowed.lower() == host.lower():
        return True
    return allowed.startswith("*.") and host.lower().endswith(allowed[1:].lower())


def _amounts(requirement: Requirement, offer: Offer) -> list[Shortfall]:
    rows = (
        ("cpus", requirement.cpus, offer.cpus, ""),
        ("memory", requirement.memory_mb, offer.memory_mb, " MiB"),
        ("disk", requirement.disk_mb, offer.disk_mb, " MiB"),
    )
    return [
        Shortfall(what, f"{wanted:g}{unit}", NOT_KNOWN if there is None else f"{there:g}{unit}")
        for what, wanted, there, unit in rows
        if wanted > 0 and (there is None or there < wanted)
    ]


def _accelerators(requirement: Requirement, offer: Offer) -> list[Shortfall]:
    """The most particular first, each from the smallest that will do, so that none is promised twice."""
    if not requirement.accelerators:
        return []
    left = sorted(offer.accelerators or (), key=lambda one: (one.memory_mb, one.vendor, one.model))
    counts = [one.count for one in left]
    found = []
    for wanted in sorted(requirement.accelerators, key=lambda one: (not one.model, not one.vendor, -one.memory_mb)):
        missing = wanted.count
        for place, one in enumerate(left):
            if _suits(wanted, one):
                taken = min(missing, counts[place])
                counts[place] -= taken
                missing -= taken
        if missing:
            there = ", ".join(map(_shown, offer.accelerators or ())) or "none"
            found.append(Shortfall("accelerator", _shown(wanted), NOT_KNOWN if offer.accelerators is None else there))
    return found


def _suits(wanted: Accelerator, there: Accelerator) -> bool:
    return (
        wanted.vendor.lower() in ("", there.vendor.lower())
        and wanted.model.lower() in ("", there.model.lower())
        and there.memory_mb >= wanted.memory_mb
    )


def _shown(one: Accelerator) -> str:
    name = " ".join(part for part in (one.vendor, one.model) if part) or "accelerator"
    return f"{one.count} × {name}" + (f" of {one.memory_mb} MiB" if one.memory_mb else "")


def read_requirement(value: Any, where: str) -> Requirement:
    """Of plain JSON. Raises `BadInputError`."""
    requirement = _read(value, Requirement, where)
    for name, specifier in {"python": requirement.python, **requirement.frameworks}.items():
        try:
            SpecifierSet(specifier)
        except InvalidSpecifier:
            what = f"{name} is {specifier[:60]!r}"
            raise BadInputError(what, where=where, todo="write a specifier of PEP 440, as in >=3.11,<4") from None
    _positive({"cpus": requirement.cpus, "memory_mb": requirement.memory_mb, "disk_mb": requirement.disk_mb}, where)
    _counted(requirement.accelerators, where)
    return requirement


def read_offer(value: Any, where: str) -> Offer:
    """Of plain JSON. Raises `BadInputError`."""
    offer = _read(value, Offer, where)
    _positive({"cpus": offer.cpus, "memory_mb": offer.memory_mb, "disk_mb": offer.disk_mb}, where)
    _counted(offer.accelerators or (), where)
    return offer


def _read(value: Any, kind: type[Any], where: str) -> Any:
    known = kind.__dataclass_fields__
    odd = [str(name)[:40] for name in value if name not in known] if isinstance(value, Mapping) else []
    if odd:
        raise BadInputError(f"{odd[0]!r} is nothing of a runtime", where=where, todo=f"one of {', '.join(known)}")
    try:
        return converted(value, kind)
    except msgspec.ValidationError as error:
        raise BadInputError(re.sub(r"[\r\n]", " ", str(error)), where=where, todo="correct it") from error


def _positive(amounts: Mapping[str, float | None], where: str) -> None:
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount < 1e15:
            raise BadInputError(f"{name} is {amount!r}", where=where, todo="write a number from 0")


def _counted(accelerators: tuple[Accelerator, ...], where: str) -> None:
    _positive({f"count of {_shown(one)}": one.count for one in accelerators}, where)
    _positive({f"memory of {_shown(one)}": one.memory_mb for one in accelerators}, where)
