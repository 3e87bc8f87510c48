"""What a cluster is told whose packages are not this process's."""

from __future__ import annotations

from typing import Any

import pytest

from ioi_dagster.adapters.dask.versions import check_versions, own_versions
from ioi_dagster.errors import FinalError

WHERE = "tcp://there:8786"
OURS = own_versions()


def answer(scheduler: dict[str, str | None], **workers: dict[str, str | None] | None) -> dict[str, Any]:
    """As of `Client.get_versions`: what differs from this process."""
    plain = {name: OURS[name] for name in OURS if name not in ("dagster", "ioi-dagster", "cloudpickle")}
    return {
        "client": {"packages": OURS},
        "scheduler": {"packages": {**plain, **scheduler}},
        "workers": {
            name: None if differs is None else {"packages": {**OURS, **differs}} for name, differs in workers.items()
        },
    }


def told(said: dict[str, Any]) -> str:
    with pytest.raises(FinalError) as raised:
        check_versions(WHERE, said)
    text = str(raised.value)
    begin, end = f"the Dask cluster at {WHERE} cannot take steps of this run: ", " — install the same versions on both"
    assert text.startswith(begin)
    assert end in text
    return text.removeprefix(begin).partition(end)[0]


def test_a_scheduler_needs_neither_dagster_nor_our_package():
    check_versions(WHERE, answer({}, one={}, two={}))


@pytest.mark.parametrize("package", ["dagster", "ioi-dagster", "cloudpickle"])
def test_a_worker_needs_the_same_of_what_steps_are_made_of(package: str):
    other = told(answer({}, one={}, two={package: "0.0.1"}))
    assert other == f"{package} is 0.0.1 there and {OURS[package]} here (its worker two)"
    absent = told(answer({}, one={package: None}))
    assert absent == f"{package} is missing there and {OURS[package]} here (its worker one)"


def test_each_difference_is_told_once_with_who_has_it():
    differs: dict[str, str | None] = {"dagster": "1.0.0", "python": "3.9.1.final.0"}
    said = answer({"python": "3.9.1.final.0"}, a=differs, b=differs, c=differs, d=differs)
    here = OURS["dagster"], OURS["python"]
    assert told(said) == (
        f"python is 3.9.1.final.0 there and {here[1]} here (its scheduler, its worker a, its worker b); "
        f"dagster is 1.0.0 there and {here[0]} here (its worker a, its worker b, its worker c)"
    )


def test_another_patch_of_python_is_no_difference():
    major, minor, *_ = OURS["python"].split(".")
    check_versions(WHERE, answer({"python": f"{major}.{minor}.99.final.0"}, one={}))


def test_a_worker_that_says_nothing_is_one_that_has_nothing():
    assert told(answer({}, one=None)).count("is missing there") == len(OURS)
