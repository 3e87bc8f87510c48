"""Secrets on disk: nobody else reads them at any time, and they are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from ioi_dagster.domain import DomainHome
from ioi_dagster.local.identity import prepare_folders
from ioi_dagster.private_file import write_private
from ioi_dagster.signing import SigningKey


def killed(*_: object) -> None:
    raise OSError("killed")


def test_a_key_that_is_saved_is_its_owners_only_whatever_was_there(tmp_path: Path):
    path = tmp_path / "domain.key"
    path.write_bytes(b"")
    path.chmod(0o644)
    key = SigningKey.generate("lab")
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load("lab", path).key_id == key.key_id


def test_a_key_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    path, key = tmp_path / "domain.key", SigningKey.generate("lab")
    key.save(path)
    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(OSError, match="killed"):
        SigningKey.generate("lab").save(path)
    assert SigningKey.load("lab", path).key_id == key.key_id
    assert list(tmp_path.iterdir()) == [path]


def test_there_is_no_token_without_its_content(tmp_path: Path, monkeypatch):
    home = DomainHome(tmp_path / "lab")
    monkeypatch.setattr(secrets, "token_urlsafe", killed)
    with pytest.raises(OSError, match="killed"):
        prepare_folders(home)
    assert not (home.root / "keys" / "token").exists()
    monkeypatch.undo()
    prepare_folders(home)
    assert len(home.token()) > 40
    assert (home.root / "keys" / "token").stat().st_mode & 0o777 == 0o600


def test_nobody_has_prepared_where_a_secret_is_written(tmp_path: Path):
    """An invitation may be written to a folder where others write too."""
    stolen = tmp_path / "stolen"
    (tmp_path / ".cloud.invitation.new").symlink_to(stolen)
    write_private(tmp_path / "cloud.invitation", b"key")
    assert not stolen.exists()
    assert (tmp_path / "cloud.invitation").read_bytes() == b"key"
