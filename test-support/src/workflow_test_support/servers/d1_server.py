"""Real D1, on this machine: workerd with databases that end with it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workflow_test_support.servers.node_tools import WRANGLER, install, node

__all__ = ["D1Server", "d1_server"]

_START_S = 60
_STOP_S = 20


@dataclass(frozen=True, slots=True)
class D1Server:
    """A running workerd, and how to reach its databases."""

    url: str
    account: str
    token: str
    databases: Mapping[str, str]
    """The databases' ids by their names, which are the names of the bindings too."""
    pid: int


@contextmanager
def d1_server(names: Sequence[str] = ("DB",)) -> Iterator[D1Server]:
    """Run workerd with empty D1 databases of these names.

    Raises:
        OSError: There is no Node, its packages cannot be fetched, or workerd does not start.
    """
    program = Path(__file__).parents[1] / "cloudflare" / "serve.mjs"
    with tempfile.TemporaryDirectory(prefix="d1-", ignore_cleanup_errors=True) as scratch:
        process = subprocess.Popen(
            [node(), program, install(WRANGLER), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": scratch},  # where miniflare leaves its files
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            facts = json.loads(_first_line(process.stdout))
            yield D1Server(**facts, pid=process.pid)
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _first_line(stream: IO[str]) -> str:
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=_START_S)  # real time: the start of another program
    except queue.Empty:
        line = ""
    if not line:
        raise OSError("workerd did not start; what it wrote stands above")
    return line
