"""Registries of domains that are processes of their own: killed, cut off, healed, they agree again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from benchmarks.federation import ready, records
from benchmarks.gateways import Gateway, Gateways, wait_for
from ioi_dagster.adapters.sql.registry import SqlRecordStore
from ioi_dagster.cli import app
from ioi_dagster.ras.feeds.content import record_item
from ioi_dagster.ras.record import record_of
from ioi_dagster.signing import Signed

pytestmark = [pytest.mark.usefixtures("clean_environment"), pytest.mark.integration, pytest.mark.timeout(300)]
PATIENCE_S = 90


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with Gateways(tmp_path_factory.mktemp("feeds"), 3) as found:
        for one in found.all:
            wait_for("a start", lambda one=one: ready(one), PATIENCE_S)
        yield found


def item_of(signed: Signed) -> str:
    record = record_of(signed)
    return record_item(record.urn, record.version)


def told(one: Gateway, prefix: str, count: int = 1) -> set[str]:
    signed = records(one, count, prefix)
    one.tell(signed)
    return {item_of(each) for each in signed}


def test_killed_and_cut_off_they_agree_again(gateways: Gateways) -> None:
    first, second, third = gateways.all
    stated = {one.home.name: told(one, "r", 40) for one in gateways.all}
    wait_for("agreement", gateways.agreed, PATIENCE_S)

    # One is killed, another holds its connections and says nothing; what the first tells meanwhile waits for neither.
    third.stop(signal.SIGKILL)
    second.freeze()
    stated[first.home.name] |= told(first, "meanwhile")
    gone = sorted(stated[first.home.name])[0]
    first.tell(withdraw=[gone])
    stated[first.home.name] -= {gone}
    second.thaw()
    third.start()
    wait_for("a start", lambda: ready(third), PATIENCE_S)
    stated[third.home.name] |= told(third, "after")
    wait_for("agreement", gateways.agreed, PATIENCE_S)

    for one in gateways.all:
        for origin, items in stated.items():
            assert items <= one.stated(origin)
        assert gone not in one.stated(first.home.name)


def ioi(one: Gateway, *arguments: str, piped: str = "") -> None:
    ended = CliRunner().invoke(app, ["ras", *arguments, "--domain-home", str(one.home.root)], input=piped)
    assert ended.exit_code == 0, ended.output


def test_what_an_owner_says_by_a_command_is_known_elsewhere_while_his_gateway_runs(gateways: Gateways) -> None:
    first, *others = gateways.all
    urn = f"urn:ioi:{first.home.name}:tool:scanner"
    documents = [
        {"kind": "tool", "name": "scanner", "version": version, "spec": {"dpi": 300}} for version in ("1.0", "2.0")
    ]

    def known(**wanted: str) -> Callable[[], bool]:
        sql = "select version, status from record where urn = ?"
        return lambda: all(
            dict(other.query(sql, urn)) == {f"{v[1]}.0": its for v, its in wanted.items()} for other in others
        )

    ioi(first, "register", "-", piped=json.dumps(documents))
    wait_for("both versions", known(v1="active", v2="active"), PATIENCE_S)
    ioi(first, "deprecate", urn, "1.0", "--successor", "2.0", "--reason", "it is slow")
    ioi(first, "alias", urn, "production", "2.0")
    wait_for("one to be deprecated", known(v1="deprecated", v2="active"), PATIENCE_S)
    ioi(first, "delete", urn, "1.0", "--yes")
    wait_for("it to be deleted", known(v1="deleted", v2="active"), PATIENCE_S)
    for other in others:
        store = SqlRecordStore(other.home.registry, other.home.trusted())
        assert store.pointers(urn).aliases == {"production": "2.0"}
        assert store.get(urn, "1.0") is None
        store.close()


def test_what_its_home_cannot_tell_any_more_comes_by_another(gateways: Gateways) -> None:
    first, second, third = gateways.all
    third.freeze()
    items = told(first, "relayed")
    wait_for("the second to have it", lambda: items <= second.stated(first.home.name), PATIENCE_S)
    first.stop(signal.SIGKILL)
    third.thaw()
    wait_for("the third to have it", lambda: items <= third.stated(first.home.name), PATIENCE_S)
    first.start()
    wait_for("a start", lambda: ready(first), PATIENCE_S)
    assert items <= first.stated(first.home.name)
