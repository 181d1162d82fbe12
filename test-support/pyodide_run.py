"""Python programs in Pyodide, the Python of Cloudflare's Workers, on this machine: in Node, with a real D1 behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from downloads import fetch_once, run
from node_tools import MINIFLARE, PYODIDES, install, node

__all__ = ["DEFAULT_VERSION", "OUR_SOURCES", "PyodideError", "run_in_pyodide"]

DEFAULT_VERSION = "314.0.6"
"""What a Worker with today's compatibility date gets."""

OUR_SOURCES = tuple(
    Path(__file__).parents[1] / folder
    for folder in (
        "packages/workflow-runtime/src",
        "migrations-shared/src",
        "packages/workflow-store-d1/src",
    )
)
"""The packages that a Worker installs."""

_WHEELS = ("cronsim==2.8", "tzdata==2026.6", "workers-runtime-sdk==1.9.5")
"""What pip gives a Worker besides; all of it is pure Python."""

_PROGRAM_OF_NODE = Path(__file__).parent / "cloudflare" / "pyodide.mjs"
_TIMEOUT_S = 120

_PRELUDE = """
import json, sys
import _pyodide_run

def emit(value):
    _pyodide_run.emit(json.dumps(value))

argument = json.loads(_pyodide_run.argument)
env = _pyodide_run.env
"""

_WRAP = """
from workers.rpc import _EnvWrapper
env = _EnvWrapper(env)
"""


class PyodideError(Exception):
    """The program failed, or took too long; the text is what it wrote to its standard error."""


def run_in_pyodide(
    program: str,
    *,
    version: str = DEFAULT_VERSION,
    wrapped: bool = True,
    argument: object = None,
    path: Sequence[Path] = (),
    variables: dict[str, str] | None = None,
    proxy: bool = False,
    timeout_s: float = _TIMEOUT_S,
    each: Callable[[Any], None] | None = None,
) -> list[Any]:
    """Run a Python program in a fresh Pyodide and give what it emitted.

    The program may `await` at its top level. It finds `env`, with an empty D1 database at `env.DB`; `argument`; and
    `emit(value)`, which sends a value that JSON can carry.

    Args:
        program: Its source.
        version: One of `PYODIDES`.
        wrapped: Whether `env` is what Cloudflare's SDK hands to an entrypoint, or the bare object of JavaScript.
        argument: A value for the program, which JSON can carry.
        path: Folders to import from, besides those of our packages.
        variables: What `env` holds besides.
        proxy: Whether `env.PROXY` gives the same database through miniflare's own, slower, binding.
        timeout_s: When to give up.
        each: Called with each emitted value as soon as it is there.

    Raises:
        PyodideError: The program raised, or took too long.
        OSError: There is no Node, or its packages cannot be fetched.
    """
    order = {
        "miniflare": str(install(MINIFLARE)),
        "pyodide": str(install(PYODIDES[version])),
        "path": [str(folder.resolve()) for folder in (*OUR_SOURCES, _wheels(), *path)],
        "prelude": _PRELUDE + (_WRAP if wrapped else ""),
        "program": program,
        "argument": argument,
        "variables": variables or {},
        "proxy": proxy,
    }
    emitted = []
    with tempfile.TemporaryDirectory(prefix="pyodide-", ignore_cleanup_errors=True) as scratch:
        for value in _emitted(order, Path(scratch), time.monotonic() + timeout_s):
            emitted.append(value)
            if each is not None:
                each(value)
    return emitted


def _wheels() -> Path:
    def fetch(folder: Path) -> None:
        options = ("--quiet", "--no-deps", "--only-binary=:all:", "--no-compile", "--target", folder)
        run(sys.executable, "-m", "pip", "install", *options, *_WHEELS)

    return fetch_once("-".join(("pyodide-wheels", *(wheel.rpartition("=")[2] for wheel in _WHEELS))), fetch)


def _emitted(order: dict[str, Any], scratch: Path, deadline: float) -> Iterator[Any]:
    written = scratch / "written.txt"
    with _process(order, scratch, written) as process:
        for line in _lines(process, deadline):
            match json.loads(line):
                case {"emitted": value}:
                    yield value
                case {"failed": None}:
                    return
                case {"failed": problem}:
                    raise PyodideError(f"{_text(written)}\n{problem}")
        raise PyodideError(f"no end, or none in time; it wrote:\n{_text(written)}")


@contextmanager
def _process(order: dict[str, Any], scratch: Path, written: Path) -> Iterator[subprocess.Popen[str]]:
    (scratch / "order.json").write_text(json.dumps(order), encoding="utf-8")
    with written.open("wb") as stderr:
        process = subprocess.Popen(
            [node(), _PROGRAM_OF_NODE, scratch / "order.json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch)},  # where miniflare leaves its files
            start_new_session=True,  # so that workerd, its child, ends with it whatever happens
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        # Nobody has waited for the leader yet, so that this number is still that of its group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _lines(process: subprocess.Popen[str], deadline: float) -> Iterator[str]:
    """Give each line of its standard output, until that ends or it is too late."""
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    with contextlib.suppress(queue.Empty):
        while (line := lines.get(timeout=max(0, deadline - time.monotonic()))) is not None:
            yield line


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _text(written: Path) -> str:
    return written.read_text(encoding="utf-8", errors="replace")
