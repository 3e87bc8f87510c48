"""The same graph on Dagster's own multiprocess executor."""

from dagster import AssetSelection, Definitions, define_asset_job, multiprocess_executor

from definitions.documents.graph import ASSETS, Folders
from ioi_dagster import ExchangeIOManager, GovernorsResource, RASResource

defs = Definitions(
    assets=ASSETS,
    jobs=[
        define_asset_job(
            "documents_multiprocess", selection=AssetSelection.assets(*ASSETS), executor_def=multiprocess_executor
        ),
        # Without what comes after the reading: a process a step, of which each imports the same again.
        define_asset_job(
            "reading_multiprocess",
            selection=AssetSelection.assets("inventory", "file_types", "pages"),
            executor_def=multiprocess_executor,
        ),
    ],
    resources={
        "io_manager": ExchangeIOManager(),
        "folders": Folders(),
        "governors": GovernorsResource(),
        "registry": RASResource(),
    },
)
