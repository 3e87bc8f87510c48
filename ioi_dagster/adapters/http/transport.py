"""How gateways and their clients send requests: httpx's interface over aiohttp.

What a negotiation costs is mostly its requests, and httpx's own transport takes twice as much processor for each.
"""

from __future__ import annotations

import ssl

import httpx


def over_aiohttp(
    limits: httpx.Limits, tls: ssl.SSLContext | None = None, name: str | None = None
) -> httpx.AsyncBaseTransport:
    """Its connections belong to the event loop of the first request. Raises httpx's errors alone, as
    `httpx.AsyncClient` does.

    With `tls` the other side must show a certificate for `name`, whatever its address."""
    import aiohttp
    import httpx_aiohttp

    class Transport(httpx_aiohttp.AiohttpTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if name is not None:
                request.extensions["sni_hostname"] = name
            try:
                return await super().handle_async_request(request)
            except aiohttp.ClientError as error:  # those that have no counterpart there
                raise httpx.RemoteProtocolError(f"{type(error).__name__}: {error}"[:500], request=request) from error

    # Without a context of ours httpx would read a list of public authorities, which nothing here trusts.
    return Transport(limits=limits, trust_env=False, verify=tls or False)
