"""Quotas of slots, as tests name them."""

from __future__ import annotations

from ioi_dagster.model.negotiation import SLOTS
from ioi_dagster.model.quota import Quota, TenantQuota


def share(
    name: str, weight: float = 1.0, guarantee: float = 0, lends: float | None = None, borrows: float | None = None
) -> TenantQuota:
    """A tenant's quota of slots. `lends`, `borrows`: None is any number."""
    amounts = ({SLOTS: float(amount)} if amount is not None else {} for amount in (guarantee or None, lends, borrows))
    return TenantQuota(name, weight, Quota(*amounts))
