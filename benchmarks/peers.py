"""The same graph on Dagster's own multiprocess executor."""

from dagster import AssetSelection, Definitions, define_asset_job, multiprocess_executor

from definitions.documents.graph import ASSETS, Folders
from ioi_dagster import ExchangeIOManager, GovernorsResource, RASResource

defs = Definitions(
    assets=ASSETS,
    jobs=[
        define_asset_job(
            "documents_multiprocess", selection=AssetSelection.assets(*ASSETS), executor_def=multiprocess_executor
        )
    ],
    resources={
        "io_manager": ExchangeIOManager(),
        "folders": Folders(),
        "governors": GovernorsResource(),
        "registry": RASResource(),
    },
)
