"""TLS of Dask's own connections: who reaches a cluster by `tls://…` shows a certificate of the cluster's authority, and
so does it.

Dask's TLS knows one authority and no revocation lists, so it is only for those who take each other's code anyway, and what is
revoked is shut out by another authority alone.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ioi_dagster.domain import home_domain
from ioi_dagster.errors import BadInputError

if TYPE_CHECKING:
    from distributed.security import Security


def security_of(scheduler: str) -> Security | None:
    """What a client of the scheduler at that address needs; None for one without TLS. Raises `BadInputError` where this
    process works for no domain."""
    if not scheduler.startswith("tls://"):
        return None
    from distributed.security import Security

    home = home_domain()
    if home is None:
        todo = "set IOI_HOME and IOI_DOMAIN to a domain of its authority"
        raise BadInputError(f"{scheduler} asks for a domain's certificate, and this process works for none", todo=todo)
    return Security(
        require_encryption=True,
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        tls_ca_file=str(home.authority_certificate),
        tls_client_cert=str(home.client_certificate),
        tls_client_key=str(home.client_certificate),
    )
