"""The parent of the child process that measures a store. Whatever becomes of the child, it gives a bench."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..measurements import Bench, Measurement, Timing

__all__ = ["measure"]

_GRACE_S = 30.0
"""Seconds beyond its time after which the child is ended."""
_LAST_OUTPUT = 500


def measure(factory: str, *, folder: Path, seconds: float, dsn: str | None) -> Bench:
    """Measure a store in a child process, beside the stores that are installed.

    Args:
        factory: `module:function` that returns a harness.
        folder: Where the child imports from first.
        seconds: The time for all of it.
        dsn: A PostgreSQL database to measure beside it.
    """
    with tempfile.TemporaryDirectory(prefix="workflow-certify-") as scratch:
        file = Path(scratch) / "bench.json"
        order = {"factory": factory, "folder": str(folder), "seconds": seconds, "dsn": dsn, "file": str(file)}
        printed = _run(json.dumps(order), seconds + _GRACE_S)
        try:
            return _read(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return Bench(problem=f"the process that measures ended without a result: {printed[-_LAST_OUTPUT:]}")


def _run(order: str, timeout_s: float) -> str:
    """Run the child to its end, or for so long, and return what it printed."""
    with subprocess.Popen(  # noqa: S603  # this Python, and a module of this package
        [sys.executable, "-m", f"{__package__}.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            printed, _ = child.communicate(order + "\n", timeout=timeout_s)
            return printed.strip()
        except subprocess.TimeoutExpired:
            return f"no end after {timeout_s:g} s"
        except KeyboardInterrupt:
            return "interrupted"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)


def _read(document: dict[str, Any]) -> Bench:
    measurements = tuple(
        Measurement(**one | {name: one[name] and Timing(**one[name]) for name in ("alone", "at_once")})
        for one in document["measurements"]
    )
    return Bench(**document | {"measurements": measurements})
