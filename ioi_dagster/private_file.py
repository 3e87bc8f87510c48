"""Files that nobody but their owner reads: keys, tokens, invitations, what a domain believes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by its owner only from the first moment, and there after the machine's power was
    lost."""
    # A name that nobody knows beforehand: in a folder that others may write to, one could wait there.
    descriptor, temporary = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
