"""The journal of what really happened, which the library knows nothing of.

It is a plain file. Every line is one `write` to a file opened with O_APPEND, so lines of several processes neither mix
nor tear, and what a killed process had written stays written.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["note", "open_journal", "read_journal"]

_journal: list[int] = []


def open_journal(path: Path) -> None:
    """Open the journal of this process."""
    _journal[:] = [os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)]


def note(what: str, **facts: Any) -> None:
    """Write a line."""
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.monotonic(), **facts}) + "\n"
    os.write(_journal[0], line.encode())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines that all processes have written."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
