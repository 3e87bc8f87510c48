"""Reads where a domain keeps data from its YAML."""

from __future__ import annotations

from typing import Any

import yaml

from ioi_dagster.local.yaml_reader import YamlReader
from ioi_dagster.model.data_stores import MOST, SURVEY_S, DataSpec, DoorSpec, StoreSpec

MAX_URL = 500
"""What a copy's own folders add to it fits into the URL that is told of a copy."""
_ODD = ("::", "\\", "%", "?", "#", "*", "[", " ")
_HTTP = ("http", "https")


def read_data(reader: YamlReader, node: Any, retains: bool) -> DataSpec:
    """What is wrong goes to `reader`'s errors. `retains`: a domain that keeps nothing has no stores."""
    if node is None:
        return DataSpec()
    values = reader.mapping(node, {"stores", "doors", "survey_s"}, set(), "data")
    stores = [_store(reader, item) for item in reader.sequence(values.get("stores"), "stores")]
    doors = [_door(reader, item) for item in reader.sequence(values.get("doors"), "doors")]
    if stores and not retains:
        reader.error(values["stores"], "a domain that retains nothing keeps no data: leave out its stores")
    for what, names in (("name", [one.name for one in stores]), ("url", [one.url for one in stores])):
        for item, name in zip(reader.items(values.get("stores")), names, strict=False):
            if name and names.count(name) > 1:
                reader.error(item, f"two stores have the {what} {name!r}")
    for place, one in enumerate(stores):
        outer = next((it for it in stores if it is not one and it.url and one.url.startswith(f"{it.url}/")), None)
        if outer is not None:
            reader.error(reader.items(values["stores"])[place], f"store {one.name!r} lies in store {outer.name!r}")
    return DataSpec(tuple(stores), tuple(doors), reader.number(values, "survey_s", float, SURVEY_S))


def _store(reader: YamlReader, node: Any) -> StoreSpec:
    values = reader.mapping(node, {"name", "url", "credentials", "most"}, {"name", "url"}, "a store")
    url = _url(reader, values.get("url"))
    if url.partition("://")[0] in _HTTP and "://" in url:
        reader.error(values["url"], "nothing is written by http: a store is a folder, or has a scheme as s3")
    return StoreSpec(
        reader.name(values.get("name")), url, _credentials(reader, values), reader.size(values, "most", MOST)
    )


def _door(reader: YamlReader, node: Any) -> DoorSpec:
    values = reader.mapping(node, {"domain", "url", "credentials"}, {"domain", "url"}, "a door")
    url = _url(reader, values.get("url"))
    if url and "://" not in url:
        reader.error(values["url"], f"a door is a whole URL, as file:///srv/data, not {url[:80]!r}")
    return DoorSpec(reader.name(values.get("domain"), "domain"), url, _credentials(reader, values))


def _credentials(reader: YamlReader, values: dict[str, Any]) -> str:
    """Their name; what they are has no place in a file that others may read."""
    return reader.name(values["credentials"], "credentials") if "credentials" in values else ""


def _url(reader: YamlReader, node: Any) -> str:
    url = reader.text(node, "url").rstrip("/") if node is not None else ""
    if not url or not isinstance(node, yaml.ScalarNode):
        return ""
    scheme, colon, rest = url.partition("://")
    parts = (rest if colon else url).split("/")
    wrong = (
        (len(url) > MAX_URL or not url.isprintable(), f"url must be printable, of {MAX_URL} letters at most"),
        ("@" in url, "url may not hold credentials (…@…): name them, as credentials: NAME"),
        (any(odd in url for odd in _ODD), f"url {url[:80]!r} holds one of {' '.join(_ODD)!r}"),
        (".." in parts or "." in parts, f"url {url[:80]!r} may not hold the folders . and .."),
        (bool(colon) and not _known(scheme), f"url has the scheme {scheme[:30]!r}, which fsspec does not know"),
        (bool(colon) and not rest.strip("/"), f"url {url[:80]!r} names no folder"),
        (scheme == "file" and bool(colon) and not rest.startswith("/"), f"url {url[:80]!r} lacks a /: file:///folder"),
    )
    for is_wrong, what in wrong:
        if is_wrong:
            reader.error(node, what)
            return ""
    return url


def _known(scheme: str) -> bool:
    from fsspec.registry import known_implementations

    return scheme in known_implementations or scheme == "file"
