"""Registries of domains that are processes of their own: killed, cut off, healed, they agree again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from benchmarks.federation import ready, records
from benchmarks.gateways import Gateway, Gateways, wait_for
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
