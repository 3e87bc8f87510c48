"""The code location: assets, the job over them, the sensor, the schedule and the resources."""

import json

from dagster import (
    AssetSelection,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Definitions,
    RunConfig,
    RunRequest,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    schedule,
    sensor,
)

from definitions.documents.graph import ASSETS, Folders, Selection
from definitions.documents.index import read_pile
from definitions.documents.inventory import take_inventory
from definitions.documents.values import GAVE_UP
from ioi_dagster import ExchangeIOManager, GovernorsResource, RASResource, governed_executor, tidying_schedule
from ioi_dagster.adaptive.rerun import Cursor, Item, recommend
from ioi_dagster.errors import IoiError

documents = define_asset_job(
    "documents",
    selection=AssetSelection.assets(*ASSETS),
    description="Turn the pile into a searchable book.",
    tags={"ioi/tenant": "library"},
)


def over_pages(names: list[str]) -> RunConfig:
    """Run config that limits a run to some pages."""
    return RunConfig(ops={"inventory": Selection(pages=names)})


@sensor(
    job=documents,
    description="Reads again exactly the pages whose node was lost, or that a better block may now read.",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.STOPPED,
)
def read_again(context: SensorEvaluationContext, folders: Folders, registry: RASResource) -> SensorResult | SkipReason:
    """Reads exactly those pages again whose node was lost, or whose quality was refused before a better block came."""
    items = [
        Item(
            name=result.page,
            digest=result.digest,
            lost=result.status == "failed" and any(f"[{code}]" in result.reason for code in GAVE_UP),
            poor=result.status == "refused" and not result.reason.endswith("]"),
        )
        for result in read_pile(folders.out_path()).results
    ]
    try:
        records = registry.records("block")
        versions = {str(record["spec"]["capability"]): str(record["spec"]["version"]) for record in records}
    except IoiError as error:
        context.log.warning(f"the registry does not answer: {error}")
        versions = {}
    saved = json.loads(context.cursor) if context.cursor else {}
    cursor = Cursor(tuple(saved.get("lost", ())), tuple((n, v) for n, v in saved.get("versions", ())))
    found, after = recommend(items, versions, cursor)
    text = json.dumps({"lost": after.lost, "versions": after.versions})
    if found is None:
        return SensorResult(skip_reason=SkipReason("no page was lost, and no better block was registered"), cursor=text)
    request = RunRequest(run_key=found.key, run_config=over_pages(list(found.items)), tags={"ioi/why": found.why[:200]})
    return SensorResult(run_requests=[request], cursor=text)


@schedule(
    job=documents,
    description="Takes in pages that are new in the folder or changed.",
    cron_schedule="*/15 * * * *",
    default_status=DefaultScheduleStatus.STOPPED,
)
def take_in_new_pages(context: ScheduleEvaluationContext, folders: Folders) -> RunRequest | SkipReason:
    """Every quarter of an hour: pages that are new in the folder, or changed, and only these."""
    try:
        inventory = take_inventory(folders.source_path())
    except IoiError as error:
        return SkipReason(str(error))
    known = {(result.file, result.digest) for result in read_pile(folders.out_path()).results}
    new = [file for file in inventory.files if (file.file, file.digest) not in known]
    if not new:
        return SkipReason("no new pages")
    key = ",".join(sorted(file.digest[:12] + file.file for file in new))
    return RunRequest(run_key=f"new:{hash_text(key)}", run_config=over_pages([file.file for file in new]))


def hash_text(text: str) -> str:
    from ioi_dagster.signing import digest

    return digest(text)[7:39]


defs = Definitions(
    assets=ASSETS,
    jobs=[documents],
    sensors=[read_again],
    schedules=[take_in_new_pages, tidying_schedule()],
    executor=governed_executor,
    resources={
        "io_manager": ExchangeIOManager(),
        "folders": Folders(),
        "governors": GovernorsResource(),
        "registry": RASResource(),
    },
)
