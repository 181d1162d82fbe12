"""The skeleton of a store: a package with every verb of the contract, its harness, its tests and its CI."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import workflow_runtime.store
from workflow_runtime.store import CONTRACT_VERSION, WorkflowExecutionStore, protocol

from ._version import __version__
from .harness import HarnessError

__all__ = ["write_skeleton"]

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "0.1.0"
description = "A store for workflow-runtime."
requires-python = ">=3.11"
dependencies = ["workflow-runtime>=0.1,<0.2"]

[dependency-groups]
test = ["workflow-contract-tests>={kit},<{next_kit}", "mypy", "ruff"]

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]

[tool.ruff]
line-length = 120

[tool.mypy]
strict = true

[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
"""
_README = """\
# {distribution}

A store for workflow-runtime. `src/{package}/store.py` has every verb of the contract, none of them written yet.
Write `ensure_schema` and `create_run` first, then ask which cases pass:

    workflow-certify -k RUN-1 {package}_harness:harness

When all is written, `workflow-certify {package}_harness:harness` gives the verdict. A store that has no schedules
leaves the verbs under "ScheduleStore" as they are, and is certified for the rest.
"""
_INIT = '''\
"""A store for workflow-runtime."""

from .store import {store}

__all__ = ["{store}"]
'''
_STORE_HEAD = '''\
"""The store: every verb of the contract."""

from __future__ import annotations

{imports}


class {store}:
    """One handle on the data: what a worker holds while it works."""

    capabilities = StoreCapabilities(max_payload_bytes=1_000_000, durable=False)
    """What it can do beyond what every store must. Declare only what is written."""
'''
_HARNESS = '''\
"""What the contract tests need of the store: fresh data for each case."""

from __future__ import annotations

from workflow_contract_tests import StoreHarness

from {package} import {store}

# A store on a file needs a new folder each time. The function may be a context manager, plain or async, that cleans up:
#
# @contextmanager
# def harness() -> Iterator[StoreHarness]:
#     with TemporaryDirectory() as folder:
#         yield StoreHarness(lambda: {store}(Path(folder, "data")), contract_version="{contract}")
#
# The fixture of tests/test_contract.py enters it then: `with make_harness() as harness: yield harness`.


def harness() -> StoreHarness:
    """Return a harness with fresh data."""
    return StoreHarness(
        lambda: {store}(),  # a new handle on the same data, each time
        contract_version="{contract}",
        not_applicable={{
            "processes": "not yet: give process_factory, by which a child process opens the store",
            "corrupt": "not yet: give a function that damages a row behind the store's back",
        }},
        subject={{"database": "say which, with its version", "driver": "say which, with its version"}},
    )
'''
_TEST = '''\
"""The store keeps the contract, case by case under pytest. `workflow-certify` gives the verdict that counts."""

from __future__ import annotations

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract

from {package}_harness import harness as make_harness


class TestContract(StoreContract):
    """Every case of the contract as a test."""

    @pytest.fixture
    def harness(self) -> StoreHarness:
        """Return what the command examines."""
        return make_harness()
'''
_CI = """\
name: contract

on:
  push:
  pull_request:

jobs:
  certify:
    runs-on: ubuntu-latest
    # services:
    #   postgres:
    #     image: postgres:17
    #     env:
    #       POSTGRES_PASSWORD: postgres
    #     ports: ["5432:5432"]
    #     options: >-
    #       --health-cmd pg_isready --health-interval 2s --health-timeout 5s --health-retries 15
    # env:
    #   DATABASE_URL: postgresql://postgres:postgres@localhost:5432/postgres
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.13"
      - run: pip install --upgrade pip && pip install . --group test
      - run: ruff check . && ruff format --check . && mypy .
      - run: workflow-certify {package}_harness:harness --json report.json --markdown report.md --badge contract.svg
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: contract-report
          path: |
            report.json
            report.md
            contract.svg
"""
_OPTIONAL = (
    protocol.SupportsSubscribe,
    protocol.SupportsNotify,
    protocol.SupportsTransactions,
    protocol.SupportsHeartbeats,
)


def write_skeleton(name: str, folder: Path) -> list[Path]:
    """Write the skeleton of a store and return its files.

    Args:
        name: The name of the package, such as `my_store`.
        folder: Where to put it. It must not be there yet, or be empty.

    Raises:
        HarnessError: The name is none of a package, or the folder has something in it.
    """
    package = name.replace("-", "_")
    if re.fullmatch(r"[a-z][a-z0-9_]*", package) is None:
        raise HarnessError(f"{name!r} is no name of a package: lower-case letters, digits and underscores")
    if folder.exists() and any(folder.iterdir()):
        raise HarnessError(f"{folder} is not empty")
    written = []
    for path, text in _files(package).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def _files(package: str) -> Mapping[str, str]:
    major, minor = (int(part) for part in __version__.split(".")[:2])
    names = {
        "package": package,
        "distribution": package.replace("_", "-"),
        "store": "".join(part.capitalize() for part in package.split("_")),
        "contract": CONTRACT_VERSION,
        "kit": f"{major}.{minor}",
        "next_kit": f"{major}.{minor + 1}",
    }
    return {
        "pyproject.toml": _PYPROJECT.format(**names),
        "README.md": _README.format(**names),
        f"src/{package}/__init__.py": _INIT.format(**names),
        f"src/{package}/py.typed": "",
        f"src/{package}/store.py": _store(names["store"]),
        f"{package}_harness.py": _HARNESS.format(**names),
        "tests/test_contract.py": _TEST.format(**names),
        ".github/workflows/contract.yml": _CI.format(**names),
    }


def _store(store: str) -> str:
    """Return the module of the store: the verbs as the contract writes them, each not implemented."""
    body = "".join(
        f"\n    # {role.__name__}\n" + "".join(f"\n{verb}" for verb in _verbs(role))
        for role in WorkflowExecutionStore.__mro__
        if role.__module__ == protocol.__name__ and role is not WorkflowExecutionStore
    )
    return _STORE_HEAD.format(store=store, imports=_imports(body)) + body + _optional_verbs()


def _optional_verbs() -> str:
    """Return comments with the signatures of what a store may declare besides."""
    text = "\n    # What a store may do besides. Declare it in `capabilities` when it is written.\n"
    for role in _OPTIONAL:
        source = inspect.getsource(role)
        lines = source.splitlines()
        for verb in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # a class has one
            if isinstance(verb, ast.FunctionDef | ast.AsyncFunctionDef):
                signature = lines[verb.lineno - 1 : verb.body[0].lineno - 1]
                text += f"\n    # {role.__name__}:\n" + "".join(f"    # {line[4:]}\n" for line in signature)
    return text


def _verbs(role: type) -> Iterator[str]:
    source = inspect.getsource(role)
    lines = source.splitlines()
    for verb in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # a class has one
        if isinstance(verb, ast.AsyncFunctionDef):
            signature = "\n".join(lines[verb.lineno - 1 : verb.body[0].lineno - 1])
            said = (ast.get_docstring(verb) or "").partition("\n")[0]
            decorator = "    @checked\n" if verb.args.kwonlyargs else ""
            yield f'{decorator}{signature}\n        """{said}"""\n        raise NotImplementedError\n'


def _imports(body: str) -> str:
    """Return the imports for the names that the verbs mention."""
    words = set(re.findall(r"\b[A-Za-z_]+\b", re.sub(r'""".*?"""|#.*', "", body)))
    public = set(workflow_runtime.store.__all__) & (words | {"StoreCapabilities", "checked"})
    constants = sorted(name for name in public if name.isupper())
    classes = sorted(name for name in public if not name.isupper() and name[0].isupper())
    functions = sorted(name for name in public if name[0].islower())
    listed = "".join(f"    {name},\n" for name in (*constants, *classes, *functions))
    abstract = ", ".join(sorted(words & {"Mapping", "Sequence"}))
    return f"from collections.abc import {abstract}\n\nfrom workflow_runtime.store import (\n{listed})"
