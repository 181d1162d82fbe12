"""The runtime on a Worker's binding, in the Python of Workers."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_test_support.pyodide.program import Setting, run_in_pyodide
from workflow_test_support.pyodide.remote_tests import PyodideTests, names_of_tests, open_tests

BODIES = Path(__file__).parent / "pyodide" / "runtime_in_pyodide.py"
VERSION, _, BINDING = os.environ.get("WORKFLOW_PYODIDE", f"{Setting().version}:wrapped").partition(":")

WATCH = """(crypto) => {
  globalThis.asked = [];
  const watch = (owner, name) => {
    const original = owner[name].bind(owner);
    owner[name] = (...values) => {
      globalThis.asked.push(name);
      return original(...values);
    };
  };
  watch(crypto, "randomFillSync");
  watch(globalThis.crypto, "getRandomValues");
  for (const name of ["fetch", "setTimeout", "setInterval", "setImmediate"]) watch(globalThis, name);
}"""
IMPORTS = """
import asyncio, importlib.resources, logging, random, sys
import js
from pyodide.code import run_js

run_js(argument)(js.process.getBuiltinModule("node:crypto"))
import workflow_migrations, workflow_runtime, workflow_store_sql, workflow_store_d1
import workflow_runtime.hosting, workflow_runtime.testing
asked = list(js.asked)
workflow_runtime.ids.new_id()
emit([asked, list(js.asked), sorted(name for name in sys.modules if name.startswith("workflow_"))])
"""


@pytest.fixture(scope="module")
def pyodide() -> Iterator[PyodideTests]:
    with open_tests(BODIES, Setting(version=VERSION, wrapped=BINDING == "wrapped")) as tests:
        yield tests


@pytest.mark.parametrize("name", names_of_tests(BODIES))
def test_in_pyodide(name: str, pyodide: PyodideTests) -> None:
    pyodide.check(name)


def test_imports_ask_the_host_for_nothing() -> None:
    """A Worker gets no entropy, no network and no timers while its modules are imported."""
    [[asked, asked_later, imported]] = run_in_pyodide(IMPORTS, Setting(version=VERSION, wrapped=False), argument=WATCH)
    assert asked == []
    assert asked_later == ["randomFillSync"]  # or the watch would see nothing
    assert {"workflow_runtime.engine.driver", "workflow_store_d1.binding"} <= set(imported)
    assert not {"workflow_runtime.heartbeats", "workflow_store_d1.local"} & set(imported)


def test_worker_of_the_readme_works(pyodide: PyodideTests) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [worker] = re.findall(r"^```py\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    pyodide.check("worker_greets", worker)
