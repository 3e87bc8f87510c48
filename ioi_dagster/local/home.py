"""Where things are on this machine: the project's shipped folders and the federation's home."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ioi_dagster.domain import DomainHome
from ioi_dagster.errors import BadInputError

if TYPE_CHECKING:
    from ioi_dagster.local.federation import Federation
    from ioi_dagster.model.capability import BlockSpec

PROJECT = Path(__file__).resolve().parents[2]
TOPOLOGY = PROJECT / "deployments" / "local" / "topology.yaml"
DAGSTER_YAML = PROJECT / "deployments" / "local" / "dagster.yaml"
POLICIES = PROJECT / "policies"


def open_federation(home: Path, topology: Path, blocks: Sequence[BlockSpec]) -> Federation:
    """A federation ready to be started; raises `BadInputError` for a topology that cannot be meant."""
    from ioi_dagster.local.federation import Federation
    from ioi_dagster.local.topology_file import load_topology

    return Federation(load_topology(topology), home, POLICIES, blocks, topology)


def topology_in(home: Path) -> Path:
    """The file of what runs in `home`, or was started there last; of a home where nothing was, the shipped one."""
    from ioi_dagster.local.federation import NOTED

    try:
        return Path((home / NOTED).read_text())
    except OSError:
        return TOPOLOGY


def policies_in(home: Path) -> Path:
    """The folder with the policies of what was started in `home`; of a home where nothing was, the shipped one."""
    domains = domains_in(home)
    return Path(domains[0].config().policies) if domains else POLICIES


def prepare_dagster(home: Path) -> Path:
    """`$IOI_HOME/dagster` with its `dagster.yaml`; one that is there is its owner's and stays. Runs' permits are kept in
    it, so nobody else may read it."""
    folder = home.resolve() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(DAGSTER_YAML, folder / "dagster.yaml")
    return folder


def find_home(given: Path | None) -> Path:
    """`--home`, else `$IOI_HOME`, else `.ioi` here."""
    return (given or Path(os.environ.get("IOI_HOME", ".ioi"))).resolve()


def domains_in(home: Path) -> list[DomainHome]:
    """The domains of the federation in `home`, by name; empty where none was ever started. Raises `BadInputError` where
    they are somebody else's."""
    folders = sorted((home / "domains").iterdir()) if (home / "domains").is_dir() else []
    found = []
    for folder in folders:
        try:
            (folder / "domain.json").stat()
        except PermissionError:
            raise BadInputError(
                "it belongs to another user", where=str(folder), todo="give a --home of yours"
            ) from None
        except OSError:
            continue
        found.append(DomainHome(folder))
    return found


def home_domain_of(home: Path) -> DomainHome:
    """The domain that owns the runs of the federation in `home`."""
    for domain in domains_in(home):
        if domain.config().home == domain.name:
            return domain
    raise BadInputError("no federation was ever started here", where=str(home), todo="run `ioi up` or `make run`")


def ledger_of(home: Path | None) -> Path:
    """Where the ledger of one's runs is: of the federation in `home`, or of runs alone in `$DAGSTER_HOME`."""
    alone = _alone(home)
    return home_domain_of(find_home(home)).ledger if alone is None else _ledger_alone(alone)


def dagster_of(home: Path | None) -> Path:
    """The folder of the Dagster instance with the runs that `ledger_of` has."""
    return _alone(home) or find_home(home) / "dagster"


def _alone(home: Path | None) -> Path | None:
    dagster = os.environ.get("DAGSTER_HOME")
    if home is not None or not dagster or (find_home(home) / "domains").is_dir():
        return None
    return Path(dagster) if _ledger_alone(Path(dagster)).exists() else None


def _ledger_alone(dagster: Path) -> Path:
    return dagster / "storage" / "ioi" / "ledger.sqlite"


def use_home(home: Path | None) -> None:
    """From now on this process works for the federation in `home` (or `$IOI_HOME`, or `.ioi` here), else for runs alone in
    `$DAGSTER_HOME`. Raises `BadInputError` where there is neither."""
    found = find_home(home)
    if home is not None or (found / "domains").is_dir():
        domain = home_domain_of(found)
        os.environ |= {"IOI_HOME": str(found), "IOI_DOMAIN": domain.name, "DAGSTER_HOME": str(prepare_dagster(found))}
    elif "DAGSTER_HOME" not in os.environ:
        raise BadInputError("no home is here", todo="give --home, or set DAGSTER_HOME")
