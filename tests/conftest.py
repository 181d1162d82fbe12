"""A server for all tests of this folder, and databases of it. `folder` in a test is each distribution in turn."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from workflow_store_postgres import get_migration_sql
from workflow_test_support.servers.database_pool import DatabasePool, database_pool
from workflow_test_support.servers.postgres_databases import new_database, new_template
from workflow_test_support.servers.postgres_server import postgres_dsn
from workflow_test_support.workloads.shop import TABLE

ROOT = Path(__file__).parents[1]
FOLDERS = [path.parent for pattern in ("packages/*", "*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))]
FOLDERS.remove(ROOT / "test-support")  # it is never published


@pytest.fixture(scope="session")
def folders() -> list[Path]:
    """The folders of all distributions."""
    return FOLDERS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "folder" in metafunc.fixturenames:
        metafunc.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])


@pytest.fixture
def package(folder: Path) -> Path:
    """The import package of the distribution."""
    [init] = folder.glob("src/*/__init__.py")
    return init.parent


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """DSN of a PostgreSQL that all tests of this process share."""
    with postgres_dsn() as dsn:
        yield dsn


@pytest.fixture
async def empty_dsn(server_dsn: str) -> AsyncIterator[str]:
    """A database without our tables."""
    async with new_database(server_dsn, "template0") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def databases(server_dsn: str) -> Iterator[DatabasePool]:
    """Databases with the workflow tables, and that of the shop's sales."""
    with (
        new_template(server_dsn, "template0", get_migration_sql(transaction=False), TABLE) as name,
        database_pool(server_dsn, name) as pool,
    ):
        yield pool
