"""Gate 2: the launcher object itself, which the queue's daemon calls directly."""

from __future__ import annotations

from typing_extensions import override

from ioi_dagster.domain import home_domain
from ioi_dagster.host.governance import check_permit
from ioi_dagster.host.private import DefaultRunLauncher, LaunchRunContext
from ioi_dagster.model.refusal import Refusal


class GovernedRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher for runs whose permit is good; a run without one ends with the reason."""

    @override
    def launch_run(self, context: LaunchRunContext) -> None:
        home = home_domain()
        if home is not None:
            checked = check_permit(home, context.dagster_run)
            if isinstance(checked, Refusal):
                self._instance.report_run_failed(context.dagster_run, f"Refused at gate 2: {checked}")
                return
        super().launch_run(context)
