"""A store needs nothing of the runtime but `workflow_runtime.store`, and the pages for its author name nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_contract_tests.skeleton import write_skeleton
from workflow_contract_tests.state_machine import freedoms
from workflow_runtime import store

ROOT = Path(__file__).parents[1]
STORES = sorted(
    path
    for pattern in ("packages/workflow-store-*/src", "examples/third-party*/src", "examples/third-party*/*/src")
    for path in ROOT.glob(pattern)
)
PAGES = [
    ROOT / name
    for name in (
        "docs/writing-a-store.md",
        "docs/errors-to-raise.md",
        "docs/sql-cookbook.md",
        "docs/store-contract.md",
        "docs/clause-changes.md",
        "contract-tests/README.md",
        "packages/workflow-store-sql/README.md",
    )
]
WRITING = ROOT / "docs" / "writing-a-store.md"
OF_THE_RUNTIME = {"about"}
"""What completes an answer on its way to the caller; no store calls it."""


def runtime_imports(source: str) -> Iterator[tuple[str, str]]:
    """Yield the module of the runtime and the name of each import from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "workflow_runtime")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "workflow_runtime":
            yield from ((node.module or "", alias.name) for alias in node.names)


def strangers(sources: Iterator[tuple[Path, str]]) -> list[str]:
    """Name the imports of anything but a public name of `workflow_runtime.store`."""
    public = set(store.__all__)
    return [
        f"{path.relative_to(path.parents[2])}: {module}.{name}"
        for path, source in sources
        for module, name in runtime_imports(source)
        if module != "workflow_runtime.store" or name not in public
    ]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", STORES, ids=lambda source: str(source.relative_to(ROOT)))
def test_store_imports_one_module_of_the_runtime(source: Path) -> None:
    """What our own stores need, an author needs too: it is public in one place."""
    assert strangers((path, path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))) == []


def test_skeleton_imports_one_module_of_the_runtime(tmp_path: Path) -> None:
    written = write_skeleton("my_store", tmp_path / "my_store")
    assert strangers((path, path.read_text(encoding="utf-8")) for path in written if path.suffix == ".py") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_for_authors_imports_one_module_of_the_runtime(page: Path) -> None:
    assert strangers((page, block) for block in python_blocks(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_for_authors_names_nothing_private(page: Path) -> None:
    """A name that begins with an underscore is not for others, in code as in prose."""
    private = re.findall(r"(?<![\w`*])`?(?:\w+\.)*_[a-z]\w*(?:\.\w+)*`?", page.read_text(encoding="utf-8"))
    assert private == []


def test_check_of_imports_finds_what_it_is_for() -> None:
    source = "import workflow_runtime.ids\nfrom workflow_runtime.errors import StoreError\nfrom json import dumps\n"
    assert list(runtime_imports(source)) == [("workflow_runtime.ids", ""), ("workflow_runtime.errors", "StoreError")]
    assert strangers(iter([(ROOT / "a" / "b.py", "from workflow_runtime.store import Home, home\n")])) != []


def test_help_for_authors_is_on_the_page() -> None:
    """Each function of `workflow_runtime.store` has its place on the page that tells how a store is written."""
    page = WRITING.read_text(encoding="utf-8")
    functions = sorted(name for name in store.__all__ if name.islower() and name not in OF_THE_RUNTIME)
    assert [name for name in functions if f"`{name}`" not in page] == []


def section(page: Path, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    [text] = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(text)


def test_page_names_each_freedom_that_the_contract_tests_grant() -> None:
    """What the kit does not compare is what the page leaves to the store."""
    granted = set(re.findall(r"^- ([A-Z]+-\d+(?:, [A-Z]+-\d+)*):", freedoms.__doc__ or "", flags=re.MULTILINE))
    clauses = {clause for line in granted for clause in line.split(", ")}
    table = section(WRITING, "Where the contract leaves you free")

    assert clauses
    assert [clause for clause in sorted(clauses) if clause not in table] == []
