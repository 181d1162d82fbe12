"""The contract on a schema and tables whose names SQL takes only in quotes: a case of each clause, or all of them."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_migrations import quote_identifier
from workflow_store_postgres import get_migration_sql
from workflow_test_support.harnesses.postgres import BUSINESS, harness_on
from workflow_test_support.servers.database_pool import DatabasePool, database_pool
from workflow_test_support.servers.postgres_databases import new_template
from workflow_test_support.some_cases import some_cases
from workflow_test_support.workloads import odd_names

CASES = [case for case in catalogue() if case.capability != "metered"]  # which this store does not declare
CHOSEN = CASES if os.environ.get("WORKFLOW_CONTRACT_NAMES") == "all" else some_cases(CASES)
SCRIPT = get_migration_sql(odd_names.SCHEMA, odd_names.TABLES, transaction=False)
SCHEMA = f"CREATE SCHEMA {quote_identifier(odd_names.SCHEMA)}"


@pytest.fixture(scope="module")
def odd_databases(server_dsn: str) -> Iterator[DatabasePool]:
    """Databases with tables of these names."""
    with (
        new_template(server_dsn, "template0", SCHEMA, SCRIPT, BUSINESS) as template,
        database_pool(server_dsn, template) as pool,
    ):
        yield pool


@pytest.fixture
async def odd_dsn(odd_databases: DatabasePool) -> AsyncIterator[str]:
    async with odd_databases.database() as dsn:
        yield dsn


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
async def test_contract_holds_on_odd_names(case: Case, odd_dsn: str) -> None:
    arguments = {"dsn": odd_dsn, "schema": odd_names.SCHEMA, "tables": odd_names.TABLES}
    await run_case(case, harness_on(odd_dsn, arguments=arguments))
