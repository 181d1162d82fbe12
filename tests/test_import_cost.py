"""The modules that an import loads. Time varies from machine to machine; the list of modules does not."""

import subprocess
import sys

import pytest

ALLOWED_BY_RUNTIME = frozenset(
    {
        "bisect",  # by random
        "copy",  # by dataclasses
        "dataclasses",
        "datetime",
        "gc",
        "hashlib",
        "json",
        "platform",
        "random",
        "time",
        "uuid",
    }
)
"""Standard modules that `import workflow_runtime` may load beyond what `import asyncio` loads."""

PROBE = """
import asyncio, sys, threading
before = set(sys.modules)
import {package}
assert threading.active_count() == 1, threading.enumerate()
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("_")), sep="\\n")
"""

FORBIDDEN = frozenset(
    {"concurrent.futures.process", "ctypes", "email", "http.client", "multiprocessing", "sqlite3", "unittest"}
)
"""Slow to load, or missing where there are no processes, sockets and files: Python in a browser or a Worker."""


def loaded_by(package: str) -> set[str]:
    """Give the modules that a fresh interpreter loads for a package, beyond asyncio's."""
    probe = subprocess.run(
        [sys.executable, "-I", "-c", PROBE.format(package=package)], capture_output=True, text=True, check=True
    )
    return set(probe.stdout.split())


def top_level(modules: set[str]) -> set[str]:
    """Give the packages that modules belong to."""
    return {name.partition(".")[0] for name in modules}


def test_runtime_loads_nothing_heavy() -> None:
    """No database driver, no HTTP, no processes, no typing_extensions: only the listed cheap modules."""
    assert top_level(loaded_by("workflow_runtime")) - ALLOWED_BY_RUNTIME == {"workflow_runtime"}


@pytest.mark.parametrize(
    ("package", "own"),
    [
        ("workflow_store_memory", {"workflow_store_memory", "workflow_runtime"}),
        ("workflow_store_d1", {"workflow_store_d1", "workflow_store_sql", "workflow_migrations", "workflow_runtime"}),
        ("workflow_store_sql", {"workflow_store_sql", "workflow_migrations", "workflow_runtime"}),
        ("workflow_migrations", {"workflow_migrations"}),
    ],
)
def test_package_loads_no_driver_and_no_sibling(package: str, own: set[str]) -> None:
    """A store brings itself, the runtime and what SQL stores share if it is one, and no driver before it is opened."""
    loaded = loaded_by(package)

    assert top_level(loaded) - sys.stdlib_module_names == own
    assert not loaded & FORBIDDEN
