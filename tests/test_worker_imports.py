"""Imports in a Worker: its Python has no SQLite, sockets or processes, and gives no entropy while it imports."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec

import pytest

PACKAGES = ("workflow_migrations", "workflow_runtime", "workflow_store_sql", "workflow_store_d1")
MISSING_OR_USELESS = {"fcntl", "sqlite3", "ssl", "subprocess", "threading", "multiprocessing"}
NEEDS_MORE = ("workflow_store_d1.sqlite_connection", "workflow_runtime.heartbeats")

NO_ENTROPY = """
import os, random, sys, time
import asyncio, importlib.resources, logging  # the standard library is the host's affair

def refuse(*arguments, **options):
    raise OSError("there is no entropy before the first request")

patched = [(os, "urandom"), (random, "_urandom"), (random.Random, "seed"), (random.Random, "__init__")]
patched += [(random, name) for name in ("seed", "random", "randint", "uniform", "choice", "getrandbits", "randbytes")]
originals = [(owner, name, getattr(owner, name)) for owner, name in patched]
for owner, name in patched:
    setattr(owner, name, refuse)
import {packages}
try:
    workflow_runtime.ids.new_id()
except OSError:
    print("refused")
for owner, name, original in originals:
    setattr(owner, name, original)
print(len(workflow_runtime.ids.new_id()), 0 <= workflow_store_d1.retries.Retries().random() < 1)
"""
"""What was refused at the import must not have been kept: a Worker gives random numbers from its first request on."""


def spec_of(name: str) -> ModuleSpec | None:
    """Find a module of ours."""
    try:
        return importlib.util.find_spec(name) if name.partition(".")[0] in PACKAGES else None
    except ModuleNotFoundError:
        return None


def run_at_import(block: ast.AST) -> Iterator[ast.AST]:
    """Give the nodes of a module that run when it is imported."""
    for node in ast.iter_child_nodes(block):
        for_type_checkers = (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        )
        if not for_type_checkers and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from run_at_import(node)


def imported(spec: ModuleSpec) -> Iterator[str]:
    """Name what a module imports at once; what is imported from a package may be a module of it, or not."""
    assert spec.origin is not None
    package = spec.name if spec.submodule_search_locations else spec.name.rpartition(".")[0]
    with open(spec.origin, encoding="utf-8") as source:  # noqa: PTH123  # a loader's path
        tree = ast.parse(source.read())
    for node in run_at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package) if node.level else relative
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def reached(*roots: str) -> dict[str, set[str]]:
    """Give every module of ours that the import of some brings, and what each of them imports."""
    found: dict[str, set[str]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        spec = spec_of(name)
        if name in found or spec is None:
            continue
        found[name] = set(imported(spec))
        parents = [name.rpartition(".")[0]] if "." in name else []
        waiting += [*found[name], *parents]
    return found


def test_nothing_of_ours_needs_what_a_worker_lacks() -> None:
    """No module that a Worker loads imports SQLite, TLS, threads, locks of files or processes itself."""
    modules = reached(*PACKAGES, "workflow_runtime.hosting", "workflow_runtime.testing")
    assert {"workflow_runtime.engine.driver", "workflow_runtime.worker", "workflow_store_d1.binding"} <= set(modules)
    assert not {"workflow_store_d1.local", "workflow_store_d1.connection_thread", *NEEDS_MORE} & set(modules)
    wrong = [
        f"{module} imports {name}"
        for module, names in modules.items()
        for name in names
        if name.partition(".")[0] in MISSING_OR_USELESS
    ]
    assert not wrong


@pytest.mark.parametrize("module", NEEDS_MORE)
def test_the_search_would_find_it(module: str) -> None:
    """These do import such things, which is why nobody imports them before they are needed."""
    assert {name.partition(".")[0] for name in reached(module)[module]} & MISSING_OR_USELESS


def test_imports_take_no_entropy() -> None:
    """A Worker that asks for random bytes while it is imported does not start."""
    script = NO_ENTROPY.format(packages=", ".join((*PACKAGES, "workflow_runtime.hosting, workflow_runtime.testing")))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "32", "True"]
