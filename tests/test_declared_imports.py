"""A distribution imports what it declares, and only that: else it works here and breaks where it is installed alone."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

HOST = {"pyodide", "workers"}
"""What the Python of Cloudflare's Workers brings along: it cannot be required, nor imported before it is needed."""
CHECKERS = {"typing_extensions"}
"""What every type checker knows without an installation; only inside `if TYPE_CHECKING:`."""


def declared(folder: Path) -> tuple[set[str], set[str]]:
    """Give the import names of a distribution's requirements: those always there, and those of its extras."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [item for items in project.get("optional-dependencies", {}).values() for item in items]
    return {import_name(item) for item in project["dependencies"]}, {import_name(item) for item in extras}


def import_name(requirement: str) -> str:
    """Give the import name of a requirement; all of ours, and all that we use, differ by the hyphen only."""
    return re.split(r"[^A-Za-z0-9_-]", requirement, maxsplit=1)[0].replace("-", "_")


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield each imported package, and whether a plain `import` of the module already needs it."""
    deferred = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_type_checkers(block)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], id(node) not in deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], id(node) not in deferred


def is_for_type_checkers(node: ast.AST) -> bool:
    """Tell an `if TYPE_CHECKING:` block."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_imports_are_declared(folder: Path, package: Path) -> None:
    """A requirement may be imported anywhere, that of an extra only inside a function."""
    required, optional = declared(folder)
    wrong = []
    for module in sorted(package.rglob("*.py")):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for name, at_import in imports(tree):
            allowed = required | {package.name} | (set() if at_import else optional | HOST | CHECKERS)
            if name not in sys.stdlib_module_names and name not in allowed:
                wrong.append(f"{module.relative_to(folder)} imports {name}")

    assert not wrong
