"""Whose federation it is."""

from __future__ import annotations

import os
import pathlib

import pytest

from ioi_dagster.errors import BadInputError
from ioi_dagster.local.home import domains_in, home_domain_of


def test_no_federation_is_none(tmp_path):
    assert domains_in(tmp_path) == []
    with pytest.raises(BadInputError, match="no federation was ever started here"):
        home_domain_of(tmp_path)


def test_somebody_elses_federation_is_called_that(tmp_path, monkeypatch):
    (tmp_path / "domains" / "a").mkdir(parents=True)
    stat = pathlib.Path.stat

    def refusing(path, **options):
        if path.name == "domain.json":
            raise PermissionError(13, os.strerror(13))
        return stat(path, **options)

    monkeypatch.setattr(pathlib.Path, "stat", refusing)
    with pytest.raises(BadInputError, match="belongs to another user"):
        domains_in(tmp_path)
