"""A PostgreSQL server of the tests' own: started in a temporary folder on a unix socket, never the machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

INSTALL = "apt-get install -y postgresql"


@contextmanager
def server() -> Iterator[Path]:
    """Gives the folder of its socket; the server is gone afterwards. Fails, saying what installs it, where there is none."""
    programs = _programs()
    # Not below pytest's folder: a socket's path has to be shorter than 108 bytes, and the user postgres has to get there.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        as_user = _as_user()
        if as_user:
            shutil.chown(folder, "postgres", "postgres")
        data, log = folder / "data", folder / "log"
        _run([*as_user, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"])
        _run([*as_user, programs / "pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", _options(folder)])
        try:
            yield folder
        finally:
            _run([*as_user, programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", data])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def restart(socket: Path) -> Iterator[None]:
    """The server is down within it, ended as by a crash, and up again after it."""
    control = [*_as_user(), _programs() / "pg_ctl"]
    _run([*control, "stop", "-w", "-m", "immediate", "-D", socket / "data"])
    try:
        yield
    finally:
        _run([*control, "start", "-w", "-D", socket / "data", "-l", socket / "log", "-o", _options(socket)])


def new_database(socket: Path, name: str) -> str:
    """An empty database; its address."""
    connection = psycopg2.connect(host=str(socket), user="postgres", dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    connection.close()
    return f"postgresql+psycopg2://postgres@/{name}?host={socket}"


def _as_user() -> list[str]:
    """The server refuses to be run by root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _options(folder: Path) -> str:
    return f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=40"


def _programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    folders = [folder for folder in folders if (folder / "initdb").exists()]
    assert folders, f"these tests need PostgreSQL's server programs; install them: {INSTALL}"
    return folders[-1]


def _run(command: list[str | Path]) -> None:
    # Not through pipes: the server keeps what it inherits, and the end of a pipe would never come.
    with tempfile.TemporaryFile() as said:
        code = subprocess.run([str(part) for part in command], stdout=said, stderr=said, cwd="/").returncode
        said.seek(0)
        assert code == 0, said.read().decode(errors="replace")
