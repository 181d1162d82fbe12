"""Programs that tests fetch once: they stay beside nox's environments and go with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from workflow_test_support.repository import ROOT

__all__ = ["fetch_once", "run"]

_FOLDER = ROOT / ".nox" / "downloads"
_TIMEOUT_S = 300


def fetch_once(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the folder of a download, which `fetch` fills if need be. Several processes may do this at once."""
    target = _FOLDER / name
    if target.exists():
        return target
    _FOLDER.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_FOLDER))
    try:
        draft.chmod(0o755)  # servers run as somebody else
        fetch(draft)
        with contextlib.suppress(OSError):  # another process was quicker
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def run(*command: str | Path, cwd: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    """Run a command and give what it writes.

    Args:
        command: The program and its arguments.
        cwd: Where; here when absent.
        variables: What its environment holds besides.

    Raises:
        OSError: The program is not there, failed, or took too long; the text says what it wrote.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(str(error)) from error
    if done.returncode != 0:
        raise OSError(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout
