"""pytest itself inside Pyodide: whole files of tests on the Python that it brings, which is newer than this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from workflow_test_support.pyodide.program import Setting, open_pyodide

__all__ = ["Outcome", "run_pytest_in_pyodide"]

_PROGRAM = """
import asyncio
import contextlib
import io
import os
import sys
import time
from asyncio import base_events, events

# Found by hand: of what lies beside pytest, much cannot be imported here.
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
import pytest


class Clockwork:
    # Nothing comes from outside but time.
    def select(self, timeout):
        if timeout:
            time.sleep(timeout)
        return []

    def close(self):
        pass


class Loop(base_events.BaseEventLoop):
    # The loop of Pyodide is the browser's, and cannot be run to an end; this one can.
    def __init__(self):
        super().__init__()
        self._selector = Clockwork()

    def _process_events(self, events):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, function, *args):
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


class Policy(events._BaseDefaultEventLoopPolicy):
    _loop_factory = Loop


def run():
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "pytest_asyncio.plugin"]
    options += ["-o", "asyncio_mode=auto", "-W", "ignore", "--tb=short", "--rootdir", folder]
    outer, said = events._get_running_loop(), io.StringIO()
    events._set_running_loop(None)
    try:
        events._set_event_loop_policy(Policy())
        with contextlib.redirect_stdout(said):
            code = pytest.main([*options, *(f"{folder}/{name}" for name in names)])
        done.set_result([int(code), sys.version_info[:2], said.getvalue()])
    except BaseException as error:
        done.set_exception(error)
    finally:
        events._set_running_loop(outer)


names = argument
[folder] = [path for path in sys.path if os.path.exists(f"{path}/{names[0]}")]
done = asyncio.get_running_loop().create_future()
asyncio.get_running_loop().call_soon(run)  # not in a task: since Python 3.14 a thread has one current task
emit(await done)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run of pytest."""

    code: int
    """As pytest gives it to the shell: 0 when all tests have passed."""
    python: tuple[int, int]
    text: str
    """Its output."""


def run_pytest_in_pyodide(folder: Path, names: Sequence[str], setting: Setting, *, timeout_s: float) -> Outcome:
    """Run files of tests there, with the pytest that is installed here. There are no threads and no processes.

    Args:
        folder: Where the files are, with their `conftest.py`.
        names: The files.
        setting: What it runs in.
        timeout_s: When to give up.

    Raises:
        PyodideError: It did not come to an end.
    """
    packages = Path(pytest.__file__).parents[1]
    setting = replace(setting, path=[*setting.path, packages, folder])
    with open_pyodide(_PROGRAM, setting, argument=list(names)) as running:
        for code, (major, minor), text in running.emitted(timeout_s=timeout_s):
            return Outcome(code, (major, minor), text)
    raise AssertionError("it has ended without a word")
