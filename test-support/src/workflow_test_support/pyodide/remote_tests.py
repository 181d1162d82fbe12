"""Tests whose bodies run in Pyodide: each `async def test_...(env, ...)` of a file there is a test here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from workflow_test_support.pyodide.program import Pyodide, Setting, open_pyodide

__all__ = ["PyodideTests", "names_of_tests", "open_tests"]

_PROGRAM = """
import importlib
import traceback

bodies = importlib.import_module(argument)
while True:
    name, arguments = await receive()
    try:
        await getattr(bodies, name)(env, *arguments)
    except Exception:
        emit(traceback.format_exc())
    else:
        emit(None)
"""


class PyodideTests:
    """A Pyodide that has imported a file of tests."""

    def __init__(self, running: Pyodide) -> None:
        self._running = running

    def check(self, name: str, *arguments: object, timeout_s: float = 60) -> None:
        """Run one test there, with these arguments, which JSON can carry.

        Raises:
            AssertionError: It failed; the text is its traceback.
            PyodideError: It does not end.
        """
        problem = self._running.ask([name, arguments], timeout_s=timeout_s)
        assert problem is None, problem


def names_of_tests(file: Path) -> list[str]:
    """Name the tests of a file, in its order."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_")]


@contextmanager
def open_tests(file: Path, setting: Setting) -> Iterator[PyodideTests]:
    """Start a Pyodide for the tests of a file."""
    setting = replace(setting, path=[*setting.path, file.parent])
    with open_pyodide(_PROGRAM, setting, argument=file.stem) as running:
        yield PyodideTests(running)
