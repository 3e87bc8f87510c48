"""The text of an event log entry: what Dagster's `serialize_value` makes of it, in half the time.

Dagster asks anew of every value in every entry how its class is written. Here that is found out once a class. Classes that are
written in a way of their own are left to Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ioi_dagster.host.private import (
    SERIALIZERS,
    EventLogEntry,
    NamedTupleSerializer,
    pack_field,
    pack_value,
)

_SCALARS = frozenset({str, int, float, bool, type(None)})
_encode = json.JSONEncoder(sort_keys=True).encode
_packers: dict[type, Callable[[Any], Any]] = {}


def entry_text(entry: EventLogEntry) -> str:
    """The same text as `serialize_value(entry)`; raises what that raises where something cannot be written."""
    return _encode(_pack(entry))


def _pack(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: its if type(its) in _SCALARS else _pack(its) for key, its in value.items()}
    if kind is list:
        return [_pack(its) for its in value]
    packer = _packers.get(kind)
    if packer is None:
        packer = _packers[kind] = _packer(kind)
    return packer(value)


def _packer(kind: type) -> Callable[[Any], Any]:
    serializer: Any = SERIALIZERS.get(kind.__name__)
    if serializer is None or serializer.klass is not kind or not _is_plain(type(serializer)):
        return pack_value
    name, stored, old = serializer.get_storage_name(), serializer.storage_field_names, serializer.old_fields
    empty, none, custom = (
        serializer.skip_when_empty_fields,
        serializer.skip_when_none_fields,
        serializer.field_serializers,
    )
    special = {*empty, *none, *custom}
    mapping = serializer.object_as_mapping

    def pack(value: Any) -> dict[str, Any]:
        packed = {"__class__": name}
        for key, its in mapping(value).items():
            if key in special:
                its = pack_field(custom[key], its) if key in custom else its
                if (key in none and its is None) or (key in empty and its in (None, [], {}, set())):
                    continue
            packed[stored.get(key, key)] = its if type(its) in _SCALARS else _pack(its)
        packed.update(old)
        return packed

    return pack


def _is_plain(serializer: type) -> bool:
    return issubclass(serializer, NamedTupleSerializer) and all(
        getattr(serializer, method) is getattr(NamedTupleSerializer, method)
        for method in (*("pack_items", "before_pack", "object_as_mapping"), "get_storage_name")
    )
