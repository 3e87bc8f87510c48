"""Which versions two sides need to have alike, so that what one of them writes the other can read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

EXACT = ("dask", "distributed", "cloudpickle", "msgpack", "dagster", "ioi-dagster")
"""What travels is made by one of these and read by another: Dask's messages, Dagster's serialised values, our own."""
MINOR = ("python",)
"""Here a third number makes no difference to what is sent."""

Versions = Mapping[str, str | None]
"""Version by package; None, or no entry, where it is missing."""


def differences(there: Versions, here: Versions, without: Collection[str] = ()) -> list[str]:
    """Of each package that differs: which version is there and which here. `without`: packages that are passed by."""
    return [
        f"{package} is {there.get(package) or 'missing'} there and {here.get(package) or 'missing'} here"
        for package in (*MINOR, *EXACT)
        if package not in without and _relevant(package, there.get(package)) != _relevant(package, here.get(package))
    ]


def _relevant(package: str, version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if version and package in MINOR else version
