"""Runs a suite of Great Expectations over rows in memory; nothing is written, nothing is sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ioi_dagster.errors import BadInputError
from ioi_dagster.quality.outcomes import Judgement, Outcome


def judge(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], suite: Sequence[Mapping[str, Any]]) -> Judgement:
    """`suite` is a list of `{type, kwargs, meta: {reason}}`. Raises `BadInputError` for an expectation that does not exist."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations as gx
    import pandas
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    frame = pandas.DataFrame([dict(row) for row in rows], columns=list(columns))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # pyright: ignore[reportAttributeAccessIssue]
    batch = (
        context.data_sources.add_pandas("rows")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    outcomes = []
    for item in suite:
        try:
            expectation = ExpectationConfiguration(type=item["type"], kwargs=dict(item["kwargs"])).to_domain_obj()
        except Exception as error:  # the library raises many kinds for a name or argument it does not know
            raise BadInputError(f"expectation {item.get('type')!r} cannot be made: {error}") from error
        result = batch.validate(expectation, result_format="COMPLETE")
        details = result.result or {}
        outcomes.append(
            Outcome(
                expectation=str(item["type"]),
                column=str(item["kwargs"].get("column", "")),
                passed=bool(result.success),
                reason=str(item.get("meta", {}).get("reason", item["type"])),
                failing=tuple(int(index) for index in details.get("unexpected_index_list") or ()),
                observed=str(details.get("observed_value", details.get("unexpected_count", ""))),
            )
        )
    return Judgement(tuple(outcomes))
