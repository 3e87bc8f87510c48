"""Reads how many nodes of a group there may be from its YAML."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from ioi_dagster.local.yaml_reader import YamlReader
from ioi_dagster.model.autoscale import Autoscale

_KEYS = {field.name: field.default for field in fields(Autoscale)}
_WHOLE = ("min", "max")
_LAUNCHER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def read_autoscale(reader: YamlReader, node: Any) -> Autoscale | None:
    """None where nothing stands there. What is wrong goes to `reader`'s errors."""
    if node is None:
        return None
    before = len(reader.errors)
    values = reader.mapping(node, set(_KEYS), {"max"}, "autoscale")
    numbers = {
        name: reader.number(values, name, int if name in _WHOLE else float, default)
        for name, default in _KEYS.items()
        if name != "launcher"
    }
    launcher = reader.scalar(values.get("launcher"), "launcher", str, "")
    found = Autoscale(**numbers, launcher=launcher)
    if len(reader.errors) > before:
        return found
    if launcher and not _LAUNCHER.fullmatch(launcher):
        reader.error(
            values["launcher"], f"launcher {launcher[:80]!r} must name a function, as in 'package.module:function'"
        )
    if found.min > found.max:
        reader.error(values["min"], f"min is {found.min} and max is {found.max}: there cannot be more always than ever")
    for cap in ("per_hour", "per_day"):
        if cap in values and not found.node_hour:
            reader.error(values[cap], f"{cap} bounds what nodes cost, and node_hour does not say what one costs")
    if "per_hour" in values and found.node_hour and found.most < max(1, found.min):
        text = f"per_hour pays for {found.most} nodes, and {max(1, found.min)} must be possible"
        reader.error(values["per_hour"], text)
    if found.per_day is not None and found.node_hour and found.per_day < found.least:
        text = (
            f"per_day ({found.per_day:g}) never pays for a node: one costs {found.least:.4g} at least, "
            f"{found.node_hour:g} an hour for {found.least_s:g} s (the longer of boot_s and min_age_s)"
        )
        reader.error(values["per_day"], text)
    if found.give_up_s < found.boot_s:
        reader.error(node, f"give_up_s ({found.give_up_s:g}) is before a node comes (boot_s: {found.boot_s:g})")
    return found
