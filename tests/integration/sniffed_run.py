"""As `governed_run`, and what this process says to gateways and hears from them lies in `$IOI_TEST_FOLDER/wire`, as it is
before TLS hides it: a file for each connection and direction, named `to DOMAIN N` or `from DOMAIN N`. Runs after one another add
to them."""

from __future__ import annotations

import itertools
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from ioi_dagster.adapters.http import tls
from tests.integration import governed_run

FOLDER = Path(os.environ.get("IOI_TEST_FOLDER", ".")) / "wire"
_numbers = itertools.count()


class Overheard(ssl.SSLObject):
    def _note(self, way: str, data: bytes) -> None:
        if not hasattr(self, "_number"):
            self._number = next(_numbers)
        with (FOLDER / f"{way} {self.server_hostname} {self._number}").open("ab") as file:
            file.write(data)

    def write(self, data: Any) -> int:
        sent = super().write(data)
        self._note("to", bytes(data[:sent]))
        return sent

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        if buffer is None:
            data = super().read(len)
            self._note("from", data)
            return data
        size = super().read(len, buffer)
        self._note("from", bytes(buffer[:size]))
        return size


def overheard(*arguments: Any) -> ssl.SSLContext:
    context = _plain(*arguments)
    context.sslobject_class = Overheard
    return context


_plain = tls.client_context

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    tls.client_context = overheard
    sys.exit(governed_run.main())
