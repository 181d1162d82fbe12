"""Python programs in Pyodide, the Python of Cloudflare's Workers, on this machine: in Node, with a real D1 behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from workflow_test_support.repository import ROOT
from workflow_test_support.servers.downloads import fetch_once, run
from workflow_test_support.servers.node_tools import PYODIDES, WRANGLER, install, node

__all__ = ["OUR_SOURCES", "Pyodide", "PyodideError", "Setting", "open_pyodide", "run_in_pyodide"]

OUR_SOURCES = tuple(
    ROOT / folder
    for folder in (
        "packages/workflow-runtime/src",
        "migrations-shared/src",
        "packages/workflow-store-sql/src",
        "packages/workflow-store-d1/src",
    )
)
"""The packages that a Worker installs."""

_WHEELS = ("cronsim==2.8", "tzdata==2026.6", "workers-runtime-sdk==1.9.5")
"""Further packages that it installs; all of them are pure Python."""

_PROGRAM_OF_NODE = Path(__file__).parents[1] / "cloudflare" / "pyodide.mjs"

_PRELUDE = """
import json
import _pyodide_run

def emit(value):
    _pyodide_run.emit(json.dumps(value))

async def receive():
    return json.loads(await _pyodide_run.receive())

argument = json.loads(_pyodide_run.argument)
env = _pyodide_run.env
"""

_WRAP = """
from workers.rpc import _EnvWrapper
env = _EnvWrapper(env)
"""
"""The wrapper that the SDK puts around `env` before an entrypoint gets it."""


class PyodideError(Exception):
    """The program failed, or took too long; the text is what it wrote to its standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The surroundings of a program."""

    version: str = "314.0.6"
    """One of `PYODIDES`. By default what a Worker with today's compatibility date gets."""
    wrapped: bool = True
    """True if `env` is what Cloudflare's SDK hands to an entrypoint, or the bare object of JavaScript."""
    path: Sequence[Path] = ()
    """Folders to import from, besides those of our packages."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of `env` besides the database `DB`."""
    proxy: bool = False
    """True if `env.PROXY` gives the same database through miniflare's own binding, which is slower."""
    own_binding: bool = False
    """True if `env.DB` too is miniflare's own binding."""
    persist: Path | None = None
    """The folder where Wrangler keeps its local databases; when absent, the database is empty and not kept."""
    database_id: str = "DB"
    """By what id Wrangler knows the database."""


class Pyodide:
    """A program that runs in Pyodide."""

    def __init__(self, process: subprocess.Popen[str], written: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.group: int = process.pid
        """The group of processes that it is: Node and workerd."""
        self._stdin: IO[str] = process.stdin
        self._written = written
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, self._lines), daemon=True).start()

    def ask(self, value: object, *, timeout_s: float) -> Any:
        """Send the program a value, which its `receive()` gives, and wait for what it emits next.

        Raises:
            PyodideError: It has ended, or emits nothing in time.
        """
        try:
            self._stdin.write(json.dumps(value) + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._error("it has ended") from None
        for answer in self.emitted(timeout_s=timeout_s):
            return answer
        raise self._error("it has ended")

    def emitted(self, *, timeout_s: float) -> Iterator[Any]:
        """Yield what the program emits, until it ends.

        Raises:
            PyodideError: It failed, or had not ended in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            match self._hear(deadline):
                case {"emitted": value}:
                    yield value
                case {"failed": None}:
                    return
                case {"failed": problem}:
                    raise self._error(problem)

    def _hear(self, deadline: float) -> Any:
        try:
            line = self._lines.get(timeout=max(0, deadline - time.monotonic()))  # real time: another program's work
        except queue.Empty:
            raise self._error("it is too late") from None
        if line is None:
            raise self._error("Node has ended")
        return json.loads(line)

    def _error(self, problem: str) -> PyodideError:
        return PyodideError(f"{self._written.read_text(encoding='utf-8', errors='replace')}\n{problem}")


@contextmanager
def open_pyodide(program: str, setting: Setting = Setting(), *, argument: object = None) -> Iterator[Pyodide]:
    """Start a Python program in a fresh Pyodide; at the end it is killed.

    The program may `await` at its top level. It finds `env`, with a D1 database at `env.DB`; `argument`;
    `emit(value)`, which sends a value that JSON can carry; and `await receive()`, which gives what it is told.

    Args:
        program: Its source.
        setting: What it runs in.
        argument: A value for it, which JSON can carry.

    Raises:
        OSError: There is no Node, or its packages cannot be fetched.
    """
    order = {
        "miniflare": str(install(WRANGLER)),
        "pyodide": str(install(PYODIDES[setting.version])),
        "path": [str(folder.resolve()) for folder in (*OUR_SOURCES, _wheels(), *setting.path)],
        "prelude": _PRELUDE + (_WRAP if setting.wrapped else ""),
        "program": program,
        "argument": argument,
        "variables": dict(setting.variables),
        "proxy": setting.proxy,
        "ownBinding": setting.own_binding,
        "persist": None if setting.persist is None else str(setting.persist.resolve()),
        "databaseId": setting.database_id,
        "parent": os.getpid(),
    }
    with tempfile.TemporaryDirectory(prefix="pyodide-", ignore_cleanup_errors=True) as scratch:
        written = Path(scratch) / "written.txt"
        with _process(order, Path(scratch), written) as process:
            yield Pyodide(process, written)


def run_in_pyodide(
    program: str,
    setting: Setting = Setting(),
    *,
    argument: object = None,
    timeout_s: float = 100,
    each: Callable[[Any], object] = lambda value: None,
) -> list[Any]:
    """Run a Python program in a fresh Pyodide to its end and give what it emitted.

    Args:
        program: Its source; `open_pyodide` says what it finds.
        setting: What it runs in.
        argument: A value for it, which JSON can carry.
        timeout_s: When to give up.
        each: Called with each emitted value as soon as it is there.

    Raises:
        PyodideError: The program raised, or took too long.
        OSError: There is no Node, or its packages cannot be fetched.
    """
    emitted = []
    with open_pyodide(program, setting, argument=argument) as running:
        for value in running.emitted(timeout_s=timeout_s):
            emitted.append(value)
            each(value)
    return emitted


def _wheels() -> Path:
    def fetch(folder: Path) -> None:
        options = ("--quiet", "--no-deps", "--only-binary=:all:", "--no-compile", "--target", folder)
        run(sys.executable, "-m", "pip", "install", *options, *_WHEELS)

    return fetch_once("-".join(("pyodide-wheels", *(wheel.rpartition("=")[2] for wheel in _WHEELS))), fetch)


@contextmanager
def _process(order: Mapping[str, Any], scratch: Path, written: Path) -> Iterator[subprocess.Popen[str]]:
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
        # Nobody has waited for the leader yet, so that this number is still that of its group.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
