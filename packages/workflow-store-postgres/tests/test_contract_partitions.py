"""The contract on a log in partitions: by cases that read, write or remove events, or the whole of it.

By default, of the cases about logs, claims, forks and deletion, the first two of each clause.
`WORKFLOW_CONTRACT_PARTITIONS=all` takes the whole contract, as `nox -s release` does.
"""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_store_postgres import get_partition_sql
from workflow_test_support.harnesses.postgres import harness_on
from workflow_test_support.servers.database_pool import DatabasePool, database_pool
from workflow_test_support.servers.postgres_databases import new_template
from workflow_test_support.some_cases import some_cases

CASES = [case for case in catalogue() if case.capability != "metered"]  # which this store does not declare
ABOUT_EVENTS = ("LOG-", "FORK-", "RETAIN-", "CLAIM-", "PAYLOAD-", "FENCE-", "OP-", "SUBSCRIBE-", "RETRY-", "TX-")
"""Clauses, by their beginnings, whose cases read, write or remove events."""
SOME = some_cases([case for case in CASES if any(clause.startswith(ABOUT_EVENTS) for clause in case.clauses)], each=2)
CHOSEN = CASES if os.environ.get("WORKFLOW_CONTRACT_PARTITIONS") == "all" else SOME


@pytest.fixture(scope="module")
def divided_databases(server_dsn: str, template: str) -> Iterator[DatabasePool]:
    """Databases whose log is in partitions."""
    with (
        new_template(server_dsn, template, get_partition_sql(4)) as divided,
        database_pool(server_dsn, divided) as pool,
    ):
        yield pool


@pytest.fixture
async def divided_dsn(divided_databases: DatabasePool) -> AsyncIterator[str]:
    async with divided_databases.database() as dsn:
        yield dsn


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
async def test_contract_holds_on_a_log_in_partitions(case: Case, divided_dsn: str) -> None:
    await run_case(case, harness_on(divided_dsn))
