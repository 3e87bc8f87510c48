"""Fair arbitration: who gets which room next, who gives room back, and why."""

from ioi_dagster.governors.fairness.arbiter import Arbiter
from ioi_dagster.governors.fairness.values import Evict, Request, Rules, Snapshot, TenantView

__all__ = ["Arbiter", "Evict", "Request", "Rules", "Snapshot", "TenantView"]
