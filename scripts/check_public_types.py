"""Check what users get to see of our types: every distribution is typed for others, and every example on a page passes.

    python scripts/check_public_types.py

Says how complete the types of each distribution are (pyright's `--verifytypes`), and reads the Python examples of each
page of the documentation with mypy and pyright, both strict.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "workflow_runtime",
    "workflow_migrations",
    "workflow_contract_tests",
    "workflow_store_memory",
    "workflow_store_sql",
    "workflow_store_d1",
    "workflow_store_postgres",
)
LEAST = 0.98
PAGES = (".", "docs", "packages/*", "migrations-shared", "contract-tests", "benchmarks")

_MYPY = """\
[mypy]
strict = true
python_version = 3.11
disable_error_code = no-redef
[mypy-asyncpg.*,django.*]
ignore_missing_imports = true
"""
_PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "reportMissingTypeStubs": False,
    # The blocks of a page are read one after the other, as by a person: each may begin like the one before.
    "reportDuplicateImport": False,
    "reportRedeclaration": False,
}
_UNTYPED = "# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false"
"""asyncpg and Django ship no types, and a page shows them as their users see them."""


def main() -> int:
    """Run every check; give the exit status."""
    complete = [is_complete(package) for package in PACKAGES]
    return 0 if all(complete) and examples_pass() else 1


def is_complete(package: str) -> bool:
    """Print how complete the types of a package are, and tell whether that suffices."""
    command = ["pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a tool of this environment
    report = json.loads(answer.stdout)["typeCompleteness"]
    print(f"{package:<26} {report['completenessScore']:7.1%} of the public types are known")
    for symbol in report["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            print(f"  {symbol['name']}")
    return bool(report["completenessScore"] >= LEAST)


def examples_pass() -> bool:
    """Have both checkers read the examples of all pages, each page as one module with the line numbers of the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for page in sorted(path for pattern in PAGES for path in ROOT.glob(f"{pattern}/*.md")):
            write_examples(page, folder)
        (folder / "mypy.ini").write_text(_MYPY, encoding="utf-8")
        (folder / "pyrightconfig.json").write_text(json.dumps(_PYRIGHT), encoding="utf-8")
        found = [subprocess.run(check, cwd=folder, check=False).returncode for check in (["mypy", "."], ["pyright"])]  # noqa: S603
    return not any(found)


def write_examples(page: Path, folder: Path) -> None:
    """Write the Python blocks of a page into a module named after it, if it has any."""
    module = examples_of(page.read_text(encoding="utf-8"))
    if not module.strip():
        return
    if any(f"{name}." in module for name in ("asyncpg", "django")):
        module = module.replace("\n", f"{_UNTYPED}\n", 1)
    name = re.sub(r"\W+", "_", str(page.relative_to(ROOT).with_suffix(""))).lower()
    (folder / f"{name}.py").write_text(module, encoding="utf-8")


def examples_of(page: str) -> str:
    """Return a page's Python blocks; every other line is empty."""
    lines, inside = [], False
    for line in page.splitlines():
        fence = line.startswith("```")
        if fence:
            inside = not inside and line == "```python"
        lines.append(line if inside and not fence else "")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
