"""A Worker's binding as a database. What it does there is tested there: in Pyodide, with real D1 behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_runtime.errors import ConfigurationError
from workflow_store_d1 import BindingD1Database, D1WorkflowStore
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.pyodide.program import Setting
from workflow_test_support.pyodide.remote_tests import PyodideTests, names_of_tests, open_tests

BODIES = Path(__file__).parent / "pyodide" / "binding_in_pyodide.py"


@pytest.fixture(scope="module")
def pyodide() -> Iterator[PyodideTests]:
    version = os.environ.get("WORKFLOW_PYODIDE", Setting().version).partition(":")[0]
    with open_tests(BODIES, Setting(version=version, wrapped=False, proxy=True)) as tests:
        yield tests


@pytest.mark.parametrize("form", ["bare", "wrapped", "proxy"])
@pytest.mark.parametrize("name", names_of_tests(BODIES))
def test_in_pyodide(name: str, form: str, pyodide: PyodideTests) -> None:
    pyodide.check(name, form)


def test_there_is_no_binding_elsewhere() -> None:
    with pytest.raises(ConfigurationError, match="in a Python Worker only"):
        BindingD1Database(object())


async def test_store_takes_a_database_as_it_is(path: Path) -> None:
    database = await LocalD1Database.open(path)

    class Passing:
        """Passes everything on, as a binding does, and is none."""

        def __getattr__(self, name: str) -> object:
            return getattr(database, name)

    passing = Passing()
    for db in (database, passing):
        store = D1WorkflowStore(db)  # type: ignore[arg-type]  # it keeps the Protocol by passing on
        assert store.database is db
        await store.ensure_schema()
    await database.close()
