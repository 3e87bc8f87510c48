"""Step permits of a simulation: signed and read as live, by clocks that somebody may set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.negotiation import Lease
from ioi_dagster.model.permit import StepPermit
from ioi_dagster.model.refusal import Refusal
from ioi_dagster.policy.permits import check_step_permit, issue
from ioi_dagster.signing import Signed, SigningKey, TrustedKeys


class Permits:
    """`wall`: what the clocks of all domains show, in Unix seconds."""

    def __init__(self, domains: Iterable[str], wall: Callable[[], float]) -> None:
        self._wall = wall
        self._keys = {domain: SigningKey.generate(domain) for domain in domains}
        self._trusted = TrustedKeys({key.key_id: key.public_bytes for key in self._keys.values()})
        self._count = 0

    def issue(self, lease: Lease) -> Signed:
        """For what its run starts under that lease."""
        self._count += 1
        permit = StepPermit.of(
            lease,
            issuer=lease.origin,
            data_class=DataClass.PUBLIC,
            payload="",
            nonce=str(self._count),
            now=self._wall(),
        )
        return issue(self._keys[lease.origin], permit)

    def read(self, signed: Signed, lease: Lease) -> StepPermit | Refusal:
        """As gate 4 does."""
        return check_step_permit(
            signed, self._trusted, lease=lease, payload="", audience=lease.domain, now=self._wall()
        )
