"""Assets, copies and networks for tests, showing only what matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ioi_dagster.adapters.fsspec.folder import Door, Doors
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.data_move import DataMove, Place
from ioi_dagster.model.decision import Decision, Verdict
from ioi_dagster.model.placement import Link
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.ras.data.asset import Asset, AssetSpec, Part, asset_of, asset_record
from ioi_dagster.ras.data.copies import Copy
from ioi_dagster.ras.data.routing import Network
from ioi_dagster.signing import SigningKey, digest_bytes

LIBRARY = SigningKey.generate("library.example")
SCANS = {"2024/a.txt": b"one\ntwo\n" * 1000, "2024/b.txt": b"three\n" * 500, "c.bin": bytes(range(256)) * 10}


def asset(
    files: Mapping[str, bytes] | None = None,
    version: str = "1.0.0",
    data_class: DataClass = DataClass.INTERNAL,
    regions: Iterable[str] = (),
) -> Asset:
    files = SCANS if files is None else files
    parts = tuple(Part(name, len(data), digest_bytes(data)) for name, data in files.items())
    spec = AssetSpec(parts, data_class=data_class, regions=tuple(regions))
    return asset_of(asset_record(LIBRARY, "scans", version, spec))


def copy(of: Asset, domain: str, url: str = "", names: Iterable[str] | None = None, original: bool = False) -> Copy:
    names = [part.name for part in of.parts] if names is None else names
    held = {name: of.part(name).digest for name in names}
    return Copy(domain, url or f"memory://{domain}", of.urn, of.version, of.digest, held, original=original)


def allow(move: DataMove) -> Decision:
    return Decision("1", Verdict.ALLOW)


def deny(*domains: str):
    def policy(move: DataMove) -> Decision:
        if move.source.domain in domains or move.target.domain in domains:
            return Decision("2", Verdict.DENY, (Refusal("test.no", "no", "policy test"),))
        return allow(move)

    return policy


def network(*places: Place | str, policy=allow, links: Iterable[Link] = ()) -> Network:
    known = [place if isinstance(place, Place) else Place(place, DataClass.RESTRICTED) for place in places]
    return Network({p.domain: p for p in known}, policy, {(link.source, link.target): link for link in links})


def fill(folder: Path, files: Mapping[str, bytes] = SCANS) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder.as_uri()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def doors(**urls: str) -> Doors:
    """By the first label of a domain."""
    return Doors({f"{name}.example": [Door(url)] for name, url in urls.items()})
